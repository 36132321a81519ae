"""Does qwenprof's sampler measure the same as the tools that people trust, as steadily?

Claims
  agreement   For every operation over 1 ms, the median of qwenprof's Sampler is within 2 % of
              that of `torch.utils.benchmark.Timer.blocked_autorange`, and on a GPU of
              `triton.testing.do_bench`.
  spread      Over five repetitions its medians scatter no more than theirs do, in the median
              over all operations.
  A claim is UNSETTLED where the repetitions contradict each other, or where every tool scatters
  by more than 5 %: then the run says something about the machine only.

How to read it
  All tools time the same operation in turn within a repetition, and in another order in the
  next one, so that a machine that drifts drifts for all of them. `to Timer` is ours over its
  median, less one: the median of the repetitions' ratios; `mean to Timer` likewise of the
  means; `spread` is the range of a tool's medians over their median; `spent` is what one
  measurement took, warm-up and all. Every tool is given the same seconds, at least six calls'
  worth.
  A sample of Timer is the mean of a block of calls, up to a thousand of them, so that its
  median is nearer to the mean: where neighbours slow some calls down it lies above the median
  of single calls, which the means do not. do_bench empties the L2 cache before each
  call and qwenprof does not, so that below 1 ms on a GPU the two do not measure the same thing,
  and nothing is claimed there.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from _common import (
    Claim,
    add_device_options,
    checked,
    conclude,
    environment_line,
    not_run,
    parser,
    percent,
    seconds,
    unsettled,
)
from torch.utils.benchmark import Timer

from qwenprof.harness.clock import clock_for
from qwenprof.harness.plan import Allowance
from qwenprof.harness.sampler import Sampler
from qwenprof.workload.workload import resolved_device

AGREEMENT, CLAIMED_FROM_S, NOISY = 0.02, 1e-3, 0.05
LEAST_CALLS = 6  # that fit into the seconds of one measurement, however long a call takes
OURS, TIMER, DO_BENCH = "qwenprof", "Timer", "do_bench"

Call = Callable[[], Any]
Tool = Callable[[Call, float], "Reading"]  # (operation, seconds that it may take)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one measurement of one tool says of an operation, and what it took."""

    median_s: float
    mean_s: float
    spent_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Operation:
    """`repeats` matrix products or additions of `size`, as one call."""

    kind: str
    size: int
    repeats: int = 1

    def __str__(self) -> str:
        return f"{self.kind} {self.size}" + (f" x {self.repeats}" if self.repeats > 1 else "")

    def call(self, device: torch.device) -> Call:
        dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        shape = (self.size,) if self.kind == "add" else (self.size, self.size)
        left, right = (torch.rand(shape, device=device, dtype=dtype) for _ in range(2))
        result = torch.empty_like(left)
        operator = torch.add if self.kind == "add" else torch.mm

        def run() -> None:
            for _ in range(self.repeats):
                operator(left, right, out=result)

        return run


