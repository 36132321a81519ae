"""Which part takes the longest over what it should?

Not the slowest part is the culprit but the one with the largest excess over its bound, and
only if it is an outlier among the model's own parts: a machine that is slow everywhere
accuses nobody. Repeated blocks are one part, and where they do not stand out, what every block
holds is looked at; one block unlike the others is another rule's. Blocks have to stand out further,
since they hold the norms, activations and softmax that a bound leaves out, where a merger, a patch
embedding or an MLP is hardly more than its matrix products.
"""

from __future__ import annotations

from collections.abc import Sequence

from qwenprof.diagnosis.bounds import positive
from qwenprof.diagnosis.components import Anatomy, Component, anatomy, one_launch_only
from qwenprof.diagnosis.disturbance import disturbances, unrepeated
from qwenprof.diagnosis.finding import Finding, Rule, not_assessed, severity_of
from qwenprof.diagnosis.forward import forward_s
from qwenprof.diagnosis.projection import comparison
from qwenprof.diagnosis.suspects import (
    FEWEST_BLOCKS,
    Suspect,
    suspects,
    suspects_in_blocks,
    usual_slowdown,
    without,
)
from qwenprof.formatting import count, percent, plural, seconds, times
from qwenprof.record.record import Record, Row

NAME, QUESTION = "culprit", "Which part takes longer than its work should?"
OUTLIER, LOOSE_OUTLIER = 4.0, 25.0  # times what is usual
NOTABLE_SHARE = 0.05
LOOK = "Look at how this part is implemented before anything else."
ALL_SLOW = 5.0  # times the sum of the bounds: then that nobody stands out says less
SURE_ALL_THE_SAME = 2.0  # times the threshold, in a disturbed run
MOSTLY_LAUNCHES = 0.5  # of a part's time
BEATEN = 0.9  # slowdown of a part whose bound must be wrong
SOME_BEATEN, MOST_BEATEN = 0.1, 0.5  # of the time: then nobody is cleared; then nobody is accused
MOST_OF = 0.8  # of a part's excess: who has so much of it within a part is to blame for it
DWARFS = 2.0  # times all other parts together: then their bounds need not be known


def judge(record: Record) -> Finding:
    rows = record.rows("per-layer", "modules")
    whole = anatomy(rows)
    suspected = suspects(whole, comparison(record), rows) if whole else []
    if whole is None or not suspected:
        return not_assessed(NAME, QUESTION, "No part has both a time and a bound.")
    doubt = _doubt(suspected, whole)
    if doubt:
        return not_assessed(NAME, QUESTION, doubt)
    inner = suspects_in_blocks(whole, rows)
    found = _guilty(suspected, inner, whole)
    if found is None:
        return _nobody(record, suspected, whole)
    guilty, others = found
    disturbed = disturbances(record, "per-layer")
    if disturbed and not _stands_out(guilty, others, whole, beyond=SURE_ALL_THE_SAME):
        said = f"{_name(guilty)} takes {times(guilty.slowdown)} its bound"
        why = f"Inconclusive: {said}, but the run was disturbed ({disturbed[0]})."
        return not_assessed(NAME, QUESTION, why)
    return _accusation(record, guilty, others, whole)


def _guilty(
    suspected: Sequence[Suspect], inner: Sequence[Suspect], whole: Anatomy
) -> tuple[Suspect, Sequence[Suspect]] | None:
    """What stands out, a part or else what every block holds, and beside whom; None for nobody."""
    taken_apart = [*inner, *(each for each in suspected if each.part.count < FEWEST_BLOCKS)]
    for group, others in ((suspected, suspected), (inner, taken_apart)):
        for each in group:
            if _stands_out(each, others, whole):
                return each, others
    return None


