"""The samples of extract_features.py: found in a folder, read, and cut into patches."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _chunks import Failure, RefusalError
from PIL import Image, ImageOps

IMAGES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
VIDEOS = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"}


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """One sample, cut into patches: values (patches, C * T * P * P) and grid (frames, 3)."""

    values: torch.Tensor
    grid: torch.Tensor


def found_samples(folder: Path) -> list[Path]:
    """The samples of a folder, in the order of their names."""
    if not folder.is_dir():
        raise RefusalError(f"{folder} is no folder: give one that holds images or clips")
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    samples = [path for path in entries if path.is_dir() or path.suffix.lower() in IMAGES | VIDEOS]
    videos = [path for path in samples if path.suffix.lower() in VIDEOS and not path.is_dir()]
    if videos and importlib.util.find_spec("av") is None:
        raise RefusalError(
            f"{videos[0]}: reading a video file needs PyAV, which is not installed: "
            "`pip install av`, or make the video a folder of images"
        )
    if not samples:
        raise RefusalError(f"{folder} holds no image, no folder of images and no video")
    return samples


def spread(total: int, count: int) -> list[int]:
    """Where each of `count` equal stretches of `total` frames begins; all of them if fewer."""
    return [i * total // count for i in range(count)] if total > count else list(range(total))


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def video_frames(path: Path, count: int) -> list[Image.Image]:
    import av

    with av.open(str(path)) as video:  # a header may be wrong about the number of frames
        total = sum(1 for _ in video.decode(video=0))
    wanted = set(spread(total, count))
    with av.open(str(path)) as video:
        decoded = enumerate(video.decode(video=0))
        return [frame.to_image() for number, frame in decoded if number in wanted]


def frames_of(sample: Path, count: int) -> list[Image.Image]:
    """At most `count` frames, evenly spread over a clip; the one frame of an image."""
    if not sample.is_dir():
        is_video = sample.suffix.lower() in VIDEOS
        frames = video_frames(sample, count) if is_video else [opened(sample)]
    else:
        files = sorted(path for path in sample.iterdir() if path.suffix.lower() in IMAGES)
        frames = [opened(files[i]) for i in spread(len(files), count)]
    if not frames:
        raise ValueError("it has no frames")
    return frames


def with_short_edge(image: Image.Image, edge: int | None) -> Image.Image:
    if edge is None or min(image.size) == edge:
        return image
    width, height = (max(edge, round(side * edge / min(image.size))) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def read_batch(samples: Sequence[Path], **settings: Any) -> list[Pixels | Failure]:
    """Runs in the workers, where there are any."""
    return [read(sample, **settings) for sample in samples]


def read(sample: Path, processor: Any, frames: int, short_edge: int | None) -> Pixels | Failure:
    """One sample through the processor; alone, so that a broken one spoils no other."""
    try:
        images = [with_short_edge(image, short_edge) for image in frames_of(sample, frames)]
        output = processor(images=images, return_tensors="pt")
    except Exception as error:  # noqa: BLE001 - whatever a file can do to its decoder
        return Failure(reason=f"{type(error).__name__}: {error}")
    return Pixels(values=output["pixel_values"], grid=output["image_grid_thw"])
