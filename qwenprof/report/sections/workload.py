"""What ran, and where it differs from the published case."""

from __future__ import annotations

from collections.abc import Sequence

from qwenprof.diagnosis.bounds import number
from qwenprof.formatting import NOT_MEASURED, count, listed, plural
from qwenprof.record.record import Cell, Record
from qwenprof.report import published as known
from qwenprof.report.reading import device_name, is_measured, is_qwen
from qwenprof.report.section import Block, Inline, Section, Table, paragraph, published, strong
from qwenprof.report.telling import Telling

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
CLOSE_SIZE = 0.10  # sizes are rounded to whole patches anyway


def compose(told: Telling) -> list[Block]:
    record = told.record
    blocks: list[Block] = [paragraph(_in_words(record))]
    if is_qwen(record):
        rows = _rows(record)
        different = [name for name, _, _, same in rows if not same]
        blocks += [paragraph(_difference(different)), _table(rows)]
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


def _rows(record: Record) -> list[tuple[str, str, str, bool]]:
    """Property, this run, published, and whether they are the same."""
    facts = record.workload
    rows = [
        (
            name,
            _said(key, facts.get(key), facts.get("scope")),
            _said(key, known.WORKLOAD[key], "full"),
            _same(key, facts.get(key), facts.get("scope")),
        )
        for key, name in NAMES.items()
    ]
    device, batches = device_name(record), _batches(record)
    listed_batches = ", ".join(map(str, batches)) if batches else NOT_MEASURED
    source = weights(record)
    return [
        ("Device", device, known.DEVICE, device == known.DEVICE),
        *rows,
        (
            "Batch sizes swept",
            listed_batches,
            ", ".join(map(str, known.BATCH_SIZES)),
            batches == list(known.BATCH_SIZES),
        ),
        ("Weights", source, "checkpoint", source != RANDOM),
    ]


def _said(key: str, value: Cell, scope: Cell) -> str:
    if value is None:
        return NOT_MEASURED
    if key == "scope":
        return PARTS.get(str(value), str(value))
    if key == "sequence_length" and scope == "vision":
        return f"{count(number(value))} visual tokens, no language model"
    return count(number(value)) if number(value) is not None else str(value)


def _same(key: str, value: Cell, scope: Cell) -> bool:
    return value == known.WORKLOAD[key] and not (key == "sequence_length" and scope == "vision")


def _batches(record: Record) -> list[int]:
    rows = record.rows("batch-sweep", "batches")
    return sorted({int(number(row.get("batch")) or 0) for row in rows if is_measured(row)})


def _difference(different: Sequence[str]) -> str:
    if not different:
        return "It is the published case: every property below is the same."
    plain = [name.partition(" (")[0] for name in different]
    names = listed([name[0].lower() + name[1:] for name in plain])
    return (
        f"It differs from the published case in {names}. Times are comparable with the "
        "published ones only where device and work are the same."
    )


def _table(rows: Sequence[tuple[str, str, str, bool]]) -> Table:
    body: list[tuple[Inline, ...]] = [
        (name, here if same else strong(here), published(there), "yes" if same else "no")
        for name, here, there, same in rows
    ]
    return Table(
        header=("Property", "This run", "Published case", "Same"),
        align="llll",
        rows=tuple(body),
        caption="What differs from the published case is in bold.",
    )


SECTION = Section(name="workload", order=20, title="Workload", compose=compose)
