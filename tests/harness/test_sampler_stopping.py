"""When the sampler stops, and that it never runs a slow operation a hundred times."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulation import (
    AMPLE,
    Operation,
    codes,
    median_host_s,
    within_1_percent,
)

from qwenprof.harness.plan import Allowance
from qwenprof.harness.sampler import Case, Sampler
from qwenprof.harness.simulated import SimulatedDevice


class TestSlowOperations:
    @pytest.mark.parametrize("asynchronous", [True, False])
    @pytest.mark.parametrize("kernel_s", [7.0, 16.0, 59.0])
    def test_a_slow_operation_is_called_exactly_twice(
        self, kernel_s: float, asynchronous: bool
    ) -> None:
        # GIVEN an operation that exceeds its case's budget
        device = SimulatedDevice(asynchronous=asynchronous)
        slow = Operation(device, kernel_s)
        # WHEN it is timed
        timing = Sampler(device).measure(slow, Allowance(case_s=6.0, limit_s=150.0))
        # THEN it runs twice, never a hundred times, and claims no confidence
        assert slow.calls == 2
        assert timing.median_s == within_1_percent(kernel_s)
        assert timing.n == 1
        assert timing.ci_s is None
        assert timing.device.stop_reason == "slow_op"
        assert {"slow_op", "few_samples"} <= codes(timing)

    def test_above_a_minute_it_is_called_once(self) -> None:
        # GIVEN an operation of 61 s and all the time in the world
        device = SimulatedDevice()
        slow = Operation(device, 61.0)
        # WHEN it is timed
        timing = Sampler(device).measure(slow, Allowance(case_s=6.0, limit_s=1e6))
        # THEN its first call is all there is
        assert slow.calls == 1
        assert timing.median_s == timing.first_call_s == within_1_percent(61.0)
        assert timing.device.stop_reason == "slow_op"
        assert {"slow_op", "few_samples"} <= codes(timing)
        assert timing.host is None

    def test_there_is_no_second_call_beyond_the_limit(self) -> None:
        # GIVEN a second call that would end after the limit
        device = SimulatedDevice()
        slow = Operation(device, 16.0)
        # WHEN the operation is timed
        timing = Sampler(device).measure(slow, Allowance(case_s=6.0, limit_s=31.0))
        # THEN it is not made
        assert slow.calls == 1
        assert timing.n == 1

    def test_a_storm_of_launches_is_slow_too(self) -> None:
        # GIVEN 200,000 launches of nothing, as of a convolution that loops over patches
        device = SimulatedDevice()
        storm = Operation(device, 1e-7, launches=200_000)
        # WHEN it is timed within less than it takes
        timing = Sampler(device).measure(storm, Allowance(case_s=0.5, limit_s=10.0))
        # THEN two calls tell its time, and that the host is to blame
        assert storm.calls == 2
        assert timing.median_s == within_1_percent(1.0)
        assert median_host_s(timing) >= 0.9 * timing.median_s

    @settings(max_examples=60, deadline=None)
    @given(
        kernel_s=st.floats(1e-3, 100.0),
        case_s=st.floats(0.1, 6.0),
        spare_s=st.floats(0.0, 300.0),
    )
    def test_a_case_never_takes_more_than_its_budget_and_two_calls(
        self, kernel_s: float, case_s: float, spare_s: float
    ) -> None:
        # GIVEN any operation and any allowance
        device = SimulatedDevice(noise=0.05)
        calls = 0

        def call() -> None:
            nonlocal calls
            calls += 1
            device.kernel(kernel_s)

        # WHEN it is timed
        Sampler(device).measure(call, Allowance(case_s=case_s, limit_s=spare_s))
        # THEN what it overruns is bounded, and so is how often a slow one is called
        assert device.now_s() <= 1.05 * case_s + 2.5 * kernel_s
        if kernel_s > 1.25 * case_s:
            assert calls <= 2


class TestStopping:
    def test_it_stops_once_the_median_is_known(self) -> None:
        device = SimulatedDevice()
        timing = Sampler(device).measure(Operation(device, 1e-3), AMPLE)
        assert timing.device.stop_reason == "converged"
        assert timing.n * timing.median_s >= 0.3

    def test_it_stops_at_the_most_samples(self) -> None:
        # GIVEN noise that no thousand samples can beat
        device = SimulatedDevice(noise=0.5)
        timing = Sampler(device).measure(Operation(device, 1e-3), AMPLE)
        # THEN it gives up after a thousand and says what that means
        assert timing.device.stop_reason == "max_samples"
        assert timing.n == 1000
        assert "max_samples" in codes(timing)

    def test_it_stops_at_the_budget(self) -> None:
        # GIVEN noise, and less time than it takes to average it out
        device = SimulatedDevice(noise=0.2)
        timing = Sampler(device).measure(
            Operation(device, 10e-3), Allowance(case_s=1.0, limit_s=1.0)
        )
        # THEN the budget is the reason, and the reader is told
        assert timing.device.stop_reason == "budget"
        assert "budget" in codes(timing)
        assert device.now_s() <= 1.1

    def test_a_median_that_is_known_when_the_budget_ends_is_not_flagged(self) -> None:
        # GIVEN a steady operation and too little time for twenty samples
        device = SimulatedDevice()
        timing = Sampler(device).measure(
            Operation(device, 30e-3), Allowance(case_s=0.5, limit_s=0.5)
        )
        # THEN only their number is a matter of concern
        assert timing.device.stop_reason == "budget"
        assert codes(timing) == {"few_samples"}

    def test_a_long_operation_is_called_no_more_than_its_budget_allows(self) -> None:
        # GIVEN a budget that few calls fill
        device = SimulatedDevice()
        long = Operation(device, 1.0)
        timing = Sampler(device).measure(long, Allowance(case_s=3.5, limit_s=60.0))
        # THEN the last call begins within it, and every call but the first is a sample
        assert long.calls == 4
        assert timing.n == 3

    def test_short_operations_run_in_a_loop_and_say_so(self) -> None:
        device = SimulatedDevice()
        timing = Sampler(device).measure(Operation(device, 20e-6), AMPLE)
        flag = next(f for f in timing.device.flags if f.startswith("inner_loop"))
        assert "mean of 3 calls" in flag

    def test_an_error_ends_the_measurement_and_leaves_the_context(self) -> None:
        # GIVEN an operation that fails at its seventh call
        device = SimulatedDevice()
        calls, inside = 0, 0

        @contextmanager
        def around() -> Iterator[None]:
            nonlocal inside
            inside += 1
            try:
                yield
            finally:
                inside -= 1

        def call() -> None:
            nonlocal calls
            calls += 1
            if calls == 7:
                raise RuntimeError("out of luck")
            device.kernel(1e-3)

        # WHEN it is timed THEN the error is the caller's, and nothing stays open
        with pytest.raises(RuntimeError, match="out of luck"):
            Sampler(device).measure(Case(call=call, around=around), AMPLE)
        assert inside == 0
