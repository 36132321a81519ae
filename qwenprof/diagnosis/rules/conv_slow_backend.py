"""Does the convolution fall into one of PyTorch's slow loops?

The backend is asked of the dispatcher. Where a record does not hold it, a slow loop is inferred
from the conditions of the dispatcher, or from a time that so many launches explain.
"""

from __future__ import annotations

from qwenprof.diagnosis.caveats import provoked_fault
from qwenprof.diagnosis.conv_telling import (
    ADVICE,
    FUSION,
    conv_facts,
    differing,
    factor_text,
    is_ordinary,
    launched,
    saved,
    slope,
    timed,
    why_passed_over,
)
from qwenprof.diagnosis.disturbance import on_cpu
from qwenprof.diagnosis.finding import Confidence, Finding, Rule, not_assessed, severity_of
from qwenprof.diagnosis.gate import LINK, decisions
from qwenprof.diagnosis.projection import (
    CPU_BACKEND,
    LAUNCHING_BACKEND,
    UNMISTAKABLE,
    Comparison,
    comparison,
    launches,
    share_saved,
)
from qwenprof.diagnosis.rules.device_health import switched_off
from qwenprof.record.record import Record

NAME, QUESTION = "conv-slow-backend", "Does the convolution run in a slow implementation?"
SLOW = 1.5  # times the Linear, or a slow backend does no harm

LINKS = (LINK, "https://github.com/huggingface/transformers/issues/45750", FUSION)


def judge(record: Record) -> Finding:
    found = comparison(record)
    if found is None:
        why = "Conv3d and Linear were not compared in the workload's dtype."
        return not_assessed(NAME, QUESTION, why)
    if found.backend is None:
        return _inferred(record, found)
    if not found.is_slow_backend:
        return Finding(
            rule=NAME,
            verdict="clear",
            severity="info",
            title=f"The convolution runs in no slow loop of PyTorch: it takes {found.backend}",
            evidence=(timed(found),),
        )
    library = switched_off(record)
    if library:
        why = (
            f"{library} is switched off for the whole process, so it is not about this convolution."
        )
        return not_assessed(NAME, QUESTION, why)
    if found.ratio.least < SLOW:
        return Finding(
            rule=NAME,
            verdict="clear",
            severity="info",
            title=f"The convolution takes the slow loop {found.backend}, which does no harm here",
            evidence=(timed(found),),
        )
    return _problem(record, found, f"runs in PyTorch's slow loop {found.backend}", "high")


def _inferred(record: Record, found: Comparison) -> Finding:
    """From the conditions and the time, where nobody asked the dispatcher."""
    closed = any(
        each.library_called is False for each in decisions(record, conv_facts(record, found))
    )
    made = launches(record, found)
    fits = made is not None and is_ordinary(made) and not on_cpu(record)
    if found.ratio.value < UNMISTAKABLE or not (closed or fits):
        why = "Which backend it took is not recorded, and its time does not tell."
        return not_assessed(NAME, QUESTION, why)
    loop = CPU_BACKEND if on_cpu(record) else LAUNCHING_BACKEND
    said = f"most likely runs in PyTorch's slow loop {loop}"
    return _problem(record, found, said, "high" if closed and fits else "medium")


def _problem(record: Record, found: Comparison, said: str, confidence: Confidence) -> Finding:
    cause, conditions = why_passed_over(record, found)
    share = share_saved(record, found)
    because = f", because {cause}" if cause else ""
    seen = (
        ()
        if found.backend
        else ("The backend was not recorded; it is inferred from what follows.",)
    )
    return Finding(
        rule=NAME,
        verdict="problem",
        severity=severity_of(share, unknown="critical"),
        title=f"Conv3d in {found.conv.get('dtype')} {said}: the equal Linear is "
        f"{factor_text(found)} as fast",
        culprit=found.module,
        cause=f"it {said}{because}",
        cost_share=share,
        factor=found.ratio.value,
        confidence=confidence if found.backend else _at_most_medium(confidence),
        evidence=(
            timed(found),
            *seen,
            *((conditions,) if conditions else ()),
            *launched(record, found),
            *slope(record),
            *differing(found),
            *saved(record, found),
        ),
        advice=_first(record, cause) + ADVICE,
        links=LINKS,
    )


def _first(record: Record, cause: str) -> str:
    """A fault made on purpose, or a library that somebody switched off, comes first."""
    fault = provoked_fault(record)
    if fault:
        return f"Run without --provoke {fault}: this fault was made on purpose. Or else: "
    library, off, _ = cause.partition(" is switched off")
    return f"Switch {library} on again. Or else: " if off else ""


def _at_most_medium(confidence: Confidence) -> Confidence:
    return "medium" if confidence == "high" else "low"


RULE = Rule(name=NAME, order=60, question=QUESTION, judge=judge, reads=("compare-patch-embed",))
