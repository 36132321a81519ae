"""A script that shows a slow convolution on the reader's machine, with nothing but torch.

Its text is a template of this package. From a record come whole numbers within limits, and names
out of fixed tables; nothing else can reach the script.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from qwenprof.diagnosis.bounds import positive
from qwenprof.diagnosis.finding import Finding
from qwenprof.diagnosis.projection import comparison, convolutions, description
from qwenprof.formatting import clean, times
from qwenprof.record.published import is_published
from qwenprof.record.record import Record, Row
from qwenprof.report.sections._convolution import shape

NAME, SIGNATURE = "repro.py", "Written by qwenprof."
TEMPLATE = f"{NAME}.j2"
DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
DEVICES = ("cpu", "cuda", "xpu")
CHANNELS_LAST = ("channels_last", "channels_last_3d")
DIMENSIONS = (1, 2, 3)
MOST_ELEMENTS = 2**32  # of the input or of the weight: what is larger fits on no device
FACTORS = (1.0, 1e7)
# rules whose problem a convolution beside its Linear can show
CONV_RULES = ("conv-slow-backend", "conv-against-linear", "bias-cliff", "known-issue", "culprit")
AS_DISPATCHED, AS_LINEAR = "as dispatched", "as linear"  # experiments of the dispatch stage
FOR_THE_CONVOLUTION, FOR_EVERYTHING = "the convolution alone", "the whole process"
SLOWER = 1.2  # times the Linear: less may be noise on another machine
DIGITS = 3  # of the factor


@dataclass(frozen=True, kw_only=True)
class Case:
    """What the script is filled with.

    batch, shape: of the input, (batch, *shape) with shape = (channels, *size).
    hundredths: of the factor, Linear over convolution.
    is_published: whether the factor was taken from a publication, and not recorded.
    off: for what the vendor library was switched off; "" where it was not.
    channels_last: the memory format of the weight where it is not the plain one.
    """

    batch: int
    shape: tuple[int, ...]
    kernel: tuple[int, ...]
    features: int
    bias: bool
    dtype: str
    device: str
    hundredths: int
    off: str = ""
    channels_last: str = ""
    benchmark: bool = False
    is_published: bool = False

    @property
    def is_cut(self) -> bool:
        """Whether each sample is one window."""
        return self.shape[1:] == self.kernel


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """The script, or None with the reason.

    said: what the script shows, or why there is none; a sentence.
    """

    script: str | None
    said: str


@dataclass(frozen=True, kw_only=True)
class _Timed:
    """A convolution that a finding is about, with its factor over Linear."""

    module: str
    dtype: object
    factor: float
    patches: float | None


def reproduction(record: Record, findings: Sequence[Finding]) -> Reproduction:
    """The script for the convolution that the findings accuse."""
    timed = _timed(record, findings)
    if timed is None:
        return Reproduction(script=None, said=_why_not(findings))
    case = _case(record, timed)
    if case is None:
        why = (
            "The record does not hold the shapes of the convolution, or none that a script could "
            "use: they come from the stage dispatch."
        )
        return Reproduction(script=None, said=why)
    provoked = " The slow path was provoked on purpose, and the script provokes it too."
    return Reproduction(
        script=script(case),
        said=f"{clean(timed.module, 120)} beside the equal Linear, which was {times(timed.factor)} "
        f"as fast {'as published' if is_published(record) else 'where this was recorded'}."
        f"{provoked if case.off else ''}",
    )


def remove(folder: Path) -> None:
    """Remove the script that an earlier ticket left in a folder; nobody else's."""
    path = folder / NAME
    try:
        if SIGNATURE in path.read_text(encoding="utf-8", errors="replace")[:400]:
            path.unlink()
    except FileNotFoundError:
        return


def script(case: Case) -> str:
    """The text of the script.

    Raises:
        ValueError: a field is not what the script can be filled with.
    """
    problem = _problem(case)
    if problem:
        raise ValueError(f"no script can be made of {case}: {problem}")
    text = _template().render(
        name=f"Conv{len(case.kernel)}d",
        batch=case.batch,
        shape=repr(case.shape),
        kernel=repr(case.kernel),
        features=case.features,
        bias=repr(case.bias),
        dtype=DTYPES[case.dtype],
        device=case.device,
        factor=repr(float(f"{case.hundredths / 100:.{DIGITS}g}")),
        known="published" if case.is_published else "recorded",
        cut=case.is_cut,
        off=case.off,
        everything=case.off == FOR_EVERYTHING,
        channels_last=case.channels_last,
        benchmark=case.benchmark,
    )
    ast.parse(text)
    return text


