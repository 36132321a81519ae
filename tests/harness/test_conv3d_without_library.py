"""Conv3d alone without its vendor library: the slow path on purpose, forward and backward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from qwenprof.harness.dispatch import (
    conv3d_without_library,
    convolution_backend,
    is_conv3d_without_library,
)


@pytest.fixture
def conv() -> nn.Conv3d:
    return nn.Conv3d(3, 8, (2, 4, 4), stride=(2, 4, 4))


def operators(call: Any) -> set[str]:
    """The operators that a call runs, by name."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        call()
    averages: Any = recorded.key_averages()
    return {event.key for event in averages}


def test_without_its_library_the_forward_takes_the_slow_loop(conv: nn.Conv3d) -> None:
    x = torch.rand(5, 3, 2, 4, 4)
    expected = conv(x)

    with conv3d_without_library("cpu"):
        ran, by_function = (
            operators(lambda: conv(x)),
            operators(lambda: functional.conv3d(input=x, weight=conv.weight, stride=(2, 4, 4))),
        )
        asked, result = convolution_backend(conv, x), conv(x)

    assert "aten::slow_conv3d_forward" in ran & by_function
    assert "aten::mkldnn_convolution" not in ran | by_function
    assert asked == "Slow3d"
    torch.testing.assert_close(result, expected)
    assert "aten::mkldnn_convolution" in operators(lambda: conv(x))
    assert convolution_backend(conv, x) == "Mkldnn"


def test_nothing_but_conv3d_loses_its_library(conv: nn.Conv3d) -> None:
    linear, flat = nn.Linear(64, 64), nn.Conv2d(3, 8, 4, stride=4)
    image, rows = torch.rand(1, 3, 16, 16), torch.rand(128, 64)
    before = functional.linear, functional.conv2d
    asked_before = convolution_backend(flat, image)
    plain = operators(lambda: (linear(rows), flat(image)))

    with conv3d_without_library("cpu"):
        assert (functional.linear, functional.conv2d) == before
        assert torch.backends.mkldnn.enabled
        assert operators(lambda: (linear(rows), flat(image))) == plain
        assert convolution_backend(flat, image) == asked_before


def test_all_is_as_before_after_an_error(conv: nn.Conv3d) -> None:
    before, x = functional.conv3d, torch.rand(5, 3, 2, 4, 4)

    def broken() -> None:
        with conv3d_without_library("cpu"):
            assert is_conv3d_without_library()
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        broken()

    assert functional.conv3d is before
    assert not is_conv3d_without_library()
    assert convolution_backend(conv, x) == "Mkldnn"


def test_one_within_another_gives_back_what_was_there(conv: nn.Conv3d) -> None:
    x = torch.rand(5, 3, 2, 4, 4)

    with conv3d_without_library("cpu"):
        with conv3d_without_library("cpu"):
            pass
        assert convolution_backend(conv, x) == "Slow3d"
        assert "aten::slow_conv3d_forward" in operators(lambda: conv(x))

    assert not is_conv3d_without_library()


def test_an_input_that_does_not_fit_raises_and_leaves_the_switch_on(conv: nn.Conv3d) -> None:
    with conv3d_without_library("cpu"), pytest.raises(RuntimeError):
        conv(torch.rand(5, 4, 2, 4, 4))

    assert torch.backends.mkldnn.enabled
    assert convolution_backend(conv, torch.rand(5, 3, 2, 4, 4)) == "Mkldnn"


def gradients(conv: nn.Conv3d, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    inputs = [x, *conv.parameters()]
    return torch.autograd.grad(conv(x).square().sum(), inputs)


def test_gradients_are_computed_without_the_library_too(conv: nn.Conv3d) -> None:
    """Autograd computes them later, when the forward is long over."""
    x = torch.rand(5, 3, 2, 4, 4, requires_grad=True)
    expected = gradients(conv, x)

    with conv3d_without_library("cpu"):
        ran = operators(lambda: gradients(conv, x))
        found = gradients(conv, x)

    assert "aten::_slow_conv2d_backward" in ran or any("slow_conv3d" in name for name in ran)
    assert not [name for name in ran if "mkldnn" in name]
    torch.testing.assert_close(found, expected)
    assert any("mkldnn" in name for name in operators(lambda: gradients(conv, x)))


@pytest.mark.parametrize("wanted", ["input", "weight", "bias"])
def test_what_needs_no_gradient_gets_none(conv: nn.Conv3d, wanted: str) -> None:
    x = torch.rand(5, 3, 2, 4, 4, requires_grad=wanted == "input")
    for name, parameter in conv.named_parameters():
        parameter.requires_grad_(name == wanted)

    with conv3d_without_library("cpu"):
        conv(x).sum().backward()

    given = {"input": x, **dict(conv.named_parameters())}
    assert [name for name, tensor in given.items() if tensor.grad is not None] == [wanted]


def test_a_convolution_without_a_bias_and_one_in_no_grad(conv: nn.Conv3d) -> None:
    bare = nn.Conv3d(3, 8, (2, 4, 4), stride=(2, 4, 4), bias=False)
    x = torch.rand(5, 3, 2, 4, 4)
    expected = bare(x)

    with conv3d_without_library("cpu"):
        torch.testing.assert_close(bare(x), expected)
        with torch.no_grad():
            assert not conv(x).requires_grad
        assert conv(x).requires_grad
