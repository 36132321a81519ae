"""Peak memory, from the high-water marks that allocators and kernels keep anyway.

A mark is reset before a call and read after it. That costs the call nothing, but it is still
taken in a call of its own where there is time for one, so that warm-up and the harness's own
memory are not in it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qwenprof.harness.plan import Allowance
    from qwenprof.harness.sampler import Timing

CLEAR_REFS, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")

# what the host's allocator, the CUDA driver, and cuBLAS or cuDNN say in a plain RuntimeError
OUT_OF_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED")


class HighWaterMark:
    """The most memory in use since `reset`.

    On an accelerator: bytes held by PyTorch's allocator, weights included, which is less than
    what the driver reports. On a CPU: resident bytes of this process, which holds everything
    the process has ever touched, so compare rows of one record rather than machines.

    Source: torch.accelerator.max_memory_allocated; proc(5), clear_refs and VmHWM.
    """

    def __init__(self, device: str) -> None:
        import torch

        self._on_cpu = torch.device(device).type == "cpu"
        # torch.accelerator gained the memory functions in 2.9; CUDA's own are older
        has_own = hasattr(torch.accelerator, "max_memory_allocated")
        kind = torch.device(device).type
        self._memory: Any = torch.accelerator if has_own else getattr(torch, kind, None)
        self._known = False
        self.reset()

    def reset(self) -> None:
        """Start again from what is in use now."""
        try:
            if self._on_cpu:
                CLEAR_REFS.write_text("5")
            else:
                self._memory.reset_peak_memory_stats()
            self._known = True
        except (OSError, AttributeError, NotImplementedError, RuntimeError):
            self._known = False

    def read(self) -> int | None:
        """Bytes; None where the device or the operating system keeps no such mark."""
        if not self._known:
            return None
        if self._on_cpu:
            return _resident_high_water_mark()
        return int(self._memory.max_memory_allocated()) or None


def peak_bytes(call: Callable[[], Any], device: str) -> int | None:
    """The most memory in use while `call` runs once; None where nothing can tell."""
    import torch

    mark = HighWaterMark(device)
    call()
    if torch.device(device).type != "cpu":
        torch.accelerator.synchronize(torch.device(device))
    return mark.read()


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


def _resident_high_water_mark() -> int | None:
    for line in STATUS.read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None
