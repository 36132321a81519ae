"""Records made by hand, with nothing in them but the tables that a rule reads."""

from __future__ import annotations

from qwenprof.diagnosis.finding import Finding, rules
from qwenprof.record.record import Record, Row, StageResult, Tool


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