CPU_OPERATIONS = (
    Operation(kind="add", size=2**16),
    Operation(kind="mm", size=192),
    Operation(kind="mm", size=512),
    Operation(kind="mm", size=1024),
    Operation(kind="mm", size=2048),
    Operation(kind="mm", size=2048, repeats=5),
)
GPU_OPERATIONS = (
    Operation(kind="add", size=2**24),
    Operation(kind="mm", size=4096),
    Operation(kind="mm", size=8192),
    Operation(kind="mm", size=8192, repeats=10),
    Operation(kind="mm", size=16384, repeats=10),
    Operation(kind="mm", size=16384, repeats=60),
)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The readings of one tool, one a repetition."""

    readings: list[Reading]

    @property
    def medians_s(self) -> list[float]:
        return [reading.median_s for reading in self.readings]

    @property
    def median_s(self) -> float:
        return statistics.median(self.medians_s)

    @property
    def spread(self) -> float:
        return (max(self.medians_s) - min(self.medians_s)) / self.median_s


def tools(device: torch.device) -> tuple[dict[str, Tool], dict[str, str]]:
    """The tools that run here, and why the others do not."""
    found: dict[str, Tool] = {OURS: _ours(device), TIMER: _timer}
    if device.type != "cuda":
        return found, {DO_BENCH: "no GPU"}
    try:
        from triton.testing import do_bench
    except ImportError as error:
        return found, {DO_BENCH: f"triton is not installed ({error})"}
    found[DO_BENCH] = lambda call, budget_s: _reading(
        [ms / 1000 for ms in do_bench(call, 100, int(budget_s * 1000), return_mode="all")]
    )
    return found, {}


def _ours(device: torch.device) -> Tool:
    sampler = Sampler(clock_for(device))

    def measure(call: Call, budget_s: float) -> Reading:
        allowance = Allowance(case_s=budget_s, limit_s=2 * budget_s)
        return _reading(sampler.measure(call, allowance).device.values)

    return measure


def _timer(call: Call, budget_s: float) -> Reading:
    timer = Timer(stmt="call()", globals={"call": call}, num_threads=torch.get_num_threads())
    return _reading(timer.blocked_autorange(min_run_time=budget_s).times)


def _reading(values_s: Sequence[float]) -> Reading:
    return Reading(median_s=statistics.median(values_s), mean_s=statistics.fmean(values_s))


def one_call_s(call: Call, device: torch.device) -> float:
    """Wall seconds of one warm call."""
    clock = clock_for(device)
    for _ in range(2):
        clock.synchronize()
        started_s = clock.now_s()
        call()
        clock.synchronize()
    return clock.now_s() - started_s


def measured(
    call: Call, found: Mapping[str, Tool], repetitions: int, budget_s: float
) -> dict[str, Measured]:
    """Every tool in turn, `repetitions` times, beginning with another one each time."""
    results = {name: Measured(readings=[]) for name in found}
    names = list(found)
    for repetition in range(repetitions):
        turn = repetition % len(names)
        for name in names[turn:] + names[:turn]:
            started_s = time.perf_counter()
            reading = found[name](call, budget_s)
            spent_s = time.perf_counter() - started_s
            results[name].readings.append(replace(reading, spent_s=spent_s))
    return results


def differences(ours: Measured, theirs: Measured, of: str = "median_s") -> list[float]:
    """Ours over theirs less one, in each repetition, so that what both suffered cancels."""
    pairs = zip(ours.readings, theirs.readings, strict=True)
    return [getattr(our, of) / getattr(their, of) - 1 for our, their in pairs]


def row(operation: Operation, results: Mapping[str, Measured]) -> dict[str, str]:
    ours, peers = results[OURS], {name: each for name, each in results.items() if name != OURS}
    cells = {"operation": str(operation), "median": seconds(ours.median_s)}
    for name, each in peers.items():
        cells[f"to {name}"] = percent(statistics.median(differences(ours, each)))
        cells[f"mean to {name}"] = percent(statistics.median(differences(ours, each, "mean_s")))
    for name, each in results.items():
        cells[f"spread {name}"] = f"{each.spread:.2%}"
    for name, each in results.items():
        spent_s = statistics.median(reading.spent_s for reading in each.readings)
        cells[f"spent {name}"] = seconds(spent_s)
    return cells


def agreement(peer: str, all_results: Mapping[str, Mapping[str, Measured]]) -> Claim:
    text = f"within {AGREEMENT:.0%} of {peer} over 1 ms"
    off = {
        name: differences(results[OURS], results[peer])
        for name, results in all_results.items()
        if results[peer].median_s > CLAIMED_FROM_S
    }
    if not off:
        return not_run(text, "no operation here takes that long")
    worst = max(off, key=lambda name: abs(statistics.median(off[name])))
    detail = (
        f"{len(off)} operations, the worst is {worst}: {percent(statistics.median(off[worst]))}"
    )
    if any(min(each) > AGREEMENT or max(each) < -AGREEMENT for each in off.values()):
        return checked(text, False, detail)
    if abs(statistics.median(off[worst])) <= AGREEMENT:
        return checked(text, True, detail)
    low, high = percent(min(off[worst])), percent(max(off[worst]))
    return unsettled(text, f"{detail}, its repetitions {low} .. {high}")


def spread(peer: str, all_results: Mapping[str, Mapping[str, Measured]]) -> Claim:
    text = f"scatters no more than {peer}"
    ours, theirs = (
        statistics.median(results[tool].spread for results in all_results.values())
        for tool in (OURS, peer)
    )
    detail = f"median spread over {len(all_results)} operations {ours:.2%} against {theirs:.2%}"
    if min(ours, theirs) > NOISY:
        return unsettled(text, detail)
    return checked(text, ours <= theirs, detail)


def main() -> int:
    options = parser(__doc__)
    add_device_options(options)
    options.add_argument("--repetitions", type=int, default=5)
    options.add_argument("--seconds", type=float, default=1.0, help="for one measurement")
    arguments = options.parse_args()
    device = torch.device(resolved_device(arguments.device))
    operations: Sequence[Operation] = CPU_OPERATIONS if device.type == "cpu" else GPU_OPERATIONS
    if arguments.quick:
        operations, arguments.repetitions, arguments.seconds = operations[:4], 2, 0.2
    found, missing = tools(device)
    all_results = {}
    for operation in operations:
        call = operation.call(device)
        budget_s = max(arguments.seconds, LEAST_CALLS * one_call_s(call, device))
        all_results[str(operation)] = measured(call, found, arguments.repetitions, budget_s)
        print(f"timed {operation}", file=sys.stderr)
    peers = [name for name in found if name != OURS]
    claims = [claim(peer, all_results) for peer in peers for claim in (agreement, spread)]
    if arguments.quick:
        claims = [
            not_run(claim.text, "two repetitions of --quick tell nothing") for claim in claims
        ]
    claims += [
        not_run(f"within {AGREEMENT:.0%} of {name}", reason) for name, reason in missing.items()
    ]
    return conclude(
        "harness",
        environment_line(str(device)),
        [row(operation, all_results[str(operation)]) for operation in operations],
        claims,
        arguments.out,
        {
            name: {tool: asdict(each) for tool, each in results.items()}
            for name, results in all_results.items()
        },
    )


if __name__ == "__main__":
    sys.exit(main())
