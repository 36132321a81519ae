"""Is the forward bound by launches or by the host, and not by the device's work?

On an accelerator the host runs ahead of the device. Where it needs as long to launch the work as
the device to do it, it does not, and a faster device would change nothing. A host that waits for
the device needs as long too, so its own time is told apart from its waiting where per-layer has
measured both. On a CPU nothing is queued: there the launches that the forward is made of are held
against its time.
"""

from __future__ import annotations

from qwenprof.diagnosis.bounds import machine, number, positive
from qwenprof.diagnosis.finding import Confidence, Finding, Rule, not_assessed
from qwenprof.diagnosis.forward import (
    Enqueueing,
    enqueueing,
    forward_s,
    operators,
    own_batch,
    own_operators,
    total_waits,
)
from qwenprof.formatting import count, percent, seconds
from qwenprof.record.record import Record

NAME, QUESTION = "launch-bound", "Is it bound by launches or by the host?"
LAUNCHES_BOUND = 0.5  # of a CPU's time
DOMINATES = 0.5  # of all operators
ADVICE = (
    "Launch fewer and larger operators: torch.compile, on CUDA with mode='reduce-overhead' or as a "
    "CUDA graph; a larger batch; no loop in Python where one operator does. A faster device alone "
    "does not help."
)
ADVICE_ON_CPU = (
    "Call fewer and larger operators: torch.compile, a larger batch, no loop in Python where one "
    "operator does."
)


def judge(record: Record) -> Finding:
    found = enqueueing(record)
    if found is not None:
        return _on_accelerator(record, found)
    if record.fact("device", "type") == "cpu":
        return _on_cpu(record)
    return not_assessed(NAME, QUESTION, "How long the host needs for a forward was not measured.")


def _on_accelerator(record: Record, found: Enqueueing) -> Finding:
    evidence = (
        f"The host needs {seconds(found.host_s)} to launch a forward that takes "
        f"{seconds(found.forward_s)}: {percent(found.share)} of it.",
        *_launches(record, found.forward_s),
    )
    if not found.host_bound:
        return _clear("Not launches: the host is done long before the device is", evidence)
    waits = total_waits(record)
    if waits:
        why = (
            f"{evidence[0]} But it waits for the device meanwhile, {count(waits)} times in a "
            "forward, so what it needs by itself is not known."
        )
        return not_assessed(NAME, QUESTION, why)
    saved, batched = _saved_by_batching(record)
    doubt = "" if found.apart else " A host that waits for the device would look the same."
    return _problem(
        record,
        "The host cannot launch the work faster than the device does it",
        (evidence[0] + doubt, *evidence[1:], *batched),
        confidence="high" if found.apart else "medium",
        cost_share=saved,
    )


def _on_cpu(record: Record) -> Finding:
    rates, whole_s, launched = machine(record), forward_s(record), operators(record)
    latency_s = rates.launch_latency_s if rates else None
    if latency_s is None or whole_s is None or launched is None:
        why = "Not all of launch latency, operators of a forward and its time were measured."
        return not_assessed(NAME, QUESTION, why)
    share, evidence = launched * latency_s / whole_s, _launches(record, whole_s)
    if share < LAUNCHES_BOUND:
        return _clear("Not launches: most of the time is work", evidence)
    return _problem(
        record,
        f"{count(launched)} operators: starting them takes most of the forward",
        evidence,
        confidence="medium",
        cost_share=min(share, 1.0),
    )


def _launches(record: Record, whole_s: float) -> tuple[str, ...]:
    """A sentence about what launching alone takes; nothing where it is not known."""
    rates, launched = machine(record), operators(record)
    latency_s = rates.launch_latency_s if rates else None
    if latency_s is None or launched is None:
        return ()
    took_s = launched * latency_s
    return (
        f"{count(launched)} operators of {seconds(latency_s)} launch latency each, as measured "
        f"here, are {seconds(took_s)}, {percent(took_s / whole_s)} of the {seconds(whole_s)} that "
        "a forward takes.",
    )


def _saved_by_batching(record: Record) -> tuple[float | None, tuple[str, ...]]:
    """Share of a sample's time that the largest batch saves, as seen; None if it saves none."""
    own = own_batch(record) or {}
    per_sample = {
        positive(row.get("batch")) or 0.0: positive(row.get("per_sample_s"))
        for row in record.rows("batch-sweep", "batches")
    }
    batch, largest = number(own.get("batch")), max(per_sample, default=0.0)
    own_s, largest_s = positive(own.get("per_sample_s")), per_sample.get(largest)
    if batch is None or own_s is None or largest_s is None or largest_s >= own_s:
        return None, ()
    told = f"In a batch of {largest:g} a sample takes {seconds(largest_s)}, in one of {batch:g} "
    return 1 - largest_s / own_s, (f"{told}{seconds(own_s)}.",)


def _clear(title: str, evidence: tuple[str, ...]) -> Finding:
    return Finding(rule=NAME, verdict="clear", severity="info", title=title, evidence=evidence)


def _problem(
    record: Record,
    title: str,
    evidence: tuple[str, ...],
    *,
    confidence: Confidence,
    cost_share: float | None = None,
) -> Finding:
    path, share = _most_operators(record)
    named = f"{path} has {percent(share)} of the operators." if path else ""
    return Finding(
        rule=NAME,
        verdict="problem",
        severity="critical",
        title=title,
        culprit=path,
        cause="bound by launches",
        cost_share=cost_share,
        confidence=confidence,
        evidence=(*evidence, *([named] if named else [])),
        advice=ADVICE_ON_CPU if record.fact("device", "type") == "cpu" else ADVICE,
    )


def _most_operators(record: Record) -> tuple[str | None, float]:
    """The part that launches most of the operators by itself, and its share of them."""
    whole, own = operators(record), own_operators(record)
    if not whole or not own:
        return None, 0.0
    path = max(own, key=lambda each: own[each])
    share = own[path] / whole
    return (path, share) if path and DOMINATES <= share <= 1 else (None, share)


RULE = Rule(
    name=NAME,
    order=44,
    question=QUESTION,
    judge=judge,
    reads=("batch-sweep", "per-layer"),
    compares_times=True,
)
