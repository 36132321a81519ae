"""What does it cost a forward to be timed from inside?

Claim
  ours        A forward of the Qwen3-VL vision tower with qwenprof's module timer attached takes
              at most 1 % longer than a plain one.

How to read it
  Four forwards take turns, forwards and backwards (A B C D D C B A), on one model and one
  input: plain; with qwenprof's marks around the nodes of the per-layer stage; under
  `torch.profiler`; and with a timer that synchronises the device before and after every
  module, as training frameworks' throughput timers do. Each time is of one whole forward from
  an idle device until it is done. `ratio` is over plain, of medians, with its bootstrap 95 %
  interval; plain over itself shows what noise alone does, and where the interval reaches
  across the claim, this run has not settled it. Nothing needs to wait for a CPU, so that on one
  the synchronising timer costs no more than its hooks. `marks alone` is what entering and
  leaving as many nodes takes where the nodes do nothing, over a plain forward: what noise hides
  in the row above it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler tells stderr of every start

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
from torch import nn

from qwenprof.harness.clock import Clock, clock_for
from qwenprof.harness.module_timer import ModuleTimer
from qwenprof.harness.probe import tree
from qwenprof.harness.statistics import Ratio, ratio_of_medians
from qwenprof.stages.per_layer import nodes
from qwenprof.workload.loading import Subject, load
from qwenprof.workload.workload import Workload, resolved_device

CLAIMED = 0.01
PLAIN, OURS, PROFILER, SYNCHRONIZING = "plain", "qwenprof", "torch.profiler", "hook and synchronise"

Around = Callable[[], AbstractContextManager[Any]]


class SynchronizingTimer:
    """Waits for the device before and after every module, and adds up host time in between."""

    def __init__(self, clock: Clock, model: nn.Module) -> None:
        self._clock, self._model = clock, model
        self._started_s: dict[int, float] = {}
        self.spent_s: dict[int, float] = {}

    @contextmanager
    def attached(self) -> Iterator[None]:
        handles = [
            handle
            for module in self._model.modules()
            for handle in (
                module.register_forward_pre_hook(self._before),
                module.register_forward_hook(self._after),
            )
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _before(self, module: nn.Module, _: Any) -> None:
        self._clock.synchronize()
        self._started_s[id(module)] = self._clock.now_s()

    def _after(self, module: nn.Module, _: Any, __: Any) -> None:
        self._clock.synchronize()
        spent_s = self._clock.now_s() - self._started_s[id(module)]
        self.spent_s[id(module)] = self.spent_s.get(id(module), 0.0) + spent_s


def profiler(device: torch.device) -> Around:
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    return lambda: torch.profiler.profile(activities=activities)


def forward_s(clock: Clock, call: Callable[[], Any], around: Around) -> float:
    """Wall seconds of one forward, started on an idle device; entering `around` is untimed."""
    with around():
        clock.synchronize()
        started_s = clock.now_s()
        call()
        clock.synchronize()
        return clock.now_s() - started_s


def in_turn(
    clock: Clock, call: Callable[[], Any], variants: dict[str, Around], rounds: int
) -> dict[str, list[float]]:
    """Each variant once forwards and once backwards in every round, after one untimed pass."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for around in variants.values():
        forward_s(clock, call, around)
    for _ in range(rounds):
        for name in (*variants, *reversed(variants)):
            times[name].append(forward_s(clock, call, variants[name]))
    return times


def shortened(subject: Subject, depth: int | None) -> None:
    """Leave only the first `depth` blocks of the tower."""
    tower = subject.require_vision().tower
    if depth is not None:
        setattr(tower.module, tower.blocks, tower.child(tower.blocks)[:depth])  # type: ignore[index]


