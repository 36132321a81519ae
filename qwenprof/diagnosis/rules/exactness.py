"""Is the fix exact?

The verify stage holds its output and gradients against fp64, its features against those of the
convolution, and sends checkpoints there and back. The control of that stage has to fail, or it
would not find out anything.
"""

from __future__ import annotations

from collections.abc import Sequence

from qwenprof.diagnosis.finding import Finding, Rule, not_assessed
from qwenprof.diagnosis.proof import (
    CONV,
    FIX,
    FIXED,
    REFERENCE,
    Proof,
    is_same_check,
    named,
    passed,
    proof,
    severity,
)
from qwenprof.formatting import plural
from qwenprof.record.record import Record, Row

NAME, QUESTION = "exactness", "Is the fix exact?"
ABSOLUTE = "max abs difference"


def judge(record: Record) -> Finding:
    found = proof(record)
    checks = found.of(FIXED)
    if not checks:
        return not_assessed(NAME, QUESTION, "The fix was not checked.")
    failed = [row for row in checks if not row.get("passed") and _accuses(row, found)]
    own = [row for row in failed if not _fails_alike(row, found)]
    obstacle = found.obstacle(FIX)
    if own and not found.is_void:
        return _problem(record, own, (named(own), f"{passed(checks)}.", *found.control_failed()))
    if obstacle:
        return not_assessed(NAME, QUESTION, obstacle)
    if failed:
        return not_assessed(NAME, QUESTION, f"It fails as the convolution does. {named(failed)}")
    return Finding(
        rule=NAME,
        verdict="clear",
        severity="info",
        title=f"The fix is exact: {passed(checks)}",
        evidence=(*found.control_failed(), *found.left_out()),
    )


def _accuses(row: Row, found: Proof) -> bool:
    """A failed check that says something against the fix.

    An absolute difference of two results grows with the results; where both are within rounding
    of fp64 it accuses nobody.
    """
    if row.get("metric") != ABSOLUTE:
        return True
    exact = [
        each
        for each in found.of([CONV, FIX])
        if each.get("reference") == REFERENCE and each.get("dtype") == row.get("dtype")
    ]
    return not exact or not all(each.get("passed") for each in exact)


def _fails_alike(row: Row, found: Proof) -> bool:
    """Whether the convolution fails the same check, so that the fix is not to blame."""
    return any(not each.get("passed") and is_same_check(row, each) for each in found.of([CONV]))


def _problem(record: Record, failed: Sequence[Row], evidence: tuple[str, ...]) -> Finding:
    return Finding(
        rule=NAME,
        verdict="problem",
        severity=severity(failed, record.workload.get("dtype")),
        title=f"The fix does not pass {plural(len(failed), 'check')} of its own",
        evidence=evidence,
        advice="Do not use the fix here, and report this record.",
    )


RULE = Rule(name=NAME, order=80, question=QUESTION, judge=judge, reads=("verify",))
