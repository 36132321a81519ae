"""Whether one case changed between two runs: the ratio of its medians, held against noise.

Two bars. SAME is said where the ratio stays within the least change that counts or the samples'
spread. FASTER and SLOWER are said where it clears, beyond these, what runs of the same thing may
differ by: two runs give one sample of what differs from process to process, and nothing within a
run tells that: where arrays lie, which core a thread got, what a neighbour on the machine did. In
between is INCONCLUSIVE. The judgement is the same, mirrored, when the runs change places.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from qwenprof.diagnosis.timed_cases import FIRST_CALL, HOST_TIMED, Case, Key
from qwenprof.formatting import plural
from qwenprof.harness import statistics
from qwenprof.harness.statistics import Ratio

Judgement = Literal["FASTER", "SLOWER", "SAME", "DIFFERENT", "INCONCLUSIVE", "NOT COMPARED"]

# 43 pairs of runs of the same thing on two shared cores, minutes or hours apart: of 1,543 cases in
# stages that nothing disturbed 64 % lay further apart than 3 %, 3 % than 1.5 x and 1 % than 2 x; of
# 371 in disturbed stages 46 % lay further apart than 3 x, and two than 100 x.
HOST_RUN_TO_RUN = 1.0
STEADY = 0.25  # samples that spread more in both runs together say nothing by being alike
FEW_APART = 1.0  # two to five samples: runs of the same thing are rarely that far apart
ONE_APART = 9.0  # a single one, which may hold whatever only a first call does
MOST_SAMPLES = 4000  # for the bootstrap; of more every k-th is taken
REFUSED = "the runs differ in more than what is compared"
FIRST = "a first call happens once, and is never judged"
NO_SAMPLES = "published: a median without raw samples"
NO_RATIO = "samples of which a ratio means nothing: not all of them are greater than nought"
DISTURBED = "its stage was disturbed in one of the runs, and is not judged"
FEW = "too few samples for an interval"
FEW_APART_ALL = "too few samples for an interval, yet all of them are that far apart"
NOISY = "its samples spread too far to be called the same"
UNSURE = "its interval holds both a change that counts and none"
WITHIN_NOISE = "it changed, but no more than noise does"
PROCESSOR: Key = ("breakdown", "processor")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One run's numbers of a case: seconds or whatever its unit is.

    n: None where it is not known, as of what was published.
    ci: the 95 % interval of the median; None for fewer than six samples.
    """

    n: int | None
    median: float | None
    ci: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class Change:
    """One case in both runs.

    ratio: new median over base median, with its 95 % interval.
    noise: relative; what a change must exceed. noise_from: what made it so large.
    why: one of few reasons, without its numbers, which the rest has; "" where they say it all.
    """

    stage: str
    series: str
    unit: str
    base: Measured | None
    new: Measured | None
    ratio: float | None
    interval: tuple[float, float] | None
    judgement: Judgement
    noise: float | None
    noise_from: str
    why: str = ""

    @property
    def name(self) -> str:
        return f"{self.stage}: {self.series}"

    @property
    def size(self) -> float:
        """How far the ratio is from one, either way; nought where there is none."""
        return abs(math.log(self.ratio)) if self.ratio else 0.0

    @property
    def is_first_call(self) -> bool:
        return self.series.endswith(FIRST_CALL)


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """What holds for all cases of a comparison.

    run_to_run: how far runs of the same thing lie apart, where the user knows; None where not.
    on_host: the model ran on the host's cores in one of the runs.
    machine: by how much the host itself changed, relative, as far as it is known.
    disturbed: stage -> what disturbed it in one of the runs.
    refused: the runs may not be held together, so that nothing is judged.
    """

    min_change: float
    run_to_run: float | None = None
    on_host: bool = False
    machine: float = 0.0
    disturbed: Mapping[str, str]
    refused: bool = False


