"""Does the fix leave a model as it is: its checkpoints, and the process itself?"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from qwenprof.record.record import Row
from qwenprof.stages._checks import DIFFERING, at_most

if TYPE_CHECKING:
    import torch
    from torch import nn

PASSES, BYTES_PER_S = 4, 300e6  # to disk and back, twice; a slow disk
EXACT = "0: a copy, no arithmetic"
SAME_ARITHMETIC = "0: the same operations on the same numbers"

Tensors = Mapping[str, "torch.Tensor"]


def checkpoint_rows(tower: nn.Module, left_s: float) -> Iterator[Row]:
    """Save with the fix and load without it, the reverse, and the same with real Linear layers.

    Source of the tolerance: nothing is computed on the way, so every bit and name must be equal.

    Args:
        left_s: seconds that it may take. A tower that is too large for that is checked with its
            first block alone: the fix touches none of them.
    """
    from qwenprof.fix.patch import fixed

    size = sum(each.numel() * each.element_size() for each in tower.parameters())
    whole = PASSES * size / BYTES_PER_S <= left_s
    tower = tower if whole else _shallow(tower)
    of = "" if whole else ", with one block"
    ways: dict[str, tuple[Any, Any]] = {
        "checkpoint: saved with the fix, loaded without": (fixed, nullcontext),
        "checkpoint: saved without the fix, loaded with it": (nullcontext, fixed),
    }
    for check, (saving, loading) in ways.items():
        loaded = _saved_and_loaded(tower, saving, loading)
        yield _row(check + of, "apply_fix()", tower.state_dict(), loaded)
    yield _row(
        f"checkpoint: state_dict of linearize_model(){of}",
        "linearize_model()",
        tower.state_dict(),
        _linearized_state(tower),
    )


def idempotence_rows(run: Callable[[], torch.Tensor]) -> Iterator[Row]:
    """Applying twice changes no more than once, and undoing brings back what there was."""
    from qwenprof.fix.patch import apply_fix, undo_fix

    before = run()
    apply_fix()
    try:
        once = run()
        apply_fix()
        twice = run()
    finally:
        undo_fix()
    after = run()
    yield _row("applied twice", "apply_fix()", {"": once}, {"": twice}, SAME_ARITHMETIC)
    yield _row("undone", "undo_fix()", {"": before}, {"": after}, SAME_ARITHMETIC)


def _shallow(tower: Any) -> nn.Module:
    """A tower of the same kind with one block and random weights."""
    from qwenprof.stages._fused_worker import shallow

    config = type(tower.config)(**shallow(tower.config.to_dict()))
    small: nn.Module = type(tower)(config).to(next(tower.parameters()).dtype)
    return small


def _saved_and_loaded(
    tower: Any,
    saving: Callable[[], AbstractContextManager[None]],
    loading: Callable[[], AbstractContextManager[None]],
) -> Tensors:
    """What comes back of a model that went to disk; through transformers' own functions."""
    dtype = next(tower.parameters()).dtype
    with tempfile.TemporaryDirectory(prefix="qwenprof-") as folder, _without_progress_bars():
        with saving():
            tower.save_pretrained(folder)
        with loading():
            loaded = type(tower).from_pretrained(folder, dtype=dtype)
        tensors: Tensors = loaded.state_dict()
    return tensors


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """transformers shows one for every file, into whatever the caller shows."""
    from transformers.utils import logging

    was_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_shown:
            logging.enable_progress_bar()


def _linearized_state(tower: nn.Module) -> Tensors:
    """The state of a twin with real Linear layers. It shares every tensor: nothing is copied."""
    import copy

    from qwenprof.fix.swap import linearize_model

    shared = {id(each): each for each in (*tower.parameters(), *tower.buffers())}
    twin = copy.deepcopy(tower, memo=dict(shared))
    tensors: Tensors = linearize_model(twin).state_dict()
    return tensors


def _row(check: str, variant: str, expected: Tensors, found: Tensors, source: str = EXACT) -> Row:
    return {
        "check": check,
        "variant": variant,
        "dtype": None,
        "metric": DIFFERING,
        "tolerance_source": source,
        "reference": "the model without the fix" if source == EXACT else "the run before",
        **at_most(float(_differing(expected, found)), 0.0),
    }


def _differing(expected: Tensors, found: Tensors) -> int:
    """Elements that are not bit for bit the same; a name or shape that differs counts whole."""
    count = 0
    for name in expected.keys() | found.keys():
        left, right = expected.get(name), found.get(name)
        if left is None or right is None or left.shape != right.shape or left.dtype != right.dtype:
            count += max(each.numel() for each in (left, right) if each is not None)
        else:
            count += int((_bits(left) != _bits(right)).any(-1).sum())
    return count


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of each element, (elements, bytes): -0 is not 0, and NaN equals itself."""
    import torch

    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).view(len(flat), -1)
