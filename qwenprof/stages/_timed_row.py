"""The row of one timed case, whatever becomes of it: measured, refused, out of memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qwenprof.errors import reason_of
from qwenprof.record.record import Row
from qwenprof.stages.stage import Bench

if TYPE_CHECKING:
    from qwenprof.harness.plan import Allowance, TimePlan
    from qwenprof.harness.sampler import Sampler, Timing

TIMED = (
    "median_s",
    "ci_low_s",
    "ci_high_s",
    "n",
    "first_call_s",
    "host_enqueue_s",
    "wall_s",
)
MEASURED = (*TIMED, "peak_bytes")


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A case that is ready to be timed, and columns that are known before it is."""

    call: Callable[[], Any]
    columns: Row = field(default_factory=dict)


def timed_row(
    bench: Bench,
    plan: TimePlan,
    key: str,
    prepare: Callable[[], Prepared],
    around: Callable[[], AbstractContextManager[Any]] = nullcontext,
    sampler: Sampler | None = None,
) -> Row:
    """Time one case of a plan and say what happened to it.

    Args:
        key: of the case in the plan, and of its series in the record.
        prepare: makes the call; may itself run out of memory.
        around: the context in which the call is timed.
        sampler: None for the bench's own; another one for work that the device does not do.

    Returns:
        The columns of MEASURED, those of `prepare`, status and reason. Running out of memory
        is a status; any other error is the stage's.
    """
    from qwenprof.harness.memory import free_cached_memory, is_out_of_memory
    from qwenprof.harness.plan import Refusal

    allowance = plan.start(key)
    if isinstance(allowance, Refusal):
        return empty_row("skipped", allowance.reason)
    try:
        used = sampler or bench.sampler
        return _measured(bench, used, plan, key, prepare(), around, allowance)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        reason = reason_of(error)
    free_cached_memory(bench.device)
    return empty_row("out_of_memory", reason)


def empty_row(status: str, reason: str) -> Row:
    """The row of a case that was not measured."""
    return {**dict.fromkeys(MEASURED), "status": status, "reason": reason}


def timing_columns(timing: Timing) -> Row:
    """What a table says of a timing; the raw samples are in the series."""
    return {
        "median_s": timing.median_s,
        "ci_low_s": timing.ci_s[0] if timing.ci_s else None,
        "ci_high_s": timing.ci_s[1] if timing.ci_s else None,
        "n": timing.n,
        "first_call_s": timing.first_call_s,
        "host_enqueue_s": timing.host_s,
        "wall_s": timing.wall_s,
    }


def _measured(
    bench: Bench,
    sampler: Sampler,
    plan: TimePlan,
    key: str,
    prepared: Prepared,
    around: Callable[[], AbstractContextManager[Any]],
    allowance: Allowance,
) -> Row:
    from qwenprof.harness.memory import HighWaterMark, affordable_peak_bytes

    with around():
        mark = HighWaterMark(bench.device)
        timing = sampler.measure(prepared.call, allowance)
        plan.learn(key, timing.one_call_s)
        peak_so_far = mark.read()
        peak = affordable_peak_bytes(prepared.call, bench.device, timing, allowance)
    bench.add_series(timing.series(key))
    measured = timing_columns(timing) | {"peak_bytes": peak if peak is not None else peak_so_far}
    return measured | prepared.columns | {"status": "ok", "reason": None}
