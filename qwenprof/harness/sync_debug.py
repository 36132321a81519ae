"""Where CUDA itself says that the host waits, as PyTorch's debug mode for it reports."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from qwenprof.harness.probe import ROOT, Node, attached

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MESSAGE = "called a synchronizing CUDA operation"


def synchronizations(call: Callable[[], Any], nodes: Sequence[Node]) -> Counter[tuple[str, str]]:
    """Synchronising operations of one untimed call on a CUDA device, by node and line of Python.

    Returns:
        (path of the innermost node, "file.py:line") -> how many. An explicit
        torch.cuda.synchronize() is not among them.

    Source: torch.cuda.set_sync_debug_mode, which warns of each.
    """
    import torch

    found: Counter[tuple[str, str]] = Counter()
    open_paths = [ROOT]

    def enter(node: Node, *_: Any) -> None:
        open_paths.append(node.path)

    def leave(*_: Any) -> None:
        open_paths.pop()

    def heard(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if MESSAGE in str(message):
            found[open_paths[-1], f"{Path(filename).name}:{lineno}"] += 1

    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = heard
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with attached(nodes, enter, leave):
                call()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return found
