"""The host's clock, and what every clock must be able to do."""

from __future__ import annotations

import pytest
import torch

from qwenprof.harness.clock import AcceleratorClock, Clock, HostClock, clock_for
from qwenprof.harness.simulated import SimulatedDevice


@pytest.mark.parametrize("clock", [HostClock(), SimulatedDevice()])
def test_time_and_marks_never_run_backwards(clock: Clock) -> None:
    # GIVEN a clock WHEN it is read and marked in turn
    before_s, first = clock.now_s(), clock.mark()
    second, after_s = clock.mark(), clock.now_s()
    clock.synchronize()
    # THEN later is not earlier
    assert after_s >= before_s
    assert clock.elapsed_s(first, second) >= 0
    clock.release(first, second)


def test_the_host_clock_reads_seconds() -> None:
    # GIVEN two marks whose distance is known WHEN it is asked for THEN it is in seconds
    assert HostClock().elapsed_s(1_000_000_000, 3_500_000_000) == pytest.approx(2.5)


def test_a_cpu_has_no_queue() -> None:
    clock = clock_for(torch.device("cpu"))
    assert isinstance(clock, HostClock)
    assert not clock.asynchronous


@pytest.mark.gpu
def test_events_measure_the_accelerator() -> None:
    # GIVEN a GPU and a matrix product
    device = torch.device("cuda")
    clock = clock_for(device)
    assert isinstance(clock, AcceleratorClock)
    matrix = torch.rand(2048, 2048, device=device)
    # WHEN one and then ten of them are marked on the device's timeline
    marks = []
    for count in (3, 1, 10):
        start = clock.mark()
        for _ in range(count):
            torch.mm(matrix, matrix)
        marks.append((start, clock.mark()))
    clock.synchronize()
    one_s, ten_s = (clock.elapsed_s(*pair) for pair in marks[1:])
    # THEN ten take longer than one, and released events are used again
    assert ten_s > one_s > 0
    clock.release(*marks[0])
    assert clock.mark() in marks[0]


class TestSimulatedDevice:
    def test_the_host_runs_ahead_of_the_device(self) -> None:
        # GIVEN a device with a queue WHEN ten kernels are launched
        device = SimulatedDevice(launch_s=1.0, sync_s=0.5)
        start = device.mark()
        for _ in range(10):
            device.kernel(5.0)
        # THEN the host is done after the launches, and the device after the kernels
        assert device.now_s() == 10.0
        assert device.elapsed_s(start, device.mark()) == 51.0
        device.synchronize()
        assert device.now_s() == 51.5
        assert (device.launches, device.synchronizations) == (10, 1)

    def test_a_full_queue_holds_the_host(self) -> None:
        # GIVEN a queue of two WHEN four kernels are launched
        device = SimulatedDevice(launch_s=1.0, queue_depth=2)
        for _ in range(4):
            device.kernel(10.0)
        # THEN the fourth is not accepted before the second is done
        assert device.now_s() == 21.0

    def test_noise_is_the_same_for_the_same_seed(self) -> None:
        first, again, other = (SimulatedDevice(noise=0.1, seed=seed) for seed in (1, 1, 2))
        for device in (first, again, other):
            device.kernel(1.0)
        assert first.mark() == again.mark() != other.mark()
