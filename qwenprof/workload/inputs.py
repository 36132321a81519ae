"""Clips, and what the family's own processor makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from qwenprof.workload.workload import Workload

ASPECT_RATIO = 16 / 9


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """The images of one forward, cut into patches.

    values: (patches, channels * temporal patch * patch * patch), on the device, in the dtype.
    grid: (images, 3), patches along time, height and width of each image, on the device.
    """

    values: torch.Tensor
    grid: torch.Tensor

    @property
    def patches(self) -> int:
        return int(self.values.shape[0])

    def segment_lengths(self) -> list[int]:
        """Patches of each frame: the lengths of the segments that attend to themselves."""
        return [h * w for t, h, w in self.grid.tolist() for _ in range(t)]


def random_frames(workload: Workload, sample: int) -> list[torch.Tensor]:
    """The frames of one sample: uint8 noise of shape (3, short edge, 16/9 of it).

    Random, because constant data takes less power and so runs faster than what users have.
    """
    generator = torch.Generator().manual_seed(workload.seed * 100_003 + sample)
    shape = (3, workload.short_edge, round(workload.short_edge * ASPECT_RATIO))
    return [
        torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        for _ in range(workload.frames)
    ]


def sample_frames(workload: Workload, batch: int) -> list[torch.Tensor]:
    """The frames of `batch` samples, one sample after the other."""
    return [frame for sample in range(batch) for frame in random_frames(workload, sample)]


def on_host(processor: Any, frames: Sequence[torch.Tensor]) -> Pixels:
    """Frames through a family's image processor: resized, normalised, cut, in fp32 on the host."""
    output = processor(images=list(frames), return_tensors="pt")
    return Pixels(values=output["pixel_values"], grid=output["image_grid_thw"])


def moved(pixels: Pixels, dtype: torch.dtype, device: torch.device) -> Pixels:
    """The same pixels on the device in the dtype; the host converts, then copies."""
    return Pixels(values=pixels.values.to(device=device, dtype=dtype), grid=pixels.grid.to(device))


def processed(
    workload: Workload, processor: Any, batch: int, dtype: torch.dtype, device: torch.device
) -> Pixels:
    """`batch` samples through the family's image processor, then to the device."""
    return moved(on_host(processor, sample_frames(workload, batch)), dtype, device)