def _accusation(
    record: Record, guilty: Suspect, others: Sequence[Suspect], whole: Anatomy
) -> Finding:
    usual = max(1.0, _usual(guilty, others) or 1.0)
    healthy_s = usual * guilty.least_s
    gain_share = min(1.0, (guilty.part.time_s - healthy_s) / (forward_s(record) or whole.total_s))
    launches = one_launch_only(record, guilty.part)
    return Finding(
        rule=NAME,
        verdict="problem",
        severity=severity_of(gain_share),
        title=_title(record, guilty, whole),
        culprit=_deepest(guilty, record.rows("per-layer", "modules")),
        cause=_launching(record, guilty.part),
        cost_share=gain_share,
        factor=None if launches else guilty.part.time_s / healthy_s,
        confidence="medium" if guilty.part.bound_s else "high",
        evidence=_evidence(record, guilty, others, whole),
        advice=LOOK if launches or not guilty.part.bound_s else _advice(usual, healthy_s),
    )


def _title(record: Record, guilty: Suspect, whole: Anatomy) -> str:
    """Held against a bound it is what the work should cost; a Linear is only what it equals."""
    if one_launch_only(record, guilty.part):
        operators = _operators(record, guilty.part)
        calls = f", in {count(operators)} operators," if operators else ""
        share = percent(guilty.part.time_s / whole.total_s)
        took = seconds(guilty.part.time_s)
        return f"{_name(guilty)} takes {took}{calls} where next to no work is to be done: {share}"
    beyond = "what its work should cost" if guilty.part.bound_s else "as long as the equal Linear"
    return f"{_name(guilty)} takes {times(guilty.slowdown)} {beyond}"


def _advice(usual: float, healthy_s: float) -> str:
    return f"{LOOK} At the usual {times(usual)} of its bound it would take {seconds(healthy_s)}."


def _operators(record: Record, part: Component) -> float:
    """How many operators a part calls, 0 where they were not counted."""
    counts = {
        str(row.get("path")): positive(row.get("operators")) or 0.0
        for row in record.rows("per-layer", "modules")
    }
    return sum(counts.get(path, 0.0) for path in part.paths)


def _launching(record: Record, part: Component) -> str:
    """That launching its operators is most of what a part takes; "" where it is not, or unknown."""
    machine = record.rows("matmul", "machine")
    latency_s = positive(machine[0].get("launch_latency_s")) if machine else None
    operators = _operators(record, part)
    if latency_s is None or operators * latency_s < MOSTLY_LAUNCHES * part.time_s:
        return ""
    return f"it calls {count(operators)} operators, of which each takes little more than a launch"


def _doubt(suspected: Sequence[Suspect], whole: Anatomy) -> str:
    """Why no part can be held against the others; "" where they can be."""
    bounded = [each for each in suspected if each.part.bound_s]
    if len(bounded) < 2 and not _dwarfs(suspected[0], whole):
        return "Fewer than two parts have both a time and a bound."
    return _beaten_bounds(suspected, whole, MOST_BEATEN)


def _beaten_bounds(suspected: Sequence[Suspect], whole: Anatomy, least_share: float) -> str:
    """That much of the time went into parts that beat their bound: it cannot be right."""
    beaten = [each for each in suspected if each.part.bound_s and each.slowdown < BEATEN]
    share = sum(each.part.time_s for each in beaten) / whole.total_s
    if share < least_share:
        return ""
    return (
        f"Parts that make up {percent(share)} of the time ran faster than their bound, so the "
        "rates of the machine were measured too low."
    )


def _stands_out(
    suspect: Suspect, others: Sequence[Suspect], whole: Anatomy, beyond: float = 1.0
) -> bool:
    """Whether a part costs something that is worth a look, and is an outlier beside the others.

    beyond: how many times the usual threshold it must pass.
    """
    if suspect.excess_s < NOTABLE_SHARE * whole.total_s:
        return False
    usual = _usual(suspect, others)
    if usual is None:
        return _dwarfs(suspect, whole)
    outlier = LOOSE_OUTLIER if suspect.loose else OUTLIER
    return suspect.fastest_s >= beyond * outlier * max(1.0, usual) * suspect.least_s


