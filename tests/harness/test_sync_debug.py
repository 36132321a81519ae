"""What CUDA reports, with a torch that says so when it is told to."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from qwenprof.harness.probe import tree
from qwenprof.harness.sync_debug import MESSAGE, synchronizations


class Asking(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        warnings.warn(MESSAGE, UserWarning, stacklevel=1)
        warnings.warn("something else", UserWarning, stacklevel=1)
        return x


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Asking(), nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first(self.first(x)))
        warnings.warn(MESSAGE, UserWarning, stacklevel=1)
        return x


@pytest.fixture
def modes(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What the debug mode was set to."""
    seen: list[object] = []
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", seen.append)
    return seen


def test_every_report_is_counted_where_it_arises(modes: list[object]) -> None:
    # GIVEN a model whose child waits in both of its calls, and which waits itself
    model = Model()
    # WHEN it is called
    found = synchronizations(lambda: model(torch.ones(1)), tree(model))
    # THEN each has its node and its line, and the mode is what it was
    assert {path: count for (path, _), count in found.items()} == {"first": 2, "": 1}
    assert all(place.startswith("test_sync_debug.py:") for _, place in found)
    assert modes == ["warn", 0]


def test_the_mode_is_put_back_after_an_error(modes: list[object]) -> None:
    def fail() -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        synchronizations(fail, [])
    assert modes == ["warn", 0]
