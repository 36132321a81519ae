"""Whether one case changed between two runs: the ratio of its medians, held against noise.

Two runs give one sample of what differs from process to process, and nothing within a run tells
that: where arrays lie, which core a thread got, what a neighbour on the machine did. What is known
of it enters as noise, beside the spread of the samples themselves. The judgement is the same,
mirrored, when the runs change places.
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

# Pairs of runs of the same thing on two shared cores, cases of n >= 20. Of 222, some of them beside
# other work, 5 % lay further apart than the first; of some 250 undisturbed ones 1.5 % lay further
# apart than the second and their own spread.
HOST_ALIKE, HOST_RUN_TO_RUN = 0.3, 0.5
DISTURBED = 1.0
STEADY = 0.25  # samples that spread more in both runs together say nothing by being alike
FEW_APART = 1.0  # two to five samples: runs of the same thing are rarely that far apart
ONE_APART = 9.0  # a single one, which may hold whatever only a first call does
MOST_SAMPLES = 4000  # for the bootstrap; of more every k-th is taken
NO_SAMPLES = "published: a median without raw samples"
NO_RATIO = "samples of which a ratio means nothing: not all of them are greater than nought"
WITHIN_RUN_TO_RUN = "the samples differ, but no more than runs of the same thing may"
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
    noise: relative; what the change was held against. noise_from: what made it so large.
    why: what a reader must know of the judgement; "" where the numbers say it all.
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
    disturbed: stage -> what disturbed it in one of the runs.
    refused: the runs may not be held together, so that nothing is judged.
    """

    min_change: float
    run_to_run: float | None = None
    on_host: bool = False
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
    judgement, why = _judged(base, new, held, noise, around)
    if judgement != "NOT COMPARED" and key[1].endswith(FIRST_CALL):
        judgement, why = "INCONCLUSIVE", "a first call happens once, and is never judged"
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
    """What a change must exceed to count, and what made it so large.

    own: of the samples themselves. disturbed: something else used the machine meanwhile.
    alike: what runs of the same thing rarely exceed; beyond it nothing is called the same.
    """

    value: float
    source: str
    own: float
    disturbed: bool
    alike: float


def _noise(key: Key, base: Case, new: Case, around: Circumstances) -> _Noise:
    own = math.hypot(*(spread(each.values) if _usable(each) else 0.0 for each in (base, new)))
    candidates = [(around.min_change, "the least change that counts"), (own, "the samples' spread")]
    alike = math.inf
    if around.run_to_run is not None:
        candidates.append((around.run_to_run, "runs of the same thing, as given"))
    elif base.unit == "s" and (around.on_host or _host_timed(key)):
        candidates.append((HOST_RUN_TO_RUN, "runs of the same thing on a host's cores"))
        alike = max(HOST_ALIKE, around.min_change)
    disturbed = key[0] in around.disturbed
    if disturbed:
        candidates.append((DISTURBED, f"disturbed: {around.disturbed[key[0]]}"))
    value, source = max(candidates, key=lambda candidate: candidate[0])
    return _Noise(value=value, source=source, own=own, disturbed=disturbed, alike=alike)


def _host_timed(key: Key) -> bool:
    """Whether the host's work is timed although the model runs on an accelerator."""
    return key == PROCESSOR or key[1].endswith(HOST_TIMED)


def _judged(
    base: Case, new: Case, held: _Held | None, noise: _Noise, around: Circumstances
) -> tuple[Judgement, str]:
    if around.refused:
        return "NOT COMPARED", "the runs differ in more than what is compared"
    if held is None:
        published = not (base.values and new.values)
        return "INCONCLUSIVE", NO_SAMPLES if published else NO_RATIO
    if held.ratio.ci is None:
        apart, why = _few_apart(held, noise.value)
    else:
        apart, why = _steady_apart(held, noise, around.min_change)
    return _named(apart, base.unit, faster=held.faster), why


def _steady_apart(held: _Held, noise: _Noise, least: float) -> tuple[statistics.Judgement, str]:
    """SLOWER where the larger median is beyond noise."""
    found = statistics.judge(held.ratio, noise.value)
    if found != "SAME":
        return found, ""
    if noise.disturbed or noise.own > STEADY:
        return "INCONCLUSIVE", f"too noisy to be called the same: {100 * noise.value:.3g} %"
    if statistics.judge(held.ratio, max(least, noise.own)) != "SLOWER":
        return found, ""
    return found if held.ratio.value <= 1 + noise.alike else "INCONCLUSIVE", WITHIN_RUN_TO_RUN


def _few_apart(held: _Held, noise: float) -> tuple[statistics.Judgement, str]:
    """Too few samples for an interval tell only what none of them contradicts, by far."""
    n = min(len(held.slow), len(held.fast))
    limit = max(noise, ONE_APART if n == 1 else FEW_APART)
    ends = min(held.slow) / max(held.fast), max(held.slow) / min(held.fast)
    found = statistics.judge(Ratio(value=held.ratio.value, ci=ends), limit)
    few = f"{plural(n, 'sample')}, too few for an interval"
    if found != "SLOWER":
        return "INCONCLUSIVE", few
    return found, f"{few}, yet all of them more than {1 + limit:.3g} x apart"


def _named(apart: statistics.Judgement, unit: str, *, faster: bool) -> Judgement:
    """The judgement on NEW, from that on the larger median over the smaller."""
    if apart != "SLOWER":
        return "SAME" if apart == "SAME" else "INCONCLUSIVE"
    if unit != "s":
        return "DIFFERENT"
    return "FASTER" if faster else "SLOWER"
