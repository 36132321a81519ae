"""Operations timed in turn, for a ratio that drift does not bias."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from simulation import AMPLE, LAUNCH_S, SYNC_S, Operation, median_host_s, within_1_percent

from qwenprof.harness.plan import Allowance
from qwenprof.harness.sampler import Case, Sampler
from qwenprof.harness.simulated import SimulatedDevice


def test_operations_take_turns_forwards_and_backwards() -> None:
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
def test_drift_does_not_bias_the_ratio(drift_per_s: float) -> None:
    # GIVEN a device that gets slower or faster all the time, and one operation twice another
    device = SimulatedDevice(drift_per_s=drift_per_s, noise=0.02)
    calls = {"A": Operation(device, 4e-3), "B": Operation(device, 2e-3)}
    # WHEN they are compared
    together = Sampler(device).compare(calls, AMPLE)
    # THEN their ratio is true
    assert together["A"].median_s / together["B"].median_s == within_1_percent(2.0)


def test_one_after_the_other_drift_would_bias_the_ratio() -> None:
    # GIVEN the same drift and the same operations
    device = SimulatedDevice(drift_per_s=0.05, noise=0.02)
    sampler = Sampler(device)
    # WHEN they are measured one after the other
    alone = [sampler.measure(Operation(device, kernel_s), AMPLE) for kernel_s in (4e-3, 2e-3)]
    # THEN the ratio is off: what the turns are for
    assert alone[0].median_s / alone[1].median_s != within_1_percent(2.0)


def test_a_slow_operation_beside_a_fast_one() -> None:
    # GIVEN a patch embedding of 16 s and a linear layer of 0.3 ms
    device = SimulatedDevice()
    slow, fast = Operation(device, 16.0), Operation(device, 0.3e-3)
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


def test_two_slow_operations() -> None:
    device = SimulatedDevice()
    calls = {"A": Operation(device, 16.0), "B": Operation(device, 8.0)}
    timings = Sampler(device).compare(calls, Allowance(case_s=6.0, limit_s=36.0))
    # THEN the second call of the one that still fits into the limit is made
    assert sorted(calls[key].calls for key in "AB") == [1, 2]
    assert [timings[key].n for key in "AB"] == [1, 1]


def test_contexts_are_entered_and_not_timed() -> None:
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


def test_the_result_has_the_order_of_the_question() -> None:
    device = SimulatedDevice()
    calls = {"z": Operation(device, 9.0), "a": Operation(device, 1e-3)}
    timings = Sampler(device).compare(calls, Allowance(case_s=4.0, limit_s=30.0))
    assert list(timings) == ["z", "a"]
