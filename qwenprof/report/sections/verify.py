"""Is the fix exact? Every check with its value, its tolerance, and where that comes from."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence

from qwenprof.diagnosis.bounds import number
from qwenprof.formatting import NOT_MEASURED, count, plural, significant
from qwenprof.record.published import is_published
from qwenprof.record.record import Record, Row
from qwenprof.report.beside import beside, by_key, outlined, told_of
from qwenprof.report.charts import Bar, BarChart, drawing
from qwenprof.report.reading import device_name, footer, outcome, reasons, text
from qwenprof.report.section import (
    Block,
    Bullets,
    Figure,
    Inline,
    Section,
    Table,
    paragraph,
    strong,
)
from qwenprof.report.telling import Other, Telling

STAGE, CONV = "verify", "Conv3d"
RELATIVE = "relative error (2-norm)"


def compose(told: Telling) -> list[Block]:
    record = told.record
    blocks, rows = outcome(record, STAGE), record.rows(STAGE, "checks")
    judged = [row for row in rows if isinstance(row.get("passed"), bool)]
    if not rows:
        return blocks
    blocks.append(paragraph(*_conclusion(judged, is_published(record))))
    against_fp64 = [row for row in judged if row.get("metric") == RELATIVE]
    if against_fp64:
        blocks.append(_numerics(record, against_fp64, told.against))
        blocks.append(_figure(record, against_fp64, told.against))
    others = [row for row in judged if row.get("metric") != RELATIVE]
    blocks += [_others(record, others, told.against)] if others else []
    blocks.append(_sources(judged))
    why = reasons(rows, "{check}")
    return blocks + ([paragraph(strong("Not checked:")), Bullets(items=tuple(why))] if why else [])


def _conclusion(judged: Sequence[Row], stated: bool) -> list[Inline]:
    """First the fix, then the convolution beside it, then whether any of it can be believed."""
    checks = [row for row in judged if not row.get("must_fail")]
    controls = [row for row in judged if row.get("must_fail")]
    conv = [row for row in checks if row.get("variant") == CONV]
    fix = [row for row in checks if row.get("variant") != CONV]
    spans: list[Inline] = [strong(_passed("The fix", fix, stated)), _failed(fix)]
    spans += [f" {_passed('The convolution', conv, stated)}", _failed(conv)] if conv else []
    if not controls:
        done = "is stated" if stated else "was run"
        spans.append(f" No control {done} that would have to fail.")
    elif all(row.get("passed") is False for row in controls):
        spans.append(
            " The control, a weight gradient that is known to be wrong, fails as it must: an error "
            "of its size would be seen."
        )
    else:
        spans.append(
            " The control, a weight gradient that is known to be wrong, passed: these checks "
            "cannot be trusted."
        )
    return spans


def _passed(who: str, checks: Sequence[Row], stated: bool) -> str:
    passed = sum(1 for row in checks if row.get("passed"))
    of = f"{passed} of {plural(len(checks), 'check')}"
    return f"{who} is stated as passed in {of}." if stated else f"{who} passed {of}."


def _failed(checks: Sequence[Row]) -> str:
    names = dict.fromkeys(
        " ".join(str(row[key]) for key in ("check", "dtype") if row.get(key) is not None)
        for row in checks
        if not row.get("passed")
    )
    return f" It failed: {', '.join(names)}." if names else ""


def _key(row: Row) -> Hashable:
    """Of a result against fp64."""
    return tuple(text(row.get(name)) for name in ("check", "dtype", "variant", "must_fail"))


def _theirs(other: Other | None) -> dict[Hashable, Row]:
    """The other record's errors against fp64."""
    rows = other.rows(STAGE, "checks") if other else []
    return by_key(
        [row for row in rows if row.get("metric") == RELATIVE and number(row.get("value"))], _key
    )


def _numerics(record: Record, rows: Sequence[Row], other: Other | None) -> Table:
    theirs = _theirs(other)
    return beside(
        _own_numerics(record, rows),
        [_key(row) for row in rows],
        other,
        {"relative error": told_of(theirs, _error)},
        {key: _named(row) for key, row in theirs.items()},
    )


def _named(row: Row) -> tuple[Inline, ...]:
    return text(row.get("dtype")), text(row.get("variant")), text(row.get("check"))


def _own_numerics(record: Record, rows: Sequence[Row]) -> Table:
    return Table(
        header=("dtype", "Computed by", "Result", "Patches", "Relative error", "Tolerance", ""),
        align="lllrrrl",
        rows=tuple(
            (
                *_named(row),
                count(number(row.get("patches"))),
                _error(row),
                significant(number(row.get("tolerance"))),
                _verdict(row, is_published(record)),
            )
            for row in rows
        ),
        caption=f"The patch projection on {device_name(record)} against the same map in fp64, in "
        "the 2-norm. Both are given the same numbers, so that only arithmetic differs.",
    )


def _verdict(row: Row, stated: bool) -> Inline:
    if stated:
        return "stated as passed" if row.get("passed") else strong("stated as failed")
    if row.get("must_fail"):
        return strong("passed, but had to fail") if row.get("passed") else "failed, as it must"
    return "passed" if row.get("passed") else strong("FAILED")


