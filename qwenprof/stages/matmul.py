"""Is the device healthy? Matrix products, memory bandwidth, launch latency, against what is known.

The rates measured here are also what every other part's work is held against.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qwenprof.record.record import Row
from qwenprof.stages._timed_row import TIMED, timing_columns
from qwenprof.stages.stage import Bench, Stage

if TYPE_CHECKING:
    import torch

    from qwenprof.harness.plan import TimePlan
    from qwenprof.harness.sampler import Timing

HEALTHY, SUSPICIOUS = 0.50, 0.30
DTYPES = ("bf16", "fp16", "fp32")
GPU_SIZES, CPU_SIZES = (4096, 8192), (1024, 2048)
GEMM_SHARE = 0.28  # of the stage's seconds, for each dtype
COPY_BYTES = {"cpu": 128 * 1024**2}
GPU_COPY_BYTES = 1024**3


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is published about one device, in TFLOPS; None where nothing is.

    pattern: of torch's full device name.
    peak: dense bf16 or fp16 with fp32 accumulation, from the maker's datasheet.
    achieved: the best that was reported for bf16 GEMM on random data.
    """

    pattern: str
    peak: float
    source: str
    achieved: float | None = None
    achieved_source: str | None = None


AMPERE = "NVIDIA Ampere GA102 whitepaper"
ADA = "NVIDIA Ada whitepaper"
BLACKWELL = "NVIDIA RTX Blackwell whitepaper"
REPORTED = "reported for this model of GPU, bf16, random data; clock and library not stated"

KNOWN = (
    Known(pattern=r"NVIDIA GeForce RTX 3090", peak=71.0, source=AMPERE),
    Known(pattern=r"NVIDIA GeForce RTX 4090", peak=165.2, source=ADA),
    Known(
        pattern=r"NVIDIA GeForce RTX 5090",
        peak=209.5,
        source=BLACKWELL,
        achieved=223.7,
        achieved_source="huggingface/transformers#45750, bf16, 8192; clock not stated",
    ),
    Known(pattern=r"NVIDIA L4", peak=121.0, source="NVIDIA L4 datasheet"),
    Known(pattern=r"NVIDIA L40S", peak=362.0, source="NVIDIA L40S datasheet"),
    Known(
        pattern=r"NVIDIA A100-SXM4-\d+GB",
        peak=312.0,
        source="NVIDIA A100 datasheet",
        achieved=271.0,
        achieved_source=REPORTED,
    ),
    Known(
        pattern=r"NVIDIA A100-PCIE-\d+GB|NVIDIA A100 80GB PCIe",
        peak=312.0,
        source="NVIDIA A100 datasheet",
    ),
    Known(pattern=r"NVIDIA H100 PCIe", peak=756.0, source="NVIDIA H100 datasheet"),
    Known(
        pattern=r"NVIDIA H100 80GB HBM3",
        peak=989.0,
        source="NVIDIA H100 datasheet",
        achieved=795.0,
        achieved_source=REPORTED,
    ),
    Known(pattern=r"NVIDIA H200", peak=989.0, source="NVIDIA H200 datasheet"),
    Known(
        pattern=r"NVIDIA B200",
        peak=2250.0,
        source="NVIDIA B200 datasheet",
        achieved=1745.0,
        achieved_source=REPORTED,
    ),
    Known(
        pattern=r"AMD Instinct MI300X.*",
        peak=1307.0,
        source="AMD Instinct MI300X datasheet",
        achieved=668.0,
        achieved_source=REPORTED,
    ),
)


def known(device_name: str | None, dtype: str) -> Known | None:
    """What is published for a device in a dtype; None rather than another card's figures."""
    if device_name is None or dtype == "fp32":
        return None
    return next((k for k in KNOWN if re.fullmatch(k.pattern, device_name)), None)


def verdict(fraction_of_peak: float | None) -> str:
    """healthy, suspicious, unhealthy, or not assessed where no peak is known.

    Sound devices reach half to nine tenths of their datasheet on large matrices.
    """
    if fraction_of_peak is None:
        return "not assessed"
    if fraction_of_peak >= HEALTHY:
        return "healthy"
    return "suspicious" if fraction_of_peak >= SUSPICIOUS else "unhealthy"


def measure(bench: Bench) -> None:
    """The machine's rates first: every bound needs them, and a slow dtype may eat the budget."""
    _measure_machine(bench)
    for dtype in _ordered(bench.dtype):
        _measure_gemms(bench, dtype)


