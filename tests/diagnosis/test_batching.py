"""A batch that most likely did not grow is told apart, and is no reason to accuse batching."""

from __future__ import annotations

from typing import Any

import pytest

from qwenprof.diagnosis.finding import Finding, rules
from qwenprof.record.record import Record, Row, StageResult, Tool
from tests.diagnosis.handmade import disturbed, record

GB = 10**9


def row(batch: int, median_s: float, tokens: int = 2133, memory: float = 10.0) -> Row:
    return {
        "batch": batch,
        "median_s": median_s,
        "patches": None,
        "sequence_length": tokens,
        "peak_bytes": int(memory * GB),
    }


PUBLISHED = [row(1, 16.5, 1653, 9.7), row(4, 65.3), row(8, 148.0), row(16, 145.0)]


def judged(rows: list[Row]) -> Finding:
    stage = StageResult(status="ok", duration_s=1.0, tables={"batches": rows})
    given = Record(
        tool=Tool(name="qwenprof", version="0"),
        created="2026-01-01T00:00:00+00:00",
        command=[],
        environment={},
        workload={"batch": 1},
        stages={"batch-sweep": stage},
    )
    return rules()["batching"].judge(given)


def without(rows: list[Row], column: str) -> list[Row]:
    return [each | {column: None} for each in rows]


def test_a_batch_that_did_not_grow_is_left_out_and_told() -> None:
    finding = judged(PUBLISHED)

    assert (finding.verdict, finding.confidence) == ("clear", "medium")
    assert "up to batch 8; batch 16 most likely did not grow" in finding.title
    assert finding.evidence[0] == (
        "One sample takes 16.5 s at batch 1, 16.3 s at batch 4, 18.5 s at batch 8."
    )
    assert "inferred" in finding.evidence[-2]
    assert "145 s where batch 8 takes 148 s" in finding.evidence[-1]


def test_what_the_patches_say_is_not_inferred() -> None:
    """Measured patches that did not grow stay a problem."""
    counted = [each | {"patches": 6080} for each in PUBLISHED]
    grown = [each | {"patches": 6080 * int(str(each["batch"]))} for each in PUBLISHED[:3]]

    assert judged(counted).verdict == "problem"
    assert "did not grow" in judged(counted).title
    assert (judged(grown).verdict, judged(grown).confidence) == ("clear", "high")


@pytest.mark.parametrize(
    ("busy_cores", "n", "verdict"),
    [(0.9, 1, "not assessed"), (0.9, 3, "problem"), (0.0, 1, "problem")],
)
def test_one_forward_in_a_disturbed_sweep_accuses_nobody(
    busy_cores: float, n: int, verdict: str
) -> None:
    rows: list[Row] = [
        {"batch": 1, "median_s": 1.0, "patches": 760, "n": 4},
        {"batch": 4, "median_s": 10.0, "patches": 3040, "n": n},
    ]
    given = disturbed(record(batch_sweep__batches=rows), "batch-sweep", busy_cores)

    assert rules()["batching"].judge(given).verdict == verdict


@pytest.mark.parametrize("column", ["sequence_length", "peak_bytes"])
def test_without_tokens_or_memory_nothing_is_inferred(column: str) -> None:
    assert judged(without(PUBLISHED, column)).verdict == "not assessed"


@pytest.mark.parametrize(
    "last", [row(16, 290.0), row(16, 145.0, tokens=4266), row(16, 145.0, memory=20.0)]
)
def test_a_batch_that_grew_in_anything_counts(last: Row) -> None:
    finding = judged([*PUBLISHED[:3], last])

    assert "did not grow" not in finding.title
    assert "16.5 s at batch 1" in finding.evidence[0] or finding.verdict == "not assessed"


def test_a_time_of_one_sample_that_changes_clears_nothing_without_patches() -> None:
    """It may fall because a larger batch shares a cost, or because samples were lost."""
    falling = [row(1, 10.0), row(2, 12.0), row(4, 15.0)]
    rising = [row(1, 10.0), row(2, 30.0), row(4, 90.0)]

    assert judged(falling).verdict == judged(rising).verdict == "not assessed"


def test_a_sweep_that_never_grew_clears_nothing() -> None:
    finding = judged([row(1, 16.5), row(2, 16.4), row(4, 16.6)])

    assert finding.verdict == "not assessed"
    assert "Batch 2 takes 16.4 s where batch 1 takes 16.5 s" in finding.evidence[0]


def test_the_order_of_the_rows_does_not_matter() -> None:
    assert judged(PUBLISHED[::-1]).title == judged(PUBLISHED).title


@pytest.mark.parametrize("odd", [None, True, "x", 0, -1.0, 1e308, 5e-324])
@pytest.mark.parametrize("column", ["batch", "median_s", "sequence_length", "peak_bytes"])
def test_odd_cells_fail_nothing(odd: Any, column: str) -> None:
    for index in range(len(PUBLISHED)):
        rows = list(PUBLISHED)
        rows[index] = rows[index] | {column: odd}
        judged(rows)
    judged([each | {column: odd} for each in PUBLISHED])
