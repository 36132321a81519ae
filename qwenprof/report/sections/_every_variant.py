"""Every way to run the projection that was tried, forward and backward."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

from qwenprof.diagnosis.bounds import number
from qwenprof.formatting import (
    NOT_MEASURED,
    count,
    seconds,
    seconds_with_interval,
    significant,
    size,
    times,
    times_with_interval,
)
from qwenprof.record.published import is_published
from qwenprof.record.record import Record, Row
from qwenprof.report.beside import beside, by_key, outlined, told_of
from qwenprof.report.charts import Bar, BarChart, drawing
from qwenprof.report.reading import (
    INTERVALS,
    footer,
    interval,
    is_measured,
    measured,
    median_s,
    n_cell,
    text,
    time_and_n,
    time_cell,
    unmeasured,
)
from qwenprof.report.section import Block, Bullets, Figure, Inline, Table, paragraph, strong
from qwenprof.report.telling import Other, Telling

Beside = dict[str, dict[Hashable, Row]]  # by direction, then by variant

STAGE = "compare-patch-embed"
FORWARD, BACKWARD = "forward", "backward"
CONV = "Conv3d"


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One variant in one direction: on all the patches or, where that was too slow, on fewer."""

    row: Row
    on_all: bool

    @property
    def is_measured(self) -> bool:
        return is_measured(self.row)


def every_variant(told: Telling, dtype: str, most: float) -> list[Block]:
    """Table and plot; nothing for a record that holds the plain comparison alone."""
    record, theirs = told.record, _theirs(told.against, dtype, most)
    rows = [
        row
        for row in record.rows(STAGE, "variants")
        if row.get("dtype") == dtype and row.get("what") is not None
    ]
    forward, backward = (_tried(rows, direction, most) for direction in (FORWARD, BACKWARD))
    if not rows or not forward:
        return []
    blocks: list[Block] = [
        paragraph(strong("Every way to run it."), f" {count(most)} patches in {dtype}."),
        _table(forward, backward, told.against, theirs),
        Bullets(items=tuple(_what(tried.row) for tried in forward.values())),
    ]
    if any(tried.is_measured for tried in forward.values()):
        chart = _chart(record, forward, dtype, most)
        marked = _with_marks(chart, told.against, theirs[FORWARD])
        blocks.append(_figure(marked, told.against))
    return blocks


def _theirs(other: Other | None, dtype: str, most: float) -> Beside:
    """What the other record has of the same patches in the same dtype."""
    rows = [
        row
        for row in measured(other.rows(STAGE, "variants") if other else [])
        if row.get("dtype") == dtype and number(row.get("patches")) == most
    ]
    return {
        direction: by_key(
            [row for row in rows if (row.get("direction") or FORWARD) == direction],
            lambda row: text(row.get("variant")),
        )
        for direction in (FORWARD, BACKWARD)
    }


def _tried(rows: Sequence[Row], direction: str, most: float) -> dict[str, Tried]:
    """By variant, in the order of the record: the measurement on the most patches."""
    found: dict[str, Tried] = {}
    for row in rows:
        if row.get("direction") == direction:
            tried = Tried(row=row, on_all=number(row.get("patches")) == most)
            before = found.setdefault(text(row.get("variant")), tried)
            if _weight(tried) > _weight(before):
                found[text(row.get("variant"))] = tried
    return found


def _weight(tried: Tried) -> tuple[bool, float]:
    return tried.is_measured, number(tried.row.get("patches")) or 0.0


def _table(
    forward: dict[str, Tried], backward: dict[str, Tried], other: Other | None, theirs: Beside
) -> Table:
    names = list(dict.fromkeys([*forward, *backward]))
    return beside(
        _own_table(names, forward, backward),
        names,
        other,
        {direction: told_of(rows, time_and_n) for direction, rows in theirs.items()},
        {
            variant: (str(variant), str(row.get("backend") or "not recorded"))
            for rows in theirs.values()
            for variant, row in rows.items()
        },
    )