def _others(record: Record, rows: Sequence[Row], other: Other | None) -> Table:
    checks = other.rows(STAGE, "checks") if other else []
    judged = [row for row in checks if row.get("metric") != RELATIVE and _known(row)]
    theirs = by_key(judged, lambda row: _what(row, other.record if other else record))
    return beside(
        _own_others(record, rows),
        [_what(row, record) for row in rows],
        other,
        {"": told_of(theirs, _value)},
        {key: _named_other(row) for key, row in theirs.items()},
    )


def _what(row: Row, record: Record) -> Hashable:
    """What a check is of, without what differs from run to run: how many images, which setting.

    A check of the whole model is in the dtype of the workload, whether its row says so or not.
    """
    check = re.split(r",| of ", text(row.get("check")))[0]
    dtype = row.get("dtype") or record.workload.get("dtype")
    return check, text(dtype), text(row.get("metric")).partition(",")[0]


def _known(row: Row) -> bool:
    return number(row.get("value")) is not None


def _named_other(row: Row) -> tuple[Inline, ...]:
    dtype = text(row.get("dtype")) if row.get("dtype") else "-"
    return text(row.get("check")), dtype, text(row.get("reference")), text(row.get("metric"))


def _own_others(record: Record, rows: Sequence[Row]) -> Table:
    return Table(
        header=("Check", "dtype", "Against", "Metric", "Value", "Tolerance", ""),
        align="llllrrl",
        rows=tuple(
            (
                *_named_other(row),
                _value(row),
                _number(number(row.get("tolerance"))),
                _verdict(row, is_published(record)),
            )
            for row in rows
        ),
        caption="The fix against the model without it. A cosine has to reach its tolerance, "
        "everything else has to stay within it.",
    )


def _error(row: Row) -> str:
    return _bound(row) or significant(number(row.get("value")))


def _bound(row: Row) -> str:
    """What a source gives in place of a value, with no more digits than it has; "" if nothing."""
    value, what = number(row.get("value")), str(row.get("value_is") or "")
    if value is None or not what:
        return ""
    signs = {"an upper bound": "<", "a lower bound": ">", "about": "about"}
    sign = next((sign for name, sign in signs.items() if what.startswith(name)), None)
    return f"{value:g} ({what})" if sign is None else f"{sign} {value:g}"


def _value(row: Row) -> str:
    value = number(row.get("value"))
    if bound := _bound(row):
        return bound
    if value is not None and str(row.get("metric")).startswith("cosine"):
        return f"{value:.8f}"
    return _number(value)


def _number(value: float | None) -> str:
    if value is None:
        return NOT_MEASURED
    return count(value) if value == int(value) else significant(value)


def _sources(rows: Sequence[Row]) -> Table:
    checks: dict[str, list[str]] = {}
    for row in rows:
        checks.setdefault(text(row.get("tolerance_source")), []).append(text(row.get("check")))
    return Table(
        header=("Tolerance", "Of"),
        align="ll",
        rows=tuple((source, ", ".join(dict.fromkeys(names))) for source, names in checks.items()),
        folded="Where the tolerances come from",
        caption="u is the unit roundoff: half the distance from 1 to the next number of the dtype.",
    )


def _figure(record: Record, rows: Sequence[Row], other: Other | None) -> Figure:
    theirs = _theirs(other)
    kinds = tuple(dict.fromkeys(_kind(row) for row in rows))
    chart = BarChart(
        title=f"Error of the patch projection against its tolerance on {device_name(record)}",
        axis="relative error over tolerance; beyond 1 it fails",
        bars=tuple(_bar(row, kinds, theirs.get(_key(row))) for row in rows),
        write=significant,
        beside=other.label if other else "",
        kinds=kinds,
        emphasis="fails",
        footer=footer(record),
        published=is_published(record),
    )
    return Figure(
        stem="verify",
        alt="Bar chart of each result's error against fp64, as a multiple of what is allowed",
        caption="Relative error of each result against fp64, as a multiple of its tolerance."
        + outlined(chart, other),
        draw=drawing(chart),
    )


def _kind(row: Row) -> str:
    return "the control, which must fail" if row.get("must_fail") else text(row.get("variant"))


def _ratio(row: Row | None) -> float | None:
    """Of a value to its tolerance; None where there is none above nought."""
    value, tolerance = (number(row.get(key)) if row else None for key in ("value", "tolerance"))
    ratio = value / tolerance if value is not None and tolerance else None
    return ratio if ratio is not None and ratio > 0 else None


def _bar(row: Row, kinds: Sequence[str], theirs: Row | None) -> Bar:
    return Bar(
        label=f"{row.get('check')}, {row.get('dtype')}",
        value=_ratio(row),
        note=f"{_error(row)}, {row.get('variant')}",
        emphasis=not row.get("passed") and not row.get("must_fail"),
        kind=kinds.index(_kind(row)),
        marks={"tolerance": 1.0},
        beside=_ratio(theirs),
        beside_note=_error(theirs) if theirs else "",
    )


SECTION = Section(name="verify", order=85, title="Is the fix exact?", compose=compose)
