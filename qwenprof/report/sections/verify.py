"""Is the fix exact? Every check with its value, its tolerance, and where that comes from."""

from __future__ import annotations

from collections.abc import Sequence

from qwenprof.diagnosis.bounds import number
from qwenprof.formatting import NOT_MEASURED, count, plural, significant
from qwenprof.record.record import Record, Row
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
from qwenprof.report.telling import Telling

STAGE, CONV = "verify", "Conv3d"
RELATIVE = "relative error (2-norm)"


def compose(told: Telling) -> list[Block]:
    record = told.record
    blocks, rows = outcome(record, STAGE), record.rows(STAGE, "checks")
    judged = [row for row in rows if isinstance(row.get("passed"), bool)]
    if not rows:
        return blocks
    blocks.append(paragraph(*_conclusion(judged)))
    against_fp64 = [row for row in judged if row.get("metric") == RELATIVE]
    if against_fp64:
        blocks += [_numerics(record, against_fp64), _figure(record, against_fp64)]
    others = [row for row in judged if row.get("metric") != RELATIVE]
    blocks += [_others(others)] if others else []
    blocks.append(_sources(judged))
    why = reasons(rows, "{check}")
    return blocks + ([paragraph(strong("Not checked:")), Bullets(items=tuple(why))] if why else [])


def _conclusion(judged: Sequence[Row]) -> list[Inline]:
    """First the fix, then the convolution beside it, then whether any of it can be believed."""
    checks = [row for row in judged if not row.get("must_fail")]
    controls = [row for row in judged if row.get("must_fail")]
    conv = [row for row in checks if row.get("variant") == CONV]
    fix = [row for row in checks if row.get("variant") != CONV]
    spans: list[Inline] = [strong(_passed("The fix", fix)), _failed(fix)]
    spans += [f" {_passed('The convolution', conv)}", _failed(conv)] if conv else []
    if not controls:
        spans.append(" No control was run that would have to fail.")
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


def _passed(who: str, checks: Sequence[Row]) -> str:
    passed = sum(1 for row in checks if row.get("passed"))
    return f"{who} passed {passed} of {plural(len(checks), 'check')}."


def _failed(checks: Sequence[Row]) -> str:
    names = dict.fromkeys(
        " ".join(str(row[key]) for key in ("check", "dtype") if row.get(key) is not None)
        for row in checks
        if not row.get("passed")
    )
    return f" It failed: {', '.join(names)}." if names else ""


def _numerics(record: Record, rows: Sequence[Row]) -> Table:
    return Table(
        header=("dtype", "Computed by", "Result", "Patches", "Relative error", "Tolerance", ""),
        align="lllrrrl",
        rows=tuple(
            (
                text(row.get("dtype")),
                text(row.get("variant")),
                text(row.get("check")),
                count(number(row.get("patches"))),
                significant(number(row.get("value"))),
                significant(number(row.get("tolerance"))),
                _verdict(row),
            )
            for row in rows
        ),
        caption=f"The patch projection on {device_name(record)} against the same map in fp64, in "
        "the 2-norm. Both are given the same numbers, so that only arithmetic differs.",
    )


def _verdict(row: Row) -> Inline:
    if row.get("must_fail"):
        return strong("passed, but had to fail") if row.get("passed") else "failed, as it must"
    return "passed" if row.get("passed") else strong("FAILED")


def _others(rows: Sequence[Row]) -> Table:
    return Table(
        header=("Check", "dtype", "Against", "Metric", "Value", "Tolerance", ""),
        align="llllrrl",
        rows=tuple(
            (
                text(row.get("check")),
                text(row.get("dtype")) if row.get("dtype") else "-",
                text(row.get("reference")),
                text(row.get("metric")),
                _value(row),
                _number(number(row.get("tolerance"))),
                _verdict(row),
            )
            for row in rows
        ),
        caption="The fix against the model without it. A cosine has to reach its tolerance, "
        "everything else has to stay within it.",
    )


def _value(row: Row) -> str:
    value = number(row.get("value"))
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


def _figure(record: Record, rows: Sequence[Row]) -> Figure:
    kinds = tuple(dict.fromkeys(_kind(row) for row in rows))
    chart = BarChart(
        title=f"Error of the patch projection against its tolerance on {device_name(record)}",
        axis="relative error over tolerance; beyond 1 it fails",
        bars=tuple(_bar(row, kinds) for row in rows),
        write=significant,
        kinds=kinds,
        emphasis="fails",
        footer=footer(record),
    )
    return Figure(
        stem="verify",
        alt="Bar chart of each result's error against fp64, as a multiple of what is allowed",
        caption="Relative error of each result against fp64, as a multiple of its tolerance.",
        draw=drawing(chart),
    )


def _kind(row: Row) -> str:
    return "the control, which must fail" if row.get("must_fail") else text(row.get("variant"))


def _bar(row: Row, kinds: Sequence[str]) -> Bar:
    value, tolerance = number(row.get("value")), number(row.get("tolerance"))
    ratio = value / tolerance if value is not None and tolerance else None
    return Bar(
        label=f"{row.get('check')}, {row.get('dtype')}",
        value=ratio if ratio is not None and ratio > 0 else None,
        note=f"{significant(value)}, {row.get('variant')}",
        emphasis=not row.get("passed") and not row.get("must_fail"),
        kind=kinds.index(_kind(row)),
        marks={"tolerance": 1.0},
    )


SECTION = Section(name="verify", order=85, title="Is the fix exact?", compose=compose)
