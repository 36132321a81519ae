"""One patch projection on given patches: its calls, its exact results, and how far off one is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from qwenprof.errors import NotApplicable
from qwenprof.record.record import Row
from qwenprof.stages._checks import least_cosine, relative_error
from qwenprof.stages._numerics import OUTPUT, WEIGHT_GRADIENT, Problem, problem
from qwenprof.stages._variants import Layer

if TYPE_CHECKING:
    import torch
    from torch import nn

    from qwenprof.workload.loading import Subject

FORWARD, BACKWARD = "forward", "backward"
ERRORS: Row = {"max_abs_error": None, "relative_error": None, "cosine": None}


@dataclass(frozen=True, kw_only=True)
class Projection:
    """A convolution in one dtype and the patches for it, (N, C, *K).

    results: of the last call of each variant: features (N, D), or the weight's gradient
        (D, C * prod(K)). Nothing has to run again to be checked: a slow path takes seconds.
    """

    conv: nn.Conv3d
    patches: torch.Tensor
    results: dict[tuple[str, str], torch.Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, conv: nn.Conv3d, patches: torch.Tensor, dtype: torch.dtype) -> Projection:
        """A projection with copies of its own in this dtype."""
        own = copy.deepcopy(conv).to(dtype)
        return cls(conv=own.requires_grad_(), patches=patches.to(dtype))

    def first(self, count: int) -> Projection:
        """The same for the first patches alone."""
        return Projection(conv=self.conv, patches=self.patches[:count])

    def call(self, name: str, layer: Layer, direction: str) -> Callable[[], None]:
        """A call to time; what it computes is kept under the variant's name."""
        return self._forward(name, layer) if direction == FORWARD else self._backward(name, layer)

    def errors(self, name: str, direction: str) -> Row:
        """How far the last result is from fp64: largest, relative (2-norm), and its cosine."""
        exact = self.problem.exact(OUTPUT if direction == FORWARD else WEIGHT_GRADIENT)
        found = self.results[name, direction].to(exact.device).double()
        return {
            "max_abs_error": float((found - exact).abs().max()),
            "relative_error": relative_error(found, exact),
            "cosine": least_cosine(found.flatten()[None], exact.flatten()[None]),
        }

    def difference(self, name: str, other: str, direction: str) -> float | None:
        """The largest difference of two variants' last results; None without the other's."""
        if name == other or (other, direction) not in self.results:
            return None
        left, right = (self.results[each, direction].double() for each in (name, other))
        return float((left - right).abs().max())

    @cached_property
    def problem(self) -> Problem:
        """The same in fp64, with what flows back, which is the same for every variant."""
        from qwenprof.workload.loading import DTYPE_NAMES

        return problem(self.conv, self.patches, DTYPE_NAMES[self.conv.weight.dtype])

    def _forward(self, name: str, layer: Layer) -> Callable[[], None]:
        import torch

        def run() -> None:
            with torch.inference_mode():
                self.results[name, FORWARD] = layer.forward(self.patches).flatten(1)

        return run

    def _backward(self, name: str, layer: Layer) -> Callable[[], None]:
        """The gradients of weight and bias alone: nobody trains the pixels."""
        import torch

        output = layer.forward(self.patches)
        gradient = self.problem.direction.to(output).view_as(output)

        def run() -> None:
            weight, *_ = torch.autograd.grad(
                output, layer.parameters(), gradient, retain_graph=True
            )
            self.results[name, BACKWARD] = weight.flatten(1)

        return run


def conv_and_patches(subject: Subject) -> tuple[str, nn.Conv3d, torch.Tensor]:
    """The model's own projection, by its path, and the workload's patches, as (N, C, *kernel).

    Raises:
        NotApplicable: it is no convolution that equals a linear layer, or none runs as a
            convolution in this process.
    """
    from torch import nn

    from qwenprof.fix.linearize import obstacle
    from qwenprof.fix.patch import is_fixed

    if is_fixed():
        raise NotApplicable(
            "the fix is applied in this process, so no Conv3d would be measured as it is: "
            "call qwenprof.undo_fix() before"
        )
    tower = subject.require_vision().tower
    conv, pixels = tower.child(tower.projection), subject.inputs().pixels
    reason = obstacle(conv)
    if not isinstance(conv, nn.Conv3d) or reason:
        raise NotApplicable(f"{tower.projection} is no Conv3d that equals a linear layer: {reason}")
    assert pixels is not None
    path = tower.full_path(tower.projection)
    return path, conv, pixels.values.view(-1, conv.in_channels, *conv.kernel_size)
