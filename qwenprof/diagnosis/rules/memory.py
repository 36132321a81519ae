"""Does anything take memory out of proportion? The convolution, the batch, the dtype.

A peak holds the model's weights too, and on a CPU whatever the process has ever touched. So peaks
are never judged by their size but by what one holds more than another of the same stage.
"""

from __future__ import annotations

from dataclasses import dataclass

from qwenprof.diagnosis.bounds import number, positive
from qwenprof.diagnosis.disturbance import on_cpu
from qwenprof.diagnosis.finding import Finding, Rule, not_assessed
from qwenprof.diagnosis.projection import CONV, LINEAR, Comparison, comparison, description
from qwenprof.formatting import count, size, times
from qwenprof.record.record import Record

NAME, QUESTION = "memory", "Does anything take memory out of proportion?"
NOISE_BYTES, CPU_NOISE_BYTES = 64 * 1024**2, 256 * 1024**2  # of the difference of two peaks
OUT_OF_PROPORTION = 4.0  # times the tensors that a convolution needs
SUPERLINEAR = 1.5  # times what a straight line through the two smallest batches predicts
REGRESSION = 1.5  # times what the same convolution takes in fp32
BYTES_OF = {"bf16": 2, "fp16": 2, "fp32": 4}
KNOWN_REGRESSION = "https://github.com/pytorch/pytorch/issues/166643"
USE_LINEAR = (
    "Replace the convolution by the linear layer that equals it, which needs no workspace: "
    "qwenprof run SCRIPT does so."
)
CPU_PEAKS = (
    "On a CPU a peak is the resident memory of the whole process, so only differences count, and "
    f"below {size(CPU_NOISE_BYTES)} they are noise."
)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing held against another.

    evidence: what was seen, or why nothing was. is_problem: None where it was not checked.
    """

    name: str
    evidence: str
    is_problem: bool | None = None
    title: str = ""
    culprit: str = ""
    cause: str = ""
    advice: str = ""
    links: tuple[str, ...] = ()


def judge(record: Record) -> Finding:
    checks = [_convolution(record), _batch(record), _half_precision(record)]
    wrong = [check for check in checks if check.is_problem]
    evidence = [check.evidence for check in sorted(checks, key=lambda each: not each.is_problem)]
    evidence += [CPU_PEAKS] if on_cpu(record) else []
    if wrong:
        return _problem(wrong, evidence)
    if any(check.is_problem is None for check in checks[:2]):
        return not_assessed(NAME, QUESTION, " ".join(evidence))
    return Finding(
        rule=NAME,
        verdict="clear",
        severity="info",
        title="Nothing takes memory out of proportion: not the convolution, and not the batch",
        evidence=tuple(evidence),
    )


def _problem(wrong: list[Check], evidence: list[str]) -> Finding:
    first = wrong[0]
    return Finding(
        rule=NAME,
        verdict="problem",
        severity="warning",
        title=first.title,
        culprit=first.culprit,
        cause=first.cause,
        evidence=tuple(evidence),
        advice=" ".join(dict.fromkeys(check.advice for check in wrong)),
        links=tuple(dict.fromkeys(link for check in wrong for link in check.links)),
    )


def _noise_bytes(record: Record) -> int:
    """Of the difference of two peaks: a process keeps what its allocator does not give back."""
    return CPU_NOISE_BYTES if on_cpu(record) else NOISE_BYTES


def _convolution(record: Record) -> Check:
    """The convolution's peak against that of the linear layer that equals it."""
    name, found = "convolution against Linear", comparison(record)
    if found is None:
        return _unchecked(name, "the two were not measured beside each other")
    peaks = positive(found.conv.get("peak_bytes")), positive(found.linear.get("peak_bytes"))
    needed = _needed_bytes(record, found)
    if peaks[0] is None or peaks[1] is None or needed is None:
        missing = "the size of its tensors" if needed is None else "a peak"
        return _unchecked(name, f"{missing} is not known")
    extra = peaks[0] - peaks[1]
    more = f"{size(extra)} more than" if extra > 0 else "no more than"
    return Check(
        name=name,
        is_problem=extra > OUT_OF_PROPORTION * needed and extra > _noise_bytes(record),
        evidence=f"At {count(found.patches)} patches the convolution takes {more} the equal Linear "
        f"at its peak; input, weight and output are {size(needed)}.",
        title=f"{found.module} takes {size(extra)} beyond the tensors that it needs",
        culprit=found.module,
        cause=f"a workspace of {times(extra / needed)} its tensors",
        advice=USE_LINEAR,
    )


