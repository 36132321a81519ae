"""Is it the model at all? What each phase takes of an image's way from frames to features."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from qwenprof.diagnosis.bounds import number
from qwenprof.formatting import listed, percent, plural, seconds, significant
from qwenprof.record.published import is_published
from qwenprof.record.record import Record, Row
from qwenprof.report.beside import beside, by_key, outlined, told_of
from qwenprof.report.charts import Bar, BarChart, drawing
from qwenprof.report.exclusion import excluded
from qwenprof.report.reading import (
    footer,
    interval,
    is_measured,
    measured,
    median_s,
    n_cell,
    on_gpu,
    outcome,
    reasons,
    sampled,
    setting,
    text,
    time_and_n,
    time_cell,
    unmeasured,
)
from qwenprof.report.section import (
    Block,
    Bullets,
    Figure,
    Inline,
    Section,
    Table,
    code,
    paragraph,
    strong,
)
from qwenprof.report.telling import Other, Telling

STAGE = "breakdown"
INPUTS, MODEL = ("processor", "transfer"), ("vision", "language")
NAMES = {
    "processor": "image processor",
    "transfer": "transfer to the device",
    "vision": "vision tower",
    "language": "language model",
}
KINDS = ("on the host", "on the device")
EXCLUDED, BOUND = 0.25, 0.5  # shares of the inputs below and above which there is no doubt


def compose(told: Telling) -> list[Block]:
    record = told.record
    blocks, rows = outcome(record, STAGE), record.rows(STAGE, "phases")
    if not rows:
        return blocks
    summary = next(iter(record.rows(STAGE, "pipeline")), {})
    blocks += [paragraph(*_conclusion(rows, summary)), _table(record, rows, told.against)]
    why = reasons(rows, "{phase}")
    blocks += [Bullets(items=tuple(why))] if why else []
    rate = _rate(summary)
    blocks += [paragraph(*rate)] if rate else []
    blocks += [_figure(record, rows, told.against)] if measured(rows) else []
    return blocks + excluded(told.findings, STAGE)


def _phase(row: Row) -> Hashable:
    return text(row.get("phase"))


def _theirs(other: Other | None) -> dict[Hashable, Row]:
    return by_key(measured(other.rows(STAGE, "phases") if other else []), _phase)


def _conclusion(rows: Sequence[Row], summary: Row) -> list[Inline]:
    inputs = [row for row in measured(rows) if row.get("phase") in INPUTS]
    model = [row for row in measured(rows) if row.get("phase") in MODEL]
    if not inputs or not model or summary.get("missing"):
        missing = summary.get("missing") or "the inputs or the model"
        return [f"Nothing can be concluded: {missing} could not be timed."]
    inputs_s, model_s = (sum(map(median_s, each)) for each in (inputs, model))
    share = inputs_s / (inputs_s + model_s)
    told = listed([f"the {_name(row)} takes {time_and_n(row)}" for row in inputs + model])
    return [f"{told[0].upper()}{told[1:]}. ", *_meaning(share)]


def _meaning(share: float) -> list[Inline]:
    if share < EXCLUDED:
        return [
            f"Preparing the inputs is {percent(share)} of it: ",
            strong("preprocessing and transfer are excluded"),
            "; whatever is slow is in the model.",
        ]
    if share < BOUND:
        return [
            f"Preparing the inputs is {percent(share)} of it: most of the time is the model's, but "
            "the inputs are not excluded."
        ]
    return [
        f"Preparing the inputs is {percent(share)} of it: ",
        strong("the model is excluded as the main cost"),
        "; it waits for its inputs.",
    ]


def _table(record: Record, rows: Sequence[Row], other: Other | None) -> Table:
    theirs = _theirs(other)
    return beside(
        _own_table(record, rows),
        [_phase(row) for row in rows],
        other,
        {"time": told_of(theirs, time_and_n), "share": told_of(theirs, _share)},
        {phase: (_name(row),) for phase, row in theirs.items()},
    )


def _share(row: Row) -> str | None:
    share = number(row.get("share"))
    return None if share is None else percent(share)


def _own_table(record: Record, rows: Sequence[Row]) -> Table:
    return Table(
        header=("Phase", "Time", "n", "Share", "Timed on"),
        align="lrrrl",
        rows=tuple(_row(row) for row in rows),
        caption=f"From raw frames to features, {setting(record)}; making the frames is not timed. "
        f"Shares are of the sum of what was measured. {sampled(record)} {_derived(rows)}".rstrip(),
    )


def _row(row: Row) -> tuple[Inline, ...]:
    return (
        _name(row),
        time_cell(row),
        n_cell(row),
        (_share(row) or "-") if is_measured(row) else "-",
        f"the {text(row.get('clock'))}'s clock" if is_measured(row) else "-",
    )


def _derived(rows: Sequence[Row]) -> str:
    has_language = any(row.get("phase") == "language" for row in measured(rows))
    if not has_language:
        return ""
    return (
        "The language model is what the whole forward takes beyond the tower; its interval is the "
        "widest that both allow."
    )


def _rate(summary: Row) -> list[Inline]:
    """Images per second of the phases one after the other, and which of them is the longest."""
    rate, images = number(summary.get("images_per_s")), number(summary.get("images"))
    if not rate or rate < 0 or images is None:
        return []
    total_s = number(summary.get("serial_s"))
    spans: list[Inline] = [
        f"One after the other, {plural(images, 'image')} in {seconds(total_s)} are "
        f"{significant(rate)} images per second. The longest phase is the "
        f"{NAMES.get(str(summary.get('bound_by')), text(summary.get('bound_by')))}"
    ]
    if summary.get("processor"):
        spans += ["; the processor is ", code(text(summary.get("processor")))]
    return [*spans, "."]


def _figure(record: Record, rows: Sequence[Row], other: Other | None) -> Figure:
    theirs = _theirs(other)
    chart = BarChart(
        title=f"From frames to features, {setting(record)}",
        axis="time of the phase",
        bars=tuple(_bar(row, theirs.get(_phase(row))) for row in rows),
        write=seconds,
        beside=other.label if other else "",
        kinds=KINDS if on_gpu(record) else ("",),
        footer=footer(record),
        published=is_published(record),
    )
    return Figure(
        stem="breakdown",
        alt="Bar chart of the time of each phase: processor, transfer, vision and language",
        caption=sampled(
            record,
            "Error bars are the 95 % confidence interval of the median; a bar without one has "
            "fewer than six samples.",
        )
        + outlined(chart, other),
        draw=drawing(chart),
    )


def _bar(row: Row, their: Row | None) -> Bar:
    theirs_s = None if their is None else median_s(their)
    if not is_measured(row):
        return Bar(label=_name(row), value=None, note=unmeasured(row), beside=theirs_s)
    note = f"{seconds(median_s(row))}, {percent(number(row.get('share')))}, n = {n_cell(row)}"
    return Bar(
        label=_name(row),
        value=median_s(row),
        interval=interval(row),
        note=note,
        kind=int(row.get("clock") == "device"),
        beside=theirs_s,
    )


def _name(row: Row) -> str:
    return NAMES.get(str(row.get("phase")), text(row.get("phase")))


SECTION = Section(
    name="breakdown", order=65, title="Is it the model at all, or its inputs?", compose=compose
)
