"""Waiting for the device in the middle of a forward."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from qwenprof.diagnosis.finding import Finding
from qwenprof.record.record import Record, Row, Series
from tests.diagnosis.handmade import judged, record


def module(path: str, waits: int | None) -> Row:
    return {"path": path, "module_type": "Block", "waits": waits, "inclusive_s": 0.001}


def run(
    *parts: Row, forward_s: float = 0.010, round_trip_s: float | None = 50e-6, **summary: Any
) -> Record:
    row: Row = {"plain_s": forward_s, "most_behind_s": 0.008, "synchronizations": None}
    made = record(
        matmul__machine=[{}],
        per_layer__modules=[module("", parts[0]["waits"] and 0), *parts],
        per_layer__summary=[row | summary],
    )
    if round_trip_s is None:
        return made
    wall = Series(unit="s", values=[round_trip_s] * 3, stop_reason="converged")
    matmul = msgspec.structs.replace(made.stages["matmul"], series={"launch/wall": wall})
    return made.with_stage("matmul", matmul)


def judge(given: Record) -> Finding:
    return judged("hidden-sync", given)


def blocks(waits: int) -> list[Row]:
    return [module("blocks.0.attn", waits), *(module(f"blocks.{i}", waits) for i in range(1, 6))]


def test_a_wait_in_every_block_is_told_with_its_place_and_its_least_cost() -> None:
    finding = judge(run(*blocks(1)))

    assert (finding.verdict, finding.severity) == ("problem", "warning")
    assert finding.culprit == "blocks.0.attn"
    assert "6 times" in finding.title
    assert "blocks.0.attn (Block) once" in finding.evidence[0]
    assert "2 other parts 2 times" in finding.evidence[0]
    assert finding.cost_share == pytest.approx(6 * 50e-6 / 0.010)
    assert finding.confidence == "medium"


def test_a_wait_that_costs_next_to_nothing_is_a_remark() -> None:
    finding = judge(run(module("merger", 1)))

    assert (finding.verdict, finding.severity) == ("problem", "info")
    assert "once" in finding.title


def test_without_a_round_trip_the_cost_is_not_guessed() -> None:
    finding = judge(run(*blocks(1), round_trip_s=None))

    assert (finding.verdict, finding.severity, finding.cost_share) == ("problem", "warning", None)


def test_what_cuda_reports_makes_it_sure() -> None:
    place: Row = {"path": "blocks.0.attn", "place": "modeling.py:299", "count": 3}
    made = run(*blocks(1), synchronizations=3)
    tables = made.stages["per-layer"].tables | {"synchronizations": [place]}
    finding = judge(
        made.with_stage(
            "per-layer", msgspec.structs.replace(made.stages["per-layer"], tables=tables)
        )
    )

    assert finding.confidence == "high"
    assert "3 synchronising operations" in finding.evidence[1]
    assert "3 at modeling.py:299 in blocks.0.attn" in finding.evidence[1]


def test_a_host_that_runs_ahead_and_never_waits_is_clear() -> None:
    finding = judge(run(*blocks(0)))

    assert finding.verdict == "clear"
    assert "8.00 ms behind" in finding.evidence[0]


def test_where_the_device_is_never_behind_nothing_is_clear() -> None:
    never = judge(run(*blocks(0), most_behind_s=10e-6))
    launch_bound = judge(run(*blocks(0), most_behind_s=500e-6, host_alone_s=0.0099))

    assert never.verdict == launch_bound.verdict == "not assessed"
    assert "could not be seen" in never.evidence[0]


def test_a_cpu_has_nothing_to_wait_for() -> None:
    made = run(module("blocks.0", None), most_behind_s=None)
    on_cpu = msgspec.structs.replace(made, environment={"device": {"type": "cpu"}})

    assert judge(made).verdict == judge(on_cpu).verdict == "not assessed"
    assert "no queue" in judge(on_cpu).evidence[0]


def test_without_the_parts_it_is_not_assessed() -> None:
    assert judge(record()).verdict == "not assessed"