def _needed_bytes(record: Record, found: Comparison) -> float | None:
    """Bytes of input, weight and output: from the shape, else as per-layer counted them."""
    known, width = description(record, found.module), BYTES_OF.get(str(found.conv.get("dtype")))
    features_in, features = positive(known.get("features_in")), positive(known.get("features"))
    if width and features_in and features:
        tensors = found.patches * (features_in + features) + features_in * features
        return width * tensors
    if number(record.workload.get("patches")) != found.patches:
        return None
    rows = record.rows("per-layer", "modules")
    own = (row for row in rows if f".{row.get('path')}".endswith(f".{found.module}"))
    return positive(next(own, {}).get("bytes"))


def _batch(record: Record) -> Check:
    """The peak at the largest batch against a straight line through the two smallest."""
    name = "peak against the batch"
    points = sorted(
        (batch, peak)
        for row in record.rows("batch-sweep", "batches")
        if row.get("status") in (None, "ok")
        and (batch := positive(row.get("batch")))
        and (peak := positive(row.get("peak_bytes")))
    )
    if len({batch for batch, _ in points}) < 3:
        return _unchecked(name, "fewer than three batch sizes have a peak")
    (x1, y1), (x2, y2) = points[0], next(point for point in points if point[0] > points[0][0])
    x3, y3 = points[-1]
    steps = (x3 - x2) / (x2 - x1)
    grown, expected = y3 - y2, max(0.0, y2 - y1) * steps
    # the noise of the first step is carried to the last as often as the step is
    noise = _noise_bytes(record) * (max(1.0, steps) if on_cpu(record) else 1)
    return Check(
        name=name,
        is_problem=grown > SUPERLINEAR * expected and grown - expected > noise,
        evidence=f"From batch {x2:.0f} to {x3:.0f} the peak grows by {_signed(grown)}; at the rate "
        f"of batch {x1:.0f} to {x2:.0f} it would grow by {_signed(expected)}.",
        title="Peak memory grows faster than the batch",
        culprit="batching",
        cause="memory that grows with the square of the batch, as attention across samples takes",
        advice="Look for a dense attention mask over all samples of a batch, and for padding.",
    )


def _half_precision(record: Record) -> Check:
    """What the convolution takes beyond Linear in bf16 and fp16, against the same in fp32."""
    name = "convolution in half precision against fp32"
    extras = _extra_by_dtype(record)
    halves = {dtype: extras[dtype] for dtype in ("bf16", "fp16") if dtype in extras}
    if "fp32" not in extras or not halves:
        return _unchecked(name, "its peak is not known in fp32 and in a half precision")
    worst = max(halves, key=lambda dtype: halves[dtype])
    half, full = halves[worst], max(0.0, extras["fp32"])
    return Check(
        name=name,
        is_problem=half > REGRESSION * full and half - full > _noise_bytes(record),
        evidence=f"Beyond what Linear takes, the convolution takes {_signed(half)} in {worst} and "
        f"{_signed(extras['fp32'])} in fp32, whose tensors are twice as large.",
        title=f"The convolution takes more memory in {worst} than in fp32",
        culprit=_module(record),
        cause="a library that unfolds or widens the input where it has no kernel for the dtype",
        advice=USE_LINEAR,
        links=(KNOWN_REGRESSION,),
    )


def _extra_by_dtype(record: Record) -> dict[str, float]:
    """Bytes that a forward of the convolution takes beyond the Linear beside it, by dtype.

    At the most patches at which either has a peak in that dtype.
    """
    peaks: dict[str, dict[float, dict[str, float]]] = {}
    for row in record.rows("compare-patch-embed", "variants"):
        peak, patches = positive(row.get("peak_bytes")), positive(row.get("patches"))
        if row.get("direction") == "forward" and peak and patches:
            by_patches = peaks.setdefault(str(row.get("dtype")), {})
            by_patches.setdefault(patches, {})[str(row.get("variant"))] = peak
    largest = {dtype: by_patches[max(by_patches)] for dtype, by_patches in peaks.items()}
    return {
        dtype: found[CONV] - found[LINEAR]
        for dtype, found in largest.items()
        if CONV in found and LINEAR in found
    }


def _module(record: Record) -> str:
    found = comparison(record)
    return found.module if found else "patch_embed.proj"


def _signed(value: float) -> str:
    return size(value) if value >= 0 else f"-{size(-value)}"


def _unchecked(name: str, why: str) -> Check:
    return Check(name=name, evidence=f"Not checked, {name}: {why}.")


RULE = Rule(
    name=NAME,
    order=84,
    question=QUESTION,
    judge=judge,
    reads=("compare-patch-embed", "batch-sweep"),
)