def _problem(case: Case) -> str:
    """What makes a case unfit; "" where nothing does."""
    numbers = (case.batch, *case.shape, *case.kernel, case.features, case.hundredths)
    flags = (case.bias, case.benchmark, case.is_published)
    if not all(type(each) is int and each > 0 for each in numbers):
        return "a size is no positive whole number"
    if not all(type(each) is bool for each in flags):
        return "a switch is neither on nor off"
    if len(case.kernel) not in DIMENSIONS or len(case.shape) != len(case.kernel) + 1:
        return "kernel and input do not fit together"
    if any(size < step for size, step in zip(case.shape[1:], case.kernel, strict=True)):
        return "the kernel is larger than the input"
    weight = case.features * case.shape[0] * prod(case.kernel)
    if max(case.batch * prod(case.shape), weight) > MOST_ELEMENTS:
        return "a tensor is too large"
    named = (
        case.dtype in DTYPES
        and case.device in DEVICES
        and case.channels_last in ("", *CHANNELS_LAST)
        and case.off in ("", FOR_THE_CONVOLUTION, FOR_EVERYTHING)
    )
    return "" if named else "a name is unknown"


def _timed(record: Record, findings: Sequence[Finding]) -> _Timed | None:
    """The first convolution that was timed beside its Linear and that a problem is about."""
    accused = [
        each.culprit
        for each in findings
        if each.verdict == "problem" and each.culprit and each.rule in CONV_RULES
    ]
    for timed in (*_of_the_comparison(record), *_of_the_dispatch(record)):
        if timed.factor >= SLOWER and any(_holds(path, timed.module) for path in accused):
            return timed
    return None


def _of_the_comparison(record: Record) -> list[_Timed]:
    found = comparison(record)
    if found is None:
        return []
    return [
        _Timed(
            module=found.module,
            dtype=found.conv.get("dtype"),
            factor=found.ratio.value,
            patches=found.patches,
        )
    ]


def _of_the_dispatch(record: Record) -> list[_Timed]:
    """Convolutions beside the patch projection, as the stage dispatch timed them."""
    times_s: dict[str, dict[str, float]] = {}
    for row in record.rows("dispatch", "experiments"):
        median_s = positive(row.get("median_s"))
        if median_s is not None:
            times_s.setdefault(str(row.get("module")), {})[str(row.get("experiment"))] = median_s
    return [
        _Timed(
            module=module,
            dtype=description(record, module).get("dtype"),
            factor=each[AS_DISPATCHED] / each[AS_LINEAR],
            patches=None,
        )
        for module, each in times_s.items()
        if {AS_DISPATCHED, AS_LINEAR} <= each.keys()
    ]


def _holds(accused: str, module: str) -> bool:
    """Whether a culprit is this module or holds it, whatever either path leaves out in front."""
    return f".{clean(module, 200)}.".find(f".{clean(accused, 200)}.") >= 0 or (
        f".{accused}".endswith(f".{module}")
    )


def _case(record: Record, timed: _Timed) -> Case | None:
    row = _description(record, timed.module)
    kernel, given = shape(row.get("kernel")), shape(row.get("input_shape"))
    weight = shape(row.get("weight_shape"))
    if len(kernel) not in DIMENSIONS or weight[2:] != kernel:
        return None
    if len(given) != len(kernel) + 2 or given[1] != weight[1]:
        return None
    cut = timed.patches is not None  # the comparison cuts every input into its windows
    least, most = FACTORS
    case = Case(
        batch=int(timed.patches or 0) if cut else given[0],
        shape=(given[1], *kernel) if cut else given[1:],
        kernel=kernel,
        features=weight[0],
        bias=row.get("bias") is True,
        dtype=str(timed.dtype),
        device=_device(record),
        hundredths=round(100 * min(max(timed.factor, least), most)),
        off=_off(record, row),
        channels_last=_channels_last(row, kernel),
        benchmark=record.fact("torch", "cudnn_benchmark") is True,
        is_published=is_published(record),
    )
    return None if _problem(case) else case


def _description(record: Record, module: str) -> Row:
    """Of this module; the only one there is, where the comparison did not name its own."""
    rows = convolutions(record)
    found = description(record, module)
    return found or (rows[0] if len(rows) == 1 else {})


def _device(record: Record) -> str:
    named = record.fact("device", "type") or record.workload.get("device")
    return str(named).partition(":")[0]


def _off(record: Record, row: Row) -> str:
    """For what the library was switched off, so that the script does the same."""
    if row.get("library_switched_off") is True or record.workload.get("provoke") == "slow-conv":
        return FOR_THE_CONVOLUTION
    switch = {"cpu": "onednn_enabled", "cuda": "cudnn_enabled"}.get(_device(record), "")
    return FOR_EVERYTHING if record.fact("torch", switch) is False else ""


def _channels_last(row: Row, kernel: tuple[int, ...]) -> str:
    """As recorded of a convolution whose weight can have such a format."""
    known = {2: "channels_last", 3: "channels_last_3d"}.get(len(kernel), "")
    return known if known and row.get("memory_format") == known else ""


def _why_not(findings: Sequence[Finding]) -> str:
    problems = [each for each in findings if each.verdict == "problem" and each.culprit]
    if not problems:
        return "No script: no part of the model was found to be at fault."
    return (
        f"No script: what was found is about {clean(str(problems[0].culprit), 120)}, and not "
        "about a convolution that a few lines without the model could show."
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("qwenprof.report"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # it is no HTML, and only validated values are filled in
    )
    return environment.get_template(TEMPLATE)
