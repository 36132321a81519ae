"""Is the bias the cliff?

On the slow path a bias costs one launch for each feature of each patch. Taken out of the
convolution and added after it, it costs one addition.
"""

from __future__ import annotations

from qwenprof.diagnosis.bounds import positive
from qwenprof.diagnosis.disturbance import disturbances
from qwenprof.diagnosis.finding import Finding, Rule, not_assessed, severity_of
from qwenprof.diagnosis.forward import forward_s
from qwenprof.diagnosis.projection import (
    BIAS_APART,
    CONV,
    LAUNCHING_BACKEND,
    SLOW_BACKENDS,
    speedup,
    variant,
)
from qwenprof.formatting import count, percent, seconds, times_with_interval
from qwenprof.record.record import Record, Row

NAME, QUESTION = "bias-cliff", "Is it the bias of the convolution?"
CLIFF = 1.5


def judge(record: Record) -> Finding:
    conv, apart = variant(record, CONV), variant(record, BIAS_APART)
    if conv is not None and conv.get("bias") is False:
        return Finding(
            rule=NAME,
            verdict="clear",
            severity="info",
            title="The convolution has no bias",
            evidence=(f"{conv.get('module') or CONV} was built without one.",),
        )
    ratio = None if apart is None else speedup(apart)
    if conv is None or apart is None or ratio is None:
        return not_assessed(NAME, QUESTION, "The convolution was not timed without its bias.")
    if conv.get("patches") != apart.get("patches"):
        why = "With and without the bias it was timed on different numbers of patches."
        return not_assessed(NAME, QUESTION, why)
    conv_s, apart_s = positive(conv.get("median_s")) or 0.0, positive(apart.get("median_s")) or 0.0
    told = times_with_interval(ratio.value, ratio.interval)
    evidence = (
        f"{count(positive(conv.get('patches')))} patches in {conv.get('dtype')}: with its bias the "
        f"convolution takes {seconds(conv_s)}, with the bias added after it {seconds(apart_s)}: "
        f"{told} as fast.",
    )
    if ratio.least < CLIFF <= ratio.most or (ratio.most >= CLIFF and _is_doubtful(record, conv)):
        return not_assessed(NAME, QUESTION, f"Inconclusive. {evidence[0]}")
    if ratio.most < CLIFF:
        return Finding(
            rule=NAME,
            verdict="clear",
            severity="info",
            title="Not the bias: without it the convolution takes about as long",
            evidence=evidence,
        )
    return _problem(record, conv, conv_s - apart_s, ratio.value, evidence)


def _is_doubtful(record: Record, conv: Row) -> bool:
    """Whether a vendor library's bias looks expensive only in a run that was disturbed."""
    on_slow_path = conv.get("backend") in (None, *SLOW_BACKENDS)
    return not on_slow_path and bool(disturbances(record, "compare-patch-embed"))


def _problem(
    record: Record, conv: Row, saved_s: float, factor: float, evidence: tuple[str, ...]
) -> Finding:
    whole_s = forward_s(record)
    share = max(0.0, min(saved_s / whole_s, 1.0)) if whole_s else None
    of_forward = f" It costs {percent(share)} of the forward." if share is not None else ""
    return Finding(
        rule=NAME,
        verdict="problem",
        severity=severity_of(share),
        title=f"The bias makes {percent(1 - 1 / factor)} of the convolution's time",
        culprit=str(conv.get("module") or CONV),
        cause=_cause(conv),
        cost_share=share,
        factor=factor,
        evidence=(evidence[0] + of_forward,),
        advice="Nothing to do apart from the fix of the convolution, which adds the bias in the "
        "matrix product. Where that is not wanted, build the convolution with bias=False and add "
        "the bias to what it gives.",
    )


def _cause(conv: Row) -> str:
    """Launches are to blame only on the path that launches for every patch."""
    backend = conv.get("backend")
    if backend in (None, LAUNCHING_BACKEND):
        return "the slow path launches one fill for each feature of each patch to set the bias"
    return f"{backend} takes longer to set the bias than adding it takes"


RULE = Rule(name=NAME, order=64, question=QUESTION, judge=judge, reads=("compare-patch-embed",))
