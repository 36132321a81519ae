"""What the launches of the slow path, and a cost for each patch, explain of the time."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from qwenprof.diagnosis.bounds import number
from qwenprof.diagnosis.conv_telling import millions
from qwenprof.diagnosis.projection import (
    LAUNCHING_BACKEND,
    SLOW_DIRECT,
    Comparison,
    Launches,
    comparison,
    launches,
    per_patch,
)
from qwenprof.formatting import NOT_MEASURED, count, seconds
from qwenprof.harness.statistics import Fit
from qwenprof.record.record import Record, Row
from qwenprof.report.beside import beside, by_key, told_of
from qwenprof.report.reading import text
from qwenprof.report.section import Block, Table, code, paragraph, strong
from qwenprof.report.telling import Other

STAGE = "dispatch"
MADE = "Launches that the slow path makes"
LATENCY = "One launch, as measured"
PREDICTED = "The launches at that cost"
MEASURED = "The convolution as dispatched, measured"
EACH = "Each launch, if they were all of it"
SLOPE = "One more patch, from the sweep"


def launches_told(record: Record, found: Comparison, other: Other | None) -> list[Block]:
    """What the slow path would launch, what that costs, and what was counted."""
    figures = _figures(record, found) | {SLOPE: _slope(per_patch(record))}
    table = Table(header=("What", "How much"), align="lr", rows=tuple(figures.items()))
    their = comparison(other.record) if other else None
    figured = _figures(other.record, their) if other and their else {}
    theirs = {what: figure for what, figure in figured.items() if figure != NOT_MEASURED}
    named = {what: (what,) for what in theirs}
    counted = _counted(record)
    return [
        paragraph(strong("Launches and patches."), " ", _reading(found), _agreement(counted)),
        beside(table, list(figures), other, {"computed likewise": theirs}, named),
        *_counts(counted, other),
        *_operators(record),
    ]


def _figures(record: Record, found: Comparison) -> dict[str, str]:
    """What is known of a record's launches, in the order in which it is told."""
    made = launches(record, found)
    rows = _of_launches(made, found) if made else {}
    rows[MEASURED] = _measured(found)
    if made is not None and found.backend in (None, LAUNCHING_BACKEND):
        rows[EACH] = seconds(made.each_s)
    fit = per_patch(record)
    return rows if fit is None else rows | {SLOPE: _slope(fit)}


def _of_launches(made: Launches, found: Comparison) -> dict[str, str]:
    per_patch_made = f"({count(made.features)} + 2)" if made.with_bias else "2"
    formula = f"{count(found.patches)} x {per_patch_made}"
    return {
        MADE: f"{formula} = {millions(made.count)}",
        LATENCY: seconds(made.latency_s),
        PREDICTED: seconds(made.predicted_s),
    }


def _counted(record: Record) -> list[Row]:
    return record.rows(STAGE, "launches") or record.rows("compare-patch-embed", "launches")


def _measured(found: Comparison) -> str:
    return f"{seconds(found.conv_s)} on {found.backend or 'a backend that was not recorded'}"


def _slope(fit: Fit | None) -> str:
    if fit is None:
        return f"{NOT_MEASURED} at three patch counts"
    return f"{seconds(fit.slope)} (R2 = {fit.r_squared:.3f})"


def _reading(found: Comparison) -> str:
    if found.backend in (None, LAUNCHING_BACKEND):
        return (
            "For N patches and D features the slow path launches N x (D + 2) kernels with a bias "
            "and N x 2 without, so its time grows with both and no arithmetic is to blame."
        )
    return (
        f"The convolution does not take the slow path that launches for every patch, but "
        f"{found.backend}: what the launches would cost is for comparison."
    )


def _agreement(rows: Sequence[Row]) -> str:
    """Whether the counts bear the formula out; where nothing was counted they do not."""
    if not rows:
        return ""
    slow = [row for row in rows if row.get("variant") in (None, SLOW_DIRECT)]
    pairs = [(number(row.get("counted")), number(row.get("predicted"))) for row in slow]
    if None in [each for pair in pairs for each in pair] or not any(pair[0] for pair in pairs):
        return " Nothing was counted here that could bear the formula out."
    if any(counted != expected for counted, expected in pairs):
        return " The slow path's count does not agree with the formula: here it is done otherwise."
    on_gpu = any(row.get("counted_event") == "kernel launch" for row in slow)
    what = "launches" if on_gpu else "fills"
    return f" The slow path's {what}, counted on a few patches, agree with the formula."


def _expected(row: Row) -> str:
    predicted = number(row.get("predicted"))
    return "-" if predicted is None else count(predicted)


def _counts(rows: Sequence[Row], other: Other | None) -> list[Block]:
    if not rows:
        return []
    theirs = by_key(_counted(other.record) if other else [], _call)
    figures = told_of(theirs, _how_many)
    return [beside(_own_counts(rows), [_call(row) for row in rows], other, {"how many": figures})]


def _operators(record: Record) -> list[Block]:
    """What a call consists of, by name; nothing for a record that does not hold it."""
    rows = record.rows(STAGE, "operators")
    if not rows:
        return []
    table = Table(
        header=("What runs", "Patches", "Operator or kernel", "Calls"),
        align="lrlr",
        rows=tuple(
            (
                text(row.get("variant")),
                count(number(row.get("patches"))),
                code(text(row.get("event"))),
                count(number(row.get("count"))),
            )
            for row in rows
        ),
        caption="The most frequent of one call, with the bias where there is one, as "
        "torch.profiler counts them. Its times are not used: a profile perturbs them.",
        folded="Operators and kernels of one call, counted",
    )
    return [table]


def _call(row: Row) -> Hashable:
    """What was called, on what, and what was counted of it."""
    names = ("patches", "features", "bias", "counted_event")
    return str(row.get("variant") or SLOW_DIRECT), *(text(row.get(name)) for name in names)


def _how_many(row: Row) -> str | None:
    counted = number(row.get("counted"))
    return None if counted is None else count(counted)


def _own_counts(rows: Sequence[Row]) -> Table:
    return Table(
        header=("What runs", "Patches", "Features", "Bias", "Counted", "How many", "Expected"),
        align="lrrllrr",
        rows=tuple(
            (
                str(row.get("variant") or SLOW_DIRECT),
                count(number(row.get("patches"))),
                count(number(row.get("features"))),
                "yes" if row.get("bias") else "no",
                text(row.get("counted_event")),
                count(number(row.get("counted"))),
                _expected(row),
            )
            for row in rows
        ),
        caption="Counted by torch.profiler in one call. On a GPU every launch is counted; "
        "elsewhere only the fills are operators that can be counted.",
        folded="Launches of one call, counted",
    )
