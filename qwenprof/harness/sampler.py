"""The one way to time anything: first call, warm-up, samples, a reason to stop.

The protocol is distilled from nvbench, torch.utils.benchmark, triton's do_bench, criterion
and hyperfine:

1. The first call is synchronised, timed and kept apart.
2. An operation whose first call exceeds the case's budget is slow: it is called once more if
   that is affordable, and never again.
3. Warm-up ends when three calls in a row agree.
4. Samples are taken on the device's own timeline with one synchronisation per chunk. Short
   operations run several times a sample. Before each chunk one untimed call fills the queue,
   so that no sample contains the latency of a launch into an idle device.
5. Host enqueue time and wall time come from calls that start on an idle device.
6. Sampling stops when the median is known well enough, or at a limit; the reason is kept.

Caches are warm and clocks are left as they are: these are times of steady repetition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from qwenprof.harness import statistics
from qwenprof.harness.clock import Clock
from qwenprof.harness.plan import Allowance
from qwenprof.record.record import Series

Call = Callable[[], Any]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The numbers of the protocol. All durations are seconds, tolerances are relative."""

    min_samples: int = 20
    max_samples: int = 1000
    min_sampling_s: float = 0.3
    ci_half_width: float = 0.005
    warmup_calls: int = 3
    warmup_s: float = 0.2
    warmup_agreement: float = 0.02
    warmup_share: float = 0.25
    min_sample_s: float = 100e-6
    chunk_s: float = 0.25
    latency_share: float = 0.15
    slowest_second_call_s: float = 60.0


