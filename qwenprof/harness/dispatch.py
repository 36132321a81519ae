"""Which implementation PyTorch picks for a convolution, and how to make it pick another.

A slow path can be provoked anywhere, on purpose: without its vendor library a convolution runs in
one of PyTorch's own loops (SlowDilated3d on CUDA, Slow3d on a CPU).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn import functional

CONV3D_WEIGHT = 5  # dimensions
TENSORS = ("input", "weight", "bias")  # of torch.nn.functional.conv3d
LIBRARIES = {"cuda": "cuDNN", "cpu": "oneDNN"}

_ask_in: Callable[[], AbstractContextManager[Any]] = nullcontext


def convolution_backend(
    conv: nn.Conv1d | nn.Conv2d | nn.Conv3d,
    x: torch.Tensor,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> str | None:
    """The name of the backend for `conv(x)`, such as Cudnn, Mkldnn, Slow3d or SlowDilated3d.

    With a `weight` it is asked for that weight and `bias` in place of the convolution's own.
    None where this torch has no such question any more. Real tensors only: meta and fake ones
    are answered as if on another machine. Source: ATen/native/Convolution.cpp,
    _select_conv_backend.
    """
    select: Any = getattr(torch._C, "_select_conv_backend", None)
    if select is None:
        return None
    padding = [0] * len(conv.kernel_size) if isinstance(conv.padding, str) else list(conv.padding)
    with _ask_in() if conv.weight.dim() == CONV3D_WEIGHT else nullcontext():
        backend = select(
            x,
            conv.weight if weight is None else weight,
            conv.bias if weight is None else bias,
            list(conv.stride),
            padding,
            list(conv.dilation),
            conv.transposed,
            list(conv.output_padding),
            conv.groups,
        )
    return str(backend.name)


def library_off(device_type: str) -> Callable[[], AbstractContextManager[None]]:
    """The context in which cuDNN, on a CPU oneDNN, is switched off for whatever runs in it."""

    @contextmanager
    def around() -> Iterator[None]:
        backends: Any = torch.backends
        library = backends.mkldnn if device_type == "cpu" else backends.cudnn
        with warnings.catch_warnings():
            # the CPU's switch also restores a setting for Intel GPUs, and warns that there is none
            warnings.simplefilter("ignore", UserWarning)
            with library.flags(enabled=False):
                yield

    return around


@contextmanager
def conv3d_without_library(device_type: str) -> Iterator[None]:
    """Every Conv3d in this context runs without its library, forward and backward; nothing else.

    An experiment: the slow path without the slow matrix products that switching the library off
    for everything brings with it.
    """
    global _ask_in
    original, off, asked_before = functional.conv3d, library_off(device_type), _ask_in

    def conv3d(*args: Any, **kwargs: Any) -> torch.Tensor:
        tensors = (*args[:3], *(kwargs.pop(name, None) for name in TENSORS[len(args) :]))

        def run(*inputs: Any) -> torch.Tensor:
            result: torch.Tensor = original(*inputs, *args[3:], **kwargs)
            return result

        return _run_within(off, run, *tensors)

    functional.conv3d, _ask_in = conv3d, off
    try:
        yield
    finally:
        functional.conv3d, _ask_in = original, asked_before


def _run_within(
    around: Callable[[], AbstractContextManager[None]],
    function: Callable[..., torch.Tensor],
    *inputs: torch.Tensor | None,
) -> torch.Tensor:
    """`function(*inputs)` in a context, and its gradients too, which autograd computes later."""
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs):
        apply: Any = _Within.apply  # untyped in torch
        result: torch.Tensor = apply(around, function, *inputs)
        return result
    with around():
        return function(*inputs)


class _Within(torch.autograd.Function):
    """A function that keeps the graph of its own forward, to go back through it in a context."""

    @staticmethod
    def forward(ctx: Any, around: Any, function: Any, *inputs: torch.Tensor | None) -> torch.Tensor:
        own = [x if x is None else x.detach().requires_grad_(x.requires_grad) for x in inputs]
        with torch.enable_grad(), around():
            result: torch.Tensor = function(*own)
        ctx.around, ctx.inputs, ctx.result = around, own, result
        return result.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        wanted = [x for x in ctx.inputs if x is not None and x.requires_grad]
        with ctx.around():
            found = iter(torch.autograd.grad(ctx.result, wanted, gradients, retain_graph=True))
        own = (next(found) if x is not None and x.requires_grad else None for x in ctx.inputs)
        return None, None, *own


def is_conv3d_without_library() -> bool:
    """Whether `conv3d_without_library` is in force."""
    return _ask_in is not nullcontext


def library_supports(device_type: str, dtype: torch.dtype) -> bool | None:
    """Whether the vendor library computes in this dtype on this device; None if it cannot tell.

    Source: ATen/native/mkldnn/Utils.h, mkldnn_bf16_device_check and mkldnn_fp16_device_check.
    """
    if device_type != "cpu":
        return None
    question = {
        torch.bfloat16: "_is_mkldnn_bf16_supported",
        torch.float16: "_is_mkldnn_fp16_supported",
    }
    if dtype not in question:
        available: Any = torch.backends.mkldnn.is_available
        return bool(available())
    ask: Any = getattr(torch.ops.mkldnn, question[dtype], None)
    return None if ask is None else bool(ask())
