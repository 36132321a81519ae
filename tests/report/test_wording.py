"""A sentence begins with a capital; a path or a dtype is a name, and keeps its own letters."""

from __future__ import annotations

import pytest

from qwenprof.report.wording import opened


@pytest.mark.parametrize(
    ("said", "names", "reads"),
    [
        ("the work did not grow", None, "The work did not grow"),
        ("no other implementation", None, "No other implementation"),
        ("model.visual.patch_embed takes 9 x", None, "model.visual.patch_embed takes 9 x"),
        ("patch_embed takes 9 x", None, "patch_embed takes 9 x"),
        ("patch_embed.proj takes 9 x", None, "patch_embed.proj takes 9 x"),
        ("merger takes 9 x", "model.visual.merger", "merger takes 9 x"),
        ("merger takes 9 x", None, "Merger takes 9 x"),
        ("bf16 matrix products", None, "bf16 matrix products"),
        ("fp32 needs no emulation", None, "fp32 needs no emulation"),
        ("Known issue: x", None, "Known issue: x"),
        ("9 of them", None, "9 of them"),
        ("", None, ""),
    ],
)
def test_only_a_word_is_capitalised(said: str, names: str | None, reads: str) -> None:
    assert opened(said, names) == reads
