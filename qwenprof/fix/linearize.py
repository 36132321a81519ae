"""A convolution whose windows do not overlap is a linear map of each window.

With stride equal to kernel, no padding, no dilation and one group, every output is the dot
product of one window with one flattened kernel, and no input is used twice:

    y[k, w] = b[k] + <flatten(W[k]), flatten(window w)>

so W.reshape(D, -1) is the weight of the equal nn.Linear, for any number of dimensions.
"""

from __future__ import annotations

import torch
from torch import nn

from qwenprof.errors import UsageError

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


def obstacle(conv: nn.Module) -> str | None:
    """Why `conv` is not a linear map of disjoint windows; None if it is one."""
    if not isinstance(conv, CONVOLUTIONS):
        return f"{type(conv).__name__} is not a Conv1d, Conv2d or Conv3d"
    conditions = {
        f"stride {conv.stride} differs from kernel size {conv.kernel_size}": (
            tuple(conv.stride) == tuple(conv.kernel_size)
        ),
        f"padding {conv.padding} is not zero": conv.padding == "valid" or set(conv.padding) == {0},
        f"dilation {conv.dilation} is not 1": set(conv.dilation) == {1},
        f"groups {conv.groups} is not 1": conv.groups == 1,
    }
    return next((failure for failure, holds in conditions.items() if not holds), None)


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
