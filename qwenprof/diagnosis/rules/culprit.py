"""Which part takes the longest over what it should?

Not the slowest part is the culprit but the one with the largest excess over its bound, and
only if it is an outlier among the model's own parts: a machine that is slow everywhere
accuses nobody.
"""

from __future__ import annotations

from dataclasses import dataclass

from qwenprof.diagnosis.bounds import positive
from qwenprof.diagnosis.finding import Finding, Rule, not_assessed
from qwenprof.formatting import percent, seconds, times
from qwenprof.record.record import Record

NAME, QUESTION = "culprit", "Which part takes longer than its work should?"
OUTLIER = 4.0
DISTURBED = 1.25  # ratio of the forward with marks to the one without, either way
NOTABLE_SHARE, DOMINANT_SHARE = 0.10, 0.50


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part that has no timed parts below it. Seconds; share is of the whole forward."""

    path: str
    kind: str
    time_s: float
    bound_s: float
    share: float

    @property
    def excess_s(self) -> float:
        return self.time_s - self.bound_s

    @property
    def slowdown(self) -> float:
        return self.time_s / self.bound_s


def parts(record: Record) -> list[Part]:
    """The parts with a bound, the largest excess first."""
    rows = record.rows("per-layer", "modules")
    paths = [str(row.get("path")) for row in rows]
    parents = {prefix for path in paths for prefix in _prefixes(path)}
    found = []
    for row in rows:
        path = str(row.get("path"))
        time_s, bound = positive(row.get("inclusive_s")), positive(row.get("bound_s"))
        if path in parents or not time_s or not bound:
            continue
        share = positive(row.get("share")) or 0.0
        kind = str(row.get("module_type"))
        found.append(Part(path=path, kind=kind, time_s=time_s, bound_s=bound, share=share))
    return sorted(found, key=lambda part: part.excess_s, reverse=True)


def _prefixes(path: str) -> list[str]:
    """Every path above this one; "" is the model. A list of blocks has no row of its own."""
    names = path.split(".")
    return [".".join(names[:length]) for length in range(len(names)) if path]


def usual_slowdown(found: list[Part]) -> float | None:
    """The slowdown that half of the time is spent below: what is normal for this model here."""
    ordered = sorted(found, key=lambda part: part.slowdown)
    half, passed = sum(part.time_s for part in ordered) / 2, 0.0
    for part in ordered:
        passed += part.time_s
        if passed >= half:
            return part.slowdown
    return None


def _disturbance(record: Record) -> str | None:
    """Why the times of the parts are worth little, where the probe's own check says so."""
    summary = record.rows("per-layer", "summary")
    marked_s = positive(summary[0].get("with_marks_s")) if summary else None
    plain_s = positive(summary[0].get("plain_s")) if summary else None
    if not marked_s or not plain_s or 1 / DISTURBED < marked_s / plain_s < DISTURBED:
        return None
    return (
        f"Disturbed: the same forward took {seconds(marked_s)} with marks and {seconds(plain_s)} "
        "without, which the marks cannot explain."
    )


def judge(record: Record) -> Finding:
    found = parts(record)
    if len(found) < 3:
        why = "Fewer than three parts have both a time and a bound."
        return not_assessed(NAME, QUESTION, why)
    suspect, others = found[0], found[1:]
    usual = usual_slowdown(others) or suspect.slowdown
    total_s = suspect.time_s / suspect.share if suspect.share else suspect.time_s
    excess_share = suspect.excess_s / total_s
    evidence = (
        f"{suspect.path} ({suspect.kind}) takes {seconds(suspect.time_s)}, "
        f"{percent(suspect.share)} of the forward.",
        f"Its work should take {seconds(suspect.bound_s)} on this machine: it takes "
        f"{times(suspect.slowdown)} its bound, where {times(usual)} is usual in this model.",
        f"The excess is {seconds(suspect.excess_s)}, {percent(excess_share)} of the forward.",
    )
    if excess_share < NOTABLE_SHARE or suspect.slowdown < OUTLIER * usual:
        disturbance = _disturbance(record)
        if disturbance:
            return not_assessed(NAME, QUESTION, disturbance)
        return Finding(
            rule=NAME,
            verdict="clear",
            severity="info",
            title="No part takes much longer than its work should, beside the others",
            evidence=("The largest excess: " + evidence[0], *evidence[1:]),
        )
    return Finding(
        rule=NAME,
        verdict="problem",
        severity="critical" if excess_share >= DOMINANT_SHARE else "warning",
        title=f"{suspect.path} takes {times(suspect.slowdown)} what its work should cost",
        culprit=suspect.path,
        evidence=evidence,
        advice="Look at how this part is implemented before anything else: without the excess "
        f"the forward takes {percent(1 - excess_share)} of its time.",
    )


RULE = Rule(name=NAME, order=50, question=QUESTION, judge=judge)
