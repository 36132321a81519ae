"""Does the device compute in this dtype at all, or does it emulate it?"""

from __future__ import annotations

from qwenprof.diagnosis.bounds import positive
from qwenprof.diagnosis.finding import Finding, Rule, not_assessed
from qwenprof.formatting import flop_rate, times
from qwenprof.record.record import Record

NAME, QUESTION = "dtype-support", "Does the device support the dtype?"
TOLERANCE = 0.8


def judge(record: Record) -> Finding:
    dtype = str(record.workload.get("dtype"))
    rates = {name: _rates(record, name) for name in (dtype, "fp32")}
    common = set(rates[dtype]) & set(rates["fp32"])
    if not common:
        return not_assessed(NAME, QUESTION, f"No matrix product was measured in {dtype} and fp32.")
    size = max(common)
    own, wide = rates[dtype][size], rates["fp32"][size]
    evidence = (
        f"At {size:.0f} x {size:.0f} the {dtype} matrix product runs at {flop_rate(own)}, the fp32 "
        f"one at {flop_rate(wide)}: {times(own / wide)} its rate.",
    )
    if dtype == "fp32" or own >= TOLERANCE * wide:
        return Finding(
            rule=NAME,
            verdict="clear",
            severity="info",
            title="fp32 needs no emulation on any device"
            if dtype == "fp32"
            else f"{dtype} matrix products are not slower than fp32 ones",
            evidence=evidence,
        )
    return Finding(
        rule=NAME,
        verdict="problem",
        severity="warning",
        title=f"This device multiplies {dtype} matrices {times(wide / own)} slower than fp32 ones",
        culprit=f"{dtype} on {record.fact('device', 'name')}",
        evidence=evidence,
        advice=f"Most likely the device has no instructions for {dtype} and emulates it. Run in "
        f"fp32 here, or on a device with {dtype} matrix instructions.",
    )


def _rates(record: Record, dtype: str) -> dict[float, float]:
    """FLOP per second of the median product, by matrix size."""
    rates = {}
    for row in record.rows("matmul", "gemm"):
        size, tflops = positive(row.get("size")), positive(row.get("tflops"))
        if row.get("dtype") == dtype and size and tflops:
            rates[size] = tflops * 1e12
    return rates


RULE = Rule(name=NAME, order=20, question=QUESTION, judge=judge, reads=("matmul",))
