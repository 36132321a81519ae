"""Which part takes the longest over what it should?

Not the slowest part is the culprit but the one with the largest excess over its bound, and
only if it is an outlier among the model's own parts: a machine that is slow everywhere
accuses nobody. Repeated blocks are one part here; one block unlike the others is another rule's.
Blocks have to stand out further, since they hold the norms, activations and softmax that a bound
leaves out, where a merger or a patch embedding is hardly more than its matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qwenprof.diagnosis.bounds import positive
from qwenprof.diagnosis.components import Anatomy, Component, anatomy
from qwenprof.diagnosis.disturbance import disturbances, unrepeated
from qwenprof.diagnosis.finding import Finding, Rule, not_assessed
from qwenprof.diagnosis.forward import forward_s
from qwenprof.diagnosis.projection import Comparison, comparison
from qwenprof.formatting import count, percent, plural, seconds, times
from qwenprof.record.record import Record, Row

NAME, QUESTION = "culprit", "Which part takes longer than its work should?"
OUTLIER, OUTLIER_OF_BLOCKS = 4.0, 25.0  # times what is usual
NOTABLE_SHARE, DOMINANT_SHARE = 0.05, 0.50
SURE_ALL_THE_SAME = 2.0  # times the threshold, in a disturbed run
MOSTLY_LAUNCHES = 0.5  # of a part's time
BEATEN = 0.9  # slowdown of a part whose bound must be wrong
SOME_BEATEN, MOST_BEATEN = 0.1, 0.5  # of the time: then nobody is cleared; then nobody is accused
MOST_OF = 0.8  # of a part's excess: who has so much of it within a part is to blame for it
DWARFS = 2.0  # times all other parts together: then their bounds need not be known


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A part, and what its work should take.

    should: how `least_s` is known, for a sentence.
    """

    part: Component
    least_s: float
    should: str

    @property
    def excess_s(self) -> float:
        return self.part.time_s - self.least_s

    @property
    def slowdown(self) -> float:
        return self.part.time_s / self.least_s


def suspects(whole: Anatomy, found: Comparison | None) -> list[Suspect]:
    """The parts of which is known what they should take, the largest excess first.

    That is the bound or, for the patch embedding where it has none, the time of the equal Linear.
    """
    suspected = []
    for part in whole.components:
        if part.bound_s:
            should = "its work should take {} on this machine"
            suspected.append(Suspect(part=part, least_s=part.bound_s, should=should))
        elif found and found.linear_s and part.holds(found.module):
            should = "the equal Linear takes {}"
            suspected.append(Suspect(part=part, least_s=found.linear_s, should=should))
    return sorted(suspected, key=lambda each: each.excess_s, reverse=True)


def usual_slowdown(suspected: Sequence[Suspect]) -> float | None:
    """The slowdown that half of the time is spent below: what is normal for this model here."""
    bounded = [each for each in suspected if each.part.bound_s]
    ordered = sorted(bounded, key=lambda each: each.slowdown)
    half, passed = sum(each.part.time_s for each in ordered) / 2, 0.0
    for each in ordered:
        passed += each.part.time_s
        if passed >= half:
            return each.slowdown
    return None


def judge(record: Record) -> Finding:
    rows = record.rows("per-layer", "modules")
    whole = anatomy(rows)
    suspected = suspects(whole, comparison(record)) if whole else []
    if whole is None or not suspected:
        return not_assessed(NAME, QUESTION, "No part has both a time and a bound.")
    doubt = _doubt(suspected, whole)
    if doubt:
        return not_assessed(NAME, QUESTION, doubt)
    guilty = next((each for each in suspected if _stands_out(each, suspected, whole)), None)
    if guilty is None:
        return _nobody(record, suspected, whole)
    disturbed = disturbances(record, "per-layer")
    if disturbed and not _stands_out(guilty, suspected, whole, beyond=SURE_ALL_THE_SAME):
        said = f"{_name(guilty)} takes {times(guilty.slowdown)} its bound"
        why = f"Inconclusive: {said}, but the run was disturbed ({disturbed[0]})."
        return not_assessed(NAME, QUESTION, why)
    return _accusation(record, guilty, suspected, whole)