def changed(key: Key, base: Case, new: Case, around: Circumstances) -> Change:
    """A case that both runs have, judged."""
    if base.unit != new.unit:
        why = f"other unit: {base.unit} in BASE, {new.unit} in NEW"
        return not_compared(key, base, new, why)
    held = _held(base, new)
    ratio = _ratio(base, new, held)
    noise = _noise(key, base, new, around)
    judgement, why = _judged(key, base, new, held, noise, around)
    return Change(
        stage=key[0],
        series=key[1],
        unit=base.unit,
        base=_measured(base),
        new=_measured(new),
        ratio=ratio.value if ratio else None,
        interval=ratio.ci if ratio else None,
        judgement=judgement,
        noise=noise.value,
        noise_from=noise.source,
        why=why,
    )


def not_compared(key: Key, base: Case | None, new: Case | None, why: str) -> Change:
    """A case that only one of the runs has, or that they measured in different units."""
    known = base or new
    return Change(
        stage=key[0],
        series=key[1],
        unit=known.unit if known else "",
        base=_measured(base) if base else None,
        new=_measured(new) if new else None,
        ratio=None,
        interval=None,
        judgement="NOT COMPARED",
        noise=None,
        noise_from="",
        why=why,
    )


def spread(values: Sequence[float]) -> float:
    """How far samples of one run lie apart, relative to their median.

    The interquartile range, or the distance between the medians of the run's thirds where that is
    larger: samples of one process follow each other, and are not as independent as a bootstrap
    takes them to be. Nought for fewer than six.
    """
    if len(values) < statistics.MIN_SAMPLES_FOR_CI:
        return 0.0
    summary, third = statistics.summarize(values), len(values) // 3
    parts = (values[:third], values[third:-third], values[-third:])
    medians = [statistics.median(part) for part in parts] if third >= 3 else [summary.median]
    return max(summary.iqr, max(medians) - min(medians)) / summary.median


def _measured(case: Case) -> Measured:
    if not case.values:
        return Measured(n=None, median=case.published, ci=None)
    if not all(abs(value) < statistics.LARGEST for value in case.values):
        return Measured(n=len(case.values), median=None, ci=None)
    return Measured(
        n=len(case.values),
        median=statistics.median(case.values),
        ci=statistics.median_ci(case.values),
    )


def _usable(case: Case) -> bool:
    """Whether ratios of these numbers mean something."""
    values = case.values or ([] if case.published is None else [case.published])
    in_range = (statistics.SMALLEST < value < statistics.LARGEST for value in values)
    return bool(values) and all(in_range)


@dataclass(frozen=True, kw_only=True)
class _Held:
    """Raw samples of both runs, the larger median over the smaller.

    faster: NEW has the smaller one.
    """

    slow: tuple[float, ...]
    fast: tuple[float, ...]
    ratio: Ratio
    faster: bool

    @property
    def of_new(self) -> Ratio:
        """NEW over BASE."""
        if not self.faster:
            return self.ratio
        ends = self.ratio.ci and (1 / self.ratio.ci[1], 1 / self.ratio.ci[0])
        return Ratio(value=1 / self.ratio.value, ci=ends)


def _held(base: Case, new: Case) -> _Held | None:
    """Both runs' samples; None where one has none, or none of which a ratio means something."""
    if not (base.values and new.values and _usable(base) and _usable(new)):
        return None
    medians = statistics.median(new.values), statistics.median(base.values)
    faster = (medians[0], sorted(new.values)) < (medians[1], sorted(base.values))
    slow, fast = (base.values, new.values) if faster else (new.values, base.values)
    ratio = statistics.ratio_of_medians(_thinned(slow), _thinned(fast))
    return _Held(slow=slow, fast=fast, ratio=ratio, faster=faster)


def _ratio(base: Case, new: Case, held: _Held | None) -> Ratio | None:
    if held is not None:
        return held.of_new
    if not (_usable(base) and _usable(new)):
        return None
    before, after = (
        statistics.median(each.values) if each.values else each.published or 1.0
        for each in (base, new)
    )
    return Ratio(value=after / before, ci=None)


