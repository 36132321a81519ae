"""Output and gradients of a patch projection, however it is run, against fp64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from qwenprof.errors import MeasurementError
from qwenprof.record.record import Row
from qwenprof.stages._checks import RELATIVE_ERROR, at_most, relative_error, rounding_tolerance
from qwenprof.stages._variants import SLOW_DIRECT

if TYPE_CHECKING:
    import torch
    from torch import nn

SEED = 20_241
CONTROL_PATCHES = 32
OUTPUT, INPUT_GRADIENT = "output", "input gradient"
WEIGHT_GRADIENT, BIAS_GRADIENT = "weight gradient", "bias gradient"

Results = dict[str, "torch.Tensor"]
Forward = Callable[["nn.Conv3d", "torch.Tensor"], "torch.Tensor"]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A projection to check: everything in fp64, holding values that the dtype can hold.

    patches: (N, C, *K). weight: (D, C, *K). bias: (D,) or None. direction: (N, D), the gradient
    that flows back into the output. known: results that were computed already.
    """

    dtype: str
    patches: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None
    direction: torch.Tensor
    known: Results = field(default_factory=dict)

    @cached_property
    def factors(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Output and gradients as products of two matrices; the output's bias comes on top."""
        flat, kernels, direction = self.patches.flatten(1), self.weight.flatten(1), self.direction
        products = {
            OUTPUT: (flat, kernels.T),
            WEIGHT_GRADIENT: (direction.T, flat),
            INPUT_GRADIENT: (direction, kernels),
        }
        ones = direction.new_ones(1, len(direction))
        return products if self.bias is None else products | {BIAS_GRADIENT: (ones, direction)}

    def exact(self, name: str) -> torch.Tensor:
        """A result in fp64, as a matrix; computed once."""
        if name not in self.known:
            left, right = self.factors[name]
            product = left @ right
            bias = self.bias if name == OUTPUT else None
            self.known[name] = product if bias is None else product + bias
        return self.known[name]

    def terms(self, name: str) -> int:
        """How many products each element of a result sums."""
        return self.factors[name][0].shape[1]

    def partial_sums(self, name: str) -> float:
        """What the partial sums of a result reach, 2-norm: the root of the sum of squares."""
        left, right = self.factors[name]
        return float((left.square().sum(0) @ right.square().sum(1)).sqrt())


def problem(
    conv: nn.Conv3d, patches: torch.Tensor, dtype: str, count: int | None = None
) -> Problem:
    """The convolution and patches as this dtype holds them, with a random direction.

    count: of patches, the first; None takes all.
    """
    import torch

    from qwenprof.workload.loading import TORCH_DTYPES

    def held(tensor: torch.Tensor) -> torch.Tensor:
        home = tensor.cpu() if tensor.device.type == "mps" else tensor
        return home.detach().to(TORCH_DTYPES[dtype]).double()

    patches = patches[:count]
    generator = torch.Generator().manual_seed(SEED)
    direction = torch.randn(len(patches), conv.out_channels, generator=generator)
    return Problem(
        dtype=dtype,
        patches=held(patches),
        weight=held(conv.weight),
        bias=None if conv.bias is None else held(conv.bias),
        direction=held(direction.to(patches.device)),
    )


def computed(asked: Problem, conv: nn.Conv3d, forward: Forward) -> Results:
    """Output and gradients as `forward(conv, patches)` gives them, in the dtype, on the device."""
    import torch

    from qwenprof.workload.loading import TORCH_DTYPES

    dtype, device = TORCH_DTYPES[asked.dtype], conv.weight.device
    own = copy.deepcopy(conv).to(dtype).requires_grad_()
    patches = asked.patches.to(device, dtype).requires_grad_()
    output = forward(own, patches).flatten(1)
    inputs = {WEIGHT_GRADIENT: own.weight, INPUT_GRADIENT: patches}
    if own.bias is not None:
        inputs[BIAS_GRADIENT] = own.bias
    direction = asked.direction.to(device, dtype)
    gradients = torch.autograd.grad(output, list(inputs.values()), direction)
    return {OUTPUT: output.detach()} | {
        name: each if each.dim() == 1 else each.flatten(1)
        for name, each in zip(inputs, gradients, strict=True)
    }


def error_rows(asked: Problem, variant: str, results: Results, arithmetic: str) -> list[Row]:
    """A row for each result. arithmetic: dtype of the products, TF32 where that is allowed."""
    rows = []
    for name in asked.factors:
        exact = asked.exact(name)
        found = results[name].to(exact.device).double().view_as(exact)
        size = float(exact.norm())
        cancellation = asked.partial_sums(name) / size if size else 1.0
        tolerance, source = rounding_tolerance(arithmetic, asked.terms(name), cancellation)
        cells: Row = {
            "check": name,
            "variant": variant,
            "dtype": asked.dtype,
            "patches": len(asked.patches),
            "metric": RELATIVE_ERROR,
            "tolerance_source": source,
            "reference": "fp64",
        }
        rows.append(cells | at_most(relative_error(found, exact), tolerance))
    return rows


def as_conv(conv: nn.Conv3d, patches: torch.Tensor) -> torch.Tensor:
    """The convolution as dispatched."""
    output: torch.Tensor = conv(patches)
    return output


def as_fixed(conv: nn.Conv3d, patches: torch.Tensor) -> torch.Tensor:
    """The convolution with the fix."""
    from qwenprof.fix.patch import fixed

    with fixed():
        output: torch.Tensor = conv(patches)
    return output


def slow_path_row(conv: nn.Conv3d, patches: torch.Tensor, dtype: str) -> Row:
    """The control: a weight gradient that is known to be wrong, and has to be found out.

    slow_conv_dilated3d adds up the gradients of single patches in the dtype itself, so that the
    error grows with their number: fewer than CONTROL_PATCHES are repeated.

    Raises:
        MeasurementError: this device does not run that operator.
    """
    from qwenprof.harness.dispatch import library_off

    repeats = -(-CONTROL_PATCHES // len(patches))
    asked = problem(conv, patches.repeat(repeats, 1, 1, 1, 1)[:CONTROL_PATCHES], dtype)
    with library_off(patches.device.type)():
        results = computed(asked, conv, _on_the_slow_path)
    rows = error_rows(asked, SLOW_DIRECT, results, dtype)
    found = next(row for row in rows if row["check"] == WEIGHT_GRADIENT)
    return found | {"check": f"control: {WEIGHT_GRADIENT}", "must_fail": True}


def _on_the_slow_path(conv: nn.Conv3d, patches: torch.Tensor) -> torch.Tensor:
    """The same map through slow_conv_dilated3d, forward and backward.

    On CUDA that is what is left without cuDNN. Elsewhere PyTorch keeps it for dilated kernels:
    so one axis of the patches is spread out with zeros between, and the kernel dilated by two
    along it, which computes the same.
    """
    from qwenprof.harness.dispatch import convolution_backend

    asked, x = (conv, patches) if patches.is_cuda else _spread(conv, patches)
    backend = convolution_backend(asked, x)
    if backend not in (None, "SlowDilated3d"):
        raise MeasurementError(f"no way to slow_conv_dilated3d: {backend} takes its place here")
    output: torch.Tensor = asked(x)
    return output


def _spread(conv: nn.Conv3d, patches: torch.Tensor) -> tuple[nn.Conv3d, torch.Tensor]:
    """A dilated convolution over the same weight, and patches that are spread out for it."""
    import torch

    axis = next(axis for axis, width in enumerate(conv.kernel_size) if width > 1)
    dilation = [2 if each == axis else 1 for each in range(len(conv.kernel_size))]
    sizes = [step * (width - 1) + 1 for step, width in zip(dilation, conv.kernel_size, strict=True)]
    places = torch.arange(0, sizes[axis], 2, device=patches.device)
    blank = patches.new_zeros(*patches.shape[:2], *sizes)
    dilated = torch.nn.Conv3d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        dilation=dilation,  # type: ignore[arg-type]
        bias=conv.bias is not None,
        device="meta",
    )
    dilated.weight, dilated.bias = conv.weight, conv.bias
    return dilated, blank.index_copy(axis + 2, places, patches)
