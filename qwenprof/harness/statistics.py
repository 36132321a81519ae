"""Pure numbers: medians and their confidence, drift, fits, comparison. No device, no clock.

Samples of a running time are skewed and now and then far off, so location is the median,
spread the interquartile range, and nothing is ever dropped: what looks wrong is flagged.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

MIN_SAMPLES_FOR_CI = 6
NOISY_IQR = 0.10
DRIFT = 0.02
NEGLIGIBLE = 0.02  # a sample this near to its neighbours is no outlier, however alike the rest are
FEW_SAMPLES = 20
SMALLEST, LARGEST = 1e-30, 1e30  # beyond them squares overflow, and no duration lies there

Judgement = Literal["FASTER", "SLOWER", "SAME", "INCONCLUSIVE"]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What is derived from one series; the interval is None for fewer than six samples."""

    n: int
    median: float
    ci: tuple[float, float] | None
    mean: float
    minimum: float
    p5: float
    p25: float
    p75: float
    p95: float
    mad: float

    @property
    def iqr(self) -> float:
        return self.p75 - self.p25

    @property
    def relative_ci_half_width(self) -> float:
        """Half the interval's width over the median; infinite where there is no interval."""
        if self.ci is None or self.median <= 0:
            return math.inf
        return (self.ci[1] - self.ci[0]) / 2 / self.median


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A least-squares line y = intercept + slope * x and how much of y it explains."""

    slope: float
    intercept: float
    r_squared: float


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A ratio of two medians with its bootstrap interval, None with too few samples."""

    value: float
    ci: tuple[float, float] | None


def summarize(values: Sequence[float]) -> Summary:
    """Summarise at least one sample.

    Raises:
        ValueError: `values` is empty.
    """
    if not values:
        raise ValueError("a series without samples has no summary")
    array = np.asarray(values, dtype=float)
    median = float(np.median(array))
    p5, p25, p75, p95 = (float(q) for q in np.percentile(array, [5, 25, 75, 95]))
    return Summary(
        n=len(values),
        median=median,
        ci=median_ci(values),
        mean=float(array.mean()),
        minimum=float(array.min()),
        p5=p5,
        p25=p25,
        p75=p75,
        p95=p95,
        mad=float(np.median(np.abs(array - median))),
    )


def median(values: Sequence[float]) -> float:
    """The median of at least one sample."""
    return float(np.median(np.asarray(values, dtype=float)))


def median_ci(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Distribution-free confidence interval of the median from order statistics.

    The number of samples below the true median is Binomial(n, 1/2), so the k-th smallest and
    k-th largest sample enclose it with probability 1 - 2 P(X < k). The widest k that still
    reaches `confidence` is taken. None for fewer than six samples, where even the extremes
    do not reach 95 %.

    Source: Hahn and Meeker, Statistical Intervals, section 5.2.
    """
    n = len(values)
    if n < MIN_SAMPLES_FOR_CI:
        return None
    tail, rank = 0.0, 0
    for k in range(n // 2):
        tail += math.exp(_log_binomial(n, k) - n * math.log(2))
        if 1 - 2 * tail < confidence:
            break
        rank = k + 1
    if rank == 0:
        return None
    ordered = sorted(values)
    return ordered[rank - 1], ordered[n - rank]


def drift(values: Sequence[float]) -> float | None:
    """Relative change of the median from the first to the last third; None below nine samples."""
    third = len(values) // 3
    if third < 3:
        return None
    first, last = median(values[:third]), median(values[-third:])
    return last / first - 1 if first > 0 else None


def fit_line(x: Sequence[float], y: Sequence[float]) -> Fit | None:
    """Least-squares line through at least two different x; None where there are fewer, or where
    they lie too far apart for one.

    Each point is weighted by 1/y, so that a relative error counts the same at every size.
    """
    if len(set(x)) < 2 or not all(SMALLEST < value < LARGEST for value in y):
        return None
    xs, ys = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    try:
        with warnings.catch_warnings(), np.errstate(divide="raise", over="raise", invalid="raise"):
            warnings.simplefilter("ignore", np.exceptions.RankWarning)
            slope, intercept = np.polyfit(xs, ys, 1, w=1 / ys)
    except (np.linalg.LinAlgError, FloatingPointError):
        return None
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        return None
    residual = float((((ys - intercept - slope * xs) / ys) ** 2).sum())
    total = float((((ys - ys.mean()) / ys) ** 2).sum())
    return Fit(
        slope=float(slope),
        intercept=float(intercept),
        r_squared=1 - residual / total if total > 0 else 1.0,
    )


def ratio_of_medians(
    numerator: Sequence[float],
    denominator: Sequence[float],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Ratio:
    """median(numerator) / median(denominator) with a percentile-bootstrap interval.

    Source: Kalibera and Jones, Rigorous benchmarking in reasonable time, ISMM 2013.
    """
    value = median(numerator) / median(denominator)
    if min(len(numerator), len(denominator)) < MIN_SAMPLES_FOR_CI:
        return Ratio(value=value, ci=None)
    generator = np.random.default_rng(seed)
    ratios = _resampled_medians(numerator, resamples, generator) / _resampled_medians(
        denominator, resamples, generator
    )
    tail = (1 - confidence) / 2 * 100
    low, high = np.percentile(ratios, [tail, 100 - tail])
    return Ratio(value=value, ci=(float(low), float(high)))


def judge(ratio: Ratio, noise: float) -> Judgement:
    """What new/base says, when changes below `noise` (relative) do not count.

    FASTER or SLOWER only if the whole interval clears the noise, SAME only if the whole
    interval lies inside it, INCONCLUSIVE otherwise and wherever there is no interval.
    """
    if ratio.ci is None:
        return "INCONCLUSIVE"
    low, high = ratio.ci
    if high < 1 - noise:
        return "FASTER"
    if low > 1 + noise:
        return "SLOWER"
    return "SAME" if low >= 1 - noise and high <= 1 + noise else "INCONCLUSIVE"


def quality_flags(values: Sequence[float]) -> list[str]:
    """What a reader must know before believing the median; each with its own numbers."""
    if not values:
        return []
    summary = summarize(values)
    flags = []
    if summary.n < FEW_SAMPLES:
        flags.append(f"few_samples: n = {summary.n}")
    if summary.n < 4 or summary.median <= 0:
        return flags
    if summary.iqr > NOISY_IQR * summary.median:
        flags.append(f"noisy: interquartile range {summary.iqr / summary.median:.0%} of the median")
    outliers = _count_outliers(values, summary)
    if outliers:
        flags.append(f"outliers: {outliers} of {summary.n} samples beyond 3 IQR")
    if values[0] > summary.p75 + 3 * summary.iqr and values[0] > 1.02 * summary.median:
        flags.append(f"slow_first_sample: {values[0] / summary.median:.2f} x the median")
    change = drift(values)
    if change is not None and abs(change) > DRIFT:
        flags.append(f"drift: {change:+.1%} from the first to the last third")
    return flags


def _log_binomial(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _count_outliers(values: Sequence[float], summary: Summary) -> int:
    fence = max(3 * summary.iqr, NEGLIGIBLE * summary.median)
    low, high = summary.p25 - fence, summary.p75 + fence
    return sum(1 for value in values if value < low or value > high)


def _resampled_medians(
    values: Sequence[float], resamples: int, generator: np.random.Generator
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    array = np.asarray(values, dtype=float)
    drawn = generator.choice(array, size=(resamples, len(array)))
    return np.asarray(np.median(drawn, axis=1), dtype=np.float64)
