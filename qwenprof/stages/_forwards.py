"""Whole forwards with and without the fix: features of every image, and the next token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qwenprof.errors import MeasurementError, NotApplicable
from qwenprof.record.record import Row
from qwenprof.stages._checks import (
    COSINE,
    PUBLISHED,
    UNIT_ROUNDOFF,
    at_least,
    at_most,
    least_cosine,
    not_checked,
)
from qwenprof.stages._variants import CONV, FIX
from qwenprof.stages.stage import Bench

if TYPE_CHECKING:
    import torch

    from qwenprof.workload.loading import Inputs, Subject

LEAST_COSINE = 0.99
TIE = 4.0
SHARE = 0.75


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What one forward gave.

    features: (images, hidden size), the visual tokens of each image averaged, in fp64.
    logits: (samples, vocabulary) of the next token, in fp64; None for a tower alone.
    """

    features: torch.Tensor
    logits: torch.Tensor | None


def forward_rows(bench: Bench, subject: Subject) -> Iterator[Row]:
    """Rows for the features and, of a whole model, for the logits and the token they choose.

    Raises:
        NotApplicable: two forwards do not fit into the stage's seconds.
    """
    from contextlib import nullcontext

    from qwenprof.fix.patch import fixed
    from qwenprof.harness.plan import Refusal

    inputs, clock = subject.inputs(), bench.sampler.clock
    plan = bench.plan({CONV: 1.0, FIX: 1.0}, share=SHARE)
    seen = []
    for name, context in ((CONV, nullcontext), (FIX, fixed)):
        allowance = plan.start(name)
        if isinstance(allowance, Refusal):
            raise NotApplicable(allowance.reason)
        started_s = clock.now_s()
        with context():
            seen.append(_seen(subject, inputs))
        plan.learn(name, clock.now_s() - started_s)
    plain, linear = seen
    common: Row = {"variant": FIX, "dtype": bench.dtype, "reference": f"the forward with {CONV}"}
    yield common | _feature_cells(plain.features, linear.features)
    if plain.logits is not None and linear.logits is not None:
        yield common | _logit_cells(plain.logits, linear.logits)
        yield common | _token_cells(plain.logits, linear.logits, bench.dtype)


def _seen(subject: Subject, inputs: Inputs) -> Seen:
    """One forward; the tower's output is taken where it leaves the tower."""
    caught: list[Any] = []
    vision = subject.require_vision()
    handle = vision.tower.module.register_forward_hook(lambda *args: caught.append(args[-1]))
    try:
        output = subject.call(inputs)()
    finally:
        handle.remove()
    assert inputs.pixels is not None
    counts = [int(grid.prod()) // vision.family.merged_patches for grid in inputs.pixels.grid.cpu()]
    logits = getattr(output, "logits", None)
    return Seen(
        features=_pooled(caught[-1], counts),
        logits=None if logits is None else logits[:, -1].double(),
    )


def _pooled(output: Any, counts: Sequence[int]) -> torch.Tensor:
    """The visual tokens of each image, averaged, out of whatever the tower returns.

    That is one tensor of all tokens, or a tuple of one for each image, or an output object that
    holds either, depending on the version of transformers and on who calls.
    """
    import torch

    parts = list(output.values()) if isinstance(output, Mapping) else output
    parts = parts if isinstance(parts, list | tuple) else [parts]
    for part in parts:
        images = _images(part, counts)
        if images is not None:
            wide = (each.cpu() if each.device.type == "mps" else each for each in images)
            return torch.stack([image.double().mean(0) for image in wide])
    raise MeasurementError(f"the tower returns no {sum(counts)} visual tokens: {type(output)}")


def _images(part: Any, counts: Sequence[int]) -> Sequence[torch.Tensor] | None:
    """The tokens of each image, if this part of an output is that."""
    import torch

    if isinstance(part, torch.Tensor):
        fits = part.dim() == 2 and len(part) == sum(counts)
        return torch.split(part, list(counts)) if fits else None
    if isinstance(part, list | tuple) and [len(each) for each in part] == list(counts):
        return part
    return None


def _feature_cells(plain: torch.Tensor, linear: torch.Tensor) -> Row:
    return {
        "check": f"published: pooled features of {len(plain)} image(s) after the whole tower",
        "metric": f"{COSINE}, the least",
        "tolerance_source": PUBLISHED,
        **at_least(least_cosine(plain, linear), LEAST_COSINE),
    }


def _logit_cells(plain: torch.Tensor, linear: torch.Tensor) -> Row:
    return {
        "check": f"next-token logits of {len(plain)} sample(s)",
        "metric": f"{COSINE}, the least",
        "tolerance_source": PUBLISHED,
        **at_least(least_cosine(plain, linear), LEAST_COSINE),
    }


def _token_cells(plain: torch.Tensor, linear: torch.Tensor, dtype: str) -> Row:
    """Samples that choose another token, ties aside: with random weights ties are common."""
    best = plain.topk(2).values
    tie = TIE * UNIT_ROUNDOFF[dtype] * plain.abs().amax(-1)
    clear = (best[:, 0] - best[:, 1]) > tie
    differs = plain.argmax(-1) != linear.argmax(-1)
    cells: Row = {
        "check": f"next token, {int(clear.sum())} of {len(plain)} sample(s) without a tie",
        "metric": "samples that choose another token",
        "tolerance_source": f"0; a tie is within {TIE:g} u({dtype}) of the largest logit",
    }
    if not bool(clear.any()):
        return cells | not_checked("skipped", "every sample is a tie between two tokens")
    return cells | at_most(float((differs & clear).sum()), 0.0)
