"""Does the patch embedding compute the right numbers, and is the fix exact?

A convolution can be wrong without being slow: on its slow path PyTorch adds up the weight's
gradient in the low precision itself. The verify stage compares with fp64; its control, which
is known to be wrong, has to fail, or the stage would not find out anything.
"""

from __future__ import annotations

from collections.abc import Sequence

from qwenprof.diagnosis.bounds import number
from qwenprof.diagnosis.finding import Finding, Rule, not_assessed
from qwenprof.formatting import listed, plural, significant
from qwenprof.record.record import Record, Row

NAME, QUESTION = "numerics", "Does the patch embedding compute the right numbers?"
FIXED = ("fix (view)", "apply_fix()", "undo_fix()", "linearize_model()")
LINKS = ("https://github.com/pytorch/pytorch/issues/163539",)
MOST_NAMED = 4


def judge(record: Record) -> Finding:
    rows = record.rows("verify", "checks")
    controls = [row for row in rows if row.get("must_fail")]
    checks = [row for row in rows if not row.get("must_fail") and _is_judged(row)]
    if not checks:
        return not_assessed(NAME, QUESTION, "No check of the numbers was made.")
    if any(row.get("passed") for row in controls):
        return not_assessed(
            NAME,
            QUESTION,
            "The control did not fail: a gradient that is known to be wrong here passed "
            f"({listed([_said(row) for row in controls])}), so the other checks prove nothing.",
        )
    failed = [row for row in checks if not row.get("passed")]
    evidence = (*_summary(checks, rows), *_controlled(controls))
    if not failed:
        return Finding(
            rule=NAME,
            verdict="clear",
            severity="info",
            title=f"The numbers are right, and the fix is exact: {_passed(checks)}",
            evidence=evidence,
        )
    return _problem(record, failed, evidence)


def _is_judged(row: Row) -> bool:
    return isinstance(row.get("passed"), bool)


def _problem(record: Record, failed: Sequence[Row], evidence: tuple[str, ...]) -> Finding:
    own = [row for row in failed if row.get("dtype") in (None, record.workload.get("dtype"))]
    by_fix = [row for row in failed if row.get("variant") in FIXED]
    named = listed([_said(row) for row in failed[:MOST_NAMED]])
    more = f", and {len(failed) - MOST_NAMED} more" if len(failed) > MOST_NAMED else ""
    return Finding(
        rule=NAME,
        verdict="problem",
        severity="critical" if own else "warning",
        title=_title(failed, by_fix),
        culprit=None if by_fix else str(failed[0].get("module") or "Conv3d"),
        evidence=(f"Failed: {named}{more}.", *evidence),
        advice=_advice(by_fix, own),
        links=() if by_fix else LINKS,
    )


def _title(failed: Sequence[Row], by_fix: Sequence[Row]) -> str:
    if by_fix:
        return f"The fix does not pass {plural(len(by_fix), 'check')} of its own"
    what = list(dict.fromkeys(f"{row.get('check')} in {row.get('dtype')}" for row in failed))
    return f"The convolution computes wrong numbers: {listed(what[:MOST_NAMED])}"


def _advice(by_fix: Sequence[Row], own: Sequence[Row]) -> str:
    if by_fix:
        return "Do not use the fix here, and report this record."
    where = "" if own else " This is not the workload's dtype: it concerns whoever uses that one."
    return (
        "Do not train with this convolution; the fix computes the same map as a matrix product: "
        f"qwenprof.apply_fix(), or qwenprof run SCRIPT.{where}"
    )


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
    return (
        f"{row.get('check')} of {row.get('variant')}{dtype}, {row.get('metric')} {value} "
        f"where {tolerance} is allowed"
    )


RULE = Rule(name=NAME, order=70, question=QUESTION, judge=judge)
