"""A convolution whose windows do not overlap is a linear map of each window.

With stride equal to kernel, no padding, no dilation and one group, every output is the dot
product of one window with one flattened kernel, and no input is used twice:

    y[k, w] = b[k] + <flatten(W[k]), flatten(window w)>

so W.reshape(D, -1) is the weight of the equal nn.Linear, for any number of dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from qwenprof.errors import UsageError

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


def obstacle(conv: nn.Module) -> str | None:
    """Why `conv` is not a linear map of disjoint windows; None if it is one."""
    if not isinstance(conv, CONVOLUTIONS):
        return f"{type(conv).__name__} is not a Conv1d, Conv2d or Conv3d"
    if tuple(conv.stride) != tuple(conv.kernel_size):
        return f"stride {conv.stride} differs from kernel size {conv.kernel_size}"
    if conv.padding != "valid" and (isinstance(conv.padding, str) or any(conv.padding)):
        return f"padding {conv.padding} is not zero"
    if any(step != 1 for step in conv.dilation):
        return f"dilation {conv.dilation} is not 1"
    return None if conv.groups == 1 else f"groups {conv.groups} is not 1"


def linearize(conv: Convolution) -> nn.Linear:
    """The nn.Linear that equals `conv` on every window.

    Args:
        conv: kernel (D, C, *K) with stride K, no padding, dilation 1, groups 1.

    Returns:
        A layer from C * prod(K) to D features, with copies of the weights, on the same
        device, in the same dtype and mode. It takes windows flattened in the order
        (C, *K), one row each.

    Raises:
        UsageError: `conv` is not such a convolution; the message names the condition.
    """
    reason = obstacle(conv)
    if reason:
        raise UsageError(f"cannot turn this convolution into a linear layer: {reason}")
    weight = conv.weight.detach()
    linear = nn.Linear(
        weight[0].numel(), weight.shape[0], conv.bias is not None, weight.device, weight.dtype
    )
    with torch.no_grad():
        linear.weight.copy_(weight.reshape(weight.shape[0], -1))
        if conv.bias is not None:
            linear.bias.copy_(conv.bias)
            linear.bias.requires_grad_(conv.bias.requires_grad)
    linear.weight.requires_grad_(conv.weight.requires_grad)
    return linear.train(conv.training)


def convolve_as_linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """The convolution of `x` with stride equal to kernel, as one matrix product.

    Args:
        x: (N, C, *S), or (C, *S) without a batch; no size in S smaller than the kernel's.
            What is left over where it is no multiple of the kernel is dropped, as by a conv.
        weight: (D, C, *K). It is viewed, never copied, if it is contiguous or channels-last.
        bias: (D,) or None.

    Returns:
        (N, D, *G) or (D, *G) with G = S // K, in the memory format that a conv would choose.
    """
    kernel = weight.shape[2:]
    if x.dim() == len(kernel) + 1:
        return convolve_as_linear(x.unsqueeze(0), weight, bias).squeeze(0)
    if _is_cut(x, kernel) and weight.is_contiguous():
        y = nn.functional.linear(x.flatten(1), weight.flatten(1), bias)
        return y.view(*y.shape, *(1 for _ in kernel))
    order = _memory_order(weight)
    windows, grid = _windows(x, kernel, order)
    kernels = weight.permute(0, *(1 + axis for axis in order)).flatten(1)
    y = nn.functional.linear(windows.reshape(-1, kernels.shape[1]), kernels, bias)
    y = y.view(x.shape[0], *grid, weight.shape[0]).movedim(-1, 1)
    if _is_channels_last(x) or _is_channels_last(weight):
        return y
    return y.contiguous().flatten(1).view(y.shape)


def _is_cut(x: torch.Tensor, kernel: Sequence[int]) -> bool:
    """Whether each sample of x is one window, as the processors of Qwen-VL models cut them.

    A tracer is not asked: it would take the answer for a condition on the sizes.
    """
    return not is_traced() and x.shape[2:] == kernel and x.is_contiguous()


def is_traced() -> bool:
    """Whether operations are being recorded by torch.compile, torch.export or torch.jit.trace."""
    return torch.compiler.is_compiling() or is_recorded()


def is_recorded() -> bool:
    """Whether it is torch.jit.trace, which takes every look at a size for a mistake."""
    jit: Any = torch.jit
    return bool(jit.is_tracing())


def _windows(
    x: torch.Tensor, kernel: Sequence[int], order: Sequence[int]
) -> tuple[torch.Tensor, list[int]]:
    """The windows of x as a view (N, *G, C, *K) with the last axes in this order, and G."""
    grid = [size // width for size, width in zip(x.shape[2:], kernel, strict=True)]
    split: list[int] = []
    for axis, (count, width) in enumerate(zip(grid, kernel, strict=True), start=2):
        x = x.narrow(axis, 0, count * width)
        split += [count, width]
    axes = [1, *range(3, 3 + len(split), 2)]
    counts = range(2, 2 + len(split), 2)
    return x.view(*x.shape[:2], *split).permute(0, *counts, *(axes[i] for i in order)), grid


def _memory_order(weight: torch.Tensor) -> list[int]:
    """The order of (C, *K) in which a weight lies in memory, so that flattening it is a view."""
    axes = list(range(weight.dim() - 1))
    return [*axes[1:], 0] if _is_channels_last(weight) else axes


def _is_channels_last(x: torch.Tensor) -> bool:
    """Whether x lies in channels_last or channels_last_3d, and not in the plain format.

    Asked of a permuted view: within vmap no tensor knows its memory format.
    """
    return x.dim() in (4, 5) and not x.is_contiguous() and x.movedim(1, -1).is_contiguous()
