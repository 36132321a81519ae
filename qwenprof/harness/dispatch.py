"""Which implementation PyTorch's dispatcher picks for a convolution."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


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
