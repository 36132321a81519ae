"""Is it the model at all, or its inputs? Each phase of one forward's way, from frames to features.

The frames are made beforehand. What is timed is the family's own image processor on the host,
the move of its pixels to the device in the workload's dtype (the host converts, then copies),
and the vision tower's forward. In a whole model the language part is what the whole forward
takes beyond the tower. The phases run one at a time, so their sum is the time of a pipeline in
which nothing overlaps. On a CPU nothing is moved, and the conversion alone is not timed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qwenprof.diagnosis.bounds import positive
from qwenprof.record.record import Row
from qwenprof.stages._timed_row import Prepared, empty_row, timed_row
from qwenprof.stages.stage import Bench, Stage

if TYPE_CHECKING:
    from qwenprof.harness.sampler import Sampler
    from qwenprof.workload.inputs import Pixels
    from qwenprof.workload.loading import Subject

PROCESSOR, TRANSFER, VISION, LANGUAGE = "processor", "transfer", "vision", "language"
WHOLE = "forward"  # of a whole model: what the language part is the rest of
HOST, DEVICE = "host", "device"
COLUMNS = ("median_s", "ci_low_s", "ci_high_s", "n")
INPUTS_SHARE = 0.2  # of the stage's seconds, for each of the two phases before the model
NOT_ON_CPU = "nothing is transferred on a CPU"
NO_LANGUAGE = "the workload is the vision tower alone"


@dataclass(frozen=True, kw_only=True)
class _Calls:
    """The phases of one subject as calls; None where the workload has no such phase."""

    processor: Callable[[], Any]
    transfer: Callable[[], Any] | None
    vision: Callable[[], Any]
    whole: Callable[[], Any] | None
    processor_name: str


def measure(bench: Bench) -> None:
    subject = bench.subject()
    calls, rows = _calls(subject), dict[str, Row]()
    try:
        _time(bench, calls, rows)
    finally:  # an interrupt leaves what was measured until then
        _keep(bench, subject, calls, rows)


def _time(bench: Bench, calls: _Calls, rows: dict[str, Row]) -> None:
    """Fill in the phases as the data flows through them."""
    rows[PROCESSOR] = _one(bench, PROCESSOR, calls.processor, _host_sampler(bench))
    if calls.transfer:
        rows[TRANSFER] = _one(bench, TRANSFER, calls.transfer)
    else:
        rows[TRANSFER] = empty_row("skipped", NOT_ON_CPU)
    rows.update(_model_rows(bench, calls))


def _keep(bench: Bench, subject: Subject, calls: _Calls, rows: Mapping[str, Row]) -> None:
    serial_s = sum(_seconds(row) for row in rows.values())
    for phase, row in rows.items():
        clock = HOST if phase == PROCESSOR or subject.device.type == "cpu" else DEVICE
        bench.add_row("phases", _phase_row(phase, row, serial_s, clock))
    if rows:
        bench.add_row("pipeline", _pipeline(subject, calls, rows, serial_s))


def _calls(subject: Subject) -> _Calls:
    from qwenprof.workload.inputs import moved, on_host, sample_frames
    from qwenprof.workload.loading import TORCH_DTYPES

    vision = subject.require_vision()
    processor = vision.family.processor()
    frames = sample_frames(vision.workload, subject.batch)
    dtype, pixels, inputs = TORCH_DTYPES[subject.dtype_name], None, subject.inputs()
    if subject.device.type != "cpu":
        pixels = on_host(processor, frames)
    assert inputs.pixels is not None
    return _Calls(
        processor=lambda: on_host(processor, frames),
        transfer=(lambda: moved(pixels, dtype, subject.device)) if pixels else None,
        vision=_tower_call(subject, inputs.pixels),
        whole=subject.call(inputs) if vision.tower.path else None,
        processor_name=type(processor).__name__,
    )


def _tower_call(subject: Subject, pixels: Pixels) -> Callable[[], Any]:
    """One forward of the vision tower alone, without gradients."""
    import torch

    vision = subject.require_vision()
    given = vision.family.tower_inputs(pixels)

    def forward() -> Any:
        with torch.inference_mode():
            return vision.tower.module(**given)

    return forward


def _host_sampler(bench: Bench) -> Sampler:
    """For work that the host does: an accelerator's own events would not see it."""
    from qwenprof.harness.clock import HostClock
    from qwenprof.harness.sampler import Sampler

    return Sampler(HostClock(), bench.sampler.rules)


