"""Numbers that a text states beside its tables: each with the figures that it follows from.

A row of a table `claims`, in any stage, is one of them: `claim` says what it is, `stated` and
`unit` what it is stated as, `stated_is` how ("about", "at least", or null where it is plain),
`relation` how it follows from `a` and `b`, and `a_is` and `b_is` what these are, in words. Times
among `a` and `b` are in seconds, whatever the unit of what is stated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Final

from qwenprof.diagnosis.bounds import positive
from qwenprof.diagnosis.recomputing import (
    TOLERANCE,
    Check,
    Expected,
    agrees,
    product,
    quotient,
    rounded,
    written,
)
from qwenprof.formatting import significant
from qwenprof.record.record import Cell, Record, Row

TABLE: Final = "claims"
ABOUT, AT_LEAST = "about", "at least"
REPEATED: Final = "a"  # the same figure, stated twice
ABOUT_SLACK = 0.1  # of the number, where a text says "about"
UNITS = {"": 1.0, "x": 1.0, "s": 1.0, "h": 3600.0, "days": 86_400.0}

Relation = Callable[[Cell, Cell], Expected | None]


def claims(record: Record) -> Iterator[Check]:
    """Every claim whose figures are there, held against what it should be."""
    for stage, result in record.stages.items():
        for row in result.tables.get(TABLE, ()):
            expected = _expected(row)
            if expected is not None and positive(row.get("stated")) is not None:
                yield _check(stage, row, expected)


def _check(stage: str, row: Row, expected: Expected) -> Check:
    unit = str(row.get("unit") or "")
    stated = _with_unit(written(positive(row.get("stated")) or 0.0), unit)
    how = f"{row['stated_is']} " if row.get("stated_is") in (ABOUT, AT_LEAST) else ""
    source = f" ({row['source']})" if row.get("source") else ""
    return Check(
        kind="claims of the text",
        told=f"{stage}, {row.get('claim')}{source}: {how}{stated} is stated, but "
        f"{_derivation(row)} is {_with_unit(significant(expected.value), unit)}.",
        holds=_holds(row, expected),
    )


def _with_unit(value: str, unit: str) -> str:
    return f"{value} {unit}".rstrip()


def _expected(row: Row) -> Expected | None:
    """What the claim can be, in its own unit; None where it cannot be computed."""
    relation, unit = RELATIONS.get(str(row.get("relation"))), UNITS.get(str(row.get("unit") or ""))
    found = relation(row.get("a"), row.get("b")) if relation and unit else None
    return found.over(unit) if found and unit else None


def _holds(row: Row, expected: Expected) -> bool:
    stated = row.get("stated")
    if row.get("stated_is") == AT_LEAST:
        return (positive(stated) or 0.0) <= expected.high * (1 + TOLERANCE)
    if row.get("stated_is") == ABOUT:
        return agrees(stated, expected, ABOUT_SLACK * expected.high)
    return agrees(stated, expected, 0.0 if row.get("relation") == REPEATED else None)


def _derivation(row: Row) -> str:
    a, b = (row.get(f"{name}_is") or row.get(name) for name in ("a", "b"))
    forms = {
        "a / b": f"{a} over {b}",
        "a x b": f"{a} times {b}",
        "sqrt(a) x b": f"the root of {a} times {b}",
        REPEATED: str(a),
    }
    return forms[str(row.get("relation"))]


def _root_product(a: Cell, b: Cell) -> Expected | None:
    under = positive(a)
    return product(math.sqrt(under), b) if under is not None else None


RELATIONS: dict[str, Relation] = {
    "a / b": quotient,
    "a x b": product,
    "sqrt(a) x b": _root_product,
    REPEATED: lambda a, _: rounded(a),
}
