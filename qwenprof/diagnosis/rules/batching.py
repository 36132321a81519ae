"""Is it batching? Time of one sample at growing batch sizes, and whether the work grew too."""

from __future__ import annotations

from dataclasses import dataclass

from qwenprof.diagnosis.bounds import positive
from qwenprof.diagnosis.finding import Finding, Rule, not_assessed
from qwenprof.formatting import count, seconds, times
from qwenprof.harness.statistics import Fit, fit_line
from qwenprof.record.record import Record

NAME, QUESTION = "batching", "Is it batching?"
TOLERANCE = 0.25


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """How time and work follow the batch size.

    per_sample: batch -> seconds of one sample.
    patches_per_sample: batch -> patches of one sample.
    fit: seconds = intercept + slope * batch; None with fewer than two batches.
    """

    per_sample: dict[int, float]
    patches_per_sample: dict[int, float]
    fit: Fit | None

    @property
    def work_grew(self) -> bool | None:
        """Whether every batch holds as many patches a sample; None where they are unknown."""
        counts = self.patches_per_sample.values()
        if len(counts) < 2:
            return None
        return max(counts) <= 1.01 * min(counts)

    @property
    def growth(self) -> float:
        """Time of one sample at the largest batch over that at the smallest."""
        return self.per_sample[max(self.per_sample)] / self.per_sample[min(self.per_sample)]


def scaling(record: Record) -> Scaling | None:
    """The scaling that the batch sweep saw; None with fewer than two batch sizes."""
    per_sample: dict[int, float] = {}
    patches: dict[int, float] = {}
    for row in record.rows("batch-sweep", "batches"):
        batch, median_s = positive(row.get("batch")), positive(row.get("median_s"))
        if not batch or batch < 1 or not median_s:
            continue
        per_sample[int(batch)] = median_s / batch
        patch_count = positive(row.get("patches"))
        if patch_count:
            patches[int(batch)] = patch_count / batch
    if len(per_sample) < 2:
        return None
    batches = sorted(per_sample)
    fit = fit_line(batches, [per_sample[batch] * batch for batch in batches])
    return Scaling(per_sample=per_sample, patches_per_sample=patches, fit=fit)


def judge(record: Record) -> Finding:
    found = scaling(record)
    if found is None:
        return not_assessed(NAME, QUESTION, "Fewer than two batch sizes were measured.")
    if found.work_grew is None:
        return not_assessed(NAME, QUESTION, "Whether the work grew with the batch is not known.")
    if found.work_grew is False:
        return _did_not_grow(found)
    if found.growth > 1 + TOLERANCE:
        return Finding(
            rule=NAME,
            verdict="problem",
            severity="warning",
            title=f"A sample takes {times(found.growth)} as long in the largest batch",
            culprit="batching",
            evidence=_evidence(found),
            advice="Time grows faster than the work: look at padding, at attention across "
            "samples and at memory that no longer fits a cache.",
        )
    trend = "falls" if found.growth < 1 - TOLERANCE else "stays the same"
    return Finding(
        rule=NAME,
        verdict="clear",
        severity="info",
        title=f"Not batching: the time of one sample {trend} as the batch grows",
        evidence=_evidence(found),
    )


def _did_not_grow(found: Scaling) -> Finding:
    return Finding(
        rule=NAME,
        verdict="problem",
        severity="warning",
        title="The work did not grow with the batch, so the sweep says nothing about batching",
        evidence=(
            *_evidence(found),
            "Patches of one sample: "
            + ", ".join(f"{count(n)} at batch {b}" for b, n in found.patches_per_sample.items())
            + ".",
        ),
        advice="Check what builds the batch: samples were lost, cut or merged.",
    )


def _evidence(found: Scaling) -> tuple[str, ...]:
    times = ", ".join(
        f"{seconds(each_s)} at batch {batch}" for batch, each_s in sorted(found.per_sample.items())
    )
    sentences = [f"One sample takes {times}."]
    if found.fit and len(found.per_sample) > 2:
        sentences.append(
            f"Fit over the batch sizes: {seconds(found.fit.intercept)} + "
            f"{seconds(found.fit.slope)} for each sample (R^2 = {found.fit.r_squared:.3f})."
        )
    if found.work_grew:
        sentences.append("The number of patches grew in proportion to the batch.")
    return tuple(sentences)


RULE = Rule(name=NAME, order=30, question=QUESTION, judge=judge)
