"""Is it attention? Every implementation at two batch sizes, and two experiments that exclude it.

If the model is as slow with all of them, attention is not to blame. Two doubts remain, and
each has its experiment: that a block ignores the setting (so it is forced on every block, and
what each block really calls is watched), and that something around the kernel is slow (so
every vision attention is replaced by torch's plain SDPA, after a check that the output is
the same).
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from qwenprof.errors import MeasurementError, reason_of
from qwenprof.record.record import Row
from qwenprof.stages._timed_row import Prepared, empty_row, timed_row
from qwenprof.stages.stage import Bench, Stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from qwenprof.harness.plan import TimePlan
    from qwenprof.workload.loading import Subject

IMPLEMENTATIONS = ("eager", "sdpa", "flash_attention_2")
SWITCHED, FORCED, REPLACED = "switched", "forced on every block", "replaced by plain SDPA"
_COLUMNS: Row = dict.fromkeys(("blocks", "blocks_using", "max_relative_difference"))
SAME_OUTPUT = {"fp32": 1e-4, "bf16": 5e-2, "fp16": 1e-2}


@dataclass(frozen=True, kw_only=True)
class _Variant:
    attention: str
    experiment: str
    batch: int
    around: Callable[[], AbstractContextManager[None]]

    @property
    def key(self) -> str:
        return f"{self.attention}, {self.experiment}/batch={self.batch}"


def measure(bench: Bench) -> None:
    from qwenprof.workload.attention import obstacle

    subject = bench.subject()
    variants = _variants(subject)
    reasons = {variant.key: obstacle(variant.attention, subject) for variant in variants}
    plan = bench.plan({v.key: float(v.batch) for v in variants if reasons[v.key] is None})
    for variant in variants:
        bench.say(f"attention {variant.attention}, {variant.experiment}, batch {variant.batch}")
        row: Row = {**_COLUMNS, "attention": variant.attention, "experiment": variant.experiment}
        row["batch"] = variant.batch
        reason = reasons[variant.key]
        measured = (
            empty_row("skipped", reason) if reason else _measured(bench, plan, subject, variant)
        )
        bench.add_row("backends", row | measured)


def _variants(subject: Subject) -> list[_Variant]:
    """The smaller batch and the attention in use first: a slow machine gets that far at least."""
    from qwenprof.workload import attention

    vision = subject.require_vision()
    small, large = vision.workload.attention_batches()
    best = next(
        name for name in reversed(IMPLEMENTATIONS) if attention.obstacle(name, subject) is None
    )
    in_use = vision.workload.attention
    ordered = [in_use, *(name for name in IMPLEMENTATIONS if name != in_use)]
    switched = {name: partial(attention.implementation, subject, name) for name in ordered}
    pixels = subject.inputs(small).pixels
    assert pixels is not None
    return [
        *(
            _Variant(attention=name, experiment=SWITCHED, batch=small, around=around)
            for name, around in switched.items()
        ),
        _Variant(
            attention=best,
            experiment=FORCED,
            batch=small,
            around=partial(attention.forced, vision.tower, best),
        ),
        _Variant(
            attention="sdpa",
            experiment=REPLACED,
            batch=small,
            around=partial(attention.replaced_by_plain_sdpa, vision, pixels),
        ),
        *(
            _Variant(attention=name, experiment=SWITCHED, batch=large, around=around)
            for name, around in switched.items()
        ),
    ]


def _measured(bench: Bench, plan: TimePlan, subject: Subject, variant: _Variant) -> Row:
    from qwenprof.harness.memory import is_out_of_memory

    try:
        checks = _checked(subject, variant)
        return timed_row(
            bench, plan, variant.key, lambda: _prepared(subject, variant, checks), variant.around
        )
    except (ImportError, RuntimeError, ValueError, MeasurementError) as error:
        status = "out_of_memory" if is_out_of_memory(error) else "failed"
        return empty_row(status, reason_of(error))


def _prepared(subject: Subject, variant: _Variant, checks: Row) -> Prepared:
    return Prepared(call=subject.call(subject.inputs(variant.batch)), columns=checks)


def _checked(subject: Subject, variant: _Variant) -> Row:
    """That the experiment is what it says: right blocks, right output. On tiny images.

    Raises:
        MeasurementError: the replacement computes something else.
    """
    from qwenprof.workload.attention import (
        probe_pixels,
        replaced_by_plain_sdpa,
        tower_output,
        used_implementations,
    )

    if variant.experiment != REPLACED:
        with variant.around():
            used = used_implementations(subject)
        right = sum(1 for name in used.values() if name == variant.attention)
        return {"blocks": len(subject.require_vision().tower.attentions()), "blocks_using": right}
    pixels = probe_pixels(subject)
    original = tower_output(subject, pixels)
    with replaced_by_plain_sdpa(subject.require_vision(), pixels):
        difference = (tower_output(subject, pixels) - original).abs().max() / original.abs().max()
    if difference > SAME_OUTPUT[subject.dtype_name]:
        raise MeasurementError(
            f"plain SDPA differs from the model's attention by {difference:.2g} of the largest "
            "feature, so its time would prove nothing"
        )
    return {"max_relative_difference": float(difference)}


STAGE = Stage(
    name="attention-sweep",
    order=30,
    question="Is it attention?",
    suspect="the attention implementation",
    measure=measure,
    budget_s=82.0,
    example="qwenprof attention-sweep --frames 4 --dtype bf16",
)