def built(arguments: argparse.Namespace) -> Subject:
    """The tower alone, at true width; a small image on a CPU, the published clip on a GPU."""
    device = resolved_device(arguments.device)
    small = {"dtype": "fp32", "frames": 1, "short_edge": 64}
    fitting = small if device == "cpu" else {"dtype": "bf16", "frames": 8, "short_edge": 336}
    asked = {key: getattr(arguments, key) for key in fitting}
    chosen = {key: fitting[key] if value is None else value for key, value in asked.items()}
    workload = Workload.default(device, size=arguments.size, scope="vision", **chosen)
    subject = load(workload)
    shortened(subject, 2 if arguments.quick else arguments.depth)
    print(f"{workload}, {len(nodes(subject))} nodes watched", file=sys.stderr)
    return subject


def row(name: str, times_s: list[float], ratio: Ratio) -> dict[str, str]:
    low, high = ratio.ci or (None, None)
    return {
        "forward": name,
        "median": seconds(statistics.median(times_s)),
        "n": str(len(times_s)),
        "over plain": percent(ratio.value - 1),
        "95 % interval": "-"
        if low is None or high is None
        else f"{percent(low - 1)} .. {percent(high - 1)}",
    }


def claim(ratio: Ratio, *, quick: bool) -> Claim:
    """PASS or FAIL only where the whole interval says so."""
    text = f"a timed forward costs at most {CLAIMED:.0%} more"
    if quick or ratio.ci is None:
        return not_run(text, "three rounds of --quick tell nothing" if quick else "too few rounds")
    low, high = ratio.ci
    detail = f"{percent(ratio.value - 1)}, interval {percent(low - 1)} .. {percent(high - 1)}"
    if low <= 1 + CLAIMED < high:
        return unsettled(text, f"{detail}: a quieter machine or more --rounds would tell")
    return checked(text, high <= 1 + CLAIMED, detail)


def marks_alone_s(clock: Clock, count: int, repeats: int = 2000) -> float:
    """What the marks of `count` nodes cost the host, from a module that does nothing."""
    nothing = nn.Identity()
    timer = ModuleTimer(clock, tree(nothing))

    def calls_s() -> float:
        started_s = clock.now_s()
        for _ in range(repeats):
            nothing(None)
        return (clock.now_s() - started_s) / repeats

    plain_s = calls_s()
    with timer.attached():
        marked_s = calls_s()
    timer.collect()
    return (marked_s - plain_s) * count


def marks_row(marks_s: float, plain_s: float, count: int) -> dict[str, str]:
    return {
        "forward": f"marks alone, {count} nodes",
        "median": seconds(marks_s),
        "n": "-",
        "over plain": percent(marks_s / plain_s),
        "95 % interval": "-",
    }


def main() -> int:
    options = parser(__doc__)
    add_device_options(options)
    options.add_argument("--size", default="2b")
    options.add_argument("--frames", type=int, default=None)
    options.add_argument("--short-edge", type=int, default=None)
    options.add_argument("--dtype", default=None)
    options.add_argument("--depth", type=int, default=None, help="blocks; all of them if not given")
    options.add_argument("--rounds", type=int, default=8, help="two forwards of each kind a round")
    arguments = options.parse_args()
    subject = built(arguments)
    clock = clock_for(subject.device)
    watched = nodes(subject)
    variants: dict[str, Around] = {
        PLAIN: nullcontext,
        OURS: ModuleTimer(clock, watched).attached,
        PROFILER: profiler(subject.device),
        SYNCHRONIZING: SynchronizingTimer(clock, subject.model).attached,
    }
    call = subject.call(subject.inputs())
    times = in_turn(clock, call, variants, 3 if arguments.quick else arguments.rounds)
    ratios = {name: ratio_of_medians(values, times[PLAIN]) for name, values in times.items()}
    marks_s = marks_alone_s(clock, len(watched))
    rows = [row(name, times[name], ratios[name]) for name in times]
    rows.insert(2, marks_row(marks_s, statistics.median(times[PLAIN]), len(watched)))
    return conclude(
        "overhead",
        environment_line(str(subject.device)),
        rows,
        [claim(ratios[OURS], quick=arguments.quick)],
        arguments.out,
        {name: {"forward_s": values} for name, values in times.items()},
    )


if __name__ == "__main__":
    sys.exit(main())
