"""How many kernels `slow_conv_dilated3d` launches: counted, beside what its source says.

Per patch it launches one vol2col and one GEMM, and with a bias one fill per output channel,
so N * (D * [bias] + 2) in a call. Source: ATen/native/NaiveDilatedConvolution.cpp. On a GPU
the launches themselves are counted; elsewhere the fills, which are operators of their own,
while vol2col and GEMM are not.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from qwenprof.record.record import Row
from qwenprof.stages._projection import Projection
from qwenprof.stages._variants import SLOW_DIRECT, Layer, variants

if TYPE_CHECKING:
    from torch import nn

COUNTED_PATCHES = (8, 16)
SILENT = "99"  # else it tells of every start, and on a machine without a GPU of that
FILL = "aten::fill_"
LAUNCHES = (
    "cudaLaunchKernel",
    "cudaLaunchKernelExC",
    "cuLaunchKernel",
    "cuLaunchKernelEx",
    "hipLaunchKernel",
    "hipExtModuleLaunchKernel",
)


def launch_rows(projection: Projection) -> Iterator[Row]:
    """The rows of the table: a few patch counts, with the bias and without it."""
    device_type = projection.patches.device.type
    variant = next(each for each in variants(device_type) if each.name == SLOW_DIRECT)
    bare = _without_bias(projection.conv)
    convs = [bare] if projection.conv.bias is None else [projection.conv, bare]
    for conv in convs:
        layer = variant.build(conv)
        for count in COUNTED_PATCHES:
            yield _row(projection.first(count), conv, layer)


def _row(projection: Projection, conv: nn.Conv3d, layer: Layer) -> Row:
    patches, features = len(projection.patches), conv.out_channels
    fills = patches * features if conv.bias is not None else 0
    on_gpu = projection.patches.device.type == "cuda"
    counts = _counts(projection, layer)
    return {
        "patches": patches,
        "features": features,
        "bias": conv.bias is not None,
        "counted_event": "kernel launch" if on_gpu else FILL,
        "counted": sum(counts.get(each, 0) for each in (LAUNCHES if on_gpu else (FILL,))),
        "predicted": fills + 2 * patches if on_gpu else fills,
        "launches": fills + 2 * patches,
    }


def _counts(projection: Projection, layer: Layer) -> dict[str, int]:
    """Events of one call by name, as torch.profiler counts them; its times are not used."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    os.environ.setdefault("KINETO_LOG_LEVEL", SILENT)  # read when the first profile starts
    activities = [ProfilerActivity.CPU]
    if projection.patches.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    call = projection.call("counted", layer, "forward")
    call()
    with profile(activities=activities) as recorded:
        call()
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
    averages: Any = recorded.key_averages()
    return {event.key: int(event.count) for event in averages}


def _without_bias(conv: nn.Conv3d) -> nn.Conv3d:
    from torch import nn

    bare = nn.Conv3d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        stride=conv.stride,  # type: ignore[arg-type]
        bias=False,
        device="meta",
    )
    bare.weight = conv.weight
    return bare
