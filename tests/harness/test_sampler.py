"""The sampler against a device whose every number is known."""

from __future__ import annotations

import pytest
from simulation import (
    AMPLE,
    LAUNCH_S,
    SYNC_S,
    Operation,
    codes,
    median_host_s,
    median_wall_s,
    within_1_percent,
)

from qwenprof.harness.plan import Allowance
from qwenprof.harness.sampler import Rules, Sampler
from qwenprof.harness.simulated import SimulatedDevice


class TestTruth:
    @pytest.mark.parametrize("kernel_s", [20e-6, 50e-6, 200e-6, 1e-3, 30e-3, 0.2, 1.0])
    def test_the_time_of_a_gpu_bound_operation_is_its_kernel_time(self, kernel_s: float) -> None:
        # GIVEN an operation of one kernel that takes longer than its launch
        device = SimulatedDevice()
        # WHEN it is timed
        timing = Sampler(device).measure(Operation(device, kernel_s), AMPLE)
        # THEN its device time is the kernel's, whatever launch and synchronisation cost
        assert timing.median_s == within_1_percent(kernel_s)
        assert timing.n >= 20

    def test_host_and_wall_time_are_kept_apart_from_device_time(self) -> None:
        # GIVEN 40 launches that the host is done with long before the device is
        device = SimulatedDevice()
        # WHEN they are timed
        timing = Sampler(device).measure(Operation(device, 100e-6, launches=40), AMPLE)
        # THEN each of the three times is its own
        assert timing.median_s == within_1_percent(4e-3)
        assert median_host_s(timing) == within_1_percent(40 * LAUNCH_S)
        assert median_wall_s(timing) == within_1_percent(LAUNCH_S + 4e-3 + SYNC_S)
        assert timing.one_call_s == median_wall_s(timing)

    def test_a_launch_bound_operation_takes_what_its_launches_take(self) -> None:
        # GIVEN many kernels, each shorter than the launch of the next
        device = SimulatedDevice()
        # WHEN they are timed
        timing = Sampler(device).measure(Operation(device, 1e-6, launches=100), AMPLE)
        # THEN device time is the host's launch rate, and the host's share gives it away
        assert timing.median_s == within_1_percent(100 * LAUNCH_S)
        assert median_host_s(timing) >= 0.9 * timing.median_s

    def test_a_gpu_bound_operation_is_not_taken_for_a_launch_bound_one(self) -> None:
        device = SimulatedDevice()
        timing = Sampler(device).measure(Operation(device, 50e-6), AMPLE)
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
    def test_a_full_queue_does_not_change_the_device_time(self, queue_depth: int) -> None:
        # GIVEN a queue that is shorter than the operation, so that the host has to wait
        device = SimulatedDevice(queue_depth=queue_depth)
        # WHEN the operation is timed
        timing = Sampler(device).measure(Operation(device, 50e-6, launches=100), AMPLE)
        # THEN its device time is the same
        assert timing.median_s == within_1_percent(5e-3)

    def test_without_a_queue_there_is_one_time_and_it_includes_the_launch(self) -> None:
        # GIVEN a device that works while the host waits, as a CPU does
        device = SimulatedDevice(asynchronous=False)
        # WHEN an operation is timed
        timing = Sampler(device).measure(Operation(device, 1e-3), AMPLE)
        # THEN there is no host time beside the device time
        assert timing.median_s == within_1_percent(1e-3 + LAUNCH_S)
        assert timing.host is None
        assert timing.wall is None
        assert timing.one_call_s == timing.median_s

    @pytest.mark.parametrize("seed", range(5))
    def test_noise_is_flagged_and_does_not_move_the_median(self, seed: int) -> None:
        # GIVEN kernels whose times scatter by a tenth
        device = SimulatedDevice(noise=0.1, seed=seed)
        # WHEN an operation is timed
        timing = Sampler(device).measure(Operation(device, 1e-3), AMPLE)
        # THEN the median holds, nothing was dropped, and the reader is told
        assert timing.median_s == within_1_percent(1e-3)
        assert "noisy" in codes(timing)
        assert timing.ci_s is not None
        assert timing.ci_s[0] <= timing.median_s <= timing.ci_s[1]

    def test_drift_is_flagged(self) -> None:
        # GIVEN a device that slows down by a fifth a second, as one that gets hot
        device = SimulatedDevice(drift_per_s=0.2)
        # WHEN an operation is timed
        timing = Sampler(device).measure(Operation(device, 2e-3), AMPLE)
        # THEN the flag says so
        assert "drift" in codes(timing)

    def test_a_steady_operation_has_no_flags(self) -> None:
        device = SimulatedDevice()
        timing = Sampler(device).measure(Operation(device, 1e-3), AMPLE)
        assert timing.device.flags == []

    @pytest.mark.parametrize("case_s", [1e-3, 5e-3, 20e-3])
    def test_no_sample_of_a_short_operation_contains_a_launch_from_idle(
        self, case_s: float
    ) -> None:
        # GIVEN a launch that costs a tenth of the kernel, and hardly any time
        device = SimulatedDevice(launch_s=10e-6)
        allowance = Allowance(case_s=case_s, limit_s=case_s)
        # WHEN the operation is timed until the budget ends
        timing = Sampler(device).measure(Operation(device, 100e-6), allowance)
        # THEN even the last sample has no launch in it
        assert max(timing.device.values) == within_1_percent(100e-6)


class TestFirstCall:
    def test_it_is_kept_apart(self) -> None:
        # GIVEN an operation that tunes itself for 2 s when first called
        device = SimulatedDevice()
        # WHEN it is timed
        timing = Sampler(device).measure(Operation(device, 1e-3, first_s=2.0), AMPLE)
        # THEN that is the first call's time and nobody else's
        assert timing.first_call_s == within_1_percent(2.001)
        assert max(timing.device.values) == within_1_percent(1e-3)

    @pytest.mark.parametrize("first_s", [0.1, 0.3, 0.9, 1.1, 5.0, 30.0])
    def test_a_long_one_does_not_make_the_operation_a_slow_one(self, first_s: float) -> None:
        # GIVEN a budget of 1 s, and a first call that takes much of it or far more than it
        device = SimulatedDevice()
        short = Operation(device, 200e-6, first_s=first_s)
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


def test_a_timing_becomes_series_of_a_record() -> None:
    # GIVEN a timing on an accelerator
    device = SimulatedDevice()
    timing = Sampler(device).measure(Operation(device, 1e-3, first_s=0.5), AMPLE)
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


def test_rules_can_be_changed() -> None:
    device = SimulatedDevice(noise=0.5)
    rules = Rules(max_samples=40, min_sample_s=0.0)
    timing = Sampler(device, rules).measure(Operation(device, 10e-6), AMPLE)
    assert timing.n == 40
    assert "inner_loop" not in codes(timing)


def test_a_storm_of_small_launches_is_flagged_as_launch_bound() -> None:
    # GIVEN kernels that are shorter than their launches WHEN they are timed THEN the flag says so
    device = SimulatedDevice(launch_s=5e-6)
    timing = Sampler(device).measure(
        lambda: [device.kernel(1e-6) for _ in range(200)], Allowance(case_s=5.0, limit_s=10.0)
    )
    long = Sampler(device).measure(lambda: device.kernel(1e-2), Allowance(case_s=5.0, limit_s=10.0))
    assert any(flag.startswith("launch_bound") for flag in timing.device.flags)
    assert not any(flag.startswith("launch_bound") for flag in long.device.flags)
