"""Does the device compute in this dtype at all, or does it emulate it?"""

from __future__ import annotations

from qwenprof.diagnosis.bounds import machine
from qwenprof.diagnosis.finding import Finding, Rule, not_assessed
from qwenprof.formatting import flop_rate, times
from qwenprof.record.record import Record

NAME, QUESTION = "dtype-support", "Does the device support the dtype?"
TOLERANCE = 0.8


def judge(record: Record) -> Finding:
    dtype = str(record.workload.get("dtype"))
    rates = machine(record)
    if rates is None or dtype not in rates.flop_per_s or "fp32" not in rates.flop_per_s:
        return not_assessed(
            NAME, QUESTION, f"No matrix products were measured in {dtype} and fp32."
        )
    own, wide = rates.flop_per_s[dtype], rates.flop_per_s["fp32"]
    evidence = (
        f"The best {dtype} matrix product runs at {flop_rate(own)}, the best fp32 one at "
        f"{flop_rate(wide)}: {times(own / wide)} its rate.",
    )
    if own >= TOLERANCE * wide:
        return Finding(
            rule=NAME,
            verdict="clear",
            severity="info",
            title="fp32 is computed as it is"
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


RULE = Rule(name=NAME, order=20, question=QUESTION, judge=judge)
