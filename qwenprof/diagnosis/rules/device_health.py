"""Is the device healthy? Its matrix products against what its maker says."""

from __future__ import annotations

from qwenprof.diagnosis.bounds import number, positive
from qwenprof.diagnosis.finding import Finding, Rule, not_assessed
from qwenprof.record.record import Record, Row

NAME, QUESTION = "device-health", "Is the device healthy?"


def judge(record: Record) -> Finding:
    row = _largest(record)
    if row is None:
        return not_assessed(NAME, QUESTION, "No matrix product was measured in this dtype.")
    tflops, peak = positive(row.get("tflops")), positive(row.get("peak_tflops"))
    size, verdict = row.get("size"), row.get("verdict")
    if tflops is None or peak is None:
        why = (
            f"No datasheet peak is known for {record.fact('device', 'name')} in {row.get('dtype')}."
        )
        return not_assessed(NAME, QUESTION, why)
    evidence = (
        f"A {size} x {size} {row.get('dtype')} matrix product runs at {tflops:.1f} "
        f"TFLOPS, {tflops / peak:.0%} of the {peak:.4g} in the {row.get('peak_source')}.",
        *_published(row, tflops),
    )
    if verdict == "healthy":
        return Finding(
            rule=NAME,
            verdict="clear",
            severity="info",
            title=f"The device is healthy: {tflops / peak:.0%} of its datasheet peak",
            evidence=evidence,
        )
    return Finding(
        rule=NAME,
        verdict="problem",
        severity="critical" if verdict == "unhealthy" else "warning",
        title=f"The device reaches only {tflops / peak:.0%} of its datasheet peak",
        culprit=str(record.fact("device", "name")),
        evidence=evidence,
        advice="Check clocks, power limit, temperature and other processes with nvidia-smi "
        "before looking at the model.",
    )


def _largest(record: Record) -> Row | None:
    dtype = record.workload.get("dtype")
    rows = [
        row
        for row in record.rows("matmul", "gemm")
        if row.get("dtype") == dtype and positive(row.get("tflops"))
    ]
    return max(rows, key=lambda row: number(row.get("size")) or 0.0, default=None)


def _published(row: Row, tflops: float) -> list[str]:
    achieved = positive(row.get("published_tflops"))
    if not achieved:
        return []
    return [f"Published for this device: {achieved:.4g} TFLOPS ({row.get('published_source')})."]


RULE = Rule(name=NAME, order=10, question=QUESTION, judge=judge)
