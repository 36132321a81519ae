"""Is it the patch embedding's convolution? The model's own conv against the equal linear layer.

A convolution whose stride equals its kernel is a linear map of each patch. Both are timed in
turn (A B B A) on the workload's own patches, at several patch counts and in every dtype, with
the backend that PyTorch picks for the convolution by name. Errors are against an fp64
reference, so that a convolution which computes something wrong is seen too.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from qwenprof.errors import NotApplicable, reason_of
from qwenprof.record.record import Row
from qwenprof.stages._timed_row import empty_row, timing_columns
from qwenprof.stages.matmul import DTYPES
from qwenprof.stages.stage import Bench, Stage

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import nn

    from qwenprof.harness.plan import Allowance, TimePlan
    from qwenprof.harness.sampler import Timing
    from qwenprof.workload.loading import Subject

SMALLEST_COUNT, STEP = 64, 4
OWN_SHARE = 0.6  # of the stage's seconds, for the workload's own dtype
CONV, LINEAR = "Conv3d", "Linear"
COLUMNS: Row = {
    "variant": None,
    "dtype": None,
    "patches": None,
    "direction": "forward",
    "module": None,
    "backend": None,
    "bias": None,
    "speedup": None,
    "speedup_low": None,
    "speedup_high": None,
    "max_abs_error": None,
    "cosine": None,
    "max_abs_difference": None,
}


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """The convolution and its equal, and the patches for both: (N, C, *kernel).

    outputs: of the last call of each variant, (N, D), so that nothing has to run again to be
        checked: a convolution on a slow path takes seconds.
    """

    path: str
    conv: nn.Conv3d
    linear: nn.Linear
    patches: torch.Tensor
    outputs: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def flat(self) -> torch.Tensor:
        return self.patches.flatten(1)

    def calls(self) -> dict[str, Callable[[], None]]:
        """A call of each variant without gradients."""
        import torch

        def run_conv() -> None:
            with torch.inference_mode():
                self.outputs[CONV] = self.conv(self.patches)

        def run_linear() -> None:
            with torch.inference_mode():
                self.outputs[LINEAR] = self.linear(self.flat)

        return {CONV: run_conv, LINEAR: run_linear}


def measure(bench: Bench) -> None:
    subject = bench.subject()
    path, conv, patches = _conv_and_patches(subject)
    counts = patch_counts(len(patches))
    others = [dtype for dtype in DTYPES if dtype != bench.dtype]
    shares = {bench.dtype: OWN_SHARE} | dict.fromkeys(others, (1 - OWN_SHARE) / len(others))
    for dtype, share in shares.items():
        plan = bench.plan({str(count): float(count) for count in counts}, share=share)
        for count in counts:
            bench.say(f"Conv3d against Linear, {count} patches, {dtype}")
            prepare = partial(_pair, path, conv, patches[:count], dtype)
            for row in _compared(bench, plan, prepare, dtype, count):
                bench.add_row("variants", row)


def patch_counts(most: int) -> list[int]:
    """Patch counts from 64 to `most`, four times as many at each step."""
    counts = []
    count = SMALLEST_COUNT
    while count < most:
        counts.append(count)
        count *= STEP
    return [*counts, most]


def _conv_and_patches(subject: Subject) -> tuple[str, nn.Conv3d, torch.Tensor]:
    """The model's own projection, by its path, and the workload's patches, as (N, C, *kernel)."""
    from torch import nn

    from qwenprof.fix.linearize import obstacle

    tower = subject.require_vision().tower
    conv, pixels = tower.child(tower.projection), subject.inputs().pixels
    reason = obstacle(conv)
    if not isinstance(conv, nn.Conv3d) or reason:
        raise NotApplicable(f"{tower.projection} is no Conv3d that equals a linear layer: {reason}")
    assert pixels is not None
    path = tower.full_path(tower.projection)
    return path, conv, pixels.values.view(-1, conv.in_channels, *conv.kernel_size)


def _pair(path: str, conv: nn.Conv3d, patches: torch.Tensor, dtype: str) -> _Pair:
    from qwenprof.fix.linearize import linearize
    from qwenprof.workload.loading import TORCH_DTYPES

    own = copy.deepcopy(conv).to(TORCH_DTYPES[dtype])
    cast = patches.to(TORCH_DTYPES[dtype])
    return _Pair(path=path, conv=own, linear=linearize(own), patches=cast)


def _compared(
    bench: Bench, plan: TimePlan, prepare: Callable[[], _Pair], dtype: str, count: int
) -> list[Row]:
    """The rows of both variants at one patch count, whatever becomes of them."""
    from qwenprof.harness.memory import free_cached_memory, is_out_of_memory
    from qwenprof.harness.plan import Refusal

    allowance = plan.start(str(count))
    if isinstance(allowance, Refusal):
        return _unmeasured(dtype, count, "skipped", allowance.reason)
    try:
        pair = prepare()
        timings = _timed(bench, pair, f"{dtype}/{count}", allowance)
        plan.learn(str(count), sum(timing.one_call_s for timing in timings.values()))
        return _measured(bench, pair, dtype, timings, allowance)
    except (RuntimeError, MemoryError) as error:
        status = "out_of_memory" if is_out_of_memory(error) else "failed"
        reason = reason_of(error)
    free_cached_memory(bench.device)
    return _unmeasured(dtype, count, status, reason)


def _timed(bench: Bench, pair: _Pair, key: str, allowance: Allowance) -> dict[str, Timing]:
    timings = bench.sampler.compare(pair.calls(), allowance)
    for variant, timing in timings.items():
        bench.add_series(timing.series(f"{variant}/{key}"))
    return timings


def _measured(
    bench: Bench, pair: _Pair, dtype: str, timings: dict[str, Timing], allowance: Allowance
) -> list[Row]:
    from qwenprof.harness import statistics

    speedup = statistics.ratio_of_medians(
        timings[CONV].device.values, timings[LINEAR].device.values
    )
    low, high = speedup.ci or (None, None)
    gains: dict[str, Row] = {
        CONV: {"speedup": 1.0, "speedup_low": None, "speedup_high": None},
        LINEAR: {"speedup": speedup.value, "speedup_low": low, "speedup_high": high},
    }
    errors, calls = _errors(pair), pair.calls()
    return [
        _columns(pair, dtype, name)
        | timing_columns(timing)
        | gains[name]
        | errors[name]
        | {"peak_bytes": _peak_bytes(bench, pair, calls[name], timing, allowance)}
        | {"status": "ok", "reason": None}
        for name, timing in timings.items()
    ]


def _peak_bytes(
    bench: Bench, pair: _Pair, call: Callable[[], None], timing: Timing, allowance: Allowance
) -> int | None:
    """The peak of one variant; the outputs of the other are not held meanwhile."""
    from qwenprof.harness.memory import affordable_peak_bytes

    pair.outputs.clear()
    return affordable_peak_bytes(call, bench.device, timing, allowance)


def _unmeasured(dtype: str, count: int, status: str, reason: str) -> list[Row]:
    return [
        {**COLUMNS, "variant": variant, "dtype": dtype, "patches": count}
        | empty_row(status, reason)
        for variant in (CONV, LINEAR)
    ]


def _columns(pair: _Pair, dtype: str, variant: str) -> Row:
    from qwenprof.harness.dispatch import convolution_backend

    return {
        **COLUMNS,
        "variant": variant,
        "dtype": dtype,
        "patches": len(pair.patches),
        "module": pair.path,
        "backend": convolution_backend(pair.conv, pair.patches) if variant == CONV else "GEMM",
        "bias": pair.conv.bias is not None,
    }


def _errors(pair: _Pair) -> dict[str, Row]:
    """Each variant's error against fp64, and the two variants' difference from each other."""
    reference = _reference(pair)
    outputs = {
        name: output.flatten(1).to(reference.device).double()
        for name, output in pair.outputs.items()
    }
    difference = float((outputs[CONV] - outputs[LINEAR]).abs().max())
    return {
        name: {
            "max_abs_error": float((output - reference).abs().max()),
            "cosine": _cosine(output, reference),
            "max_abs_difference": difference,
        }
        for name, output in outputs.items()
    }


def _reference(pair: _Pair) -> torch.Tensor:
    """The same map in fp64: (N, D), on the device if it knows fp64, else on the host."""
    import torch

    device = torch.device("cpu") if pair.patches.device.type == "mps" else pair.patches.device
    exact = copy.deepcopy(pair.linear).to(device).double()
    with torch.inference_mode():
        return exact(pair.flat.to(device).double())  # type: ignore[no-any-return]


def _cosine(left: torch.Tensor, right: torch.Tensor) -> float:
    import torch

    return float(torch.nn.functional.cosine_similarity(left.flatten(), right.flatten(), dim=0))


STAGE = Stage(
    name="compare-patch-embed",
    order=50,
    question="Is it the patch embedding's convolution?",
    suspect="Conv3d where a linear layer would do",
    measure=measure,
    budget_s=22.0,
    example="qwenprof compare-patch-embed --dtype bf16 --frames 8",
)
