"""How many kernels one call launches: counted, and for the slow path what its source says.

Per patch `slow_conv_dilated3d` launches one vol2col and one GEMM, and with a bias one fill per
output channel, so N * (D * [bias] + 2) in a call. Source:
ATen/native/NaiveDilatedConvolution.cpp. On a GPU the launches themselves are counted; elsewhere
the fills, which are operators of their own, while vol2col and GEMM are not. Of the convolution as
dispatched the same is counted; how many it should be is not known there.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from qwenprof.record.record import Row
from qwenprof.stages._projection import Projection
from qwenprof.stages._variants import CONV, SLOW_DIRECT, Layer, Variant, variants

if TYPE_CHECKING:
    from torch import nn

COUNTED_PATCHES = (2, 4)  # of a profile, every one of a thousand fills a patch is an event
MOST_EVENTS = 15  # of those that a call consists of
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


def launch_tables(projection: Projection) -> tuple[list[Row], list[Row]]:
    """Launches at a few patch counts, with the bias and without it, and the operators of a call."""
    bare = _without_bias(projection.conv)
    convs = [bare] if projection.conv.bias is None else [projection.conv, bare]
    by_name = {each.name: each for each in variants(projection.patches.device.type)}
    launches, operators = [], []
    for variant in (by_name[CONV], by_name[SLOW_DIRECT]):
        for conv in convs:
            for count in COUNTED_PATCHES:
                some = projection.first(count)
                events = _counts(some, variant.build(conv))
                launches.append(_launches(variant, some, conv, events))
                if conv is convs[0] and count == COUNTED_PATCHES[-1]:
                    operators += _operators(variant, some, conv, events)
    return launches, operators


def _launches(
    variant: Variant, projection: Projection, conv: nn.Conv3d, events: dict[str, int]
) -> Row:
    patches, features = len(projection.patches), conv.out_channels
    is_slow_path = variant.name == SLOW_DIRECT
    fills = patches * features if conv.bias is not None else 0
    on_gpu = projection.patches.device.type == "cuda"
    return {
        "variant": variant.name,
        "patches": patches,
        "features": features,
        "bias": conv.bias is not None,
        "counted_event": "kernel launch" if on_gpu else FILL,
        "counted": sum(events.get(each, 0) for each in (LAUNCHES if on_gpu else (FILL,))),
        "predicted": (fills + 2 * patches if on_gpu else fills) if is_slow_path else None,
        "launches": fills + 2 * patches if is_slow_path else None,
    }


def _operators(
    variant: Variant, projection: Projection, conv: nn.Conv3d, events: dict[str, int]
) -> list[Row]:
    """The most frequent operators and kernels of one call."""
    most = sorted(events.items(), key=lambda each: (-each[1], each[0]))[:MOST_EVENTS]
    return [
        {
            "variant": variant.name,
            "patches": len(projection.patches),
            "bias": conv.bias is not None,
            "event": name,
            "count": times,
        }
        for name, times in most
    ]


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
