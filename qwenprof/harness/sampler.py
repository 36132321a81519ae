"""The one way to time anything: first call, warm-up, samples, a reason to stop.

The protocol is distilled from nvbench, torch.utils.benchmark, triton's do_bench, criterion
and hyperfine:

1. The first call is synchronised, timed and kept apart.
2. An operation whose first call exceeds the case's budget is called once more if that is
   affordable. It is slow if that call exceeds the budget too, and is never called again;
   else the first call did something that the others need not, such as loading a library.
3. Warm-up ends when three calls in a row agree. An operation of which a few calls fill the
   budget has none: every call after the first is a sample.
4. Samples are taken on the device's own timeline with one synchronisation per chunk. Short
   operations run several times a sample. Before each chunk one untimed call fills the queue,
   so that no sample of a short operation contains the latency of a launch into an idle device.
5. Host enqueue time and wall time come from calls that start on an idle device.
6. Sampling stops when the median is known well enough, or at a limit; the reason is kept.

Caches are warm and clocks are left as they are: these are times of steady repetition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qwenprof.harness import statistics
from qwenprof.record.record import Series

if TYPE_CHECKING:
    from qwenprof.harness.clock import Clock
    from qwenprof.harness.plan import Allowance

LAUNCH_BOUND = 0.9

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
    def host_s(self) -> float | None:
        return statistics.median(self.host.values) if self.host else None

    @property
    def wall_s(self) -> float | None:
        return statistics.median(self.wall.values) if self.wall else None

    @property
    def one_call_s(self) -> float:
        """What one more call will cost, for planning."""
        return self.wall_s or self.median_s

    def series(self, key: str) -> dict[str, Series]:
        """Everything under names that start with `key`, as a record keeps it."""
        first = Series(unit="s", values=[self.first_call_s], stop_reason="first_call")
        named = {key: self.device, f"{key}/first_call": first}
        named |= {f"{key}/host_enqueue": self.host} if self.host else {}
        named |= {f"{key}/wall": self.wall} if self.wall else {}
        return named


@dataclass(frozen=True, kw_only=True)
class _IdleCall:
    """One call that started on an idle device."""

    device_s: float
    host_s: float
    wall_s: float


@dataclass(kw_only=True)
class _Samples:
    """The samples of one case while they are being taken.

    estimate_s: what one call will take, for planning.
    """

    case: Case
    first_call_s: float
    estimate_s: float
    calls_per_sample: int = 1
    device: list[float] = field(default_factory=list)
    host: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def add(self, call: _IdleCall) -> None:
        self.device.append(call.device_s)
        self.add_latency(call)

    def add_latency(self, call: _IdleCall) -> None:
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

        The allowance is for all of them together, divided evenly. An operation that turns out
        to be slow leaves the round, and the seconds that it took are not taken from the others.
        """
        started_s = self.clock.now_s()
        cases = {k: c if isinstance(c, Case) else Case(call=c) for k, c in calls.items()}
        share_s, limit_s = allowance.case_s / len(cases), started_s + allowance.limit_s
        begun = {key: self._first_call(case) for key, case in cases.items()}
        second = {key: self._second_call(each, share_s, limit_s) for key, each in begun.items()}
        slow = [key for key, each in begun.items() if _is_slow(each, second[key], share_s)]
        steady = [self._warmed_up(begun[k], second[k], share_s) for k in begun if k not in slow]
        apart_s = sum(_seconds_apart(begun[key], second[key], key in slow) for key in begun)
        deadline_s = started_s + apart_s + share_s * len(steady)
        stop_reason = self._sample_in_turn(steady, deadline_s) if steady else ""
        return {
            key: self._slow_timing(each, second[key])
            if key in slow
            else self._timing(each, stop_reason)
            for key, each in begun.items()
        }

    def _first_call(self, case: Case) -> _Samples:
        first_s = self._synchronized_s(case)
        return _Samples(case=case, first_call_s=first_s, estimate_s=first_s)

    def _second_call(self, samples: _Samples, share_s: float, limit_s: float) -> _IdleCall | None:
        """A call to tell a long operation from a long first call, where there is a doubt."""
        first_s = samples.first_call_s
        if first_s <= self.rules.warmup_share * share_s:
            return None
        too_slow = first_s > self.rules.slowest_second_call_s
        if first_s > share_s and (too_slow or self.clock.now_s() + first_s > limit_s):
            return None
        return self._call_from_idle(samples.case)

    def _synchronized_s(self, case: Case) -> float:
        with case.around():
            self.clock.synchronize()
            start_s = self.clock.now_s()
            case.call()
            self.clock.synchronize()
            return self.clock.now_s() - start_s

    def _slow_timing(self, samples: _Samples, second: _IdleCall | None) -> Timing:
        if second is not None:
            samples.add(second)
            return self._timing(samples, "slow_op")
        flags = ["slow_op: the first call is the only one", "few_samples: n = 1"]
        values = [samples.first_call_s]
        device = Series(unit="s", values=values, stop_reason="slow_op", flags=flags)
        return Timing(first_call_s=samples.first_call_s, device=device)

    def _warmed_up(self, samples: _Samples, second: _IdleCall | None, share_s: float) -> _Samples:
        """The same samples, with the operation warm and its duration known."""
        rules = self.rules
        warmup_s = rules.warmup_share * share_s
        if second and second.wall_s > warmup_s:
            samples.estimate_s = second.wall_s
            samples.add(second)
            return samples
        recent, calls = [second.wall_s if second else samples.first_call_s], 1
        spent_s = recent[0]
        while spent_s < warmup_s:
            recent.append(self._synchronized_s(samples.case))
            spent_s, calls = spent_s + recent[-1], calls + 1
            last = recent[-3:]
            agreed = max(last) <= (1 + rules.warmup_agreement) * min(last)
            if calls > rules.warmup_calls and spent_s >= rules.warmup_s and agreed:
                break
        samples.estimate_s = max(min(recent[-3:]), 1e-9)
        samples.calls_per_sample = max(1, min(1000, round(rules.min_sample_s / samples.estimate_s)))
        return samples

    def _sample_in_turn(self, cases: list[_Samples], deadline_s: float) -> str:
        started_s, forwards = self.clock.now_s(), True
        reserve_s = self._reserve_s(cases, deadline_s - started_s)
        reason = ""
        while not reason:
            for samples in cases if forwards else reversed(cases):
                if not samples.device or self.clock.now_s() < deadline_s - reserve_s:
                    self._chunk(samples, deadline_s - reserve_s)
            forwards = not forwards
            reason = self._reason_to_stop(cases, started_s, deadline_s - reserve_s)
        for samples in cases:
            self._latencies(samples, reserve_s / len(cases))
        return reason

    def _reserve_s(self, cases: list[_Samples], left_s: float) -> float:
        """Seconds to keep for calls from an idle device, which long operations always are."""
        needed = self.clock.asynchronous and not all(map(self._is_long, cases))
        return self.rules.latency_share * max(0.0, left_s) if needed else 0.0

    def _is_long(self, samples: _Samples) -> bool:
        """Whether one launch from idle is lost in one call, so that no queue is needed."""
        return samples.estimate_s > self.rules.chunk_s / 2

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
        if self._is_long(samples):
            samples.add(self._call_from_idle(samples.case))
            return
        left_s = max(0.0, deadline_s - self.clock.now_s())
        sample_s = samples.estimate_s * samples.calls_per_sample
        room = int(min(self.rules.chunk_s, left_s) / sample_s)
        self._chunk_from_queue(samples, max(1, min(self.rules.min_samples, room)))

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
            start, begin_s = clock.mark(), clock.now_s()
            case.call()
            returned_s, end = clock.now_s(), clock.mark()
            clock.synchronize()
            done_s = clock.now_s()
        device_s = clock.elapsed_s(start, end)
        clock.release(start, end)
        return _IdleCall(device_s=device_s, host_s=returned_s - begin_s, wall_s=done_s - begin_s)

    def _latencies(self, samples: _Samples, budget_s: float) -> None:
        """Host and wall time of calls that start on an idle device, where they are missing."""
        if not self.clock.asynchronous:
            return
        deadline_s = self.clock.now_s() + budget_s
        while len(samples.host) < self.rules.min_samples:
            if samples.host and self.clock.now_s() + samples.estimate_s > deadline_s:
                break
            samples.add_latency(self._call_from_idle(samples.case))

    def _timing(self, samples: _Samples, stop_reason: str) -> Timing:
        flags = statistics.quality_flags(samples.device)
        if samples.calls_per_sample > 1:
            flags.append(f"inner_loop: each value is the mean of {samples.calls_per_sample} calls")
        if stop_reason != "converged" and not self._all_converged([samples]):
            flags.append(f"{stop_reason}: stopped before the median was known to 0.5 %")
        queued = self.clock.asynchronous
        flags += _launch_bound(samples) if queued else []
        return Timing(
            first_call_s=samples.first_call_s,
            device=Series(unit="s", values=samples.device, stop_reason=stop_reason, flags=flags),
            host=_series_or_none(samples.host, stop_reason) if queued else None,
            wall=_series_or_none(samples.wall, stop_reason) if queued else None,
        )


def _launch_bound(samples: _Samples) -> list[str]:
    """A flag where the host needs nine tenths of the device's time just to enqueue the work."""
    if not samples.host or not samples.device:
        return []
    share = statistics.median(samples.host) / statistics.median(samples.device)
    if share < LAUNCH_BOUND:
        return []
    return [f"launch_bound: enqueueing takes {share:.0%} of the device's time"]


def _is_slow(samples: _Samples, second: _IdleCall | None, share_s: float) -> bool:
    return samples.first_call_s > share_s and (second is None or second.wall_s > share_s)


def _seconds_apart(samples: _Samples, second: _IdleCall | None, slow: bool) -> float:
    """Seconds that must not be missing for the samples: slow calls, and what only a first does."""
    first_s, second_s = samples.first_call_s, second.wall_s if second else 0.0
    if slow:
        return first_s + second_s
    return max(0.0, first_s - second_s) if second else 0.0


def _series_or_none(values: list[float], stop_reason: str) -> Series | None:
    if not values:
        return None
    flags = statistics.quality_flags(values)
    return Series(unit="s", values=values, stop_reason=stop_reason, flags=flags)
