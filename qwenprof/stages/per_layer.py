"""Which component? Every part of the model timed from inside, against what its work should cost.

Parts are timed by marks on the device's own timeline around every module and helper function.
The same forward without any marks runs in turn, so that what the marks cost is known. On a
device with a queue a few forwards that drain it at every mark tell what the host alone takes, and
with that where it waits for the device. The code of every part is kept beside its time.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from qwenprof.diagnosis.bounds import Machine, bound_s, machine
from qwenprof.record.record import Row
from qwenprof.stages._sources import source_rows
from qwenprof.stages.stage import Bench, Stage

if TYPE_CHECKING:
    from qwenprof.harness.module_timer import ModuleTimer, NodeTime, Pass
    from qwenprof.harness.probe import Node
    from qwenprof.harness.sampler import Timing
    from qwenprof.harness.work_counter import Work
    from qwenprof.workload.loading import Subject

MAX_PASSES = 50
TIMING_SHARE = 0.7  # of the stage's seconds; counting the work takes one more forward
DRAINED_PASSES, DRAINED_SHARE = 3, 0.15
MARKED, PLAIN = "with marks", "plain"


def measure(bench: Bench) -> None:
    from qwenprof.harness.module_timer import ModuleTimer
    from qwenprof.harness.work_counter import count_work

    subject = bench.subject()
    watched = nodes(subject)
    bench.say(f"timing {len(watched)} modules and functions from inside one forward")
    timer = ModuleTimer(bench.sampler.clock, watched)
    timings = _timed(bench, subject, timer)
    passes = timer.collect()
    drained = _drained(bench, subject, watched, timings[PLAIN])
    bench.say("counting FLOP, bytes and operators")
    work = count_work(subject.call(subject.inputs()), watched)
    for row in _module_rows(bench, watched, passes, drained, work):
        bench.add_row("modules", row)
    for row in _block_rows(_steady(passes)):
        bench.add_row("blocks", row)
    for row in source_rows(watched):
        bench.add_row("sources", row)
    summary = _summary(timings, passes) | _host_columns(passes, drained)
    bench.add_row("summary", summary | _synchronizations(bench, subject, watched))


def nodes(subject: Subject) -> list[Node]:
    """What is timed: the module tree, and the vision tower's own helper functions."""
    from qwenprof.harness.probe import Node, tree

    found = tree(subject.model)
    if subject.vision is None:
        return found
    tower = subject.vision.tower
    return found + [
        Node(
            path=tower.full_path(helper.attribute),
            kind=f"function: {helper.part}",
            owner=helper.owner,
            attribute=helper.attribute,
        )
        for helper in tower.helpers
    ]


def _timed(bench: Bench, subject: Subject, timer: ModuleTimer) -> dict[str, Timing]:
    """The forward with and without marks, in turn, each pass of the timer one call."""
    from qwenprof.harness.plan import Allowance
    from qwenprof.harness.sampler import Case, Sampler

    call = subject.call(subject.inputs())
    rules = replace(
        bench.sampler.rules, max_samples=MAX_PASSES, min_sample_s=0.0, latency_share=0.0
    )
    timings = Sampler(bench.sampler.clock, rules).compare(
        {MARKED: Case(call=call, around=timer.attached), PLAIN: call},
        Allowance(case_s=bench.budget_s / 3, limit_s=bench.budget_s * TIMING_SHARE),
    )
    for name, timing in timings.items():
        bench.add_series(timing.series(f"forward, {name}"))
    return timings


def _drained(bench: Bench, subject: Subject, watched: Sequence[Node], plain: Timing) -> list[Pass]:
    """A few passes with the device never behind; none without a queue or without the seconds."""
    from qwenprof.harness.module_timer import ModuleTimer

    clock = bench.sampler.clock
    affordable = int(DRAINED_SHARE * bench.budget_s / plain.one_call_s)
    if not clock.asynchronous or not affordable:
        return []
    bench.say("timing the host alone")
    timer, call = ModuleTimer(clock, watched, drained=True), subject.call(subject.inputs())
    with timer.attached():
        for _ in range(min(DRAINED_PASSES, affordable)):
            call()
    return timer.collect()


def _steady(passes: Sequence[Pass]) -> Pass:
    from qwenprof.harness.module_timer import typical

    return typical(_after_first(passes))


def _after_first(passes: Sequence[Pass]) -> Sequence[Pass]:
    return passes[1:] or passes


