"""The sampler against a device whose every number is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenprof.harness import statistics
from qwenprof.harness.plan import Allowance
from qwenprof.harness.sampler import Case, Rules, Sampler, Timing
from qwenprof.harness.simulated import SimulatedDevice

AMPLE = Allowance(case_s=60.0, limit_s=200.0)
LAUNCH_S, SYNC_S = 5e-6, 10e-6

Make = Callable[..., Any]


def within_1_percent(expected: float) -> Any:
    return pytest.approx(expected, rel=0.01)


def median_host_s(timing: Timing) -> float:
    assert timing.host is not None
    return statistics.median(timing.host.values)


def median_wall_s(timing: Timing) -> float:
    assert timing.wall is not None
    return statistics.median(timing.wall.values)


def codes(timing: Timing) -> set[str]:
    return {flag.partition(":")[0] for flag in timing.device.flags}


class TestTruth:
    @pytest.mark.parametrize("kernel_s", [20e-6, 50e-6, 200e-6, 1e-3, 30e-3, 0.2, 1.0])
    def test_the_time_of_a_gpu_bound_operation_is_its_kernel_time(
        self, operation: Make, kernel_s: float
    ) -> None:
        # GIVEN an operation of one kernel that takes longer than its launch
        device = SimulatedDevice()
        # WHEN it is timed
        timing = Sampler(device).measure(operation(device, kernel_s), AMPLE)
        # THEN its device time is the kernel's, whatever launch and synchronisation cost
        assert timing.median_s == within_1_percent(kernel_s)
        assert timing.n >= 20

    def test_host_and_wall_time_are_kept_apart_from_device_time(self, operation: Make) -> None:
        # GIVEN 40 launches that the host is done with long before the device is
        device = SimulatedDevice()
        # WHEN they are timed
        timing = Sampler(device).measure(operation(device, 100e-6, launches=40), AMPLE)
        # THEN each of the three times is its own
        assert timing.median_s == within_1_percent(4e-3)
        assert median_host_s(timing) == within_1_percent(40 * LAUNCH_S)
        assert median_wall_s(timing) == within_1_percent(LAUNCH_S + 4e-3 + SYNC_S)
        assert timing.one_call_s == median_wall_s(timing)

    def test_a_launch_bound_operation_takes_what_its_launches_take(self, operation: Make) -> None:
        # GIVEN many kernels, each shorter than the launch of the next
        device = SimulatedDevice()
        # WHEN they are timed
        timing = Sampler(device).measure(operation(device, 1e-6, launches=100), AMPLE)
        # THEN device time is the host's launch rate, and the host's share gives it away
        assert timing.median_s == within_1_percent(100 * LAUNCH_S)
        assert median_host_s(timing) >= 0.9 * timing.median_s

    def test_a_gpu_bound_operation_is_not_taken_for_a_launch_bound_one(
        self, operation: Make
    ) -> None:
        device = SimulatedDevice()
        timing = Sampler(device).measure(operation(device, 50e-6), AMPLE)
        assert median_host_s(timing) < 0.2 * timing.median_s

    def test_a_synchronisation_within_the_operation_is_part_of_its_time(self) -> None:
        # GIVEN an operation that waits for its first kernel before it launches its second
        device = SimulatedDevice()

        def call() -> None:
            device.kernel(1e-3)
            device.synchronize()
            device.kernel(1e-3)

        # WHEN it is timed
        timing = Sampler(device).measure(call, AMPLE)
        # THEN the device's idleness in between counts
        assert timing.median_s == within_1_percent(2e-3 + SYNC_S + LAUNCH_S)

    @pytest.mark.parametrize("queue_depth", [1, 8, 64])
    def test_a_full_queue_does_not_change_the_device_time(
        self, operation: Make, queue_depth: int
    ) -> None:
        # GIVEN a queue that is shorter than the operation, so that the host has to wait
        device = SimulatedDevice(queue_depth=queue_depth)
        # WHEN the operation is timed
        timing = Sampler(device).measure(operation(device, 50e-6, launches=100), AMPLE)
        # THEN its device time is the same
        assert timing.median_s == within_1_percent(5e-3)

    def test_without_a_queue_there_is_one_time_and_it_includes_the_launch(
        self, operation: Make
    ) -> None:
        # GIVEN a device that works while the host waits, as a CPU does
        device = SimulatedDevice(asynchronous=False)
        # WHEN an operation is timed
        timing = Sampler(device).measure(operation(device, 1e-3), AMPLE)
        # THEN there is no host time beside the device time
        assert timing.median_s == within_1_percent(1e-3 + LAUNCH_S)
        assert timing.host is None
        assert timing.wall is None
        assert timing.one_call_s == timing.median_s

    @pytest.mark.parametrize("seed", range(5))
    def test_noise_is_flagged_and_does_not_move_the_median(
        self, operation: Make, seed: int
    ) -> None:
        # GIVEN kernels whose times scatter by a tenth
        device = SimulatedDevice(noise=0.1, seed=seed)
        # WHEN an operation is timed
        timing = Sampler(device).measure(operation(device, 1e-3), AMPLE)
        # THEN the median holds, nothing was dropped, and the reader is told
        assert timing.median_s == within_1_percent(1e-3)
        assert "noisy" in codes(timing)
        assert timing.ci_s is not None
        assert timing.ci_s[0] <= timing.median_s <= timing.ci_s[1]

    def test_drift_is_flagged(self, operation: Make) -> None:
        # GIVEN a device that slows down by a fifth a second, as one that gets hot
        device = SimulatedDevice(drift_per_s=0.2)
        # WHEN an operation is timed
        timing = Sampler(device).measure(operation(device, 2e-3), AMPLE)
        # THEN the flag says so
        assert "drift" in codes(timing)

    def test_a_steady_operation_has_no_flags(self, operation: Make) -> None:
        device = SimulatedDevice()
        timing = Sampler(device).measure(operation(device, 1e-3), AMPLE)
        assert timing.device.flags == []

    @pytest.mark.parametrize("case_s", [1e-3, 5e-3, 20e-3])
    def test_no_sample_of_a_short_operation_contains_a_launch_from_idle(
        self, operation: Make, case_s: float
    ) -> None:
        # GIVEN a launch that costs a tenth of the kernel, and hardly any time
        device = SimulatedDevice(launch_s=10e-6)
        allowance = Allowance(case_s=case_s, limit_s=case_s)
        # WHEN the operation is timed until the budget ends
        timing = Sampler(device).measure(operation(device, 100e-6), allowance)
        # THEN even the last sample has no launch in it
        assert max(timing.device.values) == within_1_percent(100e-6)


class TestFirstCall:
    def test_it_is_kept_apart(self, operation: Make) -> None:
        # GIVEN an operation that tunes itself for 2 s when first called
        device = SimulatedDevice()
        # WHEN it is timed
        timing = Sampler(device).measure(operation(device, 1e-3, first_s=2.0), AMPLE)
        # THEN that is the first call's time and nobody else's
        assert timing.first_call_s == within_1_percent(2.001)
        assert max(timing.device.values) == within_1_percent(1e-3)

    @pytest.mark.parametrize("first_s", [0.1, 0.3, 0.9, 1.1, 5.0, 30.0])
    def test_a_long_one_does_not_make_the_operation_a_slow_one(
        self, operation: Make, first_s: float
    ) -> None:
        # GIVEN a budget of 1 s, and a first call that takes much of it or far more than it
        device = SimulatedDevice()
        short = operation(device, 200e-6, first_s=first_s)
        # WHEN the operation is timed
        timing = Sampler(device).measure(short, Allowance(case_s=1.0, limit_s=200.0))
        # THEN it is known as well as any other, and without a launch from idle in its samples
        assert timing.first_call_s == within_1_percent(first_s + 215e-6)
        assert timing.n >= 20
        assert max(timing.device.values) == within_1_percent(200e-6)
        assert "slow_op" not in codes(timing)

    def test_it_warms_up_until_calls_agree(self) -> None:
        # GIVEN an operation that needs thirty calls to reach its speed
        device = SimulatedDevice()
        calls = 0

        def call() -> None:
            nonlocal calls
            calls += 1
            device.kernel(1e-3 * (1 + max(0, 30 - calls)))

        # WHEN it is timed
        timing = Sampler(device).measure(call, AMPLE)
        # THEN none of the slower calls is among the samples
        assert max(timing.device.values) == within_1_percent(1e-3)


class TestSlowOperations:
    @pytest.mark.parametrize("asynchronous", [True, False])
    @pytest.mark.parametrize("kernel_s", [7.0, 16.0, 59.0])
    def test_a_slow_operation_is_called_exactly_twice(
        self, operation: Make, kernel_s: float, asynchronous: bool
    ) -> None:
        # GIVEN an operation that exceeds its case's budget
        device = SimulatedDevice(asynchronous=asynchronous)
        slow = operation(device, kernel_s)
        # WHEN it is timed
        timing = Sampler(device).measure(slow, Allowance(case_s=6.0, limit_s=150.0))
        # THEN it runs twice, never a hundred times, and claims no confidence
        assert slow.calls == 2
        assert timing.median_s == within_1_percent(kernel_s)
        assert timing.n == 1
        assert timing.ci_s is None
        assert timing.device.stop_reason == "slow_op"
        assert {"slow_op", "few_samples"} <= codes(timing)

    def test_above_a_minute_it_is_called_once(self, operation: Make) -> None:
        # GIVEN an operation of 61 s and all the time in the world
        device = SimulatedDevice()
        slow = operation(device, 61.0)
        # WHEN it is timed
        timing = Sampler(device).measure(slow, Allowance(case_s=6.0, limit_s=1e6))
        # THEN its first call is all there is
        assert slow.calls == 1
        assert timing.median_s == timing.first_call_s == within_1_percent(61.0)
        assert timing.device.stop_reason == "slow_op"
        assert {"slow_op", "few_samples"} <= codes(timing)
        assert timing.host is None

    def test_there_is_no_second_call_beyond_the_limit(self, operation: Make) -> None:
        # GIVEN a second call that would end after the limit
        device = SimulatedDevice()
        slow = operation(device, 16.0)
        # WHEN the operation is timed
        timing = Sampler(device).measure(slow, Allowance(case_s=6.0, limit_s=31.0))
        # THEN it is not made
        assert slow.calls == 1
        assert timing.n == 1

    def test_a_storm_of_launches_is_slow_too(self, operation: Make) -> None:
        # GIVEN two million launches of nothing, as a convolution that loops over patches does
        device = SimulatedDevice()
        storm = operation(device, 1e-7, launches=200_000)
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
    def test_it_stops_once_the_median_is_known(self, operation: Make) -> None:
        device = SimulatedDevice()
        timing = Sampler(device).measure(operation(device, 1e-3), AMPLE)
        assert timing.device.stop_reason == "converged"
        assert timing.n * timing.median_s >= 0.3

    def test_it_stops_at_the_most_samples(self, operation: Make) -> None:
        # GIVEN noise that no thousand samples can beat
        device = SimulatedDevice(noise=0.5)
        timing = Sampler(device).measure(operation(device, 1e-3), AMPLE)
        # THEN it gives up after a thousand and says what that means
        assert timing.device.stop_reason == "max_samples"
        assert timing.n == 1000
        assert "max_samples" in codes(timing)

    def test_it_stops_at_the_budget(self, operation: Make) -> None:
        # GIVEN noise, and less time than it takes to average it out
        device = SimulatedDevice(noise=0.2)
        timing = Sampler(device).measure(
            operation(device, 10e-3), Allowance(case_s=1.0, limit_s=1.0)
        )
        # THEN the budget is the reason, and the reader is told
        assert timing.device.stop_reason == "budget"
        assert "budget" in codes(timing)
        assert device.now_s() <= 1.1

    def test_a_median_that_is_known_when_the_budget_ends_is_not_flagged(
        self, operation: Make
    ) -> None:
        # GIVEN a steady operation and too little time for twenty samples
        device = SimulatedDevice()
        timing = Sampler(device).measure(
            operation(device, 30e-3), Allowance(case_s=0.5, limit_s=0.5)
        )
        # THEN only their number is a matter of concern
        assert timing.device.stop_reason == "budget"
        assert codes(timing) == {"few_samples"}

    def test_a_long_operation_is_called_no_more_than_its_budget_allows(
        self, operation: Make
    ) -> None:
        # GIVEN a budget that few calls fill
        device = SimulatedDevice()
        long = operation(device, 1.0)
        timing = Sampler(device).measure(long, Allowance(case_s=3.5, limit_s=60.0))
        # THEN the last call begins within it, and every call but the first is a sample
        assert long.calls == 4
        assert timing.n == 3

    def test_short_operations_run_in_a_loop_and_say_so(self, operation: Make) -> None:
        device = SimulatedDevice()
        timing = Sampler(device).measure(operation(device, 20e-6), AMPLE)
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


class TestComparison:
    def test_operations_take_turns_forwards_and_backwards(self) -> None:
        # GIVEN two operations that write down every stretch of calls made in one context
        device = SimulatedDevice(noise=0.3)
        stretches: list[list[str]] = []

        def case(label: str) -> Case:
            @contextmanager
            def around() -> Iterator[None]:
                stretches.append([])
                yield

            def call() -> None:
                stretches[-1].append(label)
                device.kernel(1e-3)

            return Case(call=call, around=around)

        # WHEN they are compared
        Sampler(device).compare({"A": case("A"), "B": case("B")}, AMPLE)
        # THEN first calls come first, and then the order is A B B A A B B A ...
        assert stretches[:2] == [["A"], ["B"]]
        order = "".join(calls[0] for calls in stretches if len(calls) > 1)
        assert len(order) >= 8
        assert order == ("ABBA" * len(order))[: len(order)]

    @pytest.mark.parametrize("drift_per_s", [0.02, 0.05, -0.02])
    def test_drift_does_not_bias_the_ratio(self, operation: Make, drift_per_s: float) -> None:
        # GIVEN a device that gets slower or faster all the time, and one operation twice another
        device = SimulatedDevice(drift_per_s=drift_per_s, noise=0.02)
        calls = {"A": operation(device, 4e-3), "B": operation(device, 2e-3)}
        # WHEN they are compared
        together = Sampler(device).compare(calls, AMPLE)
        # THEN their ratio is true
        assert together["A"].median_s / together["B"].median_s == within_1_percent(2.0)

    def test_one_after_the_other_drift_would_bias_the_ratio(self, operation: Make) -> None:
        # GIVEN the same drift and the same operations
        device = SimulatedDevice(drift_per_s=0.05, noise=0.02)
        sampler = Sampler(device)
        # WHEN they are measured one after the other
        alone = [sampler.measure(operation(device, kernel_s), AMPLE) for kernel_s in (4e-3, 2e-3)]
        # THEN the ratio is off: what the turns are for
        assert alone[0].median_s / alone[1].median_s != within_1_percent(2.0)

    def test_a_slow_operation_beside_a_fast_one(self, operation: Make) -> None:
        # GIVEN a patch embedding of 16 s and a linear layer of 0.3 ms
        device = SimulatedDevice()
        slow, fast = operation(device, 16.0), operation(device, 0.3e-3)
        # WHEN they are compared
        timings = Sampler(device).compare(
            {"Conv3d": slow, "Linear": fast}, Allowance(case_s=6.0, limit_s=60.0)
        )
        # THEN the slow one is called twice, and the fast one is known as if it were alone
        assert slow.calls == 2
        assert timings["Conv3d"].n == 1
        assert timings["Conv3d"].device.stop_reason == "slow_op"
        assert timings["Linear"].device.stop_reason == "converged"
        assert timings["Linear"].median_s == within_1_percent(0.3e-3)
        assert timings["Linear"].ci_s is not None
        assert median_host_s(timings["Linear"]) == within_1_percent(LAUNCH_S)

    def test_two_slow_operations(self, operation: Make) -> None:
        device = SimulatedDevice()
        calls = {"A": operation(device, 16.0), "B": operation(device, 8.0)}
        timings = Sampler(device).compare(calls, Allowance(case_s=6.0, limit_s=36.0))
        # THEN the second call of the one that still fits into the limit is made
        assert [calls[key].calls for key in "AB"] == [1, 2] or [
            calls[key].calls for key in "AB"
        ] == [2, 1]
        assert [timings[key].n for key in "AB"] == [1, 1]

    def test_contexts_are_entered_and_not_timed(self) -> None:
        # GIVEN two operations that may only be called within their own, expensive context
        device = SimulatedDevice()
        inside: list[str] = []

        def case(label: str, kernel_s: float) -> Case:
            @contextmanager
            def around() -> Iterator[None]:
                device.host_work(5e-3)
                device.kernel(7e-3)
                inside.append(label)
                yield
                inside.pop()
                device.host_work(5e-3)

            def call() -> None:
                assert inside == [label]
                device.kernel(kernel_s)

            return Case(call=call, around=around)

        # WHEN they are compared
        timings = Sampler(device).compare({"A": case("A", 2e-3), "B": case("B", 1e-3)}, AMPLE)
        # THEN the context was there for every call and in none of the times
        assert inside == []
        for label, kernel_s in (("A", 2e-3), ("B", 1e-3)):
            assert timings[label].first_call_s == within_1_percent(kernel_s + LAUNCH_S + SYNC_S)
            assert max(timings[label].device.values) == within_1_percent(kernel_s)
            assert median_host_s(timings[label]) == within_1_percent(LAUNCH_S)

    def test_the_result_has_the_order_of_the_question(self, operation: Make) -> None:
        device = SimulatedDevice()
        calls = {"z": operation(device, 9.0), "a": operation(device, 1e-3)}
        timings = Sampler(device).compare(calls, Allowance(case_s=4.0, limit_s=30.0))
        assert list(timings) == ["z", "a"]


def test_a_timing_becomes_series_of_a_record(operation: Make) -> None:
    # GIVEN a timing on an accelerator
    device = SimulatedDevice()
    timing = Sampler(device).measure(operation(device, 1e-3, first_s=0.5), AMPLE)
    # WHEN it is named
    series = timing.series("forward")
    # THEN device, first call, host and wall time have names of their own, in seconds
    assert list(series) == [
        "forward",
        "forward/first_call",
        "forward/host_enqueue",
        "forward/wall",
    ]
    assert {each.unit for each in series.values()} == {"s"}
    assert series["forward"].values == timing.device.values
    assert series["forward/first_call"].values == [timing.first_call_s]


def test_rules_can_be_changed(operation: Make) -> None:
    device = SimulatedDevice(noise=0.5)
    rules = Rules(max_samples=40, min_sample_s=0.0)
    timing = Sampler(device, rules).measure(operation(device, 10e-6), AMPLE)
    assert timing.n == 40
    assert "inner_loop" not in codes(timing)
