"""Does the equal Linear beat the convolution where it runs on a healthy backend?

A convolution that fell into a slow implementation is another rule's. Here the vendor library, or
PyTorch's best, is at work and a matrix product is still faster. Whether that matters is told by
what it costs of a whole forward: where it does not, the patch embedding is not to blame.
"""

from __future__ import annotations

from qwenprof.diagnosis.conv_telling import (
    ADVICE,
    FUSION,
    differing,
    factor_text,
    saved,
    slope,
    timed,
)
from qwenprof.diagnosis.disturbance import disturbances
from qwenprof.diagnosis.finding import (
    NOTABLE_SHARE,
    Finding,
    Rule,
    Severity,
    Verdict,
    not_assessed,
    severity_of,
)
from qwenprof.diagnosis.projection import Comparison, comparison, share_saved
from qwenprof.formatting import percent, times_with_interval
from qwenprof.record.record import Record

NAME = "conv-against-linear"
QUESTION = "Is the patch embedding slower than the linear layer that it equals?"
NOISE, TOLERABLE = 0.05, 0.10
SURE_WITHOUT_INTERVAL = 2.0
SURE_SHARE = 0.2  # of the forward, in a disturbed run


def judge(record: Record) -> Finding:
    found = comparison(record)
    if found is None:
        why = "Conv3d and Linear were not compared in the workload's dtype."
        return not_assessed(NAME, QUESTION, why)
    if found.backend is None or found.is_slow_backend:
        why = f"It does not run on a healthy backend: {found.backend or 'which one is not known'}."
        return not_assessed(NAME, QUESTION, why)
    verdict = _verdict(found)
    if found.ratio.interval is None and disturbances(record, "compare-patch-embed"):
        verdict = "not assessed"
    ratio = times_with_interval(found.ratio.value, found.ratio.interval)
    if verdict == "not assessed":
        return not_assessed(NAME, QUESTION, f"Inconclusive: Linear is {ratio} as fast as Conv3d.")
    evidence = (timed(found), *differing(found), *saved(record, found), *slope(record))
    if verdict == "clear":
        return Finding(
            rule=NAME,
            verdict="clear",
            severity="info",
            title=f"The patch embedding is not to blame: the equal Linear is {ratio} as fast"
            + _at_most(record, found),
            evidence=evidence,
        )
    return _problem(record, found, evidence)


def _verdict(found: Comparison) -> Verdict:
    """A problem only if the whole interval says so, clear only if it rules one out."""
    ratio = found.ratio
    if ratio.interval is None:
        if ratio.value >= SURE_WITHOUT_INTERVAL:
            return "problem"
        return "clear" if ratio.value <= 1.0 else "not assessed"
    if ratio.least > 1 + NOISE:
        return "problem"
    return "clear" if ratio.most <= 1 + TOLERABLE else "not assessed"


def _problem(record: Record, found: Comparison, evidence: tuple[str, ...]) -> Finding:
    share = share_saved(record, found)
    dtype, faster = found.conv.get("dtype"), factor_text(found)
    title = f"Conv3d in {dtype} loses to Linear ({found.backend}): Linear is {faster} as fast"
    if share is not None and share < NOTABLE_SHARE:
        title = (
            f"The patch embedding is not to blame, though Linear is {faster} as fast as its Conv3d "
            f"in {dtype} ({found.backend})" + _at_most(record, found)
        )
    return Finding(
        rule=NAME,
        verdict="problem",
        severity=_severity(record, share),
        title=title,
        culprit=found.module,
        cause=f"{found.backend} runs as a convolution what is one matrix product over disjoint "
        "windows",
        cost_share=share,
        factor=found.ratio.value,
        evidence=evidence,
        advice=ADVICE,
        links=(FUSION,),
    )


def _severity(record: Record, share: float | None) -> Severity:
    """A small share of a forward that something disturbed is no more than a remark."""
    disturbed = disturbances(record, "compare-patch-embed") or disturbances(record, "per-layer")
    if share is not None and share < SURE_SHARE and disturbed:
        return "info"
    return severity_of(share)


def _at_most(record: Record, found: Comparison) -> str:
    share = share_saved(record, found)
    return "" if share is None else f", and a fix gains at most {percent(share)} of the forward"


RULE = Rule(name=NAME, order=62, question=QUESTION, judge=judge, reads=("compare-patch-embed",))
