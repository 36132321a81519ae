"""What was published about the slow patch embedding of Qwen3-VL, to hold a run against.

Source: the writeup of 2026-05-03 on an RTX 5090, also transformers issue 45750. These numbers
are quoted, never measured here, and a report sets them apart.
"""

from __future__ import annotations

from dataclasses import dataclass

from qwenprof.record.record import Facts

DEVICE = "NVIDIA GeForce RTX 5090"
SOURCE = f"Published for {DEVICE}, torch 2.9.0+cu128, cuDNN 91002, bf16; not measured here."

WORKLOAD: Facts = {
    "family": "qwen3-vl",
    "size": "4b",
    "scope": "full",
    "dtype": "bf16",
    "frames": 8,
    "short_edge": 336,
    "batch": 1,
    "patches": 6080,
    "sequence_length": 1653,
}
BATCH_SIZES = (1, 4, 8, 16)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One published row of the batch sweep; the number of patches was not published."""

    batch: int
    total_s: float
    sequence_length: int
    memory_gb: float


BATCHES = (
    Batch(batch=1, total_s=16.5, sequence_length=1653, memory_gb=9.7),
    Batch(batch=4, total_s=65.3, sequence_length=2133, memory_gb=10.0),
    Batch(batch=8, total_s=148.0, sequence_length=2133, memory_gb=10.0),
    Batch(batch=16, total_s=145.0, sequence_length=2133, memory_gb=10.0),
)

# implementation -> seconds at batch 1 and at batch 8; None was not published
ATTENTION: dict[str, tuple[float | None, float | None]] = {
    "eager": (17.1, None),
    "sdpa": (16.5, 145.6),
    "flash_attention_2": (16.5, 147.6),
}

TOTAL_S = 16.212
COMPONENTS_S = {
    "patch_embed": 16.1113,
    "position interpolation": 0.0228,
    "rotary position": 0.0207,
    "blocks, the first": 0.0234,
    "blocks, each other": 0.0014,
    "blocks, all 24": 0.0564,
    "merger": 0.0005,
}
PATCHES, CONV_S, LINEAR_S = 6080, 16.1113, 0.0003
