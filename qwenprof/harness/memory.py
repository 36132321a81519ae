"""Peak memory of one call, taken in a call of its own because watching costs time."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from qwenprof.harness.plan import Allowance
    from qwenprof.harness.sampler import Timing

POLL_S = 0.002

# what the host's allocator, the CUDA driver, and cuBLAS or cuDNN say in a plain RuntimeError
OUT_OF_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED")


def peak_bytes(call: Callable[[], Any], device: str) -> int | None:
    """The most memory in use while `call` runs; None where the device cannot tell.

    On an accelerator: bytes held by PyTorch's allocator, weights included, which is less than
    what the driver reports. On a CPU: resident bytes of this process, which holds everything
    the process has ever touched, so compare rows of one record rather than machines.
    """
    import torch

    kind = torch.device(device)
    if kind.type == "cpu":
        return _peak_resident_bytes(call)
    return _peak_allocated_bytes(call, kind)


def affordable_peak_bytes(
    call: Callable[[], Any], device: str, timing: Timing, allowance: Allowance
) -> int | None:
    """The same, but None where one more call would take longer than its case may."""
    return peak_bytes(call, device) if timing.one_call_s <= allowance.case_s else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on the device or on the host."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in OUT_OF_MEMORY)


def free_cached_memory(device: str) -> None:
    """Give memory that PyTorch's allocator holds but nobody uses back to the device."""
    import gc

    import torch

    gc.collect()
    kind = torch.device(device).type
    empty_cache = getattr(getattr(torch, kind, None), "empty_cache", None)
    if kind != "cpu" and empty_cache:
        empty_cache()


def _peak_allocated_bytes(call: Callable[[], Any], device: torch.device) -> int | None:
    import torch

    # torch.accelerator gained the memory functions in 2.9; CUDA's own are older
    memory: Any = (
        torch.accelerator
        if hasattr(torch.accelerator, "max_memory_allocated")
        else getattr(torch, device.type, None)
    )
    if not hasattr(memory, "max_memory_allocated"):
        return None
    torch.accelerator.synchronize(device)
    try:
        memory.reset_peak_memory_stats()
        call()
        torch.accelerator.synchronize(device)
        return int(memory.max_memory_allocated()) or None
    except (NotImplementedError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        return None


def _peak_resident_bytes(call: Callable[[], Any]) -> int:
    process, done = psutil.Process(), threading.Event()
    peak = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not done.wait(POLL_S):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch, name="qwenprof-memory", daemon=True)
    watcher.start()
    try:
        call()
    finally:
        done.set()
        watcher.join()
    return max(peak, process.memory_info().rss)
