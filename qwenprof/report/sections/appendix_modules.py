"""Appendix A: every module and function that was timed, with all that is known of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qwenprof.diagnosis.bounds import number
from qwenprof.diagnosis.components import anatomy
from qwenprof.formatting import count, flop, percent, seconds, size, times
from qwenprof.record.published import is_published
from qwenprof.record.record import Cell, Record, Row
from qwenprof.report.beside import NO_FIGURE
from qwenprof.report.reading import AS_PUBLISHED, device_name, outcome, text
from qwenprof.report.section import Block, Inline, Section, Table, code, paragraph
from qwenprof.report.sections._parts_beside import modules_beside, theirs_of
from qwenprof.report.telling import Telling

STAGE = "per-layer"
MOST_ROWS = 400
COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
    "calls": ("Calls", count),
    "inclusive_s": ("Inclusive", seconds),
    "exclusive_s": ("Exclusive", seconds),
    "share": ("Share", percent),
    "first_call_s": ("First call", seconds),
    "bound_s": ("Bound", seconds),
    "slowdown": ("Slowdown", times),
    "flops": ("FLOP", flop),
    "bytes": ("Bytes", size),
    "operators": ("Operators", count),
}


def compose(told: Telling) -> list[Block]:
    record = told.record
    blocks, rows = outcome(record, STAGE), record.rows(STAGE, "modules")
    if not rows:
        return blocks
    whole, shown = anatomy(rows), rows[:MOST_ROWS]
    table = _table(shown, f"All {count(len(rows))} timed modules and functions")
    if len(shown) < len(rows):
        table = _table(shown, f"The first {count(len(shown))} of {count(len(rows))} timed modules")
    beside = modules_beside(table, shown, whole.tower if whole else "", theirs_of(told.against))
    return [*blocks, paragraph(_lead(record, rows)), beside]


def _lead(record: Record, rows: Sequence[Row]) -> str:
    if is_published(record):
        return (
            f"One forward on {device_name(record)}. {AS_PUBLISHED} Inclusive time holds what a "
            f"module calls.{_cut(rows)}"
        )
    return (
        f"One forward on {device_name(record)}, {_n(record)}. Inclusive time holds what a module "
        "calls, exclusive time does not; the first call is that of the first forward. Bound is the "
        "least time for the FLOP and bytes that were counted, at the rates that this machine was "
        f"seen to reach; slowdown is the time over it.{_cut(rows)}"
    )


def _n(record: Record) -> str:
    rows = record.rows(STAGE, "summary")
    n = number(rows[0].get("n")) if rows else None
    return "n not recorded" if n is None else f"medians of n = {count(n)}"


def _cut(rows: Sequence[Row]) -> str:
    more = len(rows) - MOST_ROWS
    return f" The first {MOST_ROWS} are shown; {count(more)} more are in record.json." * (more > 0)


def _table(rows: Sequence[Row], folded: str) -> Table:
    return Table(
        header=("Path", "Type", *(title for title, _ in COLUMNS.values())),
        align="ll" + "r" * len(COLUMNS),
        rows=tuple(_row(row) for row in rows),
        folded=folded,
    )


def _row(row: Row) -> tuple[Inline, ...]:
    figures = (_told(row.get(key), write) for key, (_, write) in COLUMNS.items())
    return (code(str(row.get("path")) or "(root)"), text(row.get("module_type")), *figures)


def _told(cell: Cell, write: Callable[[float], str]) -> str:
    value = number(cell)
    return NO_FIGURE if value is None else write(value)


SECTION = Section(
    name="appendix-modules", order=96, title="Appendix A: every timed module", compose=compose
)
