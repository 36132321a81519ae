"""A device that exists on paper: a queue, a launch latency and kernel times, all known.

It stands in for an accelerator where there is none, so that what the harness reports can be
held against the truth. Time is virtual: a test of a 16 s operation takes microseconds.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field


@dataclass(kw_only=True)
class SimulatedDevice:
    """A Clock with an asynchronous in-order queue behind it.

    Args:
        launch_s: host seconds that one launch costs.
        sync_s: host seconds that one synchronisation costs beyond the waiting.
        noise: relative standard deviation of every kernel's time (log-normal).
        drift_per_s: relative growth of kernel times per second of device time.
        queue_depth: launches that may wait; a further one blocks the host, as on CUDA.
        asynchronous: False makes the host wait for every kernel, as a CPU does.
        seed: of the noise.
    """

    launch_s: float = 5e-6
    sync_s: float = 10e-6
    noise: float = 0.0
    drift_per_s: float = 0.0
    queue_depth: int = 1024
    asynchronous: bool = True
    seed: int = 0
    host_s: float = 0.0
    launches: int = 0
    synchronizations: int = 0
    _finish_s: list[float] = field(default_factory=lambda: [0.0])

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def kernel(self, duration_s: float) -> None:
        """Launch one kernel that takes `duration_s` of device time when nothing disturbs it."""
        self.launches += 1
        self.host_s += self.launch_s
        self._wait_for_a_free_slot()
        start_s = max(self.host_s, self._finish_s[-1])
        self._finish_s.append(start_s + self._disturbed(duration_s, start_s))
        if not self.asynchronous:
            self.host_s = self._finish_s[-1]

    def host_work(self, duration_s: float) -> None:
        """Let the host do something that takes `duration_s` and launches nothing."""
        self.host_s += duration_s

    def now_s(self) -> float:
        return self.host_s

    def mark(self) -> float:
        return max(self.host_s, self._finish_s[-1])

    def synchronize(self) -> None:
        self.synchronizations += 1
        self.host_s = max(self.host_s, self._finish_s[-1]) + self.sync_s

    def elapsed_s(self, start: float, end: float) -> float:
        return end - start

    def release(self, *marks: float) -> None:
        return None

    def _wait_for_a_free_slot(self) -> None:
        if len(self._finish_s) > self.queue_depth:
            self.host_s = max(self.host_s, self._finish_s[-self.queue_depth])
            del self._finish_s[: -self.queue_depth]

    def _disturbed(self, duration_s: float, at_s: float) -> float:
        noise = self._random.lognormvariate(0.0, self.noise) if self.noise else 1.0
        return duration_s * noise * (1.0 + self.drift_per_s * at_s)
