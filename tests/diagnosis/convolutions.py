"""Records of one patch projection, made by hand: what ran it, how fast, and what the linear is."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from qwenprof.record.record import Facts, Record, Row
from tests.diagnosis.handmade import record

MODULE = "model.visual.patch_embed.proj"
PATCHES, FEATURES = 6080, 1024
GATED: Facts = {
    "version": "2.9.0+cu128",
    "cudnn_runtime": 91002,
    "cudnn_compiled": "9.10.2",
    "cudnn_enabled": True,
}
HEALTHY_GPU: Facts = GATED | {"version": "2.11.0", "cudnn_runtime": 91900}
HEALTHY_CPU: Facts = {"version": "2.14.1", "onednn_available": True, "onednn_enabled": True}
EXACT = 0.02  # half the width of an interval that leaves three digits


def row(
    name: str,
    median_s: float | None,
    speedup: float | None = None,
    interval: tuple[float, float] | None = None,
    **cells: str | int | float | bool | None,
) -> Row:
    """A row of the comparison; its interval is narrow where none is given."""
    low, high = (None, None)
    if speedup is not None:
        low, high = interval or (speedup * (1 - EXACT), speedup * (1 + EXACT))
    found: Row = {
        "variant": name,
        "dtype": "bf16",
        "direction": "forward",
        "patches": PATCHES,
        "module": MODULE,
        "bias": True,
        "n": 20,
        "median_s": median_s,
        "speedup": speedup,
        "speedup_low": low,
        "speedup_high": high,
    }
    return found | cells


def without_interval(given: Row) -> Row:
    """As too few samples leave it."""
    return given | {"n": 2, "speedup_low": None, "speedup_high": None}


def pair(backend: str | None, conv_s: float, linear_s: float) -> list[Row]:
    """The convolution and the linear layer that it equals."""
    return [
        row("Conv3d", conv_s, 1.0, backend=backend),
        row("Linear", linear_s, conv_s / linear_s, backend="GEMM"),
    ]


def compared(
    variants: Sequence[Row],
    *,
    device_type: str = "cuda",
    torch: Facts | None = None,
    forward_s: float | None = None,
    latency_s: float | None = None,
    convolution: Row | None = None,
) -> Record:
    """A record in which the stages compare-patch-embed and dispatch looked at one convolution.

    convolution: cells of its row in the dispatch stage in place of those of a Qwen3-VL.
    """
    found: Row = {
        "module": MODULE,
        "dtype": "bf16",
        "rank": 5,
        "kernel": "2x16x16",
        "memory_format": "contiguous",
        "features": FEATURES,
        "bias": True,
        "library_dtype_supported": True,
        "library_switched_off": False,
    }
    tables: dict[str, list[Row]] = {
        "compare_patch_embed__variants": list(variants),
        "dispatch__convolutions": [found | (convolution or {})],
        "matmul__machine": [{"launch_latency_s": latency_s}],
    }
    if forward_s is not None:
        tables["per_layer__summary"] = [{"plain_s": forward_s}]
    facts = torch or (HEALTHY_CPU if device_type == "cpu" else HEALTHY_GPU)
    given = record(device_type, **tables)
    return msgspec.structs.replace(given, environment=given.environment | {"torch": facts})