def _module_rows(
    bench: Bench,
    watched: Sequence[Node],
    passes: Sequence[Pass],
    drained: Sequence[Pass],
    work: Mapping[str, Work],
) -> list[Row]:
    """One row a node, in the order in which the forward reaches them."""
    from qwenprof.harness.waits import waits

    rates, steady, first = machine(bench.record), _steady(passes), passes[0]
    kinds = {node.path: node.kind for node in watched}
    waiting = waits(_after_first(passes), drained) or {}
    total_s = steady[""].inclusive_s
    return [
        {
            "path": path,
            "module_type": kinds[path],
            "calls": time.calls,
            "inclusive_s": time.inclusive_s,
            "exclusive_s": time.exclusive_s,
            "share": time.inclusive_s / total_s if total_s else None,
            "first_call_s": first[path].inclusive_s if path in first else None,
            "min_s": _least_s(path, passes),
            "host_s": time.host_s,
            "waits": waiting.get(path),
            **_work_columns(rates, bench.dtype, time, work.get(path)),
        }
        for path, time in steady.items()
    ]


def _least_s(path: str, passes: Sequence[Pass]) -> float:
    """A node's time in its fastest pass: noise only adds, so what is slow is slow there too."""
    return min(each[path].inclusive_s for each in _after_first(passes) if path in each)


def _work_columns(rates: Machine | None, dtype: str, time: NodeTime, work: Work | None) -> Row:
    """What the work is and what it should cost; None where the machine was not measured."""
    if work is None:
        names = ("flops", "bytes", "operators", "bound_s", "excess_s", "slowdown")
        return dict.fromkeys(names)
    bound = None
    if rates is not None:
        bound = bound_s(
            rates, flops=work.flops, moved_bytes=work.moved_bytes, dtype=dtype, calls=time.calls
        )
    return {
        "flops": work.flops,
        "bytes": work.moved_bytes,
        "operators": work.operators,
        "bound_s": bound,
        "excess_s": time.inclusive_s - bound if bound else None,
        "slowdown": time.inclusive_s / bound if bound else None,
    }


def _block_rows(steady: Pass) -> list[Row]:
    """Repeated blocks together: total, mean, and the first apart, which often warms up."""
    groups: dict[str, list[float]] = {}
    for path, time in steady.items():
        repeated = re.fullmatch(r"(.*)\.\d+", path)
        if repeated:
            groups.setdefault(repeated[1], []).append(time.inclusive_s)
    return [
        {
            "path": path,
            "count": len(seconds),
            "total_s": sum(seconds),
            "mean_s": sum(seconds) / len(seconds),
            "first_s": seconds[0],
            "mean_of_others_s": sum(seconds[1:]) / len(seconds[1:]),
        }
        for path, seconds in groups.items()
        if len(seconds) > 1
    ]


def _host_columns(passes: Sequence[Pass], drained: Sequence[Pass]) -> Row:
    """The host's own seconds, and how far behind it the device was; None without a queue."""
    from qwenprof.harness.waits import host_alone_s, most_behind_s

    return {
        "host_alone_s": host_alone_s(drained),
        "most_behind_s": most_behind_s(_after_first(passes)) if drained else None,
    }


def _synchronizations(bench: Bench, subject: Subject, watched: Sequence[Node]) -> Row:
    """What CUDA itself reports in one more forward, a row for each place; None elsewhere."""
    from qwenprof.harness.sync_debug import synchronizations

    if not bench.device.startswith("cuda"):
        return {"synchronizations": None}
    found = synchronizations(subject.call(subject.inputs()), watched)
    for (path, place), count in found.items():
        bench.add_row("synchronizations", {"path": path, "place": place, "count": count})
    return {"synchronizations": found.total()}


def _summary(timings: Mapping[str, Timing], passes: Sequence[Pass]) -> Row:
    """The probe's own checks: do the parts add up, and what do the marks cost?

    The parts add up to the model's own span by construction; whether that span is all of the
    forward is checked against the sampler, which timed the same calls from outside.
    """
    steady = _steady(passes)
    marked, plain_s = timings[MARKED], timings[PLAIN].median_s
    exclusive_s = sum(time.exclusive_s for time in steady.values())
    sampled = [sum(time.exclusive_s for time in each.values()) for each in passes[-marked.n :]]
    outside_s = marked.median_s
    return {
        "total_s": steady[""].inclusive_s,
        "exclusive_sum_s": exclusive_s,
        "unaccounted_share": abs(1 - statistics.median(sampled) / outside_s),
        "with_marks_s": outside_s,
        "plain_s": plain_s,
        "overhead": outside_s / plain_s - 1,
        "passes": len(passes),
        "n": marked.n,
    }


STAGE = Stage(
    name="per-layer",
    order=40,
    question="Which component is it?",
    suspect="every component but the culprit",
    measure=measure,
    budget_s=42.0,
    requires=("matmul",),
    example="qwenprof per-layer --size 8b --frames 2",
)
