"""A convolution whose windows do not overlap equals a linear layer; no other one does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from qwenprof.errors import UsageError
from qwenprof.fix.linearize import Convolution, linearize, obstacle

KINDS: dict[int, type[Convolution]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


@settings(deadline=None, max_examples=40)
@given(
    kernel=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    channels=st.integers(1, 4),
    features=st.integers(1, 8),
    bias=st.booleans(),
    patches=st.integers(1, 5),
)
def test_it_equals_the_convolution_on_every_window(
    kernel: list[int], channels: int, features: int, bias: bool, patches: int
) -> None:
    kind: Any = KINDS[len(kernel)]
    conv = kind(channels, features, tuple(kernel), stride=tuple(kernel), bias=bias).double()
    windows = torch.randn(patches, channels, *kernel, dtype=torch.float64)

    linear = linearize(conv)

    torch.testing.assert_close(linear(windows.flatten(1)), conv(windows).flatten(1))


def test_it_copies_and_keeps_dtype_mode_and_gradient_setting() -> None:
    conv = nn.Conv3d(3, 8, (2, 4, 4), stride=(2, 4, 4)).to(torch.bfloat16).eval()
    conv.requires_grad_(False)

    linear = linearize(conv)

    assert linear.weight.dtype == torch.bfloat16
    assert not linear.training
    assert not linear.weight.requires_grad
    assert linear.bias is not None
    assert not linear.bias.requires_grad
    assert linear.weight.data_ptr() != conv.weight.data_ptr()


@pytest.mark.parametrize(
    ("options", "condition"),
    [
        ({"stride": 1}, "stride"),
        ({"stride": 2, "padding": 1}, "padding"),
        ({"stride": 1, "padding": "same"}, "stride"),
        ({"stride": 2, "dilation": 2}, "dilation"),
        ({"stride": 2, "groups": 2}, "groups"),
    ],
)
def test_anything_else_is_refused_by_name(options: dict[str, Any], condition: str) -> None:
    conv = nn.Conv3d(4, 8, 2, **options)

    with pytest.raises(UsageError, match=condition):
        linearize(conv)


def test_a_layer_that_is_no_convolution_is_refused() -> None:
    assert obstacle(nn.Linear(2, 2)) == "Linear is not a Conv1d, Conv2d or Conv3d"
    assert obstacle(nn.Conv2d(1, 1, 2, stride=2, padding="valid")) is None
