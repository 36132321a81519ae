"""What a piece of work should cost on this machine, from what the machine was seen to do.

A bound is the least time: arithmetic at the measured GEMM rate of the dtype, or bytes at the
measured bandwidth, or one launch, whichever is longest. It leaves out what the counts leave
out: elementwise arithmetic, intermediate tensors that a fused kernel would not write, and
every launch but one. So a healthy part takes a few times its bound, not exactly it.
"""

from __future__ import annotations

from dataclasses import dataclass

from qwenprof.record.record import Cell, Record, Row

LARGEST = 1e30  # of any quantity in seconds, bytes or FLOP; what is larger is no measurement


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the matmul stage measured; a rate that was not measured is None.

    The rates are the best of any size and sample, because a bound is the least time and not the
    usual one. flop_per_s: dtype -> rate.
    """

    flop_per_s: dict[str, float]
    memory_bytes_per_s: float | None
    launch_latency_s: float | None


def machine(record: Record) -> Machine | None:
    """The rates in a record; None where no matmul stage ran."""
    rows = record.rows("matmul", "machine")
    if not rows:
        return None
    rates: dict[str, float] = {}
    for row in record.rows("matmul", "gemm"):
        dtype = str(row.get("dtype"))
        tflops = _first_number(row, "best_tflops", "tflops")
        if tflops:
            rates[dtype] = max(rates.get(dtype, 0.0), tflops * 1e12)
    return Machine(
        flop_per_s=rates,
        memory_bytes_per_s=_first_number(rows[0], "best_memory_bytes_per_s", "memory_bytes_per_s"),
        launch_latency_s=positive(rows[0].get("launch_latency_s")),
    )


def _first_number(row: Row, *columns: str) -> float | None:
    """The first of these columns that holds a number greater than nought."""
    numbers = (positive(row.get(column)) for column in columns)
    return next((value for value in numbers if value is not None), None)


def bound_s(
    machine: Machine, *, flops: float | None, moved_bytes: float | None, dtype: str, calls: int = 1
) -> float | None:
    """The least seconds for `calls` calls that do this much work together.

    None where a rate or a count that it needs is missing: a bound is never guessed.
    """
    rate, bandwidth = machine.flop_per_s.get(dtype), machine.memory_bytes_per_s
    if flops is None or moved_bytes is None or not rate or not bandwidth:
        return None
    return max(flops / rate, moved_bytes / bandwidth, calls * (machine.launch_latency_s or 0.0))


def number(cell: Cell) -> float | None:
    """A cell as a float, None where it holds anything but a number that a quantity can have."""
    if isinstance(cell, bool) or not isinstance(cell, int | float):
        return None
    return float(cell) if abs(cell) < LARGEST else None  # also False for nan


def positive(cell: Cell) -> float | None:
    """A cell as a float greater than nought, such as every time and rate is; else None."""
    value = number(cell)
    return value if value is not None and value > 0 else None