def _accusation(
    record: Record, guilty: Suspect, suspected: Sequence[Suspect], whole: Anatomy
) -> Finding:
    usual = max(1.0, usual_slowdown([each for each in suspected if each is not guilty]) or 1.0)
    healthy_s = usual * guilty.least_s
    gain_share = (guilty.part.time_s - healthy_s) / (forward_s(record) or whole.total_s)
    return Finding(
        rule=NAME,
        verdict="problem",
        severity="critical" if gain_share >= DOMINANT_SHARE else "warning",
        title=_title(guilty),
        culprit=_deepest(guilty, record.rows("per-layer", "modules")),
        cause=_launching(record, guilty.part),
        cost_share=min(1.0, gain_share),
        factor=guilty.part.time_s / healthy_s,
        confidence="medium" if guilty.part.bound_s else "high",
        evidence=_evidence(guilty, suspected, whole),
        advice=_advice(guilty, usual, healthy_s),
    )


def _title(guilty: Suspect) -> str:
    """Held against a bound it is what the work should cost; a Linear is only what it equals."""
    beyond = "what its work should cost" if guilty.part.bound_s else "as long as the equal Linear"
    said = times(guilty.slowdown)
    return f"{_name(guilty)} takes {said} {beyond}"


def _advice(guilty: Suspect, usual: float, healthy_s: float) -> str:
    look = "Look at how this part is implemented before anything else."
    if not guilty.part.bound_s:
        return look
    return f"{look} At the usual {times(usual)} of its bound it would take {seconds(healthy_s)}."


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
    suspect: Suspect, suspected: Sequence[Suspect], whole: Anatomy, beyond: float = 1.0
) -> bool:
    """Whether a part costs something that is worth a look, and is an outlier beside the others.

    beyond: how many times the usual threshold it must pass.
    """
    if suspect.excess_s < NOTABLE_SHARE * whole.total_s:
        return False
    usual = usual_slowdown([each for each in suspected if each is not suspect])
    if usual is None:
        return _dwarfs(suspect, whole)
    outlier = OUTLIER_OF_BLOCKS if suspect.part.count > 1 else OUTLIER
    return suspect.slowdown >= beyond * outlier * max(1.0, usual)


def _dwarfs(suspect: Suspect, whole: Anatomy) -> bool:
    return suspect.excess_s > DWARFS * _rest_s(suspect, whole)


def _rest_s(suspect: Suspect, whole: Anatomy) -> float:
    """Seconds of all other parts together, whether or not they have a bound."""
    return sum(part.time_s for part in whole.components if part is not suspect.part)


def _nobody(record: Record, suspected: Sequence[Suspect], whole: Anatomy) -> Finding:
    why = unrepeated(record) or _beaten_bounds(suspected, whole, SOME_BEATEN)
    if why:
        return not_assessed(NAME, QUESTION, why)
    evidence = _evidence(suspected[0], suspected, whole)
    return Finding(
        rule=NAME,
        verdict="clear",
        severity="info",
        title="No part takes much longer than its work should, beside the others",
        evidence=("The largest excess: " + evidence[0], *evidence[1:]),
    )


def _evidence(suspect: Suspect, suspected: Sequence[Suspect], whole: Anatomy) -> tuple[str, ...]:
    part = suspect.part
    usual = usual_slowdown([each for each in suspected if each is not suspect])
    should = suspect.should.format(seconds(suspect.least_s))
    beside = "" if usual is None else f", where {times(usual)} is usual in this model"
    return (
        f"{_name(suspect)} ({part.module_type}) takes {seconds(part.time_s)}, "
        f"{percent(part.time_s / whole.total_s)} of all parts; the rest takes "
        f"{seconds(_rest_s(suspect, whole))}.",
        f"{should[0].upper()}{should[1:]}: it takes {times(suspect.slowdown)} as long{beside}.",
        f"The excess is {seconds(suspect.excess_s)}, "
        f"{percent(suspect.excess_s / whole.total_s)} of all parts.",
    )


def _name(suspect: Suspect) -> str:
    part = suspect.part
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
