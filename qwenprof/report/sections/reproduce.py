"""How to measure the same again: versions, command, what to expect, how long it takes."""

from __future__ import annotations

import re
import shlex

from qwenprof.diagnosis.bounds import positive
from qwenprof.diagnosis.forward import forward_s
from qwenprof.diagnosis.projection import comparison, speedup
from qwenprof.diagnosis.verdict import verdict
from qwenprof.diagnosis.versions import version
from qwenprof.formatting import (
    clean,
    count,
    listed,
    plural,
    seconds,
    times,
    times_with_interval,
    without_homes,
)
from qwenprof.record.published import is_published
from qwenprof.record.record import Record
from qwenprof.report.reading import device_name, setting, time_and_n
from qwenprof.report.section import Block, Code, Inline, Section, Table, code, paragraph, strong
from qwenprof.report.telling import Telling

PACKAGES = ("torch", "torchvision", "transformers", "accelerate")
BUILT_APART = "flash-attn"  # against a torch that is there already
OPTIONS = (
    "family",
    "size",
    "scope",
    "device",
    "dtype",
    "frames",
    "short_edge",
    "batch",
    "attention",
    "seed",
    "provoke",
)
# nothing else can be pasted into a shell without a thought
SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_:-]{0,99}")
BUILD = re.compile(r"cpu|cu\d{2,4}|rocm[0-9.]{1,9}|xpu")
WHEELS = "https://download.pytorch.org/whl/"


def compose(told: Telling) -> list[Block]:
    record = told.record
    return [*_installing(record), *_running(record), *_expected(told), *_again(record)]


def _installing(record: Record) -> list[Block]:
    """The versions that were measured, as commands for pip."""
    head = paragraph(
        strong("1. Install."), " In a checkout of qwenprof, in an environment of its own:"
    )
    pins, index = _pins(record), _index(record)
    lines = ["python -m pip install ."]
    if pins:
        lines.insert(0, f"python -m pip install {' '.join(pins)}{index}")
        return [head, Code(text="\n".join(lines), language="sh"), paragraph(_remarks(record))]
    said = "No versions were recorded, so this installs whatever is current."
    return [head, Code(text="\n".join(lines), language="sh"), paragraph(said)]


def _pins(record: Record) -> list[str]:
    found = {name: record.fact("packages", name) for name in PACKAGES}
    found["torch"] = found["torch"] or str(record.fact("torch", "version") or "").split("+")[0]
    return [
        f"{name}=={known}"
        for name, known in found.items()
        if isinstance(known, str) and SAFE.fullmatch(known) and not _is_unreleased(known)
    ]


def _is_unreleased(known: str) -> bool:
    found = version(known)
    return found is not None and found.is_devrelease


def _index(record: Record) -> str:
    """Where the wheels of this build of torch are: 2.9.0+cu128 is not that of PyPI everywhere."""
    build = str(record.fact("torch", "version") or "").partition("+")[2]
    return f" --extra-index-url {WHEELS}{build}" if BUILD.fullmatch(build) else ""


def _remarks(record: Record) -> str:
    """What those commands do not bring: Python, cuDNN, unreleased versions."""
    said = []
    python = record.fact("host", "python")
    if python:
        said.append(f"It ran with Python {clean(str(python), 100)}.")
    unreleased = [
        f"{name} {clean(str(known), 100)}"
        for name in PACKAGES
        if isinstance(known := record.fact("packages", name), str) and _is_unreleased(known)
    ]
    if unreleased:
        said.append(
            f"{listed(unreleased)} is a development version, which pip does not have: install "
            "that from its repository."
        )
    apart = record.fact("packages", BUILT_APART)
    if apart:
        said.append(f"{BUILT_APART} {clean(str(apart), 100)} was there; it is installed last.")
    wheel = record.fact("torch", "cudnn_wheel")
    if wheel and record.fact("device", "type") == "cuda":
        said.append(f"cuDNN came as {clean(str(wheel), 100)}, which the wheel of torch asks for.")
    return " ".join([*said, f"The device was {device_name(record)}."])


