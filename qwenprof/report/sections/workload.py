"""What ran, and where it differs from what stands beside it: the published case, another run."""

from __future__ import annotations

from collections.abc import Sequence

from qwenprof.diagnosis.bounds import number
from qwenprof.formatting import NOT_MEASURED, count, listed, plural
from qwenprof.record.published import is_published
from qwenprof.record.record import Cell, Record
from qwenprof.report.reading import device_name, is_measured
from qwenprof.report.section import Block, Inline, Section, Table, paragraph, strong
from qwenprof.report.telling import Other, Telling

PARTS = {"vision": "vision tower alone", "full": "full model (prefill)"}
NAMES = {
    "family": "Model family",
    "size": "Size",
    "scope": "What runs",
    "dtype": "dtype",
    "frames": "Frames in a sample",
    "short_edge": "Short edge (pixels)",
    "batch": "Samples in a forward",
    "patches": "Visual patches",
    "sequence_length": "Sequence length (tokens)",
}
RANDOM = "random"
PROVOKED, NOT_PROVOKED = "What was provoked", "nothing"
NOT_RECORDED = "not recorded"
CLOSE_SIZE = 0.10  # sizes are rounded to whole patches anyway


def compose(told: Telling) -> list[Block]:
    record = told.record
    blocks: list[Block] = [paragraph(_in_words(record))]
    if told.against is not None:
        rows = _rows(record, told.against.record)
        different = [name for name, here, there in rows if _same(here, there) == "no"]
        own = "This run, published" if is_published(record) else "This run"
        table = _table(rows, own, told.against)
        blocks += [paragraph(_difference(different, told.against)), table]
    return blocks


def _in_words(record: Record) -> str:
    facts = record.workload
    summary = str(facts.get("summary") or "The record does not say what ran")
    parameters, patches, images = (
        number(facts.get(key)) for key in ("parameters", "patches", "images")
    )
    sentences = [f"{summary}."]
    if parameters is not None:
        sentences.append(f"It has {count(parameters)} parameters.")
    if patches is not None:
        of = f" of {plural(images, 'image')}" if images is not None else ""
        grid = f", the first of grid (t, h, w) {facts['grid_thw']}" if facts.get("grid_thw") else ""
        sentences.append(f"One forward takes {count(patches)} visual patches{of}{grid}.")
    return " ".join([*sentences, *_processed(record)])


def _processed(record: Record) -> list[str]:
    """What the processor made of an image, where that is not the size that was asked for."""
    keys = ("processed_height", "processed_width", "short_edge")
    height, width, asked = (number(record.workload.get(key)) for key in keys)
    if height is None or width is None or asked is None:
        return []
    if abs(min(height, width) - asked) <= CLOSE_SIZE * asked:
        return []
    return [
        f"The processor, which has limits of its own, made each image {count(height)} x "
        f"{count(width)} pixels: its short edge is not the {count(asked)} that were asked for."
    ]


def weights(record: Record) -> str:
    """Where the weights came from: "random", or the name of the checkpoint."""
    source = record.workload.get("model") or record.workload.get("checkpoint")
    return str(source) if source else RANDOM


def _rows(record: Record, other: Record) -> list[tuple[str, str, str]]:
    """Property, what it is here, and what it is in the other record."""
    here, there = _properties(record), _properties(other)
    unprovoked = here[PROVOKED] == there[PROVOKED] == NOT_PROVOKED
    return [
        (name, here[name], there[name]) for name in here if not (name == PROVOKED and unprovoked)
    ]


def _properties(record: Record) -> dict[str, str]:
    facts, batches = record.workload, _batches(record)
    return {
        "Device": device_name(record),
        **{name: _said(key, facts.get(key), facts.get("scope")) for key, name in NAMES.items()},
        "Batch sizes swept": ", ".join(map(str, batches)) if batches else NOT_MEASURED,
        "Weights": weights(record),
        PROVOKED: str(facts.get("provoke") or NOT_PROVOKED),
    }


def _said(key: str, value: Cell, scope: Cell) -> str:
    if value is None:
        return NOT_RECORDED
    if key == "scope":
        return PARTS.get(str(value), str(value))
    if key == "sequence_length" and scope == "vision":
        return f"{count(number(value))} visual tokens, no language model"
    return count(number(value)) if number(value) is not None else str(value)


def _batches(record: Record) -> list[int]:
    rows = record.rows("batch-sweep", "batches")
    return sorted({int(number(row.get("batch")) or 0) for row in rows if is_measured(row)})


def _same(here: str, there: str) -> str:
    if NOT_RECORDED in (here, there):
        return "not known"
    return "yes" if here == there else "no"


def _difference(different: Sequence[str], other: Other) -> str:
    case = "the published case" if other.is_published else "the other run"
    if not different:
        return f"No property below is known to differ from {case}."
    plain = [name.partition(" (")[0] for name in different]
    names = listed([name[0].lower() + name[1:] for name in plain])
    return (
        f"It differs from {case} in {names}. Times are comparable with those of {case} only where "
        "device and work are the same."
    )


def _table(rows: Sequence[tuple[str, str, str]], own: str, other: Other) -> Table:
    body: list[tuple[Inline, ...]] = [
        (name, strong(here) if same == "no" else here, other.set(there), same)
        for name, here, there in rows
        if (same := _same(here, there))
    ]
    return Table(
        header=("Property", own, other.label, "Same"),
        align="llll",
        rows=tuple(body),
        caption=f"What differs is in bold. {other.source}",
    )


SECTION = Section(name="workload", order=20, title="Workload", compose=compose)
