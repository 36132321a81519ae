"""A record in the shape of the published case, its findings, and ways to damage it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from qwenprof.diagnosis.finding import Finding
from qwenprof.record.record import Record, Row, StageResult, Tool
from tests.kept import kept

HOSTILE = (
    "a|b`c```d<script>alert(1)</script>\n# heading\r\n\u202egnp.exe [x](http://evil) ![y](z) "
    "$e^{i}$ @maintainer #123 &lt; **bold** _it_ ~~no~~ \x00\x1b[31m /home/alice/secret "
    "C:\\Users\\bob"
)


@pytest.fixture(scope="session")
def simulated_gpu() -> Record:
    """Invented values; the file says so."""
    return kept("simulated_gpu")


@pytest.fixture(scope="session")
def empty_record() -> Record:
    return Record(
        tool=Tool(name="qwenprof", version="0"),
        created="2026-01-01T00:00:00+00:00",
        command=[],
        environment={},
        workload={},
    )


@pytest.fixture(scope="session")
def findings() -> list[Finding]:
    return [
        Finding(
            rule="culprit",
            verdict="problem",
            severity="critical",
            title="patch_embed.proj takes 172,000 x what its work should cost",
            culprit="model.visual.patch_embed.proj",
            evidence=("It takes 16.1 s, 99.1 % of the forward.",),
            advice="Look at how this part is implemented.",
            links=("https://example.org/thread",),
        ),
        Finding(
            rule="batching",
            verdict="clear",
            severity="info",
            title="Not batching: the time of one sample stays the same",
            evidence=("One sample takes 16.5 s at batch 1, 16.4 s at batch 8.",),
        ),
        Finding(
            rule="device-health",
            verdict="not assessed",
            severity="info",
            title="Is the device healthy?",
            evidence=("No datasheet peak is known.",),
        ),
    ]


@pytest.fixture(scope="session")
def changed() -> Callable[..., Record]:
    """A record with some fields of one stage replaced."""

    def change(record: Record, stage: str, **fields: Any) -> Record:
        result = record.stages.get(stage, StageResult(status="ok", duration_s=0.0))
        return record.with_stage(stage, msgspec.structs.replace(result, **fields))

    return change


@pytest.fixture(scope="session")
def with_rows(changed: Callable[..., Record]) -> Callable[..., Record]:
    """A record in which every row of one table went through a function; None drops the row."""

    def edit(record: Record, stage: str, table: str, change: Callable[[Row], Row | None]) -> Record:
        rows = [row for old in record.rows(stage, table) if (row := change(dict(old)))]
        return changed(record, stage, tables={**record.stages[stage].tables, table: rows})

    return edit


@pytest.fixture(scope="session")
def hostile() -> str:
    """A name as an attacker, or a very unlucky user, would choose it."""
    return HOSTILE
