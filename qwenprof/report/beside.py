"""Another record's figures as further columns of a table, matched by what they are figures of."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from qwenprof.formatting import NOT_MEASURED
from qwenprof.record.record import Row
from qwenprof.report.charts import BarChart, LineChart
from qwenprof.report.section import Inline, Table
from qwenprof.report.telling import Other

NO_FIGURE = "-"

Key = Any  # hashable: a Mapping is particular about the type of its keys
Figures = Mapping[Key, str | None]
Cells = tuple[Inline, ...]
Rows = Sequence[tuple[Hashable, Cells]]


def beside(
    table: Table,
    keys: Sequence[Hashable],
    other: Other | None,
    columns: Mapping[str, Figures],
    only: Mapping[Key, Cells] | None = None,
) -> Table:
    """A table with another record's figures in columns of their own.

    Args:
        table: of the record that is told.
        keys: what each row of it is about, in the order of the rows.
        other: whose figures stand beside; None leaves the table as it is.
        columns: what each further column holds, and its figures by key; None is not known.
        only: the first cells of a row, by key, for what the other record alone may have; told
            where the reader asked for that record.

    Returns:
        The table with the columns that have a figure; unchanged where none has one.
    """
    if other is None:
        return table
    further = _further(table, keys, columns, (only or {}) if other.asked else {})
    rows = [*zip(keys, table.rows, strict=True), *further]
    shown = {what: each for what, each in columns.items() if _has_any(each, rows)}
    if not shown:
        return table
    return replace(
        table,
        header=(*table.header, *(_heading(other, what) for what in shown)),
        align=table.align + "r" * len(shown),
        rows=tuple((*cells, *_cells(other, shown, key)) for key, cells in rows),
        caption=f"{table.caption} {other.source}".strip(),
    )


def by_key(rows: Iterable[Row], key: Callable[[Row], Hashable]) -> dict[Hashable, Row]:
    """The first row about each thing."""
    found: dict[Hashable, Row] = {}
    for row in rows:
        found.setdefault(key(row), row)
    return found


def told_of(rows: Mapping[Hashable, Row], tell: Callable[[Row], str | None]) -> Figures:
    """One figure of each row."""
    return {key: tell(row) for key, row in rows.items()}


def outlined(chart: BarChart | LineChart, other: Other | None) -> str:
    """Whose figures a plot shows beside its own, to follow its caption; "" where it shows none."""
    if isinstance(chart, BarChart):
        shown = any(bar.beside is not None for bar in chart.bars)
    else:
        shown = any(line.beside for panel in chart.panels for line in panel.lines)
    how = "Filled in grey" if chart.published else "Outlined in black"
    return f" {how}: {other.source}" if other and shown else ""


def _further(
    table: Table,
    keys: Sequence[Hashable],
    columns: Mapping[str, Figures],
    only: Mapping[Key, Cells],
) -> Rows:
    """Rows about what the table has no row for, where the other record has a figure of it."""
    known = set(keys)
    return [
        (key, _padded(first, len(table.header)))
        for key, first in only.items()
        if key not in known and any(each.get(key) is not None for each in columns.values())
    ]


def _padded(first: Cells, width: int) -> Cells:
    """A row that says once that this run has no figures."""
    empty = (NOT_MEASURED, *(NO_FIGURE for _ in range(width)))
    return (*first, *empty)[:width]


def _has_any(figures: Figures, rows: Rows) -> bool:
    return any(figures.get(key) is not None for key, _ in rows)


def _heading(other: Other, what: str) -> str:
    return f"{other.label}: {what}" if what else other.label


def _cells(other: Other, columns: Mapping[str, Figures], key: Hashable) -> Cells:
    figures = (each.get(key) for each in columns.values())
    return tuple(NO_FIGURE if each is None else other.set(each) for each in figures)
