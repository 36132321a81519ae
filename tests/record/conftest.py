"""A small record."""

from __future__ import annotations

import pytest

from qwenprof.record.record import Record, Series, StageResult, Tool


@pytest.fixture
def record() -> Record:
    return Record(
        tool=Tool(name="qwenprof", version="0"),
        created="2026-01-01T00:00:00+00:00",
        command=["qwenprof", "diagnose"],
        environment={"device": {"name": "NVIDIA H100", "memory_bytes": 80 * 1024**3}},
        workload={"family": "qwen3-vl", "frames": 8},
        stages={
            "matmul": StageResult(
                status="ok",
                duration_s=2.5,
                series={"gemm": Series(unit="s", values=[1e-3, 2e-3], stop_reason="budget")},
                tables={"gemm": [{"size": 4096, "median_s": 1.5e-3, "verdict": None}]},
            )
        },
    )
