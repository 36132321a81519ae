"""Is the patch embedding's convolution slower than the linear layer that it equals?

Two verdicts are kept apart: a convolution that fell into a slow implementation, and one that
runs on a healthy backend and is still beaten by a matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass

from qwenprof.diagnosis.bounds import number, positive
from qwenprof.diagnosis.finding import Finding, Rule, Severity, Verdict, not_assessed
from qwenprof.formatting import percent, seconds, times, times_with_interval
from qwenprof.record.record import Record, Row

NAME, QUESTION = "patch-embedding", "Is the patch embedding's convolution slower than Linear?"
NOISE, TOLERABLE = 0.05, 0.10
SURE_WITHOUT_INTERVAL = 2.0
SLOW_BACKENDS = ("Slow2d", "Slow3d", "SlowDilated2d", "SlowDilated3d", "SlowNd")
DOMINANT_SHARE, NOTABLE_SHARE = 0.20, 0.02
LINKS = (
    "https://github.com/pytorch/pytorch/issues/163539",
    "https://github.com/huggingface/transformers/issues/45750",
    "https://github.com/huggingface/transformers/pull/45041",
)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Both variants at the largest patch count that was measured in the workload's dtype."""

    conv: Row
    linear: Row

    @property
    def speedup(self) -> float:
        return positive(self.linear.get("speedup")) or 1.0

    @property
    def interval(self) -> tuple[float, float] | None:
        low, high = (positive(self.linear.get(f"speedup_{end}")) for end in ("low", "high"))
        return (low, high) if low is not None and high is not None else None

    @property
    def saved_s(self) -> float:
        """Seconds that the linear layer saves in one call."""
        return (number(self.conv.get("median_s")) or 0.0) - (
            number(self.linear.get("median_s")) or 0.0
        )

    @property
    def slow_backend(self) -> bool:
        return self.conv.get("backend") in SLOW_BACKENDS


def comparison(record: Record) -> Comparison | None:
    """The comparison that counts; None where it was not made."""
    rows = [
        row
        for row in record.rows("compare-patch-embed", "variants")
        if row.get("dtype") == record.workload.get("dtype")
        and row.get("direction") == "forward"
        and positive(row.get("median_s"))
    ]
    most = max((number(row.get("patches")) or 0.0 for row in rows), default=0.0)
    by_variant = {row.get("variant"): row for row in rows if row.get("patches") == most}
    if "Conv3d" not in by_variant or "Linear" not in by_variant:
        return None
    return Comparison(conv=by_variant["Conv3d"], linear=by_variant["Linear"])


def judge(record: Record) -> Finding:
    found = comparison(record)
    if found is None:
        why = "Conv3d and Linear were not compared in the workload's dtype."
        return not_assessed(NAME, QUESTION, why)
    evidence = _evidence(found, record)
    verdict = _verdict(found)
    ratio = times_with_interval(found.speedup, found.interval)
    if verdict == "not assessed":
        return not_assessed(NAME, QUESTION, f"Inconclusive: Linear is {ratio} as fast as Conv3d.")
    if verdict == "clear":
        return Finding(
            rule=NAME,
            verdict="clear",
            severity="info",
            title=f"Conv3d is not slower than the equal Linear: {ratio}",
            evidence=evidence,
        )
    return _problem(found, record, evidence)


def _verdict(found: Comparison) -> Verdict:
    """A problem only if the whole interval says so, clear only if it rules one out."""
    if found.interval is None:
        if found.speedup >= SURE_WITHOUT_INTERVAL:
            return "problem"
        return "clear" if found.speedup <= 1.0 else "not assessed"
    low, high = found.interval
    if low > 1 + NOISE:
        return "problem"
    return "clear" if high <= 1 + TOLERABLE else "not assessed"


def _problem(found: Comparison, record: Record, evidence: tuple[str, ...]) -> Finding:
    share = _share_saved(found, record)
    cause = "fell into a slow implementation" if found.slow_backend else "loses to Linear"
    dtype, backend = found.conv.get("dtype"), found.conv.get("backend")
    return Finding(
        rule=NAME,
        verdict="problem",
        severity=_severity(found, share),
        title=f"Conv3d in {dtype} {cause} ({backend}): the equal Linear is "
        f"{times(found.speedup)} as fast",
        culprit=str(found.conv.get("module") or "patch_embed.proj"),
        evidence=evidence,
        advice="Run the projection as a matrix product over the same weights: start the program "
        "with qwenprof run SCRIPT, or call qwenprof.apply_fix() in it; transformers 5.6 and later "
        'can do it with from_pretrained(..., fusion_config={"patch_embeddings": True}).',
        links=LINKS if found.slow_backend else LINKS[-1:],
    )


def _severity(found: Comparison, share: float | None) -> Severity:
    if share is None:
        return "critical" if found.slow_backend else "warning"
    if share >= DOMINANT_SHARE:
        return "critical"
    return "warning" if share >= NOTABLE_SHARE or found.slow_backend else "info"


def _forward_s(record: Record) -> float | None:
    """Seconds of the workload's forward, without marks; None where it was not timed."""
    summary = record.rows("per-layer", "summary")
    return positive(summary[0].get("plain_s")) if summary else None


def _share_saved(found: Comparison, record: Record) -> float | None:
    forward_s = _forward_s(record)
    return found.saved_s / forward_s if forward_s else None


def _evidence(found: Comparison, record: Record) -> tuple[str, ...]:
    conv, linear = found.conv, found.linear
    conv_s, linear_s = (seconds(number(row.get("median_s"))) for row in (conv, linear))
    interval = "" if found.interval else ", too few samples for an interval"
    sentences = [
        f"{conv.get('patches')} patches in {conv.get('dtype')}: Conv3d {conv_s} "
        f"(n = {conv.get('n')}) on the backend {conv.get('backend')}, Linear {linear_s} "
        f"(n = {linear.get('n')}): {times_with_interval(found.speedup, found.interval)}{interval}.",
        f"Their outputs differ by at most {_text(linear.get('max_abs_difference'))}; from an fp64 "
        f"reference Conv3d by {_text(conv.get('max_abs_error'))}, Linear by "
        f"{_text(linear.get('max_abs_error'))}.",
    ]
    share = _share_saved(found, record)
    if share is not None:
        sentences.append(
            f"Linear would save {seconds(found.saved_s)} of each forward, {percent(share)} of it."
        )
    return tuple(sentences)


def _text(cell: object) -> str:
    return f"{cell:.3g}" if isinstance(cell, float) else "not measured"


RULE = Rule(name=NAME, order=60, question=QUESTION, judge=judge)
