"""Is it the patch embedding's convolution? The model's own conv against all that equals it.

A convolution whose stride equals its kernel is a linear map of each patch. It is timed in turn
(A B B A) with the fix and with the linear layer, on the workload's own patches, at several
patch counts and in every dtype, with the backend that PyTorch picks for it by name. In the
workload's dtype every other way to run it follows, forward and backward; those that may be
slow are timed alone, on few patches first, which tells what all of them would cost. Errors are
against an fp64 reference, so that a convolution which computes something wrong is seen too.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qwenprof.errors import NotApplicable, QwenprofError, reason_of
from qwenprof.record.record import Row
from qwenprof.stages._projection import BACKWARD, FORWARD, Projection, conv_and_patches
from qwenprof.stages._rounds import Round, is_able, run_round
from qwenprof.stages._timed_row import empty_row
from qwenprof.stages._variants import CONV, FIX, FUSED, LINEAR, variants
from qwenprof.stages._whole_forward import add_unmeasured, compare_whole_forwards
from qwenprof.stages.matmul import DTYPES
from qwenprof.stages.stage import Bench, Stage

if TYPE_CHECKING:
    import torch
    from torch import nn

    from qwenprof.stages._fused_worker import Order
    from qwenprof.workload.family import Tower
    from qwenprof.workload.loading import Subject

SMALLEST_COUNT, STEP = 64, 4
ALWAYS = (CONV, FIX, LINEAR)
# of the stage's seconds; what is left is for what runs alone. A convolution of 16 s on a GPU has
# to fit twice into the share of the two patch counts that matter most, and into that of the forward
MAIN_SHARE, WHOLE_SHARE = 0.315, 0.43
OTHER_COUNTS_SHARE, OTHER_DTYPES_SHARE, BACKWARD_SHARE = 0.057, 0.057, 0.046
FUSED_WHAT = 'from_pretrained(..., fusion_config={"patch_embeddings": True}) of transformers'
FUSED_CASE_S, FUSED_START_S = 0.5, 8.0  # torch and transformers are imported anew


def measure(bench: Bench) -> None:
    subject, clock = bench.subject(), bench.sampler.clock
    deadline_s = clock.now_s() + bench.budget_s
    path, conv, patches = _projection(bench, subject)
    forward = Round(
        bench=bench,
        path=path,
        dtype=bench.dtype,
        direction=FORWARD,
        projection=Projection.of(conv, patches, _torch_dtype(bench.dtype)),
        baselines={},
    )
    backward = replace(forward, direction=BACKWARD)
    ends, between = _ends(forward), _between(forward)
    _compare(forward, ends, MAIN_SHARE, every_variant=True)
    _compare(backward, ends, BACKWARD_SHARE, every_variant=True)
    _run_fused(subject.require_vision().tower, [forward, backward], deadline_s - clock.now_s())
    compare_whole_forwards(bench, subject, conv_s=_conv_s(forward), share=WHOLE_SHARE)
    _compare(forward, between, OTHER_COUNTS_SHARE)
    for dtype in (each for each in DTYPES if each != bench.dtype):
        projection = Projection.of(conv, patches, _torch_dtype(dtype))
        other = replace(forward, dtype=dtype, projection=projection)
        _compare(other, [*ends, *between], OTHER_DTYPES_SHARE / (len(DTYPES) - 1))
    _run_alone([forward, backward], deadline_s)


def _projection(bench: Bench, subject: Subject) -> tuple[str, nn.Conv3d, torch.Tensor]:
    """The model's own projection and the workload's patches.

    Raises:
        NotApplicable: there is none to compare; the rows of the whole forward say so too.
    """
    try:
        return conv_and_patches(subject)
    except NotApplicable as error:
        add_unmeasured(bench, subject, error)
        raise


def _conv_s(forward: Round) -> float:
    """Seconds of the convolution as dispatched on the workload's patches; 0 if not measured."""
    samples = forward.baselines.get(forward.key(CONV))
    return statistics.median(samples) if samples else 0.0


def patch_counts(most: int) -> list[int]:
    """Patch counts from 64 to `most`, four times as many at each step."""
    counts = []
    count = SMALLEST_COUNT
    while count < most:
        counts.append(count)
        count *= STEP
    return [*counts, most]


def _torch_dtype(name: str) -> torch.dtype:
    from qwenprof.workload.loading import TORCH_DTYPES

    return TORCH_DTYPES[name]


