"""What all tests share: a tiny model of the real family, and the switch for golden files."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
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


def pytest_configure() -> None:
    """Started in a shell's background, Ctrl-C is ignored, here and in every child."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    if torch.cuda.is_available():
        return
    reason = f"torch {torch.__version__} finds no CUDA device on this machine"
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=reason))


TINY = {"size": "tiny", "dtype": "fp32", "device": "cpu", "frames": 2, "short_edge": 64}


@contextmanager
def tiny_size() -> Iterator[None]:
    """The real family has a size "tiny" for a while."""
    text = qwen3_vl._text(hidden=128, layers=2, heads=8, intermediate=256)
    sizes: Any = qwen3_vl.FAMILY.sizes
    sizes["tiny"] = qwen3_vl._size(TINY_VISION, text, tied=True)
    try:
        yield
    finally:
        del sizes["tiny"]


@pytest.fixture
def tiny() -> Iterator[dict[str, Any]]:
    """Options of a workload of that size."""
    with tiny_size():
        yield dict(TINY)