@dataclass(frozen=True, kw_only=True)
class Case:
    """Something to time, and the context it must run in, which is entered untimed."""

    call: Call
    around: Callable[[], AbstractContextManager[Any]] = nullcontext


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds per call. `device` is what counts; `host` and `wall` exist for accelerators only.

    first_call_s: wall time of the very first call, synchronised.
    device: time on the device's own timeline.
    host: time until the call returned, from an idle device: what enqueueing costs.
    wall: time until the device was done, from an idle device.
    """

    first_call_s: float
    device: Series
    host: Series | None = None
    wall: Series | None = None

    @property
    def median_s(self) -> float:
        return statistics.median(self.device.values)

    @property
    def ci_s(self) -> tuple[float, float] | None:
        return statistics.median_ci(self.device.values)

    @property
    def n(self) -> int:
        return len(self.device.values)

    @property
    def one_call_s(self) -> float:
        """What one more call will cost, for planning."""
        return statistics.median(self.wall.values) if self.wall else self.median_s

    def series(self, key: str) -> dict[str, Series]:
        """Everything under names that start with `key`, as a record keeps it."""
        first = Series(unit="s", values=[self.first_call_s], stop_reason="first_call")
        named = {key: self.device, f"{key}/first_call": first}
        named |= {f"{key}/host_enqueue": self.host} if self.host else {}
        named |= {f"{key}/wall": self.wall} if self.wall else {}
        return named


@dataclass(frozen=True, kw_only=True)
class _IdleCall:
    """One call that started on an idle device; host and wall are None without a queue."""

    device_s: float
    host_s: float | None
    wall_s: float | None


@dataclass(kw_only=True)
class _Samples:
    """The samples of one case while they are being taken."""

    case: Case
    first_call_s: float
    estimate_s: float
    calls_per_sample: int
    device: list[float] = field(default_factory=list)
    host: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def add(self, call: _IdleCall) -> None:
        self.device.append(call.device_s)
        self.add_latency(call)

    def add_latency(self, call: _IdleCall) -> None:
        if call.host_s is not None and call.wall_s is not None:
            self.host.append(call.host_s)
            self.wall.append(call.wall_s)


class Sampler:
    """Times calls on one device.

    Args:
        clock: of the device that does the work; a simulated one in tests.
        rules: the numbers of the protocol.
    """

    def __init__(self, clock: Clock, rules: Rules | None = None) -> None:
        self.clock = clock
        self.rules = rules or Rules()

    def measure(self, call: Call | Case, allowance: Allowance) -> Timing:
        """Time one operation within its allowance."""
        return self.compare({"": call}, allowance)[""]

    def compare(self, calls: Mapping[str, Call | Case], allowance: Allowance) -> dict[str, Timing]:
        """Time several operations in turn, forwards and backwards (A B B A), for a fair ratio.

        The allowance is for all of them together. An operation that turns out to be slow
        leaves the round and is called once more at most.
        """
        started_s = self.clock.now_s()
        cases = {k: c if isinstance(c, Case) else Case(call=c) for k, c in calls.items()}
        share_s = allowance.case_s / len(cases)
        first = {key: self._synchronized_s(case) for key, case in cases.items()}
        slow = [key for key, first_s in first.items() if first_s > share_s]
        limit_s = started_s + allowance.limit_s
        timings = {key: self._slow_timing(cases[key], first[key], limit_s) for key in slow}
        steady = [
            self._warmed_up(case, first[key], share_s)
            for key, case in cases.items()
            if key not in slow
        ]
        spent_by_slow_s = sum(first[key] for key in slow)
        deadline_s = started_s + allowance.case_s + spent_by_slow_s
        stop_reason = self._sample_in_turn(steady, deadline_s) if steady else ""
        for key, samples in zip((k for k in cases if k not in slow), steady, strict=True):
            timings[key] = self._timing(samples, stop_reason)
        return {key: timings[key] for key in cases}

    def _synchronized_s(self, case: Case) -> float:
        with case.around():
            self.clock.synchronize()
            start_s = self.clock.now_s()
            case.call()
            self.clock.synchronize()
            return self.clock.now_s() - start_s

    def _slow_timing(self, case: Case, first_s: float, limit_s: float) -> Timing:
        too_slow = first_s > self.rules.slowest_second_call_s
        if too_slow or self.clock.now_s() + first_s > limit_s:
            flags = ["slow_op: the first call is the only one", "few_samples: n = 1"]
            device = Series(unit="s", values=[first_s], stop_reason="slow_op", flags=flags)
            return Timing(first_call_s=first_s, device=device)
        samples = _Samples(case=case, first_call_s=first_s, estimate_s=first_s, calls_per_sample=1)
        samples.add(self._call_from_idle(case))
        return self._timing(samples, "slow_op")

    def _warmed_up(self, case: Case, first_s: float, share_s: float) -> _Samples:
        rules = self.rules
        recent, spent_s, calls = [first_s], first_s, 1
        while spent_s < rules.warmup_share * share_s:
            recent.append(self._synchronized_s(case))
            spent_s, calls = spent_s + recent[-1], calls + 1
            last = recent[-3:]
            agreed = max(last) <= (1 + rules.warmup_agreement) * min(last)
            if calls > rules.warmup_calls and spent_s >= rules.warmup_s and agreed:
                break
        estimate_s = min(recent[-3:])
        return _Samples(
            case=case,
            first_call_s=first_s,
            estimate_s=estimate_s,
            calls_per_sample=max(1, min(1000, round(rules.min_sample_s / max(estimate_s, 1e-9)))),
        )

    def _sample_in_turn(self, cases: list[_Samples], deadline_s: float) -> str:
        started_s, forwards = self.clock.now_s(), True
        reserve_s = self.rules.latency_share * max(0.0, deadline_s - started_s)
        while True:
            for samples in cases if forwards else reversed(cases):
                self._chunk(samples, deadline_s - reserve_s)
            forwards = not forwards
            reason = self._reason_to_stop(cases, started_s, deadline_s - reserve_s)
            if reason:
                break
        for samples in cases:
            self._latencies(samples, reserve_s / len(cases))
        return reason

    def _reason_to_stop(self, cases: list[_Samples], started_s: float, deadline_s: float) -> str:
        rules, now_s = self.rules, self.clock.now_s()
        enough = min(len(samples.device) for samples in cases) >= rules.min_samples
        if enough and now_s - started_s >= rules.min_sampling_s and self._all_converged(cases):
            return "converged"
        if max(len(samples.device) for samples in cases) >= rules.max_samples:
            return "max_samples"
        return "budget" if now_s >= deadline_s else ""

    def _all_converged(self, cases: list[_Samples]) -> bool:
        return all(
            statistics.summarize(samples.device).relative_ci_half_width <= self.rules.ci_half_width
            for samples in cases
        )

    def _chunk(self, samples: _Samples, deadline_s: float) -> None:
        """Take as many samples as fit into one stretch of work without a synchronisation."""
        left_s = deadline_s - self.clock.now_s()
        sample_s = samples.estimate_s * samples.calls_per_sample
        room = int(min(self.rules.chunk_s, max(left_s, 0.0)) / max(sample_s, 1e-9))
        size = min(self.rules.min_samples, room)
        if size <= 1:
            samples.add(self._call_from_idle(samples.case))
        else:
            self._chunk_from_queue(samples, size)

    def _chunk_from_queue(self, samples: _Samples, size: int) -> None:
        clock, call, repeat = self.clock, samples.case.call, samples.calls_per_sample
        with samples.case.around():
            clock.synchronize()
            if clock.asynchronous:
                call()
            marks = []
            for _ in range(size):
                start = clock.mark()
                for _ in range(repeat):
                    call()
                marks.append((start, clock.mark()))
            clock.synchronize()
        for start, end in marks:
            samples.device.append(clock.elapsed_s(start, end) / repeat)
            clock.release(start, end)

    def _call_from_idle(self, case: Case) -> _IdleCall:
        clock = self.clock
        with case.around():
            clock.synchronize()
            begin_s, start = clock.now_s(), clock.mark()
            case.call()
            end, returned_s = clock.mark(), clock.now_s()
            clock.synchronize()
            done_s = clock.now_s()
        device_s = clock.elapsed_s(start, end)
        clock.release(start, end)
        return _IdleCall(
            device_s=device_s,
            host_s=returned_s - begin_s if clock.asynchronous else None,
            wall_s=done_s - begin_s if clock.asynchronous else None,
        )

    def _latencies(self, samples: _Samples, budget_s: float) -> None:
        """Host and wall time of calls that start on an idle device, where they are missing."""
        if not self.clock.asynchronous:
            return
        deadline_s = self.clock.now_s() + budget_s
        while len(samples.host) < self.rules.min_samples and self.clock.now_s() < deadline_s:
            samples.add_latency(self._call_from_idle(samples.case))

    def _timing(self, samples: _Samples, stop_reason: str) -> Timing:
        flags = statistics.quality_flags(samples.device)
        if samples.calls_per_sample > 1:
            flags.append(f"inner_loop: each value is the mean of {samples.calls_per_sample} calls")
        if stop_reason in ("budget", "slow_op"):
            flags.append(f"{stop_reason}: stopped before the median was known to 0.5 %")
        return Timing(
            first_call_s=samples.first_call_s,
            device=Series(
                unit="s", values=samples.device, stop_reason=stop_reason, flags=flags
            ),
            host=_series_or_none(samples.host, stop_reason),
            wall=_series_or_none(samples.wall, stop_reason),
        )


def _series_or_none(values: list[float], stop_reason: str) -> Series | None:
    if not values:
        return None
    flags = statistics.quality_flags(values)
    return Series(unit="s", values=values, stop_reason=stop_reason, flags=flags)
