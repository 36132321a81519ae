"""Convolutions beside the patch projection, each timed against the fix and without its library."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from qwenprof.record.record import Row
from qwenprof.stages._timed_row import empty_row, timing_columns
from qwenprof.stages.stage import Bench

if TYPE_CHECKING:
    import torch

    from qwenprof.fix.linearize import Convolution
    from qwenprof.harness.plan import TimePlan
    from qwenprof.harness.sampler import Case, Timing

AS_DISPATCHED, AS_LINEAR, WITHOUT_LIBRARY = "as dispatched", "as linear", "library off"
TIMING_SHARE = 0.7  # of the stage's seconds; the launches are counted in the rest


def time_the_others(bench: Bench, found: dict[str, tuple[Convolution, torch.Tensor]]) -> None:
    """Put a row on the bench for each experiment with those that compare-patch-embed did not time.

    found: a convolution and its input, by path.
    """
    timed = {row.get("module") for row in bench.record.rows("compare-patch-embed", "variants")}
    others = {path: each for path, each in found.items() if path not in timed}
    plan = bench.plan(dict.fromkeys(others, 1.0), share=TIMING_SHARE)
    for path, (conv, x) in others.items():
        for row in _rows(bench, plan, path, conv, x):
            bench.add_row("experiments", row)


def _rows(bench: Bench, plan: TimePlan, path: str, conv: Convolution, x: torch.Tensor) -> list[Row]:
    """The experiments with one convolution, or one row that says why there are none."""
    from qwenprof.harness.plan import Refusal

    allowance = plan.start(path)
    if isinstance(allowance, Refusal):
        refused = empty_row("skipped", allowance.reason)
        return [{"module": path, "experiment": AS_DISPATCHED, **refused}]
    timings = bench.sampler.compare(_cases(bench.device, conv, x), allowance)
    plan.learn(path, sum(timing.one_call_s for timing in timings.values()))
    for name, timing in timings.items():
        bench.add_series(timing.series(f"{path}/{name}"))
    base = timings[AS_DISPATCHED]
    return [
        {"module": path, "experiment": name, **_columns(timing, base)}
        for name, timing in timings.items()
    ]


def _cases(device: str, conv: Convolution, x: torch.Tensor) -> dict[str, Case]:
    """What is timed in turn, on copies of the convolution and its input."""
    import torch

    from qwenprof.fix.linearize import convolve_as_linear
    from qwenprof.harness.dispatch import library_off
    from qwenprof.harness.sampler import Case

    own = copy.deepcopy(conv)
    with torch.inference_mode():
        x = x.clone()

    def convolve() -> None:
        with torch.inference_mode():
            own(x)

    def multiply() -> None:
        with torch.inference_mode():
            convolve_as_linear(x, own.weight, own.bias)

    off = library_off(device.partition(":")[0])
    return {
        AS_DISPATCHED: Case(call=convolve),
        AS_LINEAR: Case(call=multiply),
        WITHOUT_LIBRARY: Case(call=convolve, around=off),
    }


def _columns(timing: Timing, base: Timing) -> Row:
    """Its times, and how many times as fast as the convolution as dispatched it is."""
    from qwenprof.harness import statistics

    ratio = statistics.ratio_of_medians(base.device.values, timing.device.values)
    low, high = ratio.ci or (None, None)
    speedup: Row = {"speedup": ratio.value, "speedup_low": low, "speedup_high": high}
    return {**timing_columns(timing), **speedup, "status": "ok", "reason": None}
