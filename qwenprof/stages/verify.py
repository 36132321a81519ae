"""Is the fix exact, and would a wrong convolution be found out?

Output and gradients of the patch projection are compared with fp64, not one path with the
other, as dispatched and with the fix, in every dtype. Features of whole forwards are compared
with and without the fix. Checkpoints go to disk and back. And a control that is known to be
wrong has to fail: the weight gradient of slow_conv_dilated3d.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from qwenprof.errors import NotApplicable, QwenprofError, reason_of
from qwenprof.record.record import Row
from qwenprof.stages._checks import (
    COLUMNS,
    COSINE,
    MAX_DIFFERENCE,
    PUBLISHED,
    at_least,
    at_most,
    least_cosine,
    not_checked,
)
from qwenprof.stages._forwards import forward_rows
from qwenprof.stages._numerics import (
    OUTPUT,
    Problem,
    as_conv,
    as_fixed,
    computed,
    error_rows,
    problem,
    slow_path_row,
)
from qwenprof.stages._projection import conv_and_patches
from qwenprof.stages._round_trip import checkpoint_rows, idempotence_rows
from qwenprof.stages._variants import CONV, FIX
from qwenprof.stages.matmul import DTYPES
from qwenprof.stages.stage import Bench, Stage

if TYPE_CHECKING:
    import torch
    from torch import nn

FEW_PATCHES = 32
NUMERICS_SHARE = 0.45
PUBLISHED_DIFFERENCE, PUBLISHED_COSINE = 1e-5, 0.999
WAYS = {CONV: as_conv, FIX: as_fixed}

Ask = Callable[[int], Problem]  # patches -> what is asked of them


def measure(bench: Bench) -> None:
    subject = bench.subject()
    deadline_s = bench.sampler.clock.now_s() + bench.budget_s
    path, conv, patches = conv_and_patches(subject)
    _add(bench, "control: weight gradient", _control(bench, conv, patches))
    counts = sorted({min(FEW_PATCHES, len(patches)), len(patches)})
    for dtype in DTYPES:
        ask = cache(partial(problem, conv, patches, dtype))  # both ways are held against one fp64
        for variant in WAYS:
            rows = _numerics(bench, ask, counts, conv, variant, dtype)
            _add(bench, f"{variant} in {dtype}", rows, {"module": path})
    _add(bench, "published tests", _published_tests(bench, conv, patches))
    run = partial(as_conv, conv, patches[:FEW_PATCHES])
    _add(bench, "idempotence", idempotence_rows(run))
    bench.say("whole forwards with and without the fix")
    _add(bench, "whole forwards", forward_rows(bench, subject))
    bench.say("checkpoints, saved and loaded")
    tower = subject.require_vision().tower.module
    left_s = deadline_s - bench.sampler.clock.now_s()
    _add(bench, "checkpoint round trip", checkpoint_rows(tower, left_s))


def _add(bench: Bench, check: str, rows: Iterable[Row], common: Row | None = None) -> None:
    """Keep these rows as they are made; what stops that becomes a row itself."""
    from qwenprof.harness.memory import free_cached_memory, is_out_of_memory

    try:
        for row in rows:
            bench.add_row("checks", COLUMNS | (common or {}) | row)
        return
    except (RuntimeError, MemoryError, OSError, ValueError, KeyError, QwenprofError) as error:
        skipped = isinstance(error, NotApplicable)
        status = "out_of_memory" if is_out_of_memory(error) else "skipped" if skipped else "failed"
        reason = reason_of(error)
    free_cached_memory(bench.device)
    bench.add_row("checks", COLUMNS | {"check": check} | not_checked(status, reason))


def _control(bench: Bench, conv: nn.Conv3d, patches: torch.Tensor) -> Iterator[Row]:
    """What must fail. On few patches: there it takes seconds and is wrong enough."""
    bench.say("control: the weight gradient of slow_conv_dilated3d, which must fail")
    yield slow_path_row(conv, patches[:FEW_PATCHES], "bf16")


def _numerics(
    bench: Bench, ask: Ask, counts: Sequence[int], conv: nn.Conv3d, variant: str, dtype: str
) -> Iterator[Row]:
    """Output and gradients on few patches, and on all of them if what that took lets hope."""
    from qwenprof.harness.plan import Refusal

    bench.say(f"{variant} in {dtype} against fp64, output and gradients")
    share = NUMERICS_SHARE / (len(DTYPES) * len(WAYS))
    plan = bench.plan({str(count): float(count) for count in counts}, share=share)
    clock = bench.sampler.clock
    rows: list[Row] = []
    try:
        for count in counts:
            if isinstance(plan.start(str(count)), Refusal):
                break
            started_s = clock.now_s()
            results = computed(ask(count), conv, WAYS[variant])
            rows = error_rows(ask(count), variant, results, _arithmetic(bench, dtype, variant))
            plan.learn(str(count), clock.now_s() - started_s)
    finally:
        yield from rows


def _arithmetic(bench: Bench, dtype: str, variant: str) -> str:
    """What the products are made in: TF32 in place of fp32 where the library is allowed to."""
    import torch

    if dtype != "fp32" or not bench.device.startswith("cuda"):
        return dtype
    backends: Any = torch.backends
    library = backends.cudnn if variant == CONV else backends.cuda.matmul
    return "TF32" if library.allow_tf32 else dtype


def _published_tests(bench: Bench, conv: nn.Conv3d, patches: torch.Tensor) -> Iterator[Row]:
    """The two tests of one layer that were published with the fix, convolution against fix."""
    bench.say("the published tests of one layer")
    few = patches[: 8 * FEW_PATCHES]

    def outputs(dtype: str) -> tuple[torch.Tensor, torch.Tensor]:
        asked = problem(conv, few, dtype)
        with _exact_fp32(bench.device):
            plain, linear = (computed(asked, conv, way)[OUTPUT] for way in WAYS.values())
        return plain.double(), linear.double()

    common: Row = {
        "variant": FIX,
        "patches": len(few),
        "reference": CONV,
        "tolerance_source": PUBLISHED,
    }
    plain, linear = outputs("fp32")
    difference = float((plain - linear).abs().max())
    largest = float(plain.abs().max())
    yield common | {
        "check": "published: output, TF32 off",
        "dtype": "fp32",
        "metric": MAX_DIFFERENCE,
        "tolerance_source": f"{PUBLISHED}; absolute, and the largest output is {largest:.3g}",
        **at_most(difference, PUBLISHED_DIFFERENCE),
    }
    plain, linear = outputs("bf16")
    yield common | {
        "check": "published: output",
        "dtype": "bf16",
        "metric": COSINE,
        **at_least(least_cosine(plain.flatten()[None], linear.flatten()[None]), PUBLISHED_COSINE),
    }


@contextmanager
def _exact_fp32(device: str) -> Iterator[None]:
    """Without TF32, in cuDNN and in matrix products, whatever the process has asked for."""
    import torch

    backends: Any = torch.backends
    if not device.startswith("cuda"):
        yield
        return
    allowed = backends.cuda.matmul.allow_tf32
    backends.cuda.matmul.allow_tf32 = False
    try:
        with backends.cudnn.flags(allow_tf32=False):
            yield
    finally:
        backends.cuda.matmul.allow_tf32 = allowed


STAGE = Stage(
    name="verify",
    order=60,
    question="Is the fix exact?",
    suspect="a fix that changes what the model computes",
    measure=measure,
    budget_s=30.0,
    example="qwenprof verify --dtype bf16",
)
