"""The output folder of extract_features.py: chunks, index, and the settings of a job that goes on.

A chunk counts once the JSON beside its file is there, and each file is there whole or not at
all. What a kill leaves behind is therefore never taken for a chunk.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

Part = dict[str, Any]


class RefusalError(Exception):
    """What was asked for cannot be done; the message says what to do about it."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a sample has no features."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Samples that share a file, and the names of that file and of the JSON beside it."""

    number: int
    samples: Sequence[Path]
    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / f"features-{self.number:05d}.safetensors"

    @property
    def part(self) -> Path:
        return self.file.with_suffix(".json")

    def finished(self, *, retry_failed: bool = False) -> Part | None:
        """What the JSON says, if it is there and its file is the one that it speaks of."""
        if not self.part.exists():
            return None
        part: Part = json.loads(self.part.read_text(encoding="utf-8"))
        there = self.file.stat().st_size if self.file.exists() else 0
        return part if there == part["bytes"] and not (retry_failed and part["failed"]) else None


def written(target: Path, write: Callable[[Path], object], rank: int = 0) -> None:
    """A file that is there whole or not at all, even if the power fails."""
    partial_file = target.with_name(f"{target.name}.partial-{rank}")
    try:
        write(partial_file)
        with partial_file.open("rb+") as stream:
            os.fsync(stream.fileno())
        partial_file.replace(target)
    finally:
        partial_file.unlink(missing_ok=True)
    if os.name == "posix":
        folder = os.open(target.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def write_json(target: Path, content: Mapping[str, Any], rank: int = 0) -> None:
    text = json.dumps(content, indent=1) + "\n"
    written(target, lambda path: path.write_text(text, encoding="utf-8"), rank)


def write_chunk(
    chunk: Chunk, made: Sequence[torch.Tensor | Failure], kept: str, batches: Sequence[Part]
) -> Part:
    """The chunk's file, and after it the JSON that makes it count."""
    chunk.part.unlink(missing_ok=True)
    named = list(zip((path.name for path in chunk.samples), made, strict=True))
    good = [(name, each) for name, each in named if isinstance(each, torch.Tensor)]
    if kept == "mean":
        places = [{"key": "features", "row": row} for row in range(len(good))]
        tensors = {"features": torch.stack([each for _, each in good])} if good else {}
    else:
        places = [{"key": f"{row:05d}", "row": None} for row in range(len(good))]
        tensors = {f"{row:05d}": each for row, (_, each) in enumerate(good)}
    written(chunk.file, lambda path: save_file(tensors, path))
    described = {
        name: {"file": chunk.file.name, **place, "shape": list(each.shape), "dtype": dtype_of(each)}
        for (name, each), place in zip(good, places, strict=True)
    }
    part = {
        "bytes": chunk.file.stat().st_size,
        "samples": described,
        "failed": {name: each.reason for name, each in named if isinstance(each, Failure)},
        "batches": list(batches),
    }
    write_json(chunk.part, part)
    return part


def dtype_of(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def write_index(chunks: Sequence[Chunk], out: Path, rank: int) -> Part | None:
    """All the chunks' JSONs as one, once they are all there: whichever rank is last does it."""
    parts = [part for part in (chunk.finished() for chunk in chunks) if part is not None]
    if len(parts) < len(chunks):
        return None
    index = {
        "settings": json.loads((out / "settings.json").read_text(encoding="utf-8")),
        "samples": {name: place for part in parts for name, place in part["samples"].items()},
        "failed": {name: reason for part in parts for name, reason in part["failed"].items()},
    }
    write_json(out / "index.json", index, rank)
    return index


def refuse_other_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Refuse to go on in a folder whose features were made in another way."""
    if not path.exists():
        return
    begun = json.loads(path.read_text(encoding="utf-8"))
    differing = [key for key in settings if begun.get(key) != settings[key]]
    if differing:
        changes = "; ".join(f"{key} was {begun.get(key)}, now {settings[key]}" for key in differing)
        raise RefusalError(
            f"{path.parent} was begun with other settings: {changes}. "
            "Use those, or another output folder"
        )
