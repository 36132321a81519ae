"""The parts of another record's forward, by the role that each has in any forward."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

from qwenprof.diagnosis.bounds import number
from qwenprof.diagnosis.components import FUNCTION, Anatomy, Component, anatomy, first_block
from qwenprof.formatting import percent, seconds
from qwenprof.record.record import Record, Row
from qwenprof.report.beside import Figures, beside, by_key
from qwenprof.report.section import Table, code
from qwenprof.report.telling import Other

STAGE = "per-layer"
WHOLE = "the whole forward"
THE_TOWER = "the tower"
FIRST, OTHERS = "first", "others"

Stated = Mapping[str, Row]


@dataclass(frozen=True, kw_only=True)
class Theirs:
    """Another record's forward taken apart.

    parts: by role, in the order in which the forward reaches them.
    stated: by path, what it says of repeated blocks itself.
    """

    other: Other
    rows: Sequence[Row]
    whole: Anatomy
    parts: Mapping[str, Component]
    stated: Stated


def theirs_of(other: Other | None) -> Theirs | None:
    """The other record's forward; None where it was not taken apart."""
    rows = other.rows(STAGE, "modules") if other else []
    whole = anatomy(rows)
    if other is None or whole is None:
        return None
    stated = stated_of(other.record)
    whole = with_stated(whole, stated)
    parts = {role(part.label): part for part in whole.components}
    return Theirs(other=other, rows=rows, whole=whole, parts=parts, stated=stated)


def stated_of(record: Record) -> Stated:
    """What a record says of repeated blocks itself, by the path that holds them."""
    return {str(row.get("path")): row for row in record.rows(STAGE, "blocks")}


def with_stated(whole: Anatomy, stated: Stated) -> Anatomy:
    """A forward whose repeated blocks have the total that is stated of them, where it is."""
    parts = (_stated(part, stated.get(part.path), whole.total_s) for part in whole.components)
    return replace(whole, components=tuple(parts))


def others_s(part: Component, stated: Stated) -> float | None:
    """The mean of all but the first of repeated blocks."""
    mean_s = number(stated.get(part.path, {}).get("mean_of_others_s"))
    return part.mean_of_others_s if mean_s is None else mean_s


def role(label: str) -> str:
    """A part's label without how many there are of it, in which sizes of a model differ."""
    return re.sub(r", all \d+$", "", label)


def parts_beside(table: Table, keys: Sequence[Hashable], theirs: Theirs | None) -> Table:
    """The table of parts, with time and share of the other record's.

    keys: the role of a part, (role, FIRST) and (role, OTHERS) of repeated blocks, WHOLE.
    """
    if theirs is None:
        return table
    times: dict[Hashable, str | None] = {WHOLE: seconds(theirs.whole.total_s)}
    shares: dict[Hashable, str | None] = {}
    for name, part in theirs.parts.items():
        times[name], shares[name] = (
            seconds(part.time_s),
            percent(part.time_s / theirs.whole.total_s),
        )
        if part.first_s is not None:
            times[name, FIRST] = seconds(part.first_s)
            times[name, OTHERS] = seconds(others_s(part, theirs.stated))
    only = {
        name: (code(part.label) if part.paths else part.label, part.module_type or "own code")
        for name, part in theirs.parts.items()
    }
    return beside(table, keys, theirs.other, {"time": times, "share, computed": shares}, only)


def block_beside(
    table: Table, inner: Sequence[Row], part: Component, theirs: Theirs | None
) -> Table:
    """The table of what is in the first block, with the times of the other record's."""
    their = theirs.parts.get(role(part.label)) if theirs else None
    rows = first_block(theirs.rows, their) if theirs and their and their.paths else []
    figures = {_last(row): _inclusive(row) for row in rows}
    return beside(table, [_last(r) for r in inner], theirs.other if theirs else None, {"": figures})


def modules_beside(table: Table, rows: Sequence[Row], tower: str, theirs: Theirs | None) -> Table:
    """The table of all modules, with the times of those that the other record has too."""
    if theirs is None:
        return table
    figures: Figures = {
        key: _inclusive(row)
        for key, row in by_key(theirs.rows, lambda row: _place(row, theirs.whole.tower)).items()
    }
    keys = [_place(row, tower) for row in rows]
    return beside(table, keys, theirs.other, {"inclusive": figures})


def _place(row: Row, tower: str) -> str:
    """A path within the tower; of a function, which versions call otherwise, what it is for.

    The tower is the same thing whether it ran alone or within a model.
    """
    kind, path = str(row.get("module_type")), str(row.get("path"))
    if kind.startswith(FUNCTION):
        return kind
    if path == tower:
        return THE_TOWER
    return path.removeprefix(f"{tower}.") if tower else path


def _last(row: Row) -> str:
    return str(row.get("path")).rpartition(".")[2]


def _inclusive(row: Row) -> str | None:
    time_s = number(row.get("inclusive_s"))
    return None if time_s is None else seconds(time_s)


def _stated(part: Component, blocks: Row | None, whole_s: float) -> Component:
    """A part with the total that its record states for repeated blocks, where it does."""
    total_s, first_s = (
        number(blocks.get(key)) if blocks else None for key in ("total_s", "first_s")
    )
    if total_s is None or first_s is None or part.count < 2:
        return part
    return replace(part, time_s=total_s, first_s=first_s, share=total_s / whole_s)