def _running(record: Record) -> list[Block]:
    head = strong("2. Measure.")
    if record.command:
        command = clean(without_homes(shlex.join(record.command)))
        return [
            paragraph(head, " The command of this record:"),
            Code(text=command, language="sh"),
        ]
    options = _options(record)
    if is_published(record):
        said = (
            " The figures were published, and the scripts that made them were not. This measures "
            "the same workload, with random weights:"
        )
    elif options:
        said = " This record was made from Python. From the command line the same workload is:"
    else:
        said = " The record does not say what ran. This measures the default workload:"
    return [
        paragraph(head, said),
        Code(text=" ".join(["qwenprof diagnose", *options]), language="sh"),
    ]


def _options(record: Record) -> list[str]:
    """The workload as options of the command line."""
    found = {name: record.workload.get(name) for name in OPTIONS}
    return [
        f"--{name.replace('_', '-')} {value}"
        for name, value in found.items()
        if value is not None and SAFE.fullmatch(str(value))
    ]


def _expected(told: Telling) -> list[Block]:
    """The figures of this record, for whoever holds theirs against them."""
    record = told.record
    head = strong("3. What to expect.")
    rows = [*_figures(record), ("Verdict", verdict(record, told.findings).headline)]
    where = f" On the same device ({setting(record)}) and the same versions:"
    table = Table(header=("Figure", "In this record"), align="ll", rows=tuple(rows))
    return [paragraph(head, where), table, paragraph(_duration(record))]


def _figures(record: Record) -> list[tuple[Inline, ...]]:
    rows: list[tuple[Inline, ...]] = []
    whole_s, found = forward_s(record), comparison(record)
    rows.append(("One forward of the workload", seconds(whole_s)))
    if found is None:
        rows.append(("The patch embedding as a convolution and as a matrix product", seconds(None)))
    else:
        patches = f"{count(found.patches)} patches"
        ratio = speedup(found.linear)
        gain = times(found.ratio.value)
        if ratio is not None:
            gain = times_with_interval(ratio.value, ratio.interval)
        rows += [
            (f"Its patch embedding as a convolution, {patches}", time_and_n(found.conv)),
            ("The same as a matrix product", time_and_n(found.linear)),
            ("How many times as fast", gain),
        ]
    return [*rows, ("Checks of the fix that pass", _passed(record))]


def _passed(record: Record) -> str:
    """Controls, which must fail, do not count; nor do checks of the convolution itself."""
    checks = [
        row
        for row in record.rows("verify", "checks")
        if isinstance(row.get("passed"), bool)
        and not row.get("must_fail")
        and row.get("variant") != "Conv3d"
    ]
    if not checks:
        return seconds(None)
    return f"{sum(row['passed'] is True for row in checks)} of {len(checks)}"


def _duration(record: Record) -> str:
    taken = [positive(result.duration_s) or 0.0 for result in record.stages.values()]
    if not sum(taken):
        return "How long it took was not recorded."
    return f"Measuring took {seconds(sum(taken))} for {plural(len(taken), 'stage')}."


def _again(record: Record) -> list[Block]:
    name = "writeup" if is_published(record) else "record.json"
    commands = (
        (f"qwenprof report {name}", "this report again; neither torch nor a GPU is needed"),
        (f"qwenprof findings {name} --json", "the diagnosis alone, for a program"),
        (f"qwenprof compare {name} NEW", "another run against this one"),
    )
    width = max(len(command) for command, _ in commands)
    text = "\n".join(f"{command:{width}}  # {what}" for command, what in commands)
    folder: list[Inline] = [" ", code(name), " is the published record, which qwenprof brings."]
    if name != "writeup":
        folder = [" ", code(name), " is the file beside this report, or the folder of it."]
    return [
        paragraph(strong("4. Read it again, or compare."), *folder),
        Code(text=text, language="sh"),
    ]


SECTION = Section(name="reproduce", order=90, title="How to reproduce this", compose=compose)