def _compare(
    round_: Round, counts: Sequence[int], share: float, *, every_variant: bool = False
) -> None:
    """What is fast, in turn: the convolution, the fix and Linear, or every variant of that kind."""
    bench = round_.bench
    plan = bench.plan({str(count): float(count) for count in counts}, share=share)
    in_turn = [each for each in variants(_device_type(bench)) if each.in_turn]
    chosen = [each for each in in_turn if every_variant or each.name in ALWAYS]
    for count in counts:
        run_round(round_.first(count), chosen, plan)


def _ends(round_: Round) -> list[int]:
    """The smallest patch count and the workload's: what the one takes tells of the other."""
    return sorted({min(SMALLEST_COUNT, round_.count), round_.count})


def _between(round_: Round) -> list[int]:
    return [count for count in patch_counts(round_.count) if count not in _ends(round_)]


def _run_alone(rounds: list[Round], deadline_s: float) -> None:
    """What may be slow. What one variant leaves of its seconds the next ones have."""
    bench = rounds[0].bench
    alone = [each for each in variants(_device_type(bench)) if not each.in_turn]
    cases = [(v, r) for v in alone for r in rounds if is_able(r, v)]
    for index, (variant, round_) in enumerate(cases):
        left_s = deadline_s - bench.sampler.clock.now_s()
        if variant.start_s and left_s < variant.start_s:
            reason = _too_late(f"{variant.name} takes about {variant.start_s:g} s to start", left_s)
            round_.add_row(variant.name, variant.what, empty_row("skipped", reason))
            continue
        counts = _ends(round_)
        share = max(left_s, 0.0) / bench.budget_s / (len(cases) - index)
        plan = bench.plan({str(count): float(count) for count in counts}, share=share)
        for count in counts:
            run_round(round_.first(count), [variant], plan)


def _too_late(what: str, left_s: float) -> str:
    left = f"{max(left_s, 0.0):.3g} s of this stage's budget are left"
    return f"{what} and {left}: raise --budget"


def _run_fused(tower: Tower, rounds: list[Round], left_s: float) -> None:
    """transformers' own fusion, in a process of its own; a row for each direction either way."""
    from qwenprof.stages._fused_worker import ask

    rounds[0].bench.say(f"{FUSED} of transformers, in a process of its own")
    try:
        if left_s < FUSED_START_S:
            what = f"a process of its own takes about {FUSED_START_S:g} s to start"
            raise NotApplicable(_too_late(what, left_s))
        answer = ask(_order(tower, rounds[0]), limit_s=left_s + 4 * FUSED_START_S)
    except QwenprofError as error:
        status = "skipped" if isinstance(error, NotApplicable) else "failed"
        for round_ in rounds:
            round_.add_row(FUSED, FUSED_WHAT, empty_row(status, reason_of(error)))
        return
    for round_ in rounds:
        timed = answer.directions[round_.direction]
        key = round_.key(FUSED)
        round_.bench.add_series({key + name: each for name, each in timed.series.items()})
        speedup = round_.speedup(FUSED, timed.series[""].values)
        cells: Row = {"backend": "GEMM", "bias": timed.bias, "status": "ok", "reason": None}
        round_.add_row(FUSED, FUSED_WHAT, timed.row | speedup | cells)


def _order(tower: Tower, round_: Round) -> Order:
    """The patch embedding to fuse: the module that holds the tower's projection."""
    from qwenprof.stages._fused_worker import Order, shallow

    model: Any = tower.module
    return Order(
        home=type(model).__module__,
        model=type(model).__name__,
        config=shallow(model.config.to_dict()),
        holder=tower.projection.rpartition(".")[0],
        dtype=round_.dtype,
        device=round_.bench.device,
        patches=round_.count,
        features_in=round_.projection.patches[0].numel(),
        case_s=FUSED_CASE_S,
        directions=(FORWARD, BACKWARD),
    )


def _device_type(bench: Bench) -> str:
    return bench.device.partition(":")[0]


STAGE = Stage(
    name="compare-patch-embed",
    order=50,
    question="Is it the patch embedding's convolution?",
    suspect="Conv3d where a linear layer would do",
    measure=measure,
    budget_s=56.0,
    alone_budget_s=150.0,
    example="qwenprof compare-patch-embed --dtype bf16 --frames 8",
)
