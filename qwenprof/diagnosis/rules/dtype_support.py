"""Does the device compute in this dtype at all, or does it emulate it?"""

from __future__ import annotations

from qwenprof.diagnosis.bounds import positive
from qwenprof.diagnosis.finding import Confidence, Finding, Rule, not_assessed
from qwenprof.diagnosis.rules.device_health import switched_off
from qwenprof.formatting import flop_rate, times
from qwenprof.record.record import Record

NAME, QUESTION = "dtype-support", "Does the device support the dtype?"
TOLERANCE = 0.8
# dtype -> the instruction sets of CPUs that multiply in it, as Linux names them
INSTRUCTIONS = {
    "bf16": ("avx512_bf16", "amx_bf16"),
    "fp16": ("avx512_fp16", "amx_fp16"),
}


def judge(record: Record) -> Finding:
    dtype = str(record.workload.get("dtype"))
    library = switched_off(record)
    if library:
        why = f"{library} is switched off, so the rates are not those of the device."
        return not_assessed(NAME, QUESTION, why)
    rates = {name: _rates(record, name) for name in (dtype, "fp32")}
    common = set(rates[dtype]) & set(rates["fp32"])
    if not common:
        return not_assessed(NAME, QUESTION, f"No matrix product was measured in {dtype} and fp32.")
    size = max(common)
    own, wide = rates[dtype][size], rates["fp32"][size]
    if dtype == "fp32":
        return Finding(
            rule=NAME,
            verdict="clear",
            severity="info",
            title="fp32 needs no emulation on any device",
        )
    evidence = (
        f"At {size:.0f} x {size:.0f} the {dtype} matrix product runs at {flop_rate(own)}, the fp32 "
        f"one at {flop_rate(wide)}: {times(own / wide)} its rate.",
    )
    if own >= TOLERANCE * wide:
        return Finding(
            rule=NAME,
            verdict="clear",
            severity="info",
            title=f"{dtype} matrix products are not slower than fp32 ones",
            evidence=evidence,
        )
    cause, confidence = _cause(record, dtype)
    return Finding(
        rule=NAME,
        verdict="problem",
        severity="warning",
        title=f"This device multiplies {dtype} matrices {times(wide / own)} slower than fp32 ones",
        culprit=f"{dtype} on {record.fact('device', 'name')}",
        cause=cause,
        factor=wide / own,
        confidence=confidence,
        evidence=evidence,
        advice=f"Run in fp32 here, or on a device with {dtype} matrix instructions.",
    )


def _cause(record: Record, dtype: str) -> tuple[str, Confidence]:
    """Why it is slow, as far as the recorded instruction sets tell, and how sure that is."""
    sets = record.fact("device", "instructions")
    if sets is None:
        return f"the device most likely has no instructions for {dtype} and emulates it", "medium"
    if dtype in INSTRUCTIONS and not any(each in str(sets) for each in INSTRUCTIONS[dtype]):
        return f"the CPU has no instructions for {dtype} ({sets}) and emulates it", "high"
    return f"not known: the CPU has instructions for {dtype} ({sets})", "medium"


def _rates(record: Record, dtype: str) -> dict[float, float]:
    """FLOP per second of the median product, by matrix size."""
    rates = {}
    for row in record.rows("matmul", "gemm"):
        size, tflops = positive(row.get("size")), positive(row.get("tflops"))
        if row.get("dtype") == dtype and size and tflops:
            rates[size] = tflops * 1e12
    return rates


RULE = Rule(name=NAME, order=20, question=QUESTION, judge=judge, reads=("matmul",))
