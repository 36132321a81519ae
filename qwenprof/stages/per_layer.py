"""Which component? Every part of the model timed from inside, against what its work should cost.

Parts are timed by marks on the device's own timeline around every module and helper function.
The same forward without any marks runs in turn, so that what the marks cost is known.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from qwenprof.diagnosis.bounds import Machine, bound_s, machine
from qwenprof.record.record import Row
from qwenprof.stages.stage import Bench, Stage

if TYPE_CHECKING:
    from qwenprof.harness.module_timer import ModuleTimer, NodeTime, Pass
    from qwenprof.harness.probe import Node
    from qwenprof.harness.sampler import Timing
    from qwenprof.harness.work_counter import Work
    from qwenprof.workload.loading import Subject

MAX_PASSES = 50
TIMING_SHARE = 0.7  # of the stage's seconds; counting the work takes one more forward
MARKED, PLAIN = "with marks", "plain"


def measure(bench: Bench) -> None:
    from qwenprof.harness.module_timer import ModuleTimer, typical
    from qwenprof.harness.work_counter import count_work

    subject = bench.subject()
    watched = nodes(subject)
    bench.say(f"timing {len(watched)} modules and functions from inside one forward")
    timer = ModuleTimer(bench.sampler.clock, watched)
    timings = _timed(bench, subject, timer)
    passes = timer.collect()
    steady = typical(passes[1:] or passes)
    bench.say("counting FLOP and bytes")
    work = count_work(subject.call(subject.inputs()), watched)
    for row in _module_rows(bench, watched, steady, passes[0], work):
        bench.add_row("modules", row)
    for row in _block_rows(steady):
        bench.add_row("blocks", row)
    bench.add_row("summary", _summary(steady, timings, passes))


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


def _module_rows(
    bench: Bench, watched: Sequence[Node], steady: Pass, first: Pass, work: Mapping[str, Work]
) -> list[Row]:
    """One row a node, in the order in which the forward reaches them."""
    rates = machine(bench.record)
    kinds = {node.path: node.kind for node in watched}
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
            **_work_columns(rates, bench.dtype, time, work.get(path)),
        }
        for path, time in steady.items()
    ]


def _work_columns(rates: Machine | None, dtype: str, time: NodeTime, work: Work | None) -> Row:
    """What the work is and what it should cost; None where the machine was not measured."""
    if work is None:
        return dict.fromkeys(("flops", "bytes", "bound_s", "excess_s", "slowdown"))
    bound = None
    if rates is not None:
        bound = bound_s(
            rates, flops=work.flops, moved_bytes=work.moved_bytes, dtype=dtype, calls=time.calls
        )
    return {
        "flops": work.flops,
        "bytes": work.moved_bytes,
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


def _summary(steady: Pass, timings: Mapping[str, Timing], passes: Sequence[Pass]) -> Row:
    """The probe's own checks: do the parts add up, and what do the marks cost?

    The parts add up to the model's own span by construction; whether that span is all of the
    forward is checked against the sampler, which timed the same calls from outside.
    """
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
