"""Pure numbers, by their properties."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenprof.harness.statistics import (
    MIN_SAMPLES_FOR_CI,
    Ratio,
    drift,
    fit_line,
    judge,
    median,
    median_ci,
    quality_flags,
    ratio_of_medians,
    summarize,
)

seconds = st.floats(1e-6, 1e3)
samples = st.lists(seconds, min_size=1, max_size=60)
enough = st.lists(seconds, min_size=MIN_SAMPLES_FOR_CI, max_size=60)


def codes(values: list[float]) -> set[str]:
    return {flag.partition(":")[0] for flag in quality_flags(values)}


class TestSummary:
    @given(values=samples)
    def test_its_numbers_are_in_order(self, values: list[float]) -> None:
        s = summarize(values)
        assert s.n == len(values)
        assert s.minimum <= s.p5 <= s.p25 <= s.median <= s.p75 <= s.p95 <= max(values)
        assert min(values) * (1 - 1e-12) <= s.mean <= max(values) * (1 + 1e-12)
        assert s.iqr >= 0
        assert s.mad >= 0

    @given(values=samples, scale=st.floats(1e-3, 1e3))
    def test_another_unit_changes_nothing_else(self, values: list[float], scale: float) -> None:
        # GIVEN samples in one unit and in another WHEN both are summarised
        one, other = summarize(values), summarize([value * scale for value in values])
        # THEN the results differ by that factor
        assert other.median == pytest.approx(one.median * scale)
        assert other.iqr == pytest.approx(one.iqr * scale, abs=1e-12 * max(values) * scale)
        assert (other.ci is None) == (one.ci is None)

    @given(values=samples, slower=st.floats(0.0, 10.0))
    def test_slower_samples_never_lower_the_median(
        self, values: list[float], slower: float
    ) -> None:
        assert median([value + slower for value in values]) >= median(values)

    def test_nothing_has_no_summary(self) -> None:
        with pytest.raises(ValueError, match="without samples"):
            summarize([])

    def test_a_width_without_an_interval_is_infinite(self) -> None:
        assert summarize([1.0, 1.0]).relative_ci_half_width == math.inf
        assert summarize([0.0] * 20).relative_ci_half_width == math.inf


class TestMedianInterval:
    @given(values=enough)
    def test_it_holds_the_median_and_consists_of_samples(self, values: list[float]) -> None:
        interval = median_ci(values)
        assert interval is not None
        assert interval[0] <= median(values) <= interval[1]
        assert set(interval) <= set(values)

    @given(values=enough)
    def test_more_confidence_is_never_narrower(self, values: list[float]) -> None:
        wide, narrow = median_ci(values, 0.95), median_ci(values, 0.80)
        assert wide is not None
        assert narrow is not None
        assert wide[0] <= narrow[0] <= narrow[1] <= wide[1]

    @given(values=st.lists(seconds, max_size=MIN_SAMPLES_FOR_CI - 1))
    def test_fewer_than_six_samples_have_none(self, values: list[float]) -> None:
        assert median_ci(values) is None

    def test_where_the_extremes_are_not_enough_there_is_none(self) -> None:
        assert median_ci([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], confidence=0.99) is None

    @pytest.mark.parametrize(
        ("n", "ranks"), [(6, (1, 6)), (10, (2, 9)), (20, (6, 15)), (100, (40, 61))]
    )
    def test_its_ranks_are_the_tabulated_ones(self, n: int, ranks: tuple[int, int]) -> None:
        # source: tables of nonparametric confidence intervals of the median, 95 %
        assert median_ci([float(value) for value in range(1, n + 1)]) == ranks

    @pytest.mark.parametrize("n", [6, 11, 20, 50, 200])
    @pytest.mark.parametrize("draw", ["normal", "lognormal", "exponential"])
    def test_it_covers_the_true_median_as_often_as_it_says(self, n: int, draw: str) -> None:
        # GIVEN 2000 series from a distribution whose median is known
        generator = np.random.default_rng(seed=n)
        draws: dict[str, tuple[Callable[..., np.ndarray], float]] = {
            "normal": (generator.standard_normal, 0.0),
            "lognormal": (lambda size: generator.lognormal(0.0, 0.5, size), 1.0),
            "exponential": (generator.standard_exponential, math.log(2)),
        }
        make, truth = draws[draw]
        # WHEN each gets its interval
        intervals = [median_ci(list(series)) for series in make(size=(2000, n))]
        # THEN 95 % of them, within the error of counting, hold the truth
        covered = np.mean([low <= truth <= high for low, high in filter(None, intervals)])
        assert covered >= 0.935


class TestDrift:
    @given(values=st.lists(seconds, min_size=9, max_size=60), scale=st.floats(1e-3, 1e3))
    def test_it_does_not_depend_on_the_unit(self, values: list[float], scale: float) -> None:
        scaled = drift([value * scale for value in values])
        assert scaled == pytest.approx(drift(values), rel=1e-6, abs=1e-9)

    def test_it_is_the_change_between_the_outer_thirds(self) -> None:
        assert drift([1.0] * 10 + [7.0] * 10 + [1.5] * 10) == pytest.approx(0.5)

    @pytest.mark.parametrize("values", [[1.0] * 8, [0.0] * 9, []])
    def test_it_needs_nine_samples_and_some_time(self, values: list[float]) -> None:
        assert drift(values) is None


class TestLine:
    @given(
        slope=st.floats(1e-3, 1e3),
        intercept=st.floats(0.0, 1e3),
        x=st.lists(st.integers(1, 10_000), min_size=2, max_size=12, unique=True),
    )
    def test_an_exact_line_is_found(self, slope: float, intercept: float, x: list[int]) -> None:
        fit = fit_line(x, [intercept + slope * each for each in x])
        assert fit is not None
        scale = intercept + slope * max(x)
        assert fit.slope == pytest.approx(slope, rel=1e-4, abs=1e-9 * scale)
        assert fit.intercept == pytest.approx(intercept, rel=1e-4, abs=1e-6 * scale)
        assert fit.r_squared == pytest.approx(1.0, abs=1e-6)

    def test_a_relative_error_counts_the_same_at_every_size(self) -> None:
        # GIVEN microseconds that fit a line to a percent, and a second off by a tenth
        x = [64.0, 256.0, 1024.0, 4096.0]
        y = [64.64, 253.4, 1034.0, 4500.0]
        # WHEN a line is laid through them THEN the small ones are not sacrificed to the large
        fit = fit_line(x, y)
        assert fit is not None
        assert fit.slope * 64 + fit.intercept == pytest.approx(64, rel=0.05)

    @given(
        points=st.lists(
            st.tuples(st.integers(1, 1000), st.floats(0.1, 100.0)),
            min_size=2,
            max_size=12,
            unique_by=lambda point: point[0],
        )
    )
    def test_what_it_explains_is_a_share(self, points: list[tuple[int, float]]) -> None:
        fit = fit_line([x for x, _ in points], [y for _, y in points])
        assert fit is not None
        assert -1e-6 <= fit.r_squared <= 1 + 1e-6

    @pytest.mark.parametrize(
        ("x", "y"), [([], []), ([1.0], [1.0]), ([2.0, 2.0], [1.0, 3.0]), ([1.0, 2.0], [0.0, 1.0])]
    )
    def test_without_two_points_there_is_no_line(self, x: list[float], y: list[float]) -> None:
        assert fit_line(x, y) is None


class TestRatio:
    @settings(max_examples=40)
    @given(values=enough, scale=st.floats(1e-3, 1e3))
    def test_a_series_against_itself_is_one(self, values: list[float], scale: float) -> None:
        # GIVEN a series and the same, so many times as slow
        ratio = ratio_of_medians([value * scale for value in values], values, resamples=200)
        # THEN the ratio is that factor, and the interval holds it
        assert ratio.value == pytest.approx(scale)
        assert ratio.ci is not None
        assert ratio.ci[0] <= scale * (1 + 1e-9)
        assert ratio.ci[1] >= scale * (1 - 1e-9)

    def test_few_samples_have_no_interval(self) -> None:
        assert ratio_of_medians([2.0] * 5, [1.0] * 50) == Ratio(value=2.0, ci=None)

    def test_its_interval_covers_the_true_ratio(self) -> None:
        # GIVEN 300 pairs of series, one 1.3 times as slow
        generator = np.random.default_rng(7)
        hits = 0
        for _ in range(300):
            slow, fast = 1.3 * generator.lognormal(0, 0.1, 30), generator.lognormal(0, 0.1, 30)
            ratio = ratio_of_medians(list(slow), list(fast), resamples=300)
            assert ratio.ci is not None
            hits += ratio.ci[0] <= 1.3 <= ratio.ci[1]
        # THEN about 95 % of the intervals hold that ratio
        assert hits / 300 >= 0.92

    def test_the_same_series_give_the_same_interval(self) -> None:
        first, second = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5], [0.9, 0.8, 1.0, 1.1, 0.7, 0.9]
        assert ratio_of_medians(first, second) == ratio_of_medians(first, second)


class TestJudgement:
    @pytest.mark.parametrize(
        ("interval", "judgement"),
        [
            ((0.80, 0.90), "FASTER"),
            ((1.10, 1.20), "SLOWER"),
            ((0.97, 1.03), "SAME"),
            ((0.90, 1.00), "INCONCLUSIVE"),
            ((1.00, 1.10), "INCONCLUSIVE"),
            ((0.50, 2.00), "INCONCLUSIVE"),
            ((0.95, 1.05), "SAME"),
            (None, "INCONCLUSIVE"),
        ],
    )
    def test_only_an_interval_clear_of_the_noise_is_a_change(
        self, interval: tuple[float, float] | None, judgement: str
    ) -> None:
        assert judge(Ratio(value=1.0, ci=interval), noise=0.05) == judgement

    @given(low=st.floats(0.1, 10.0), width=st.floats(0.0, 1.0), noise=st.floats(0.0, 0.5))
    def test_more_noise_never_makes_a_change(self, low: float, width: float, noise: float) -> None:
        ratio = Ratio(value=low, ci=(low, low + width))
        strict, lenient = judge(ratio, noise), judge(ratio, noise + 0.1)
        assert lenient in ("SAME", "INCONCLUSIVE", strict)


class TestFlags:
    def test_a_quiet_series_has_none(self) -> None:
        assert quality_flags([1.0, 1.001, 0.999] * 10) == []

    def test_none_without_samples(self) -> None:
        assert quality_flags([]) == []

    def test_few_samples(self) -> None:
        assert codes([1.0] * 19) == {"few_samples"}
        assert codes([1.0]) == {"few_samples"}

    def test_noise(self) -> None:
        assert "noisy" in codes([1.0, 1.2] * 20)

    def test_outliers_are_counted(self) -> None:
        flags = quality_flags([1.0, 1.01] * 20 + [5.0, 6.0])
        assert "outliers: 2 of 42 samples beyond 3 IQR" in flags

    def test_a_tick_of_the_timer_is_no_outlier(self) -> None:
        # GIVEN a timer so coarse that all samples but one are equal
        assert quality_flags([100.0] * 30 + [100.5] + [100.0] * 9) == []

    def test_a_slow_first_sample(self) -> None:
        assert "slow_first_sample" in codes([1.5] + [1.0, 1.001] * 20)

    def test_drift_either_way(self) -> None:
        rising = [1 + 0.002 * i for i in range(30)]
        assert "drift" in codes(rising)
        assert "drift" in codes(rising[::-1])

    @given(values=samples, scale=st.floats(1e-3, 1e3))
    def test_they_do_not_depend_on_the_unit(self, values: list[float], scale: float) -> None:
        # scaled by a power of two, which is exact
        exact = 2.0 ** round(math.log2(scale))
        assert quality_flags([value * exact for value in values]) == quality_flags(values)
