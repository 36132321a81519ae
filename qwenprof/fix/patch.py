"""Every non-overlapping nn.Conv3d runs as the matrix product that it is: apply, undo, `with`.

`nn.Conv3d._conv_forward` is replaced on the class, so models built before and after are both
reached, whatever their weights are called. No parameter is renamed, reshaped or copied: the
matrix product takes a view of the convolution's own weight, so state_dict, optimizers, saving
and loading stay as they were, and the gradients arrive in the same place.

Left as they are: convolutions whose windows overlap, and pointwise ones (kernel 1 x 1 x 1),
which are no patch embeddings and which PyTorch never sends to its slow path.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from qwenprof.fix.linearize import convolve_as_linear, obstacle

METHOD = "_conv_forward"
_ORIGINAL: Callable[..., torch.Tensor] = getattr(nn.Conv3d, METHOD)
_DIMENSIONS = 3


@dataclass(kw_only=True)
class Tally:
    """What ran as a matrix product since the process began.

    convolutions: modules; each counts once.
    calls: their forwards. Code that torch.compile made is not counted.
    """

    convolutions: int = 0
    calls: int = 0
    _seen: weakref.WeakSet[nn.Module] = field(default_factory=weakref.WeakSet)

    def add(self, conv: nn.Module) -> None:
        self.calls += 1
        if conv not in self._seen:
            self._seen.add(conv)
            self.convolutions += 1


@dataclass(kw_only=True)
class _State:
    """Who wants the fix: `apply_fix`, and each `with fixed()` that is open."""

    applied: bool = False
    open_blocks: int = 0


TALLY = Tally()
_STATE, _LOCK = _State(), threading.Lock()


def apply_fix() -> None:
    """Make every non-overlapping nn.Conv3d run as F.linear, in models of now and of later.

    Calling it again changes nothing. Code that torch.compile made before is forgotten, so that
    it is compiled anew.
    """
    with _LOCK:
        _STATE.applied = True
        _install()


def undo_fix() -> None:
    """Take `apply_fix` back. An open `with fixed()` keeps the fix until it ends."""
    with _LOCK:
        _STATE.applied = False
        _install()


@contextmanager
def fixed() -> Iterator[None]:
    """The fix within a `with` block; blocks may be nested, and overlap in several threads."""
    _enter(1)
    try:
        yield
    finally:
        _enter(-1)


def is_fixed() -> bool:
    """Whether non-overlapping convolutions run as matrix products now."""
    return getattr(nn.Conv3d, METHOD) is conv_forward


def runs_as_linear(conv: nn.Module) -> bool:
    """Whether the fix is meant for `conv`: a Conv3d without overlap, larger than a point."""
    return (
        isinstance(conv, nn.Conv3d)
        and any(width != 1 for width in conv.kernel_size)
        and obstacle(conv) is None
    )


def _enter(step: int) -> None:
    with _LOCK:
        _STATE.open_blocks += step
        _install()


def _install() -> None:
    """Put in place what the state asks for; called with the lock held."""
    wanted = _STATE.applied or _STATE.open_blocks > 0
    if wanted == is_fixed():
        return
    setattr(nn.Conv3d, METHOD, conv_forward if wanted else _ORIGINAL)
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


def conv_forward(
    self: nn.Conv3d, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """What `nn.Conv3d._conv_forward` is while the fix is applied; arguments as there."""
    if not (runs_as_linear(self) and _takes(x, weight)):
        return _ORIGINAL(self, x, weight, bias)
    if not torch.compiler.is_compiling():
        TALLY.add(self)
    return convolve_as_linear(x, weight, bias)


def _takes(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether x is an input that the convolution would accept; it has the better error messages."""
    if x.dim() not in (_DIMENSIONS + 1, _DIMENSIONS + 2):
        return False
    if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
        return False
    sizes, kernel = x.shape[-_DIMENSIONS:], weight.shape[2:]
    enough = all(size >= width for size, width in zip(sizes, kernel, strict=True))
    return enough and x.shape[-_DIMENSIONS - 1] == weight.shape[1]
