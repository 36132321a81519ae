"""Runs made by hand, to hold against each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qwenprof.diagnosis.change import Change
from qwenprof.diagnosis.comparing import Comparison, compare
from qwenprof.record.record import Record, Row, Series, StageResult, Tool

GPU = {
    "device": {"type": "cuda", "name": "Some GPU", "driver": "570.1"},
    "torch": {"version": "2.10.0", "cudnn_runtime": 91002, "cudnn_benchmark": False},
    "packages": {"transformers": "5.0.0"},
    "variables": {"OMP_NUM_THREADS": None},
}
CPU = {"device": {"type": "cpu", "name": "Some CPU"}}
WORKLOAD: dict[str, Any] = {"dtype": "bf16", "batch": 1, "frames": 8, "patches": 6080}
SERIES = {"a": [1.0] * 30}


def record(
    series: dict[str, Sequence[float]] | None = None,
    *,
    stage: str = "per-layer",
    unit: str = "s",
    environment: dict[str, Any] | None = None,
    tool: str = "qwenprof",
    tables: dict[str, list[Row]] | None = None,
    **workload: Any,
) -> Record:
    """A run on a GPU with one stage that holds these series."""
    kept = {
        name: Series(unit=unit, values=list(values), stop_reason="budget")
        for name, values in (SERIES if series is None else series).items()
    }
    result = StageResult(status="ok", duration_s=1.0, series=kept, tables=tables or {})
    return Record(
        tool=Tool(name=tool, version="0"),
        created="2026-01-01T00:00:00+00:00",
        command=[],
        environment=environment or GPU,
        workload=WORKLOAD | workload,
        stages={stage: result},
    )


def changed_fact(section: str, key: str, value: Any) -> dict[str, Any]:
    return {**GPU, section: {**GPU[section], key: value}}


def only(comparison: Comparison) -> Change:
    (row,) = comparison.rows
    return row


def judged(base: Sequence[float], new: Sequence[float], **options: Any) -> Change:
    return only(compare(record({"a": base}), record({"a": new}), **options))
