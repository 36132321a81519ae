"""The code of what is timed, as it is installed, so that a record can be read without it.

Nothing is imported or run: what is timed is in memory already, and its text is read from its file.
"""

from __future__ import annotations

import inspect
import tokenize
from collections.abc import Sequence
from itertools import accumulate
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from qwenprof.errors import reason_of
from qwenprof.record.record import Row

if TYPE_CHECKING:
    from qwenprof.harness.probe import Node

MAX_LINES, MAX_CHARACTERS = 200, 20_000
INSTALLED = ("site-packages", "dist-packages")
# no file, a file that is not text, or one that has changed since it was imported
UNREADABLE = (OSError, TypeError, ValueError, SyntaxError, tokenize.TokenError)


def source_rows(nodes: Sequence[Node]) -> list[Row]:
    """One row for each class or function that is not torch's own, at the first path that has it."""
    pieces: dict[int, tuple[Node, Any]] = {}
    for node in nodes:
        piece = _piece(node)
        if not _is_torchs(piece):
            pieces.setdefault(id(piece), (node, piece))
    return [_row(node, piece) for node, piece in pieces.values()]


def _piece(node: Node) -> Any:
    """The class of a module, or the function itself where the node is one."""
    if node.module is not None:
        return type(node.module)
    function = getattr(node.owner, node.attribute)
    return getattr(function, "__func__", function)


def _is_torchs(piece: Any) -> bool:
    return str(getattr(piece, "__module__", "")).startswith("torch.")


def _row(node: Node, piece: Any) -> Row:
    """The source of one piece; without it, why there is none."""
    row: Row = {
        "module": node.path,
        "name": str(getattr(piece, "__name__", node.attribute or node.kind)),
        "file": None,
        "first_line": None,
        "last_line": None,
        "source": None,
        "reason": None,
    }
    try:
        lines, first = inspect.getsourcelines(piece)
        file = inspect.getsourcefile(inspect.unwrap(piece))
    except UNREADABLE as error:
        return row | {"reason": reason_of(error)}
    return row | {
        "file": None if file is None else without_folders(file),
        "first_line": first,
        "last_line": first + len(lines) - 1,
        **_capped(lines),
    }


def without_folders(file: str) -> str:
    """A path below site-packages, else the bare name: the rest tells whose machine it is."""
    parts = PurePath(file).parts
    installed = [index for index, part in enumerate(parts) if part in INSTALLED]
    return "/".join(parts[installed[-1] + 1 :]) if installed else parts[-1]


def _capped(lines: Sequence[str]) -> Row:
    """The text as far as a record keeps it, and what was cut."""
    lengths = accumulate(len(line) for line in lines[:MAX_LINES])
    kept = sum(length <= MAX_CHARACTERS for length in lengths)
    cut = len(lines) - kept
    reason = (
        f"the last {cut:,} of {len(lines):,} lines are left out: a record keeps "
        f"{MAX_LINES} lines and {MAX_CHARACTERS:,} characters of a piece"
    )
    return {"source": "".join(lines[:kept]) or None, "reason": reason if cut else None}
