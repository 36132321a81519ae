"""A tiny tower, samples, and the extraction job on them, for the tests of the job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import safe_open
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

from tests.conftest import TINY_VISION

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "extract_features.py"
WIDTH = 32
TINY = TINY_VISION | {"depth": 2, "out_hidden_size": WIDTH}


def saved_tower(folder: Path, seed: int) -> str:
    torch.manual_seed(seed)
    Qwen3VLVisionModel._from_config(Qwen3VLVisionConfig(**TINY)).save_pretrained(folder)
    return str(folder)


def save_image(path: Path, width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(0, 256, (64, width, 3), dtype=torch.uint8, generator=generator)
    Image.fromarray(noise.numpy()).save(path)


def command(images: Path, out: Path, model: str, *more: str) -> list[str]:
    chosen = ["--model", model, "--device", "cpu", "--frames", "2", "--chunk-size", "3"]
    return [str(images), str(out), *chosen, "--batch-size", "2", *more]


def index_of(out: Path) -> dict[str, Any]:
    index: dict[str, Any] = json.loads((out / "index.json").read_text(encoding="utf-8"))
    return index


def features_of(out: Path) -> dict[str, torch.Tensor]:
    """As a user reads them: by the index."""
    found = {}
    for name, place in index_of(out)["samples"].items():
        with safe_open(out / place["file"], "pt") as file:
            tensor = file.get_tensor(place["key"]).clone()  # it would follow changes of the file
        found[name] = tensor if place["row"] is None else tensor[place["row"]]
        assert list(found[name].shape) == place["shape"]
        assert str(found[name].dtype) == f"torch.{place['dtype']}"
    return found


def chunk_times(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted(out.glob("features-*"))}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert list(one) == list(other)
    for name, feature in one.items():
        torch.testing.assert_close(feature, other[name], rtol=1e-4, atol=1e-5)
