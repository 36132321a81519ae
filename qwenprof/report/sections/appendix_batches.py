"""Appendix B: each batch before and after the fix, from the sweep and from both in turn."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from qwenprof.diagnosis.bounds import number
from qwenprof.diagnosis.projected import STAGE as FIX_STAGE
from qwenprof.diagnosis.projected import TABLE as FIX_TABLE
from qwenprof.diagnosis.projected import Effect, Time, effects
from qwenprof.diagnosis.projection import CONV, LINEAR
from qwenprof.formatting import count, seconds_with_interval, size, times_with_interval
from qwenprof.record.record import Record, Row
from qwenprof.report.beside import NO_FIGURE, beside
from qwenprof.report.reading import (
    INTERVALS,
    is_measured,
    outcome,
    reasons,
    sampled,
    setting,
    time_cell,
    unmeasured,
)
from qwenprof.report.section import Block, Bullets, Inline, Section, Table, paragraph, strong
from qwenprof.report.telling import Other, Telling

STAGE = "batch-sweep"


@dataclass(frozen=True, kw_only=True)
class Batch:
    """All that a record holds of one batch; what it does not hold is empty or None."""

    batch: int
    sweep: Row
    conv: Row
    linear: Row
    effect: Effect | None

    @property
    def before(self) -> Time | None:
        return self.effect.before if self.effect else None

    @property
    def after(self) -> Time | None:
        return self.effect.after if self.effect else None


def compose(told: Telling) -> list[Block]:
    record = told.record
    own, theirs = batches(record), batches(told.against.record) if told.against else {}
    blocks = outcome(record, STAGE)
    if not own:
        return blocks
    if not record.rows(FIX_STAGE, FIX_TABLE):
        said = "No forward was timed with the fix: a figure after it is computed, if there is one."
        blocks.append(paragraph(said))
    blocks.append(_beside(_table(record, list(own.values())), own, told.against, theirs))
    why = reasons(record.rows(STAGE, "batches"), "sweep, batch {batch}")
    why += reasons(record.rows(FIX_STAGE, FIX_TABLE), "{variant}, batch {batch}")
    return blocks + ([paragraph(strong("Not measured:")), Bullets(items=tuple(why))] if why else [])


def batches(record: Record) -> dict[int, Batch]:
    """Every batch that the sweep or the comparison of whole forwards has a row for."""
    sweep = _by_batch(record.rows(STAGE, "batches"))
    fix = record.rows(FIX_STAGE, FIX_TABLE)
    conv, linear = (
        _by_batch([row for row in fix if row.get("variant") == name]) for name in (CONV, LINEAR)
    )
    effect = {each.batch: each for each in effects(record)}
    return {
        batch: Batch(
            batch=batch,
            sweep=sweep.get(batch, {}),
            conv=conv.get(batch, {}),
            linear=linear.get(batch, {}),
            effect=effect.get(batch),
        )
        for batch in sorted({*sweep, *conv, *linear, *effect})
    }


def _by_batch(rows: Sequence[Row]) -> dict[int, Row]:
    found: dict[int, Row] = {}
    for row in rows:
        batch = number(row.get("batch"))
        if batch is not None and batch >= 1:
            found.setdefault(int(batch), row)
    return found


COLUMNS = (
    "Patches",
    "Sequence length",
    "Before, in the sweep",
    "n",
    "Before, compared",
    "n",
    "After",
    "n",
    "A sample before",
    "A sample after",
    "Speed-up",
    "Peak before",
    "Peak after",
)


COMPARED = (
    "The sweep timed each batch alone. Compared is the forward that the one with the fix is held "
    "against: timed in turn with it (A B B A), or the one that it was computed from. " + INTERVALS
)


def _table(record: Record, rows: Sequence[Batch]) -> Table:
    return Table(
        header=("Batch", *COLUMNS),
        align="r" * (1 + len(COLUMNS)),
        rows=tuple((count(each.batch), *_cells(each)) for each in rows),
        caption=f"The whole forward, {setting(record)}, as dispatched (before) and with the fix "
        f"(after). {sampled(record, COMPARED)}",
    )


def _cells(each: Batch) -> tuple[Inline, ...]:
    return (
        _count(each.sweep.get("patches"), each.conv.get("patches")),
        _count(each.sweep.get("sequence_length")),
        time_cell(each.sweep) if each.sweep else NO_FIGURE,
        _count(each.sweep.get("n")) if is_measured(each.sweep) else NO_FIGURE,
        *_compared(each),
        *_after(each),
        _sample(each.before or _sweep_time(each), each.batch),
        _sample(each.after, each.batch),
        _ratio(each),
        _peak(each.conv, each.sweep),
        _peak(each.linear),
    )


def _count(*cells: object) -> str:
    known = [cell for cell in cells if isinstance(cell, int | float)]
    value = number(known[0]) if known else None
    return NO_FIGURE if value is None else count(value)


def _compared(each: Batch) -> tuple[str, str]:
    if each.before is None:
        return (unmeasured(each.conv) if each.conv else NO_FIGURE), NO_FIGURE
    return _time(each.before), _n(each.before)


def _after(each: Batch) -> tuple[str, str]:
    if each.after is None:
        return (unmeasured(each.linear) if each.linear else NO_FIGURE), NO_FIGURE
    computed = " (computed)" * bool(each.effect and each.effect.basis == "computed")
    return f"{_time(each.after)}{computed}", _n(each.after)


def _time(time: Time) -> str:
    return seconds_with_interval(time.value_s, time.interval)


def _n(time: Time) -> str:
    return NO_FIGURE if time.n is None else count(time.n)


def _sweep_time(each: Batch) -> Time | None:
    value = number(each.sweep.get("median_s"))
    return Time(value_s=value) if value is not None and is_measured(each.sweep) else None


def _sample(time: Time | None, batch: int) -> str:
    return NO_FIGURE if time is None else _time(time.scaled(1 / batch))


def _ratio(each: Batch) -> str:
    found = each.effect.speedup if each.effect else None
    return NO_FIGURE if found is None else times_with_interval(found.value, found.interval)


def _peak(*rows: Row) -> str:
    known = [value for row in rows if (value := number(row.get("peak_bytes"))) is not None]
    return size(known[0]) if known else NO_FIGURE


def _beside(
    table: Table, own: Mapping[int, Batch], other: Other | None, theirs: Mapping[int, Batch]
) -> Table:
    """The other record's forward before and after, at its batches."""
    figures: dict[Hashable, tuple[str | None, ...]] = {
        batch: (
            _their_time(each.before or _sweep_time(each)),
            _their_time(each.after),
            None if _ratio(each) == NO_FIGURE else _ratio(each),
        )
        for batch, each in theirs.items()
    }
    columns = {
        name: {batch: each[i] for batch, each in figures.items()}
        for i, name in enumerate(("before", "after", "speed-up"))
    }
    only: dict[Hashable, tuple[Inline, ...]] = {batch: (count(batch),) for batch in theirs}
    return beside(table, list(own), other, columns, only)


def _their_time(time: Time | None) -> str | None:
    return None if time is None else _time(time)


SECTION = Section(
    name="appendix-batches",
    order=97,
    title="Appendix B: batches before and after the fix",
    compose=compose,
)
