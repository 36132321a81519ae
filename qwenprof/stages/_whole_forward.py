"""The workload's whole forward with the convolution as dispatched and with the fix, in turn.

The layer alone tells how bad the convolution is; this tells what its user gains. The batch of the
workload comes first, since its seconds decide whether there are enough samples for an interval;
the largest batch has what that leaves, or half of what is plenty.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qwenprof.diagnosis.bounds import number
from qwenprof.errors import NotApplicable, QwenprofError, reason_of
from qwenprof.record.record import Record, Row
from qwenprof.stages._timed_row import MEASURED, empty_row, timing_columns
from qwenprof.stages._variants import CONV, LINEAR
from qwenprof.stages.stage import Bench

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from qwenprof.harness.plan import Allowance, Refusal
    from qwenprof.harness.sampler import Case, Timing
    from qwenprof.workload.loading import Inputs, Subject

TABLE = "after_fix"
WHAT = {
    CONV: "the workload's forward, its convolution as dispatched",
    LINEAR: "the same forward within qwenprof.fixed(): the convolution runs as a matrix product",
}
# pairs of forwards, warm-up included, that give a median its interval; if not even a few fit,
# the slow one is called twice and leaves the seconds to the other
ENOUGH_PAIRS, FEWEST_PAIRS, USUAL_CASE_S = 12, 4, 6.0
CHEAP = 0.05  # of a case: what one more forward may take to have its peak memory read
COLUMNS: Row = {
    "variant": None,
    "what": None,
    "dtype": None,
    "batch": None,
    "images": None,
    "patches": None,
    **dict.fromkeys(MEASURED),
    "per_sample_s": None,
    "speedup": None,
    "speedup_low": None,
    "speedup_high": None,
    "status": None,
    "reason": None,
}


@dataclass(frozen=True, kw_only=True)
class WholeForward:
    """The forward of a subject at one batch, which runs with and without the fix."""

    bench: Bench
    subject: Subject
    batch: int

    def cases(self, inputs: Inputs) -> dict[str, Case]:
        """Both, by name, on the same inputs."""
        from qwenprof.fix.patch import fixed
        from qwenprof.harness.sampler import Case

        around: dict[str, Callable[[], AbstractContextManager[None]]] = {
            CONV: nullcontext,
            LINEAR: fixed,
        }
        call = self.subject.call(inputs)
        return {name: Case(call=call, around=context) for name, context in around.items()}

    def add_row(self, variant: str, cells: Row) -> None:
        common: Row = {
            "variant": variant,
            "what": WHAT[variant],
            "dtype": self.bench.dtype,
            "batch": self.batch,
        }
        self.bench.add_row(TABLE, COLUMNS | common | cells)

    def add_unmeasured(self, error: Exception) -> None:
        """A row for both that says why there is no time."""
        from qwenprof.harness.memory import free_cached_memory, is_out_of_memory

        skipped = isinstance(error, NotApplicable)
        status = "out_of_memory" if is_out_of_memory(error) else "skipped" if skipped else "failed"
        for variant in WHAT:
            self.add_row(variant, empty_row(status, reason_of(error)))
        free_cached_memory(self.bench.device)


def compare_whole_forwards(bench: Bench, subject: Subject, *, conv_s: float, share: float) -> None:
    """Rows for the workload's batch and for the largest one; nothing that fails stops the stage.

    Args:
        conv_s: what the convolution alone takes as dispatched, to foresee the forward without the
            fix; 0 where that is not known.
        share: of the stage's seconds.
    """
    deadline_s = bench.sampler.clock.now_s() + share * bench.budget_s
    pair_s: float | None = None  # seconds of a pair of forwards, per sample
    batches = _batches(bench.record, subject)
    for batch in batches:
        whole = WholeForward(bench=bench, subject=subject, batch=batch)
        bench.say(f"whole forwards with and without the fix, batch {batch}")
        try:
            if pair_s is None:
                pair_s = _foreseen_s(whole, _trial_s(whole) + conv_s) / subject.batch
            until_s = _until_s(whole, deadline_s, pair_s, largest=batches[-1])
            pair_s = _compare(whole, until_s, pair_s * batch) / batch
        except (RuntimeError, MemoryError, QwenprofError) as error:
            whole.add_unmeasured(error)


def add_unmeasured(bench: Bench, subject: Subject, error: NotApplicable) -> None:
    """Rows that say why no forward can be compared here at all."""
    WholeForward(bench=bench, subject=subject, batch=subject.batch).add_unmeasured(error)


def _batches(record: Record, subject: Subject) -> list[int]:
    """The workload's own, then the largest that the batch sweep got through."""
    sweep = [
        int(number(row.get("batch")) or 0)
        for row in record.rows("batch-sweep", "batches")
        if row.get("status") == "ok"
    ]
    largest = max(sweep or subject.require_vision().workload.sweep_batches())
    return [subject.batch, *([largest] if largest > subject.batch else [])]