def _ordered(first: str) -> list[str]:
    """The workload's dtype first, if it is one of those that are measured."""
    return sorted(DTYPES, key=lambda dtype: dtype != first)


def _measure_gemms(bench: Bench, dtype: str) -> None:
    from qwenprof.harness.plan import Refusal

    sizes = CPU_SIZES if bench.device == "cpu" else GPU_SIZES
    plan = bench.plan({str(size): float(size) ** 3 for size in sizes}, share=GEMM_SHARE)
    for size in sizes:
        bench.say(f"matrix product {size} x {size}, {dtype}")
        allowance = plan.start(str(size))
        if isinstance(allowance, Refusal):
            skipped: Row = {"status": "skipped", "reason": allowance.reason}
            bench.add_row("gemm", _gemm_row(bench, size, dtype) | skipped)
            continue
        timing = bench.sampler.measure(_gemm(size, dtype, bench.device), allowance)
        plan.learn(str(size), timing.one_call_s)
        bench.add_series(timing.series(f"gemm/{dtype}/{size}"))
        bench.add_row("gemm", _gemm_row(bench, size, dtype, timing))


def _gemm(size: int, dtype: str, device: str) -> Callable[[], torch.Tensor]:
    import torch

    from qwenprof.workload.loading import TORCH_DTYPES

    generator = torch.Generator().manual_seed(0)
    left, right = (
        torch.randn(size, size, generator=generator).to(device, TORCH_DTYPES[dtype])
        for _ in range(2)
    )
    result = torch.empty_like(left)
    return lambda: torch.mm(left, right, out=result)


def _gemm_row(bench: Bench, size: int, dtype: str, timing: Timing | None = None) -> Row:
    name = bench.record.fact("device", "name")
    published = known(str(name) if name else None, dtype)
    flop = 2 * size**3
    tflops = flop / timing.median_s * 1e-12 if timing else None
    fraction = tflops / published.peak if tflops and published else None
    return {
        "size": size,
        "dtype": dtype,
        **(timing_columns(timing) if timing else dict.fromkeys(TIMED)),
        "tflops": tflops,
        "best_tflops": flop / min(timing.device.values) * 1e-12 if timing else None,
        "peak_tflops": published.peak if published else None,
        "peak_source": published.source if published else None,
        "fraction_of_peak": fraction,
        "published_tflops": published.achieved if published else None,
        "published_source": published.achieved_source if published else None,
        "verdict": verdict(fraction),
        "status": "ok",
        "reason": None,
    }


def _measure_machine(bench: Bench) -> None:
    bench.say("memory bandwidth and launch latency")
    copied_bytes, copy = _copy(bench.device)
    tiny = _tiny(bench.device)
    plan = bench.plan({"memory_copy": 1.0, "launch": 1.0}, share=1 - 3 * GEMM_SHARE)
    copies = _measured(bench, plan, "memory_copy", copy)
    launches = _measured(bench, plan, "launch", tiny)
    moved_bytes = 2 * copied_bytes
    bench.add_row(
        "machine",
        {
            "memory_bytes_per_s": moved_bytes / copies.median_s if copies else None,
            "best_memory_bytes_per_s": (
                moved_bytes / min(copies.device.values) if copies else None
            ),
            "copied_bytes": copied_bytes,
            "launch_latency_s": launches.median_s if launches else None,
        },
    )


def _measured(bench: Bench, plan: TimePlan, key: str, call: Callable[[], Any]) -> Timing | None:
    from qwenprof.harness.plan import Refusal

    allowance = plan.start(key)
    if isinstance(allowance, Refusal):
        return None
    timing = bench.sampler.measure(call, allowance)
    bench.add_series(timing.series(key))
    return timing


def _copy(device: str) -> tuple[int, Callable[[], torch.Tensor]]:
    """Copying reads and writes every byte once; far larger than any cache.

    Both sides are written before, since the first touch of a page is no bandwidth.
    """
    import torch

    size = COPY_BYTES.get(device, GPU_COPY_BYTES)
    source = torch.rand(size // 4, device=device)
    target = torch.ones_like(source)
    return size, lambda: target.copy_(source)


def _tiny(device: str) -> Callable[[], torch.Tensor]:
    """One kernel on one number: all of its time is the cost of launching it."""
    import torch

    number = torch.zeros(1, device=device)
    return lambda: number.add_(1.0)


STAGE = Stage(
    name="matmul",
    order=10,
    question="Is the device healthy?",
    suspect="a slow or sick device",
    measure=measure,
    budget_s=15.0,
    example="qwenprof matmul --device cuda --dtype bf16",
)
