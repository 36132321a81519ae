"""Does the patch embedding compute the right numbers, and is the fix exact?

A convolution can be wrong without being slow: on its slow path PyTorch adds up the weight's
gradient in the low precision itself. The verify stage compares with fp64; its control, which
is known to be wrong, has to fail, or the stage would not find out anything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from qwenprof.diagnosis.bounds import number, positive
from qwenprof.diagnosis.finding import Finding, Rule, Severity, not_assessed
from qwenprof.formatting import listed, plural, significant, times
from qwenprof.record.record import Record, Row

NAME, QUESTION = "numerics", "Does the patch embedding compute the right numbers?"
CONV, FIXED = "Conv3d", ("fix (view)", "apply_fix()", "undo_fix()", "linearize_model()")
REFERENCE, ABSOLUTE, CONTROL = "fp64", "max abs difference", "control: "
LINKS = ("https://github.com/pytorch/pytorch/issues/163539",)
WRONG = 3.0  # times the tolerance: no longer a matter of rounding
MOST_NAMED = 4


def judge(record: Record) -> Finding:
    rows = record.rows("verify", "checks")
    controls = [row for row in rows if row.get("must_fail")]
    checks = [row for row in rows if not row.get("must_fail") and _is_judged(row)]
    if not checks:
        return not_assessed(NAME, QUESTION, "No check of the numbers was made.")
    if any(row.get("passed") is True for row in controls):
        return not_assessed(
            NAME,
            QUESTION,
            "The control did not fail: a gradient that is known to be wrong here passed "
            f"({listed([_said(row) for row in controls])}), so the other checks prove nothing.",
        )
    failed = [row for row in checks if row.get("passed") is False and _accuses(row, checks)]
    evidence = (*_summary(checks, rows), *_controlled(controls))
    if failed:
        return _problem(record, failed, evidence)
    missing = _missing(record, checks, controls)
    if missing:
        return not_assessed(NAME, QUESTION, f"Nothing failed, but {missing}.")
    return Finding(
        rule=NAME,
        verdict="clear",
        severity="info",
        title=f"The numbers are right, and the fix is exact: {_passed(checks)}",
        evidence=evidence,
    )


def _is_judged(row: Row) -> bool:
    return isinstance(row.get("passed"), bool)


def _accuses(row: Row, checks: Sequence[Row]) -> bool:
    """A failed check that says something against who computed it.

    An absolute difference of two low-precision results grows with the results; where both are
    within rounding of fp64 it accuses nobody.
    """
    if row.get("metric") != ABSOLUTE:
        return True
    exact = [each for each in checks if each.get("reference") == REFERENCE]
    own = [each for each in exact if each.get("dtype") == row.get("dtype")]
    return not own or not all(each.get("passed") for each in own)


def _missing(record: Record, checks: Sequence[Row], controls: Sequence[Row]) -> str:
    """What a clear answer lacks, as the end of a sentence; "" if nothing."""
    if not any(row.get("passed") is False for row in controls):
        return "no control was run: whether a wrong gradient would be found out is not known"
    dtype = record.workload.get("dtype")
    against_fp64 = {
        row.get("variant")
        for row in checks
        if row.get("reference") == REFERENCE and row.get("dtype") == dtype
    }
    lacking = [each for each in (CONV, FIXED[0]) if each not in against_fp64]
    return f"{listed(lacking)} was not held against fp64 in {dtype}" if lacking else ""


def _problem(record: Record, failed: Sequence[Row], evidence: tuple[str, ...]) -> Finding:
    own = [row for row in failed if row.get("dtype") in (None, record.workload.get("dtype"))]
    by_fix = [row for row in failed if row.get("variant") in FIXED and not _twin(row, failed)]
    by_both = [row for row in failed if row.get("variant") in FIXED and _twin(row, failed)]
    named = listed([_said(row) for row in failed[:MOST_NAMED]])
    more = f", and {len(failed) - MOST_NAMED} more" if len(failed) > MOST_NAMED else ""
    culprit = None if by_fix or by_both else str(failed[0].get("module") or CONV)
    return Finding(
        rule=NAME,
        verdict="problem",
        severity=_severity(failed, own),
        title=_title(failed, by_fix, by_both),
        culprit=culprit,
        evidence=(f"Failed: {named}{more}.", *evidence),
        advice=_advice(failed, by_fix, by_both),
        links=LINKS if _is_that_bug(record, failed) else (),
    )


def _severity(failed: Sequence[Row], own: Sequence[Row]) -> Severity:
    """Worse in the workload's own dtype, and where it is no longer a matter of rounding."""
    wrong = max(map(_factor, own or failed)) >= WRONG
    if own:
        return "critical" if wrong else "warning"
    return "warning" if wrong else "info"


