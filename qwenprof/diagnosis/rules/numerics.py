"""Does the convolution compute the right numbers?

It can be wrong without being slow: on its slow path PyTorch adds up the weight's gradient in the
low precision itself. The verify stage holds output and gradients against fp64.
"""

from __future__ import annotations

from collections.abc import Sequence

from qwenprof.diagnosis.finding import Finding, Rule, not_assessed
from qwenprof.diagnosis.proof import (
    CONV,
    FIXED,
    WRONG,
    factor,
    is_same_check,
    named,
    passed,
    proof,
    severity,
    worst,
)
from qwenprof.formatting import listed
from qwenprof.record.record import Record, Row

NAME, QUESTION = "numerics", "Does the convolution compute the right numbers?"
LINKS = ("https://github.com/pytorch/pytorch/issues/163539",)


def judge(record: Record) -> Finding:
    found = proof(record)
    checks = found.of([CONV])
    if not checks:
        return not_assessed(NAME, QUESTION, "The convolution was not held against fp64.")
    failed = [row for row in checks if not row.get("passed")]
    obstacle = found.obstacle(CONV)
    if failed and not found.is_void:
        evidence = (named(failed), f"{passed(checks)}.", *found.control_failed())
        also = [row for row in found.of(FIXED) if not row.get("passed")]
        by_both = any(is_same_check(row, other) for row in failed for other in also)
        return _problem(record, failed, evidence, by_both=by_both)
    if obstacle:
        return not_assessed(NAME, QUESTION, obstacle)
    return Finding(
        rule=NAME,
        verdict="clear",
        severity="info",
        title=f"The convolution computes the right numbers: {passed(checks)}",
        evidence=found.control_failed(),
    )


def _problem(
    record: Record, failed: Sequence[Row], evidence: tuple[str, ...], *, by_both: bool
) -> Finding:
    dtypes = listed(list(dict.fromkeys(str(row.get("dtype")) for row in failed)))
    advice = (
        f"Do not train in {dtypes} with this convolution; the fix computes the same map as a "
        "matrix product: qwenprof.apply_fix(), or qwenprof run SCRIPT."
    )
    if by_both:
        advice = "This is the device's arithmetic or its settings, not the convolution."
    return Finding(
        rule=NAME,
        verdict="problem",
        severity=severity(failed, record.workload.get("dtype")),
        title=_title(failed, by_both=by_both),
        culprit=None if by_both else str(failed[0].get("module") or CONV),
        evidence=evidence,
        advice=advice,
        links=LINKS if _is_that_bug(record, failed) else (),
    )


def _title(failed: Sequence[Row], *, by_both: bool) -> str:
    if by_both:
        head = "Convolution and matrix product are both less exact than rounding allows"
    elif max(map(factor, failed)) < WRONG:
        head = "The convolution is less exact than rounding allows"
    else:
        head = "The convolution computes wrong numbers"
    return f"{head}: {worst(failed)}"


def _is_that_bug(record: Record, failed: Sequence[Row]) -> bool:
    """Whether it can be the published one: bf16 on CUDA."""
    on_cuda = record.fact("device", "type") == "cuda"
    return on_cuda and any(row.get("dtype") == "bf16" for row in failed)


RULE = Rule(name=NAME, order=70, question=QUESTION, judge=judge, reads=("verify",))
