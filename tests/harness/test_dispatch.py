"""Which implementation PyTorch picks for a convolution."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qwenprof.harness.dispatch import convolution_backend


@pytest.fixture
def conv() -> nn.Conv3d:
    """A patch embedding, small."""
    return nn.Conv3d(3, 8, kernel_size=(2, 4, 4), stride=(2, 4, 4))


@pytest.fixture
def patches() -> torch.Tensor:
    return torch.rand(5, 3, 2, 4, 4)


def test_switching_a_library_off_is_seen(conv: nn.Conv3d, patches: torch.Tensor) -> None:
    # GIVEN a convolution on a CPU WHEN oneDNN may not take it
    with torch.backends.mkldnn.flags(enabled=False):
        backend = convolution_backend(conv, patches)
    # THEN PyTorch's own loop does
    assert backend == "Slow3d"


@pytest.mark.parametrize("padding", ["valid", "same", 1, (0, 1, 2)])
def test_every_way_to_give_the_padding_is_understood(
    padding: str | int | tuple[int, ...], patches: torch.Tensor
) -> None:
    conv = nn.Conv3d(3, 8, kernel_size=3, padding=padding)
    assert convolution_backend(conv, torch.rand(1, 3, 4, 8, 8)) is not None


def test_other_dimensions_are_answered_too() -> None:
    assert convolution_backend(nn.Conv2d(3, 8, 4, stride=4), torch.rand(1, 3, 8, 8)) is not None
    assert convolution_backend(nn.Conv1d(3, 8, 4, bias=False), torch.rand(1, 3, 8)) is not None


def test_a_torch_without_the_question_gives_no_answer(
    conv: nn.Conv3d, patches: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN a torch that cannot be asked WHEN it is asked THEN nothing is made up
    monkeypatch.delattr(torch._C, "_select_conv_backend")
    assert convolution_backend(conv, patches) is None


@pytest.mark.gpu
def test_without_cudnn_a_gpu_takes_the_slow_path() -> None:
    # GIVEN a patch embedding on a GPU WHEN cuDNN is off THEN the slow loop is what is picked
    conv = nn.Conv3d(3, 8, kernel_size=(2, 4, 4), stride=(2, 4, 4), device="cuda")
    with torch.backends.cudnn.flags(enabled=False):
        assert convolution_backend(conv, torch.rand(5, 3, 2, 4, 4, device="cuda")) == (
            "SlowDilated3d"
        )