def _twin(row: Row, failed: Sequence[Row]) -> bool:
    """Whether the convolution failed the same check, so that the fix is not to blame."""
    return any(
        each.get("variant") == CONV
        and (each.get("check"), each.get("dtype")) == (row.get("check"), row.get("dtype"))
        for each in failed
    )


def _title(failed: Sequence[Row], by_fix: Sequence[Row], by_both: Sequence[Row]) -> str:
    if by_fix:
        return f"The fix does not pass {plural(len(by_fix), 'check')} of its own"
    worst = max(failed, key=_factor)
    how_far = (
        f"{times(_factor(worst))} its tolerance" if math.isfinite(_factor(worst)) else "no number"
    )
    what = f"{worst.get('check')} in {worst.get('dtype')}, {how_far}"
    if by_both:
        return f"Convolution and matrix product are both less exact than rounding allows: {what}"
    if _factor(worst) < WRONG:
        return f"The convolution is less exact than rounding allows: {what}"
    return f"The convolution computes wrong numbers: {what}"


def _factor(row: Row) -> float:
    """How many times its tolerance a check is off; beyond all if it gave no number."""
    value, tolerance = number(row.get("value")), positive(row.get("tolerance"))
    if value is None or tolerance is None:
        return math.inf
    return value / tolerance


def _advice(failed: Sequence[Row], by_fix: Sequence[Row], by_both: Sequence[Row]) -> str:
    if by_fix:
        return "Do not use the fix here, and report this record."
    if by_both:
        return "This is the device's arithmetic or its settings, not the convolution."
    dtypes = listed(list(dict.fromkeys(str(row.get("dtype")) for row in failed)))
    return (
        f"Do not train in {dtypes} with this convolution; the fix computes the same map as a "
        "matrix product: qwenprof.apply_fix(), or qwenprof run SCRIPT."
    )


def _is_that_bug(record: Record, failed: Sequence[Row]) -> bool:
    """Whether it can be the published one: bf16 on CUDA."""
    on_cuda = record.fact("device", "type") == "cuda"
    return on_cuda and any(row.get("dtype") == "bf16" for row in failed)


def _summary(checks: Sequence[Row], rows: Sequence[Row]) -> tuple[str, ...]:
    missing = [row for row in rows if not _is_judged(row)]
    sentences = [f"{_passed(checks)}."]
    if missing:
        names = listed([str(row.get("check")) for row in missing[:MOST_NAMED]])
        sentences.append(f"Not checked: {names}.")
    return tuple(sentences)


def _passed(checks: Sequence[Row]) -> str:
    passed = sum(1 for row in checks if row.get("passed"))
    return f"{passed} of {plural(len(checks), 'check')} passed"


def _controlled(controls: Sequence[Row]) -> tuple[str, ...]:
    failed = [row for row in controls if row.get("passed") is False]
    if not failed:
        return ("No control was run: whether a wrong gradient would be found out is not known.",)
    return (f"The control fails, as it must: {listed([_said(row) for row in failed])}.",)


def _said(row: Row) -> str:
    value, tolerance = (significant(number(row.get(key))) for key in ("value", "tolerance"))
    dtype = f" in {row.get('dtype')}" if row.get("dtype") else ""
    patches = f" on {row.get('patches')} patches" if row.get("patches") else ""
    check = str(row.get("check")).removeprefix(CONTROL)
    return (
        f"{check} of {row.get('variant')}{dtype}{patches}, {row.get('metric')} {value} "
        f"where {tolerance} is allowed"
    )


RULE = Rule(name=NAME, order=70, question=QUESTION, judge=judge)
