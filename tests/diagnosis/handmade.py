"""Records made by hand, with nothing in them but the tables that a rule reads."""

from __future__ import annotations

import msgspec

from qwenprof.diagnosis.finding import Finding, rules
from qwenprof.record.record import Record, Row, Series, StageResult, Tool


def record(device_type: str = "cuda", **tables: list[Row]) -> Record:
    """A keyword is a stage and a table, as in `batch_sweep__batches`."""
    stages: dict[str, StageResult] = {}
    for key, rows in tables.items():
        stage, table = key.replace("_", "-").split("--")
        before = stages[stage].tables if stage in stages else {}
        stages[stage] = StageResult(status="ok", duration_s=1.0, tables={**before, table: rows})
    return Record(
        tool=Tool(name="qwenprof", version="0"),
        created="2026-01-01T00:00:00+00:00",
        command=[],
        environment={"device": {"type": device_type, "name": "some device"}},
        workload={"dtype": "bf16", "batch": 1},
        stages=stages,
    )


def judged(rule: str, given: Record) -> Finding:
    """What a rule says of a record."""
    return rules()[rule].judge(given)


def disturbed(given: Record, stage: str, busy_cores: float = 0.9) -> Record:
    """The same, measured on a CPU while something else had so many cores in one stage."""
    result = given.stages[stage]
    conditions: list[Row] = [{"cores_busy_elsewhere_meanwhile": busy_cores}]
    series = {"any": Series(unit="s", values=[1.0], stop_reason="budget")}
    busy = msgspec.structs.replace(
        result,
        tables={**result.tables, "conditions": conditions},
        series={**result.series, **series},
    )
    on_cpu = {**given.environment, "device": {"type": "cpu", "name": "a CPU"}}
    return msgspec.structs.replace(given, environment=on_cpu).with_stage(stage, busy)
