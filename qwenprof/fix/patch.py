"""Every non-overlapping nn.Conv3d runs as the matrix product that it is: apply, undo, `with`.

`nn.Conv3d._conv_forward` is replaced on the class, so models built before and after are both
reached, whatever their weights are called. No parameter is renamed, reshaped or copied: the
matrix product takes a view of the convolution's own weight, so state_dict, optimizers, saving
and loading stay as they were, and the gradients arrive in the same place.

Left as they are: convolutions whose windows overlap, and pointwise ones (kernel 1 x 1 x 1),
which are no patch embeddings and which PyTorch never sends to its slow path.

Others may have replaced the same method before, or may wrap it afterwards. What was there is
called for every convolution that is not ours, and put back by undoing; below somebody else's
wrapper, where it cannot be put back, undoing makes ours pass everything on.
"""

from __future__ import annotations

import functools
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

# torch.jit.script reads the source of the method that ours wraps, and finds its names here
import torch.nn.functional as F  # noqa: F401, N812
from torch import nn
from torch.nn.modules.utils import _triple  # noqa: F401

from qwenprof.fix.linearize import convolve_as_linear, is_recorded, is_traced, obstacle

METHOD = "_conv_forward"
_DIMENSIONS = 3

Forward = Callable[..., torch.Tensor]


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
    """Who wants the fix: `apply_fix`, and each `with fixed()` that is open.

    previous: the method that ours stands in front of.
    installed: whether ours is in the chain of those that are called.
    """

    previous: Forward
    applied: bool = False
    open_blocks: int = 0
    installed: bool = False


TALLY = Tally()
_STATE, _LOCK = _State(previous=getattr(nn.Conv3d, METHOD)), threading.Lock()


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
    """The fix within a `with` block; blocks may be nested, and overlap in several threads.

    It holds for the whole process. Entering and leaving the outermost block makes torch.compile
    compile anew, so put the block around a loop, not into it.
    """
    _enter(1)
    try:
        yield
    finally:
        _enter(-1)


def is_fixed() -> bool:
    """Whether non-overlapping convolutions run as matrix products now."""
    return _STATE.applied or _STATE.open_blocks > 0


def runs_as_linear(conv: nn.Module) -> bool:
    """Whether the fix is meant for `conv`: a Conv3d without overlap, larger than a point."""
    return (
        isinstance(conv, nn.Conv3d)
        and any(width != 1 for width in conv.kernel_size)
        and obstacle(conv) is None
    )


def forward_as_linear(
    conv: nn.Conv3d, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor | None:
    """What `conv` gives for x, as a matrix product; None where it must convolve."""
    if not (runs_as_linear(conv) and (is_recorded() or _takes(x, weight, bias))):
        return None
    if not is_traced():
        TALLY.add(conv)
    return convolve_as_linear(x, weight, bias)


def _enter(step: int) -> None:
    with _LOCK:
        _STATE.open_blocks += step
        _install()


def _install() -> None:
    """Put in place what the state asks for; called with the lock held."""
    present: Forward = getattr(nn.Conv3d, METHOD)
    if is_fixed() and not _STATE.installed:
        _STATE.previous, _STATE.installed = present, True
        setattr(nn.Conv3d, METHOD, _conv_forward)
    elif not is_fixed() and present is _conv_forward:
        setattr(nn.Conv3d, METHOD, _STATE.previous)
        _STATE.installed = False
    else:
        return
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


@functools.wraps(getattr(nn.Conv3d, METHOD))
def _conv_forward(
    self: nn.Conv3d, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    y = forward_as_linear(self, x, weight, bias) if is_fixed() else None
    return _STATE.previous(self, x, weight, bias) if y is None else y


def _takes(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> bool:
    """Whether the convolution would accept this input; it has the better error messages."""
    if x.dim() not in (_DIMENSIONS + 1, _DIMENSIONS + 2):
        return False
    if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
        return False
    if bias is not None and (bias.shape != weight.shape[:1] or bias.dtype != weight.dtype):
        return False
    sizes, kernel = x.shape[-_DIMENSIONS:], weight.shape[2:]
    enough = all(size >= width for size, width in zip(sizes, kernel, strict=True))
    return enough and x.shape[-_DIMENSIONS - 1] == weight.shape[1]