def _usual(suspect: Suspect, others: Sequence[Suspect]) -> float | None:
    """What is usual beside it; of matrix products the best of its like, slowed by no burst."""
    rest = without(others, suspect)
    alike = [each.slowdown for each in rest if each.products] if suspect.products else []
    return min(alike) if alike else usual_slowdown(rest)


def _dwarfs(suspect: Suspect, whole: Anatomy) -> bool:
    return suspect.excess_s > DWARFS * _rest_s(suspect, whole)


def _rest_s(suspect: Suspect, whole: Anatomy) -> float:
    """Seconds of all else together, whether or not it has a bound."""
    return max(0.0, sum(part.time_s for part in whole.components) - suspect.part.time_s)


def _nobody(record: Record, suspected: Sequence[Suspect], whole: Anatomy) -> Finding:
    why = unrepeated(record) or _beaten_bounds(suspected, whole, SOME_BEATEN)
    if why:
        return not_assessed(NAME, QUESTION, why)
    evidence = _evidence(record, suspected[0], suspected, whole)
    of_bounds = _of_the_bounds(suspected, whole)
    return Finding(
        rule=NAME,
        verdict="clear",
        severity="info",
        title="No part takes much longer than its work should, beside the others",
        confidence="medium" if of_bounds > ALL_SLOW else "high",
        evidence=(
            "The largest excess: " + evidence[0],
            *evidence[1:],
            _altogether(of_bounds),
        ),
    )


def _altogether(of_bounds: float) -> str:
    said = f"All that has a bound takes {times(of_bounds)} the sum of the bounds"
    if of_bounds <= ALL_SLOW:
        return f"{said}."
    return f"{said}: all of it is slow, and no part more than the rest."


def _of_the_bounds(suspected: Sequence[Suspect], whole: Anatomy) -> float:
    bounded = [each for each in suspected if each.part.bound_s]
    least_s = sum(each.least_s for each in bounded)
    return sum(each.part.time_s for each in bounded) / least_s if least_s else 0.0


def _evidence(
    record: Record, suspect: Suspect, others: Sequence[Suspect], whole: Anatomy
) -> tuple[str, ...]:
    part = suspect.part
    takes = (
        f"{_name(suspect)} ({part.module_type}) takes {seconds(part.time_s)}, "
        f"{percent(part.time_s / whole.total_s)} of all parts; the rest takes "
        f"{seconds(_rest_s(suspect, whole))}."
    )
    if one_launch_only(record, part):
        bound = f"Its bound is one launch, {seconds(suspect.least_s)}, and says little of its work."
        return takes, bound
    usual = _usual(suspect, others)
    should = suspect.should.format(seconds(suspect.least_s))
    beside = "" if usual is None else f", where {times(usual)} is usual in this model"
    first = f"That is its time in the first of {count(suspect.each_of)} blocks, for all of them."
    return (
        takes,
        *([first] if suspect.each_of else []),
        f"{should[0].upper()}{should[1:]}: it takes {times(suspect.slowdown)} as long{beside}.",
        f"The excess is {seconds(suspect.excess_s)}, "
        f"{percent(suspect.excess_s / whole.total_s)} of all parts.",
    )


def _name(suspect: Suspect) -> str:
    part = suspect.part
    if suspect.each_of:
        return f"{part.path}, in each of {count(suspect.each_of)} blocks,"
    return f"{part.path}, {plural(part.count, 'block')}" if part.count > 1 else part.path


def _deepest(suspect: Suspect, rows: Sequence[Row]) -> str:
    """The innermost timed module that has most of the excess."""
    if suspect.part.count > 1:
        return suspect.part.path
    path, least_s = suspect.part.path, suspect.least_s
    while True:
        inner = next(
            (
                row
                for row in rows
                if str(row.get("path")).rpartition(".")[0] == path
                and (positive(row.get("inclusive_s")) or 0.0) - least_s
                >= MOST_OF * suspect.excess_s
            ),
            None,
        )
        if inner is None:
            return path
        path = str(inner.get("path"))


RULE = Rule(
    name=NAME, order=50, question=QUESTION, judge=judge, reads=("per-layer",), compares_times=True
)
