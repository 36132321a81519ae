"""What all tests share: a tiny model of the real family, and the switch for golden files."""

from __future__ import annotations

from typing import Any

import pytest

from qwenprof.workload.families import qwen3_vl

TINY_VISION = {
    "depth": 3,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_heads": 4,
    "deepstack_visual_indexes": [0],
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite the golden files from this run"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    if torch.cuda.is_available():
        return
    reason = f"torch {torch.__version__} finds no CUDA device on this machine"
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A size "tiny" of the real family, and the options of a workload that uses it."""
    text = qwen3_vl._text(hidden=128, layers=2, heads=8, intermediate=256)
    size = qwen3_vl._size(TINY_VISION, text, tied=True)
    monkeypatch.setitem(qwen3_vl.FAMILY.sizes, "tiny", size)  # type: ignore[arg-type]
    return {"size": "tiny", "dtype": "fp32", "device": "cpu", "frames": 2, "short_edge": 64}