def _one(bench: Bench, phase: str, call: Callable[[], Any], sampler: Sampler | None = None) -> Row:
    """A phase with a plan of its own: what it takes predicts nothing of the others."""
    bench.say(phase)
    plan = bench.plan({phase: 1.0}, share=INPUTS_SHARE)
    return timed_row(bench, plan, phase, lambda: Prepared(call=call), sampler=sampler)


def _model_rows(bench: Bench, calls: _Calls) -> dict[str, Row]:
    """The tower and, of a whole model, what the rest of the forward takes."""
    whole = {WHOLE: 1.0} if calls.whole else {}
    plan = bench.plan({VISION: 1.0} | whole, share=1 - 2 * INPUTS_SHARE)
    bench.say("vision tower")
    tower = timed_row(bench, plan, VISION, lambda: Prepared(call=calls.vision))
    if calls.whole is None:
        return {VISION: tower, LANGUAGE: empty_row("skipped", NO_LANGUAGE)}
    bench.say("whole forward")
    call = calls.whole
    forward = timed_row(bench, plan, WHOLE, lambda: Prepared(call=call))
    return {VISION: tower, LANGUAGE: _remainder(forward, tower)}


def _remainder(forward: Row, tower: Row) -> Row:
    """What the whole forward takes beyond the tower; its interval holds for the worst of both."""
    for name, row in (("the whole forward", forward), ("the tower", tower)):
        if not _seconds(row):
            return empty_row(str(row["status"]), f"{name} was not measured: {row['reason']}")
    difference_s = _seconds(forward) - _seconds(tower)
    if difference_s <= 0:
        return empty_row("skipped", "the whole forward took no longer than the tower alone")
    ends = [positive(row[end]) for row in (forward, tower) for end in ("ci_low_s", "ci_high_s")]
    low_s = high_s = None
    if None not in ends:
        whole_low, whole_high, tower_low, tower_high = (end or 0.0 for end in ends)
        low_s, high_s = max(0.0, whole_low - tower_high), whole_high - tower_low
    n = min(positive(row["n"]) or 0.0 for row in (forward, tower))
    known = {"median_s": difference_s, "ci_low_s": low_s, "ci_high_s": high_s, "n": int(n)}
    return empty_row("ok", "") | known | {"reason": None}


def _phase_row(phase: str, row: Row, serial_s: float, clock: str) -> Row:
    """A row of the table. clock: whose timeline the samples are from."""
    measured = _seconds(row) > 0
    return {
        "phase": phase,
        **{column: row[column] for column in COLUMNS},
        "share": _seconds(row) / serial_s if measured else None,
        "clock": clock if measured else None,
        "status": row["status"],
        "reason": row["reason"],
    }


def _pipeline(subject: Subject, calls: _Calls, rows: Mapping[str, Row], serial_s: float) -> Row:
    """All phases one after the other; no rate where one of them could not be measured."""
    wanted = [PROCESSOR, *([TRANSFER] if calls.transfer else []), VISION]
    wanted += [LANGUAGE] if calls.whole else []
    measured = {phase: _seconds(rows[phase]) for phase in wanted if phase in rows}
    missing = [phase for phase in wanted if not measured.get(phase)]
    pixels = subject.inputs().pixels
    assert pixels is not None
    images = int(pixels.grid.shape[0])
    return {
        "images": images,
        "serial_s": None if missing else serial_s,
        "images_per_s": None if missing else images / serial_s,
        "bound_by": None if missing else max(measured, key=lambda phase: measured[phase]),
        "missing": ", ".join(missing) or None,
        "processor": calls.processor_name,
    }


def _seconds(row: Row) -> float:
    return positive(row["median_s"]) or 0.0


STAGE = Stage(
    name="breakdown",
    order=35,
    question="Is it the model at all, or its inputs?",
    suspect="preprocessing and the transfer to the device",
    measure=measure,
    budget_s=14.0,
    example="qwenprof breakdown --size 4b --frames 4",
)
