"""Is one of the repeated blocks unlike the others?

The blocks of a transformer do the same work, so they are each other's best bound: it holds for
whatever the counted work leaves out. Blocks of another kind, such as those with full attention
among windowed ones, are told apart by their work and compared with their like.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from qwenprof.diagnosis.bounds import number, positive
from qwenprof.diagnosis.disturbance import disturbances, unrepeated
from qwenprof.diagnosis.finding import NOTABLE_SHARE, Finding, Rule, not_assessed, severity_of
from qwenprof.formatting import count, listed, percent, plural, seconds, times
from qwenprof.record.record import Record, Row

T = TypeVar("T")
NAME, QUESTION = "block-unlike-siblings", "Is one of the repeated blocks unlike the others?"
FEWEST = 4  # of a kind: the median of the others needs a few
UNLIKE, UNLIKE_OF_FEW, UNLIKE_ONCE = 1.25, 2.0, 4.0  # times the others, by passes to choose from
ENOUGH_PASSES = 5  # for their fastest to be undisturbed
BEYOND_SPREAD = 6.0  # median absolute deviations of the others
SAME_WORK = 0.01
MOST_NAMED = 4
MORE_OPERATORS = 1.2


@dataclass(frozen=True, kw_only=True)
class Block:
    """One of repeated blocks, in its fastest pass where that is known.

    others_s: the median of the blocks that do the same work.
    """

    path: str
    time_s: float
    others_s: float
    spread_s: float
    operators: float | None
    others_operators: float | None

    @property
    def factor(self) -> float:
        return self.time_s / self.others_s

    @property
    def excess_s(self) -> float:
        return self.time_s - self.others_s

    @property
    def runs_more(self) -> bool:
        """Whether it runs more operators than they do, which no noise can make it do."""
        return (self.operators or 0.0) > MORE_OPERATORS * (self.others_operators or math.inf)


def judge(record: Record) -> Finding:
    rows = [row for row in record.rows("per-layer", "modules") if positive(row.get("inclusive_s"))]
    kinds = [kind for kind in _kinds(rows) if len(kind) >= FEWEST]
    total_s = next((positive(row["inclusive_s"]) for row in rows if row.get("path") == ""), None)
    if not kinds or not total_s:
        why = f"Fewer than {FEWEST} repeated blocks that do the same work were timed."
        return not_assessed(NAME, QUESTION, why)
    passes = _passes(record)
    blocks = [block for kind in kinds for block in _compared(kind)]
    odd = [
        each
        for each in blocks
        if _is_unlike(each, passes) and each.excess_s > NOTABLE_SHARE * total_s
    ]
    if not odd:
        return _clear(blocks, passes)
    disturbed = [*disturbances(record, "per-layer"), unrepeated(record).rstrip(".")]
    why = next(filter(None, disturbed), "") if passes < ENOUGH_PASSES else ""
    sure = [each for each in odd if each.runs_more] if why else odd
    if not sure:
        said = _said(max(odd, key=lambda each: each.factor), passes)
        return not_assessed(
            NAME, QUESTION, f"Inconclusive: {said} But the run was disturbed ({why})."
        )
    odd = sure
    return _problem(sorted(odd, key=lambda each: -each.excess_s), blocks, total_s, passes)


def _is_unlike(block: Block, passes: int) -> bool:
    sure = passes >= ENOUGH_PASSES or block.runs_more
    least = UNLIKE if sure else UNLIKE_OF_FEW if passes > 1 else UNLIKE_ONCE
    return block.factor >= least and block.excess_s >= BEYOND_SPREAD * block.spread_s


def _kinds(rows: Sequence[Row]) -> list[list[Row]]:
    """Repeated blocks of one container that do the same work."""
    kinds: dict[tuple[str, str], list[list[Row]]] = {}
    for row in rows:
        repeated = re.fullmatch(r"(.+)\.\d+", str(row.get("path")))
        if not repeated:
            continue
        alike = kinds.setdefault((repeated[1], str(row.get("module_type"))), [])
        group = next((group for group in alike if _same_work(group[0], row)), None)
        if group is None:
            alike.append([row])
        else:
            group.append(row)
    return [group for alike in kinds.values() for group in alike]


def _same_work(left: Row, right: Row) -> bool:
    one, other = number(left.get("flops")), number(right.get("flops"))
    if one is None or other is None:
        return one is other
    return abs(one - other) <= SAME_WORK * max(one, other)


def _compared(kind: Sequence[Row]) -> list[Block]:
    times_s = [_time_s(row) for row in kind]
    operators = [positive(row.get("operators")) for row in kind]
    return [
        Block(
            path=str(row.get("path")),
            time_s=times_s[index],
            others_s=statistics.median(_without(times_s, index)),
            spread_s=_deviation(_without(times_s, index)),
            operators=operators[index],
            others_operators=_median(_without(operators, index)),
        )
        for index, row in enumerate(kind)
    ]


def _time_s(row: Row) -> float:
    """The fastest pass, the first one included: what is unlike the others is so in every pass."""
    steady_s = positive(row.get("min_s")) or positive(row.get("inclusive_s")) or 0.0
    return min(steady_s, positive(row.get("first_call_s")) or math.inf)


def _without(values: Sequence[T], index: int) -> list[T]:
    return [*values[:index], *values[index + 1 :]]


def _deviation(values: Sequence[float]) -> float:
    middle = statistics.median(values)
    return statistics.median(abs(value - middle) for value in values)


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _passes(record: Record) -> int:
    """Passes that a fastest time is the fastest of; a first call that is the only one is one."""
    summary, rows = (record.rows("per-layer", table) for table in ("summary", "modules"))
    has_least, has_first = (
        any(positive(row.get(column)) for row in rows) for column in ("min_s", "first_call_s")
    )
    timed = int(positive(summary[0].get("passes")) or 0) if summary else 0
    steady = int(positive(summary[0].get("n")) or 1) if summary and has_least else 1
    return min(timed or steady + has_first, steady + has_first)


def _clear(blocks: Sequence[Block], passes: int) -> Finding:
    worst = max(blocks, key=lambda each: each.factor)
    cheap = "A block that is unlike the others costs next to nothing of the forward"
    return Finding(
        rule=NAME,
        verdict="clear",
        severity="info",
        title=cheap if worst.factor >= UNLIKE_OF_FEW else "No block is unlike the others",
        evidence=(
            f"The slowest of {plural(len(blocks), 'block')} beside its like: "
            f"{_said(worst, passes)}",
        ),
    )


def _problem(odd: Sequence[Block], blocks: Sequence[Block], total_s: float, passes: int) -> Finding:
    worst, cost_s = max(odd, key=lambda each: each.factor), sum(each.excess_s for each in odd)
    named = [each.path for each in odd[:MOST_NAMED]]
    verb = "takes" if len(odd) == 1 else "take"
    return Finding(
        rule=NAME,
        verdict="problem",
        severity=severity_of(cost_s / total_s),
        title=f"{listed(named)} {verb} up to {times(worst.factor)} as long as the other blocks"
        if len(odd) > 1
        else f"{worst.path} takes {times(worst.factor)} as long as the other blocks",
        culprit=worst.path,
        cost_share=cost_s / total_s,
        factor=worst.factor,
        evidence=(
            *(_said(each, passes) for each in odd[:MOST_NAMED]),
            f"That is {seconds(cost_s)} of the forward, {percent(cost_s / total_s)}, for "
            f"{len(odd)} of {plural(len(blocks), 'block')} that do the same work.",
        ),
        advice="Compare this block's code, dtype, attention implementation, hooks and weights' "
        "memory format with those of its siblings.",
    )


def _said(block: Block, passes: int) -> str:
    how = f" in the fastest of {passes} passes" if passes > 1 else ""
    ran = ""
    if block.runs_more:
        own, others = count(block.operators), count(block.others_operators)
        ran = f", and runs {own} operators where they run {others}"
    return (
        f"{block.path} takes {seconds(block.time_s)}{how}, the median of the others is "
        f"{seconds(block.others_s)}: {times(block.factor)}{ran}."
    )


RULE = Rule(
    name=NAME, order=55, question=QUESTION, judge=judge, reads=("per-layer",), compares_times=True
)
