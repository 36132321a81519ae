"""Operations and modules on a simulated device, whose truth is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import methodcaller
from typing import Any

import pytest
from torch import nn

from qwenprof.harness import statistics
from qwenprof.harness.module_timer import ModuleTimer, Pass
from qwenprof.harness.plan import Allowance
from qwenprof.harness.probe import Node, tree
from qwenprof.harness.sampler import Timing
from qwenprof.harness.simulated import SimulatedDevice

AMPLE = Allowance(case_s=60.0, limit_s=200.0)
LAUNCH_S, SYNC_S = 5e-6, 10e-6


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


@dataclass
class Operation:
    """A call that launches kernels and counts how often it is called.

    kernel_s: device seconds of each of its `launches` kernels.
    first_s: host seconds that the first call spends on top, as a library that tunes itself does.
    """

    device: SimulatedDevice
    kernel_s: float
    launches: int = 1
    first_s: float = 0.0
    calls: int = 0

    def __call__(self) -> None:
        self.calls += 1
        if self.calls == 1:
            self.device.host_work(self.first_s)
        for _ in range(self.launches):
            self.device.kernel(self.kernel_s)


class Kernel(nn.Module):
    """One kernel and nothing else."""

    def __init__(self, device: SimulatedDevice, kernel_s: float) -> None:
        super().__init__()
        self.device, self.kernel_s = device, kernel_s

    def forward(self) -> None:
        self.device.kernel(self.kernel_s)


class Steps(nn.Module):
    """Children and functions, called one after the other."""

    def __init__(self, steps: Sequence[Any], **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            setattr(self, name, child)
        self.steps = steps

    def forward(self) -> None:
        for step in self.steps:
            step()


def functional(device: SimulatedDevice, kernel_s: float) -> Callable[[], None]:
    """Work in a forward that no module does."""
    return lambda: device.kernel(kernel_s)


def lookup(owner: Any, name: str) -> Callable[[], None]:
    """A call of whatever `owner` has under this name when it is called."""
    return partial(methodcaller(name), owner)


def timed(device: SimulatedDevice, model: nn.Module, nodes: Sequence[Node] = ()) -> Pass:
    """One pass of the model on a device that is busy already, as in steady repetition."""
    timer = ModuleTimer(device, [*tree(model), *nodes])
    model()
    with timer.attached():
        model()
    (only,) = timer.collect()
    return only
