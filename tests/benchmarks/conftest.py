"""The extraction job, a tiny tower and samples for it."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

pytest.register_assert_rewrite("tests.benchmarks.feature_extraction")

from tests.benchmarks.feature_extraction import SCRIPT, save_image, saved_tower  # noqa: E402


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return importlib.import_module(SCRIPT.stem)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tower of two narrow blocks, saved alone."""
    return saved_tower(tmp_path_factory.mktemp("tower"), seed=0)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Five images of three shapes and a clip of five frames: two chunks of three samples."""
    folder = tmp_path / "input"
    clip = folder / "clip"
    clip.mkdir(parents=True)
    for number in range(5):
        save_image(folder / f"image-{number}.png", 64 + 32 * (number % 3), number)
        save_image(clip / f"{number}.jpg", 64, 10 + number)
    return folder
