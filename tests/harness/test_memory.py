"""Peak memory of a call, and what running out of it looks like."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qwenprof.harness import memory
from qwenprof.harness.memory import (
    HighWaterMark,
    free_cached_memory,
    is_out_of_memory,
    peak_bytes,
)

MIB = 1024**2


def test_the_peak_on_a_cpu_contains_what_the_call_touched() -> None:
    # GIVEN a call that needs 256 MiB and gives them back
    held: list[int] = []

    def call() -> None:
        held.append(torch.ones(64 * MIB, dtype=torch.float32).nbytes)

    # WHEN it is watched THEN its peak is at least that
    peak = peak_bytes(call, "cpu")
    assert peak is not None
    assert peak >= held[0] == 256 * MIB


def test_the_call_is_made_once() -> None:
    calls: list[int] = []
    peak_bytes(lambda: calls.append(1), "cpu")
    assert calls == [1]


def test_a_mark_forgets_what_was_before_it() -> None:
    # GIVEN a peak of 256 MiB WHEN the mark is reset after it THEN it is gone
    mark = HighWaterMark("cpu")
    before = mark.read()
    torch.ones(64 * MIB, dtype=torch.float32)
    high = mark.read()
    mark.reset()
    after = mark.read()

    assert before is not None
    assert high is not None
    assert after is not None
    assert high - before > 200 * MIB
    assert high - after > 200 * MIB


def test_where_the_system_keeps_no_mark_the_peak_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(memory, "CLEAR_REFS", tmp_path / "missing" / "clear_refs")

    assert peak_bytes(lambda: None, "cpu") is None


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
def test_every_way_to_run_out_of_memory_is_known(error: BaseException) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
        ValueError("can't allocate memory for this name"),
        KeyboardInterrupt(),
    ],
)
def test_other_errors_are_not_taken_for_it(error: BaseException) -> None:
    assert not is_out_of_memory(error)


def test_a_real_one_is_known() -> None:
    # GIVEN more memory than any host has WHEN it is asked for THEN that is what the error means
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_cached_memory_can_be_freed_where_there_is_none() -> None:
    free_cached_memory("cpu")


@pytest.mark.gpu
def test_the_peak_on_a_gpu_is_what_was_allocated() -> None:
    # GIVEN a call that holds 256 MiB for a moment WHEN it is watched
    before = torch.cuda.memory_allocated()
    peak = peak_bytes(lambda: torch.ones(64 * MIB, device="cuda"), "cuda")
    # THEN its peak is that much above what was there
    assert peak is not None
    assert peak - before == pytest.approx(256 * MIB, rel=0.05)