def _thinned(values: Sequence[float]) -> Sequence[float]:
    return values[:: math.ceil(len(values) / MOST_SAMPLES)]


@dataclass(frozen=True, kw_only=True)
class _Noise:
    """What a change must exceed to count, and what made it so large; own: the samples' spread."""

    value: float
    source: str
    own: float


def _noise(key: Key, base: Case, new: Case, around: Circumstances) -> _Noise:
    own = math.hypot(*(spread(each.values) if _usable(each) else 0.0 for each in (base, new)))
    candidates = [(around.min_change, "the least change that counts"), (own, "the samples' spread")]
    if around.run_to_run is not None:
        candidates.append((around.run_to_run, "runs of the same thing, as given"))
    elif base.unit == "s" and (around.on_host or _host_timed(key)):
        candidates.append((HOST_RUN_TO_RUN, "runs of the same thing on a host's cores"))
        candidates.append((around.machine, "the machine itself changed"))
    n = min(len(base.values), len(new.values))
    if 1 <= n < statistics.MIN_SAMPLES_FOR_CI:
        candidates.append((ONE_APART if n == 1 else FEW_APART, plural(n, "sample")))
    value, source = max(candidates, key=lambda candidate: candidate[0])
    return _Noise(value=value, source=source, own=own)


def _host_timed(key: Key) -> bool:
    """Whether the host's work is timed although the model runs on an accelerator."""
    return key == PROCESSOR or key[1].endswith(HOST_TIMED)


def _judged(
    key: Key, base: Case, new: Case, held: _Held | None, noise: _Noise, around: Circumstances
) -> tuple[Judgement, str]:
    if around.refused:
        return "NOT COMPARED", REFUSED
    if held is None:
        return "INCONCLUSIVE", NO_RATIO if base.values and new.values else NO_SAMPLES
    if key[1].endswith(FIRST_CALL):
        return "INCONCLUSIVE", FIRST
    if key[0] in around.disturbed:
        return "INCONCLUSIVE", DISTURBED
    if held.ratio.ci is None:
        apart, why = _few_apart(held, noise)
    else:
        apart, why = _steady_apart(held, noise, around.min_change)
    return _named(apart, base.unit, faster=held.faster), why


def _steady_apart(held: _Held, noise: _Noise, least: float) -> tuple[statistics.Judgement, str]:
    """SLOWER where the larger median is beyond noise; never SAME where it is beyond `least`."""
    if statistics.judge(held.ratio, noise.value) == "SLOWER":
        return "SLOWER", ""
    if statistics.judge(held.ratio, least) == "SLOWER":
        return "INCONCLUSIVE", WITHIN_NOISE
    if noise.own > STEADY:
        return "INCONCLUSIVE", NOISY
    alike = statistics.judge(held.ratio, max(least, noise.own)) == "SAME"
    return ("SAME", "") if alike else ("INCONCLUSIVE", UNSURE)


def _few_apart(held: _Held, noise: _Noise) -> tuple[statistics.Judgement, str]:
    """Too few samples for an interval tell only what none of them contradicts, by far."""
    ends = min(held.slow) / max(held.fast), max(held.slow) / min(held.fast)
    if statistics.judge(Ratio(value=held.ratio.value, ci=ends), noise.value) == "SLOWER":
        return "SLOWER", FEW_APART_ALL
    return "INCONCLUSIVE", FEW


def _named(apart: statistics.Judgement, unit: str, *, faster: bool) -> Judgement:
    """The judgement on NEW, from that on the larger median over the smaller."""
    if apart != "SLOWER":
        return "SAME" if apart == "SAME" else "INCONCLUSIVE"
    if unit != "s":
        return "DIFFERENT"
    return "FASTER" if faster else "SLOWER"
