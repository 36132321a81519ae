"""Numbers that a text states beside its tables: each with the figures that it follows from.

A row of a table `claims`, in any stage, is one of them: `claim` says what it is, `stated` and
`unit` what it is stated as, `stated_is` how ("about", "at least", or null where it is plain),
`relation` how it follows from `a` and `b`, and `a_is` and `b_is` what these are, in words. Times
among `a` and `b` are in seconds, whatever the unit of what is stated. `stated_to` is the other end
of what is stated as a range, and `note` what a reader of a claim that does not hold should know.
A claim of the relation "version of cuDNN" is text such as "cuDNN 9.10.2", and `a` the number by
which PyTorch names that version.
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
from qwenprof.diagnosis.versions import cudnn_version
from qwenprof.formatting import significant
from qwenprof.record.record import Cell, Record, Row

TABLE: Final = "claims"
ABOUT, AT_LEAST = "about", "at least"
REPEATED: Final = "a"  # the same figure, stated twice
CUDNN: Final = "version of cuDNN"
LIBRARY: Final = "cuDNN "  # before its version, which by itself may look like an address
KIND: Final = "claims of the text"
ABOUT_SLACK = 0.1  # of the number, where a text says "about"
UNITS = {"": 1.0, "x": 1.0, "s": 1.0, "h": 3600.0, "days": 86_400.0}

Relation = Callable[[Cell, Cell], Expected | None]


def claims(record: Record) -> Iterator[Check]:
    """Every claim whose figures are there, held against what it should be."""
    for stage, result in record.stages.items():
        for row in result.tables.get(TABLE, ()):
            check = _check_version(stage, row) if _is_version(row) else _check(stage, row)
            if check is not None:
                yield check


def _check(stage: str, row: Row) -> Check | None:
    expected, first = _expected(row), positive(row.get("stated"))
    if expected is None or first is None:
        return None
    unit, last = str(row.get("unit") or ""), positive(row.get("stated_to"))
    stated = _with_unit(written(first) + (f" to {written(last)}" if last else ""), unit)
    how = f"{row['stated_is']} " if row.get("stated_is") in (ABOUT, AT_LEAST) else ""
    should = f"{_derivation(row)} is {_with_unit(significant(expected.value), unit)}"
    return Check(
        kind=KIND, told=_told(stage, row, f"{how}{stated}", should), holds=_holds(row, expected)
    )


def _is_version(row: Row) -> bool:
    return row.get("relation") == CUDNN


def _check_version(stage: str, row: Row) -> Check | None:
    """A version in words beside the number by which PyTorch names it."""
    text = str(row.get("stated")).removeprefix(LIBRARY)
    stated, expected = cudnn_version(text), cudnn_version(row.get("a"))
    if stated is None or expected is None:
        return None
    told = _told(stage, row, f"{LIBRARY}{text}", f"{row.get('a_is') or row.get('a')} is {expected}")
    return Check(kind=KIND, told=told, holds=stated == expected)


def _told(stage: str, row: Row, stated: str, should: str) -> str:
    source = f" ({row['source']})" if row.get("source") else ""
    note = f"; {row['note']}" if row.get("note") else ""
    return f"{stage}, {row.get('claim')}{source}: {stated} is stated, but {should}{note}."


def _with_unit(value: str, unit: str) -> str:
    return f"{value} {unit}".rstrip()


def _expected(row: Row) -> Expected | None:
    """What the claim can be, in its own unit; None where it cannot be computed."""
    relation, unit = RELATIONS.get(str(row.get("relation"))), UNITS.get(str(row.get("unit") or ""))
    found = relation(row.get("a"), row.get("b")) if relation and unit else None
    return found.over(unit) if found and unit else None


def _holds(row: Row, expected: Expected) -> bool:
    stated, last = row.get("stated"), positive(row.get("stated_to"))
    if last is not None:
        return _overlap((positive(stated) or 0.0, last), expected)
    if row.get("stated_is") == AT_LEAST:
        return (positive(stated) or 0.0) <= expected.high * (1 + TOLERANCE)
    if row.get("stated_is") == ABOUT:
        return agrees(stated, expected, ABOUT_SLACK * expected.high)
    return agrees(stated, expected, 0.0 if row.get("relation") == REPEATED else None)


def _overlap(stated: tuple[float, float], expected: Expected) -> bool:
    return stated[0] * (1 - TOLERANCE) <= expected.high and expected.low <= stated[1] * (
        1 + TOLERANCE
    )


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
