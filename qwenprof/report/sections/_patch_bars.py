"""Conv3d and Linear as bars, where they were timed at one number of patches and no line is."""

from __future__ import annotations

from collections.abc import Sequence

from qwenprof.diagnosis.bounds import number
from qwenprof.formatting import count, seconds, times
from qwenprof.record.published import is_published
from qwenprof.record.record import Record, Row
from qwenprof.report.beside import outlined
from qwenprof.report.charts import Bar, BarChart, drawing
from qwenprof.report.reading import (
    device_name,
    footer,
    interval,
    is_measured,
    measured,
    median_s,
    sampled,
    samples,
    text,
)
from qwenprof.report.section import Figure
from qwenprof.report.telling import Other

CONV, LINEAR = "Conv3d", "Linear"
BAR_INTERVALS = (
    "Error bars are the 95 % confidence interval of the median; a bar without one has fewer than "
    "six samples."
)


def has_one_size(rows: Sequence[Row]) -> bool:
    """Whether all that was measured was measured at one number of patches."""
    return len({number(row.get("patches")) for row in measured(rows)}) == 1


def bars(record: Record, rows: Sequence[Row], theirs: Sequence[Row], other: Other | None) -> Figure:
    """One bar for each dtype and variant; the other record's on the same patches beside it."""
    own = measured(rows)
    beside = {_key(row): median_s(row) for row in measured(theirs)}
    chart = BarChart(
        title=f"Patch projection of {count(number(own[0].get('patches')))} patches on "
        f"{device_name(record)}",
        axis="time of one call",
        bars=tuple(_bar(row, own, beside.get(_key(row))) for row in own),
        write=seconds,
        kinds=(CONV, LINEAR),
        beside=other.label if other else "",
        footer=footer(record),
        published=is_published(record),
    )
    return Figure(
        stem="compare_patch_embed",
        alt="Bar chart of the time of Conv3d and of the equal Linear, by dtype",
        caption=sampled(record, BAR_INTERVALS) + outlined(chart, other),
        draw=drawing(chart),
    )


def _key(row: Row) -> tuple[str, str, float | None]:
    return text(row.get("dtype")), text(row.get("variant")), number(row.get("patches"))


def _bar(row: Row, rows: Sequence[Row], beside: float | None) -> Bar:
    variant = text(row.get("variant"))
    return Bar(
        label=f"{variant}, {text(row.get('dtype'))}",
        value=median_s(row),
        interval=interval(row),
        note=_note(row, rows),
        kind=int(variant == LINEAR),
        beside=beside,
    )


def _note(row: Row, rows: Sequence[Row]) -> str:
    """Time and n, and of a Linear how many times as fast as its convolution it is."""
    n = samples(row)
    told = seconds(median_s(row)) + (f", n = {n}" if n is not None else "")
    convs = [
        each
        for each in rows
        if each.get("variant") == CONV and each.get("dtype") == row.get("dtype")
    ]
    if row.get("variant") != LINEAR or not convs or not is_measured(convs[0]):
        return told
    return f"{told}, {times(median_s(convs[0]) / median_s(row))} as fast"