def _until_s(whole: WholeForward, deadline_s: float, pair_s: float, *, largest: int) -> float:
    """Until when this batch may be timed: half of what is left, if that is enough for both."""
    now_s = whole.bench.sampler.clock.now_s()
    half_s = (deadline_s - now_s) / 2
    needed_s = max(ENOUGH_PAIRS * whole.batch, FEWEST_PAIRS * largest) * pair_s
    shared = whole.batch < largest and half_s >= needed_s
    return now_s + half_s if shared else deadline_s


def _foreseen_s(whole: WholeForward, trial_s: float) -> float:
    """Seconds of a pair of forwards: as tried, or as stages before saw them, a first call aside."""
    from qwenprof.diagnosis.forward import forward_s

    seen_s = forward_s(whole.bench.record)
    return trial_s if seen_s is None else min(trial_s, 2 * seen_s)


def _trial_s(whole: WholeForward) -> float:
    """Seconds of two forwards with the fix, from one call of one.

    Raises:
        NotApplicable: no convolution runs as a matrix product in it.
    """
    from qwenprof.fix.patch import TALLY
    from qwenprof.harness.plan import Allowance

    case = whole.cases(whole.subject.inputs())[LINEAR]
    before = TALLY.calls
    timing = whole.bench.sampler.measure(case, Allowance(case_s=0.0, limit_s=0.0))
    if TALLY.calls == before:
        raise NotApplicable(
            "the forward within qwenprof.fixed() ran no convolution as a matrix product, so both "
            "forwards are the same"
        )
    return 2 * timing.one_call_s


def _compare(whole: WholeForward, deadline_s: float, pair_s: float) -> float:
    """Time both in turn and keep their rows; seconds that a pair of forwards was seen to take.

    Raises:
        NotApplicable: one pair does not fit into the seconds that are left.
    """
    from qwenprof.harness.plan import Refusal

    allowance = _allowance(whole.bench, deadline_s, pair_s)
    if isinstance(allowance, Refusal):
        raise NotApplicable(f"of both forwards {allowance.reason}")
    inputs = whole.subject.inputs(whole.batch)
    cases = whole.cases(inputs)
    timings = whole.bench.sampler.compare(cases, allowance)
    for name, timing in timings.items():
        key = f"whole forward/{name}/batch={whole.batch}"
        whole.bench.add_series(timing.series(key))
        peak: Row = {"peak_bytes": _peak_bytes(whole.bench, cases[name], timing, allowance)}
        whole.add_row(name, _size(inputs) | _cells(whole.batch, timing, timings[CONV], name) | peak)
    return sum(timing.one_call_s for timing in timings.values())


def _allowance(bench: Bench, deadline_s: float, pair_s: float) -> Allowance | Refusal:
    from qwenprof.harness.plan import TimePlan

    clock = bench.sampler.clock
    left_s = deadline_s - clock.now_s()
    fits = left_s >= FEWEST_PAIRS * pair_s
    case_s = max(USUAL_CASE_S, ENOUGH_PAIRS * pair_s) if fits else USUAL_CASE_S
    plan = TimePlan(clock, left_s, {"pair": 1.0}, case_cap_s=case_s)
    plan.learn("pair", pair_s)
    return plan.start("pair")


def _size(inputs: Inputs) -> Row:
    """How much work one forward is."""
    if inputs.pixels is None:
        return {}
    return {"images": int(inputs.pixels.grid.shape[0]), "patches": inputs.pixels.patches}


def _cells(batch: int, timing: Timing, conv: Timing, name: str) -> Row:
    from qwenprof.harness import statistics

    cells = timing_columns(timing) | {"per_sample_s": timing.median_s / batch, "status": "ok"}
    if name == CONV:
        return cells
    ratio = statistics.ratio_of_medians(conv.device.values, timing.device.values)
    low, high = ratio.ci or (None, None)
    return cells | {"speedup": ratio.value, "speedup_low": low, "speedup_high": high}


def _peak_bytes(bench: Bench, case: Case, timing: Timing, allowance: Allowance) -> int | None:
    """Peak memory of one more forward; None where that is not cheap."""
    from qwenprof.harness.memory import peak_bytes

    if timing.one_call_s > CHEAP * allowance.case_s:
        return None
    with case.around():
        return peak_bytes(case.call, bench.device)