def _own_table(
    names: Sequence[str], forward: dict[str, Tried], backward: dict[str, Tried]
) -> Table:
    return Table(
        header=(
            "Variant",
            "Backend",
            "Forward",
            "n",
            "Speed-up",
            "Error, forward",
            "Backward",
            "n",
            "Speed-up",
            "Error, backward",
            "Peak memory",
        ),
        align="llrrrrrrrrr",
        rows=tuple(
            (
                name,
                _backend(forward.get(name), backward.get(name)),
                *_cells(forward.get(name)),
                *_cells(backward.get(name)),
                size(_peak(forward.get(name))),
            )
            for name in names
        ),
        caption=f"{INTERVALS} Speed-up is the convolution as dispatched over the variant. Backward "
        "is the gradients of weight and bias alone, as in training, where pixels have none. Errors "
        "are relative, in the 2-norm, against fp64: of the output, and of the weight's gradient. "
        "Peak memory is that of the forward; on a CPU, of the whole process.",
    )


def _backend(*tried: Tried | None) -> str:
    names = (each.row.get("backend") for each in tried if each is not None)
    return next((str(name) for name in names if name is not None), "-")


def _cells(tried: Tried | None) -> tuple[str, str, str, str]:
    if tried is None or not tried.is_measured:
        return (NOT_MEASURED if tried is None else unmeasured(tried.row)), "-", "-", "-"
    row = tried.row
    fewer = "" if tried.on_all else f" ({count(number(row.get('patches')))} patches)"
    return time_cell(row) + fewer, n_cell(row), _speedup(row), _error(row)


def _speedup(row: Row) -> str:
    value = number(row.get("speedup"))
    if value is None:
        return "-"
    return times_with_interval(value, interval(row, "speedup_low", "speedup_high"))


def _error(row: Row) -> str:
    return significant(number(row.get("relative_error")))


def _peak(tried: Tried | None) -> float | None:
    return None if tried is None else number(tried.row.get("peak_bytes"))


def _what(row: Row) -> tuple[Inline, ...]:
    return strong(text(row.get("variant"))), f": {row.get('what')}."


def _chart(record: Record, forward: dict[str, Tried], dtype: str, most: float) -> BarChart:
    return BarChart(
        title=f"Patch projection of {count(most)} patches in {dtype}, every way to run it",
        axis="time of a forward",
        bars=tuple(_bar(name, tried) for name, tried in forward.items()),
        write=seconds,
        emphasis="the convolution as dispatched",
        footer=footer(record),
        published=is_published(record),
    )


def _with_marks(chart: BarChart, other: Other | None, theirs: dict[Hashable, Row]) -> BarChart:
    bars = tuple(
        replace(bar, beside=median_s(theirs[bar.label])) if bar.label in theirs else bar
        for bar in chart.bars
    )
    return replace(chart, bars=bars, beside=other.label if other else "")


def _figure(chart: BarChart, other: Other | None) -> Figure:
    return Figure(
        stem="patch_embed_variants",
        alt="Bar chart of the time of the patch projection by the way in which it is run",
        caption="Forward. Error bars are the 95 % confidence interval of the median; variants that "
        "did not run on all the patches have no bar." + outlined(chart, other),
        draw=drawing(chart),
    )


def _bar(name: str, tried: Tried) -> Bar:
    row = tried.row
    if not tried.is_measured:
        return Bar(label=name, value=None, note=unmeasured(row))
    if not tried.on_all:
        few = f"{seconds(median_s(row))} for {count(number(row.get('patches')))} patches"
        return Bar(label=name, value=None, note=f"not on all: {few}")
    speedup = number(row.get("speedup"))
    gain = "" if speedup is None or name == CONV else f", {times(speedup)}"
    return Bar(
        label=name,
        value=median_s(row),
        interval=interval(row),
        note=f"{seconds_with_interval(median_s(row), None)}, n = {n_cell(row)}{gain}",
        emphasis=name == CONV,
    )
