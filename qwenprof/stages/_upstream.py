"""The fix as a diff against the transformers that was measured, for the record."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from qwenprof.errors import QwenprofError, reason_of
from qwenprof.record.record import Row

if TYPE_CHECKING:
    import torch
    from torch import nn

    from qwenprof.fix._conv3d import Style
    from qwenprof.fix.linearize import Convolution

MODEL_FILE = re.compile(r"transformers\.models\.(\w+)\.")


def upstream_rows(
    model: nn.Module, found: Mapping[str, tuple[Convolution, torch.Tensor]]
) -> Iterator[Row]:
    """A row for each style, and for each file that a style leaves as it is, with the reason.

    found: the convolutions that were measured, by path. Those of no transformers model have no
        rows.
    """
    from qwenprof.fix.upstream import STYLES

    for family in _families(model, found):
        for style in STYLES:
            yield from _rows(family, style)


def _families(model: nn.Module, found: Mapping[str, tuple[Convolution, torch.Tensor]]) -> list[str]:
    """The model folders of transformers whose classes hold these Conv3d."""
    from torch import nn

    owners = [
        type(model.get_submodule(path.rpartition(".")[0]))
        for path, (conv, _) in found.items()
        if isinstance(conv, nn.Conv3d)
    ]
    files = [MODEL_FILE.match(owner.__module__) for owner in owners]
    return list(dict.fromkeys(file[1] for file in files if file))


def _rows(family: str, style: Style) -> list[Row]:
    from qwenprof.fix.upstream import upstream_diff

    row: Row = {"family": family, "style": style, "files": None, "diff": None, "reason": None}
    try:
        diff = upstream_diff(family, style)
    except (QwenprofError, OSError, SyntaxError, ValueError) as error:
        return [row | {"reason": reason_of(error)}]
    skipped = [row | {"files": file, "reason": reason} for file, reason in diff.skipped]
    if not diff.files:
        return skipped
    return [row | {"files": ", ".join(diff.files), "diff": diff.text}, *skipped]
