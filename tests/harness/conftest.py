"""Operations on a simulated device, whose truth is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from qwenprof.harness.simulated import SimulatedDevice


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


@pytest.fixture
def operation() -> Callable[..., Operation]:
    """Makes an operation: operation(device, kernel_s, launches=, first_s=)."""
    return Operation
