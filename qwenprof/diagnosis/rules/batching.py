"""Is it batching? Time of one sample at growing batch sizes, and whether the work grew too.

Patches tell whether the work grew. Where they were not recorded, a batch that takes the time, the
tokens and the memory of a smaller one most likely did not grow; that is inferred, not observed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from qwenprof.diagnosis.bounds import positive
from qwenprof.diagnosis.disturbance import disturbances
from qwenprof.diagnosis.finding import Finding, Rule, not_assessed
from qwenprof.formatting import count, seconds, size, times
from qwenprof.harness.statistics import Fit, fit_line
from qwenprof.record.record import Record, Row

NAME, QUESTION = "batching", "Is it batching?"
TOLERANCE = 0.25
SURE_ALL_THE_SAME = 2.0  # from few forwards, or in a disturbed run
ENOUGH_SAMPLES = 3
SAME_TIME, SAME_MEMORY = 0.10, 0.02  # of the smaller batch's: then the work did not grow


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


@dataclass(frozen=True, kw_only=True)
class Sized:
    """A measured batch whose patches are not known, but its tokens and its memory are."""

    batch: int
    time_s: float
    tokens: float
    peak_bytes: float

    def is_no_larger_than(self, other: Sized) -> bool:
        """Whether it cost what a smaller batch cost in all that is known of both."""
        return (
            self.tokens == other.tokens
            and abs(self.time_s - other.time_s) <= SAME_TIME * other.time_s
            and abs(self.peak_bytes - other.peak_bytes) <= SAME_MEMORY * other.peak_bytes
        )


def scaling(record: Record) -> Scaling | None:
    """The scaling that the batch sweep saw; None with fewer than two batch sizes."""
    return _scaling(_measured(record))


def _measured(record: Record) -> dict[int, Row]:
    """The rows that hold a time, by batch, the smallest first."""
    rows: dict[int, Row] = {}
    for row in record.rows("batch-sweep", "batches"):
        batch, time_s = positive(row.get("batch")), positive(row.get("median_s"))
        if batch and time_s and batch >= 1 and time_s / batch > 0:
            rows[int(batch)] = row
    return dict(sorted(rows.items()))


def _scaling(rows: dict[int, Row]) -> Scaling | None:
    if len(rows) < 2:
        return None
    time_s = {batch: positive(row.get("median_s")) or 0.0 for batch, row in rows.items()}
    patches = {batch: positive(row.get("patches")) for batch, row in rows.items()}
    return Scaling(
        per_sample={batch: whole_s / batch for batch, whole_s in time_s.items()},
        patches_per_sample={batch: each / batch for batch, each in patches.items() if each},
        fit=fit_line(list(time_s), list(time_s.values())),
    )


def judge(record: Record) -> Finding:
    rows = _measured(record)
    found = _scaling(rows)
    if found is None:
        return not_assessed(NAME, QUESTION, "Fewer than two batch sizes were measured.")
    if found.work_grew is None:
        return _inferred(rows)
    if found.work_grew is False:
        return _did_not_grow(found)
    if found.growth > 1 + TOLERANCE:
        doubt = _doubt(record, rows)
        if doubt and (found.growth < SURE_ALL_THE_SAME or _rests_on_one(record, rows)):
            longer = times(found.growth)
            why = (
                f"Inconclusive: a sample takes {longer} as long in the largest batch, but {doubt}."
            )
            return not_assessed(NAME, QUESTION, why)
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


def _doubt(record: Record, rows: dict[int, Row]) -> str:
    """Why a time that grew a little proves nothing; "" where it does."""
    disturbed = disturbances(record, "batch-sweep")
    if disturbed:
        return f"the run was disturbed ({disturbed[0]})"
    ends = (rows[min(rows)], rows[max(rows)])
    few = min(positive(row.get("n")) or 0.0 for row in ends) < ENOUGH_SAMPLES
    return "that is from too few forwards" if few else ""


def _rests_on_one(record: Record, rows: dict[int, Row]) -> bool:
    """Whether a single forward in a disturbed sweep is all there is to the largest batch."""
    single = (positive(rows[max(rows)].get("n")) or 0.0) < 2
    return single and bool(disturbances(record, "batch-sweep"))


def _inferred(rows: dict[int, Row]) -> Finding:
    """From time, tokens and memory, up to the last batch that grew in any of them.

    Only a time of one sample that stays the same clears batching here: where it changes, the
    number of patches alone could tell why.
    """
    unknown = "Whether the work grew with the batch is not known."
    sizes = [sized(batch, row) for batch, row in rows.items()]
    known = [each for each in sizes if each is not None]
    if len(known) < len(sizes):
        return not_assessed(NAME, QUESTION, unknown)
    kept_sizes = grown(known)
    kept = _scaling({each.batch: rows[each.batch] for each in kept_sizes})
    stalled = known[len(kept_sizes) : len(kept_sizes) + 1]
    told = tuple(_stalled(each, kept_sizes[-1]) for each in stalled)
    if kept is None or abs(kept.growth - 1) > TOLERANCE:
        return not_assessed(NAME, QUESTION, " ".join((unknown, *told)))
    last = kept_sizes[-1].batch
    anomaly = "".join(f"; batch {each.batch} most likely did not grow" for each in stalled)
    return Finding(
        rule=NAME,
        verdict="clear",
        severity="info",
        title=f"Not batching: the time of one sample stays the same up to batch {last}{anomaly}",
        confidence="medium",
        evidence=(
            *_evidence(kept),
            f"The patches were not recorded: that the work grew up to batch {last} is inferred "
            "from the time, which grew with the batch.",
            *told,
        ),
    )


def sized(batch: int, row: Row) -> Sized | None:
    """A measured row as far as it tells how much work it was; None where it does not."""
    keys = ("median_s", "sequence_length", "peak_bytes")
    time_s, tokens, peak_bytes = (positive(row.get(key)) for key in keys)
    if time_s is None or tokens is None or peak_bytes is None:
        return None
    return Sized(batch=batch, time_s=time_s, tokens=tokens, peak_bytes=peak_bytes)


def grown(known: Sequence[Sized]) -> Sequence[Sized]:
    """The batches before the first that is no larger than the one before it."""
    pairs = enumerate(pairwise(known), start=1)
    stops = (index for index, (before, after) in pairs if after.is_no_larger_than(before))
    return known[: next(stops, len(known))]


def _stalled(after: Sized, before: Sized) -> str:
    return (
        f"Batch {after.batch} takes {seconds(after.time_s)} where batch {before.batch} takes "
        f"{seconds(before.time_s)}, with the same {count(after.tokens)} tokens of sequence and the "
        f"same {size(after.peak_bytes)} of memory: its work most likely did not grow, so its time "
        "of one sample says nothing."
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


RULE = Rule(
    name=NAME, order=30, question=QUESTION, judge=judge, reads=("batch-sweep",), compares_times=True
)
