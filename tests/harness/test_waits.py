"""Waits for the device, on a simulated one whose every wait is known."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from simulation import Kernel, Steps, functional
from torch import nn

from qwenprof.harness.module_timer import ModuleTimer, Pass
from qwenprof.harness.probe import tree
from qwenprof.harness.simulated import SimulatedDevice
from qwenprof.harness.waits import host_alone_s, most_behind_s, waits

LONG_S, SHORT_S = 1e-3, 1e-6


def passes(
    device: SimulatedDevice, model: nn.Module, count: int = 5, *, drained: bool = False
) -> list[Pass]:
    timer = ModuleTimer(device, tree(model), drained=drained)
    with timer.attached():
        for _ in range(count):
            model()
    return timer.collect()


def found(device: SimulatedDevice, model: nn.Module) -> dict[str, int]:
    """The parts that wait, and how often."""
    model()
    told = waits(passes(device, model), passes(device, model, drained=True))
    assert told is not None
    return {path: number for path, number in told.items() if number}


def tower(device: SimulatedDevice, depth: int, *own: Callable[[], None]) -> nn.Module:
    """Blocks of a long kernel, whatever code is given, and another long kernel."""
    blocks = [
        Steps([functional(device, LONG_S), *own, functional(device, LONG_S)]) for _ in range(depth)
    ]
    return Steps(blocks, blocks=nn.ModuleList(blocks))


def test_a_wait_in_every_block_is_found_in_every_block() -> None:
    # GIVEN blocks that wait for the device after their first kernel WHEN waits are looked for
    device = SimulatedDevice()
    model = tower(device, 4, device.synchronize)
    # THEN there is one in each, but in the first, before which this forward has launched nothing
    assert found(device, model) == {"blocks.1": 1, "blocks.2": 1, "blocks.3": 1}


def test_a_wait_is_found_in_whose_own_code_it_is() -> None:
    # GIVEN a wait between two children
    device = SimulatedDevice()
    first, second = Kernel(device, LONG_S), Kernel(device, LONG_S)
    inner = Steps([first, device.synchronize, second], first=first, second=second)
    before = Kernel(device, LONG_S)
    # WHEN it is looked for THEN it is their parent's
    assert found(device, Steps([before, inner], before=before, inner=inner)) == {"inner": 1}


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_host_that_runs_ahead_waits_nowhere(noise: float) -> None:
    device = SimulatedDevice(noise=noise)
    assert found(device, tower(device, 4)) == {}


def test_slow_code_of_the_host_is_no_wait() -> None:
    # GIVEN blocks whose own Python takes as long as half a kernel
    device = SimulatedDevice()
    slow = tower(device, 4, lambda: device.host_work(LONG_S / 2))
    # WHEN waits are looked for THEN there are none: it takes that long with an idle device too
    assert found(device, slow) == {}


def test_a_launch_bound_model_waits_nowhere() -> None:
    device = SimulatedDevice(launch_s=200e-6)
    blocks = [Steps([functional(device, SHORT_S)] * 20) for _ in range(4)]
    assert found(device, Steps(blocks, blocks=nn.ModuleList(blocks))) == {}


def test_a_full_queue_is_no_wait() -> None:
    # GIVEN a queue of eight launches and blocks of two, which are far more than the host is ahead
    device = SimulatedDevice(queue_depth=8)
    # WHEN waits are looked for THEN that the host is held up by the queue is none
    assert found(device, tower(device, 12)) == {}


def test_work_of_the_forward_before_does_not_count() -> None:
    # GIVEN a forward that waits before it has launched anything
    device = SimulatedDevice()
    blocks = tower(device, 3)
    # WHEN it is repeated THEN it waits for the one before, which is not in the middle of it
    assert found(device, Steps([device.synchronize, blocks], blocks=blocks)) == {}


def test_the_host_alone_takes_what_its_launches_take() -> None:
    device = SimulatedDevice()
    model = tower(device, 4, lambda: device.host_work(100e-6))

    alone_s = host_alone_s(passes(device, model, drained=True))

    assert alone_s == pytest.approx(4 * (2 * device.launch_s + 100e-6))
    behind_s = most_behind_s(passes(device, model))
    assert behind_s == pytest.approx(8 * LONG_S, rel=0.1)


def test_a_device_without_a_queue_is_never_behind() -> None:
    device = SimulatedDevice(asynchronous=False)
    (only,) = passes(device, tower(device, 2), 1)
    assert {time.host_s for time in only.values()} == {None}
    assert not any(time.stretches for time in only.values())
    assert most_behind_s([only]) == 0.0


def test_without_passes_nothing_is_known() -> None:
    device = SimulatedDevice()
    some = passes(device, tower(device, 1), 1)
    assert waits([], some) is waits(some, []) is None
    assert host_alone_s([]) is most_behind_s([]) is None


def test_code_that_did_not_run_alike_is_left_out() -> None:
    # GIVEN a model that calls its child once more in every pass
    device = SimulatedDevice()
    child = Kernel(device, LONG_S)
    model = Steps([], child=child)
    model.steps = steps = [child]
    queued = []
    for _ in range(2):
        steps.append(child)
        queued += passes(device, model, 1)
    # WHEN waits are looked for THEN neither is compared with anything
    assert waits(queued, passes(device, model, 1, drained=True)) == {}
