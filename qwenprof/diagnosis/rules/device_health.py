"""Is the device healthy? Its matrix products against what its maker says.

A device whose vendor library is switched off for the whole process is not at its best either, and
makes every part of a model slow, so that no part is to blame.
"""

from __future__ import annotations

from qwenprof.diagnosis.bounds import number, positive
from qwenprof.diagnosis.finding import Finding, Rule, not_assessed
from qwenprof.formatting import count, flop_rate, percent
from qwenprof.record.record import Record, Row

NAME, QUESTION = "device-health", "Is the device healthy?"
# cuDNN has no part in matrix products, so without it only convolutions suffer
SWITCHES = {"cpu": ("oneDNN", "onednn_enabled")}
VERDICTS = ("healthy", "suspicious", "unhealthy")


def judge(record: Record) -> Finding:
    row = _largest(record)
    if row is None:
        return not_assessed(NAME, QUESTION, "No matrix product was measured in this dtype.")
    library = switched_off(record)
    if library:
        return _without(library, row, record)
    tflops, peak = positive(row.get("tflops")), positive(row.get("peak_tflops"))
    size, verdict = row.get("size"), row.get("verdict")
    if tflops is None or peak is None:
        why = (
            f"No datasheet peak is known for {record.fact('device', 'name')} in {row.get('dtype')}."
        )
        return not_assessed(NAME, QUESTION, why)
    evidence = (
        f"A {size} x {size} {row.get('dtype')} matrix product runs at {tflops:.1f} "
        f"TFLOPS, {percent(tflops / peak)} of the {peak:.4g} in the {row.get('peak_source')}.",
        *_above(record, tflops, peak),
        *_published(row, tflops),
    )
    if verdict not in VERDICTS:
        return not_assessed(NAME, QUESTION, "The record does not judge the rate it holds.")
    if verdict == "healthy":
        return Finding(
            rule=NAME,
            verdict="clear",
            severity="info",
            title=f"The device is healthy: {percent(tflops / peak)} of its datasheet peak",
            evidence=evidence,
        )
    return Finding(
        rule=NAME,
        verdict="problem",
        severity="critical" if verdict == "unhealthy" else "warning",
        title=f"The device reaches only {percent(tflops / peak)} of its datasheet peak",
        culprit=str(record.fact("device", "name")),
        evidence=evidence,
        advice="Check clocks, power limit, temperature and other processes with nvidia-smi "
        "before looking at the model.",
    )


def switched_off(record: Record) -> str:
    """The library of matrix products too, where a switch makes the whole device slow; else "".

    In half precision a CPU multiplies with oneDNN, in fp32 with another library: only where the
    measured rates show it does the switch concern more than convolutions.
    """
    kind = str(record.fact("device", "type"))
    library, switch = SWITCHES.get(kind, ("", ""))
    own, wide = (_best(record, dtype) for dtype in (str(record.workload.get("dtype")), "fp32"))
    is_slow = own is not None and wide is not None and own < wide
    return library if switch and record.fact("torch", switch) is False and is_slow else ""


def _best(record: Record, dtype: str) -> float | None:
    rows = record.rows("matmul", "gemm")
    rates = [positive(row.get("tflops")) for row in rows if row.get("dtype") == dtype]
    return max((rate for rate in rates if rate is not None), default=None)


def _without(library: str, row: Row, record: Record) -> Finding:
    rate = flop_rate((positive(row.get("tflops")) or 0.0) * 1e12)
    wide = flop_rate((_best(record, "fp32") or 0.0) * 1e12)
    return Finding(
        rule=NAME,
        verdict="problem",
        severity="critical",
        title=f"{library} is switched off for the whole process",
        culprit=f"the setting that switches {library} off",
        cause=f"without {library} PyTorch runs {row.get('dtype')} matrix products and convolutions "
        "in loops of its own",
        evidence=(
            f"A {row.get('size')} x {row.get('size')} {row.get('dtype')} matrix product runs at "
            f"{rate} with {library} switched off, where fp32 reaches {wide}.",
        ),
        advice=f"Find what switches {library} off (torch.backends) and take it out before looking "
        "at any part of the model.",
    )


def _largest(record: Record) -> Row | None:
    dtype = record.workload.get("dtype")
    rows = [
        row
        for row in record.rows("matmul", "gemm")
        if row.get("dtype") == dtype and positive(row.get("tflops"))
    ]
    return max(rows, key=lambda row: number(row.get("size")) or 0.0, default=None)


def _above(record: Record, tflops: float, peak: float) -> list[str]:
    """A peak holds for the datasheet's clock, and many cards run above it."""
    if tflops <= peak:
        return []
    clocks = [row.get("sm_clock_mhz_median") for row in record.rows("matmul", "conditions")]
    clock = next((mhz for mhz in map(positive, clocks) if mhz is not None), None)
    told = "was not recorded" if clock is None else f"was {count(clock)} MHz"
    return [
        "That is above the datasheet's figure, which holds for the clock that the datasheet gives; "
        f"the clock of this run {told}."
    ]


def _published(row: Row, tflops: float) -> list[str]:
    achieved = positive(row.get("published_tflops"))
    if not achieved:
        return []
    return [f"Published for this device: {achieved:.4g} TFLOPS ({row.get('published_source')})."]


RULE = Rule(name=NAME, order=10, question=QUESTION, judge=judge, reads=("matmul",))
