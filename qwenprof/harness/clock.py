"""Clocks: the host's, an accelerator's, and whatever a test plugs in.

Everything that times anything asks a Clock. It is the only place that synchronises a
device, and the only place that knows how one kind of device differs from another: CUDA,
ROCm, XPU and MPS all answer to `torch.accelerator` and `torch.Event`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

Mark = Any


class Clock(Protocol):
    """Host time, and marks on the timeline of the device that does the work."""

    @property
    def asynchronous(self) -> bool:
        """Whether the device works through a queue while the host runs ahead."""

    def now_s(self) -> float:
        """Seconds of host time, monotonic, from an arbitrary start."""

    def mark(self) -> Mark:
        """A point on the device's timeline, after all the work queued so far."""

    def synchronize(self) -> None:
        """Wait until the device has done all that was queued."""

    def elapsed_s(self, start: Mark, end: Mark) -> float:
        """Seconds on the device's timeline between two marks; valid after `synchronize`."""

    def release(self, *marks: Mark) -> None:
        """Give marks back that will not be read again."""


class HostClock:
    """For the CPU, where a call returns when its work is done."""

    asynchronous = False

    def now_s(self) -> float:
        return time.perf_counter_ns() * 1e-9

    def mark(self) -> int:
        return time.perf_counter_ns()

    def synchronize(self) -> None:
        return None

    def elapsed_s(self, start: int, end: int) -> float:
        return (end - start) * 1e-9

    def release(self, *marks: Mark) -> None:
        return None


class AcceleratorClock:
    """For any device that `torch.accelerator` drives; marks are pooled timing events.

    Source: events are recorded on the current stream and read after one synchronisation,
    as in https://docs.pytorch.org/docs/stable/notes/cuda.html#asynchronous-execution.
    Event resolution is about 0.5 us on CUDA.
    """

    asynchronous = True

    def __init__(self, device: torch.device) -> None:
        import torch

        self._torch = torch
        self._device = device
        self._pool: list[torch.Event] = []
        if device.index is not None:
            torch.accelerator.set_device_index(device.index)

    def now_s(self) -> float:
        return time.perf_counter_ns() * 1e-9

    def mark(self) -> torch.Event:
        event = (
            self._pool.pop() if self._pool else self._torch.Event(self._device, enable_timing=True)
        )
        event.record()
        return event

    def synchronize(self) -> None:
        self._torch.accelerator.synchronize(self._device)

    def elapsed_s(self, start: torch.Event, end: torch.Event) -> float:
        return float(start.elapsed_time(end)) * 1e-3

    def release(self, *marks: torch.Event) -> None:
        self._pool.extend(marks)


def clock_for(device: torch.device) -> Clock:
    """The clock that tells the time of work on `device`."""
    return HostClock() if device.type == "cpu" else AcceleratorClock(device)
