"""Preprocessing and transfer against the model: problem, clear, not assessed."""

from __future__ import annotations

from typing import Any

import pytest

from qwenprof.diagnosis.finding import Finding, rules
from qwenprof.record.record import Record, Row, StageResult, Tool


def record(scope: str = "vision", device: str = "cuda", **seconds: float | None) -> Record:
    """A record of a breakdown with these phases in seconds; None is a phase that was skipped."""
    rows: list[Row] = [
        {"phase": phase, "median_s": each, "status": "skipped" if each is None else "ok"}
        for phase, each in seconds.items()
    ]
    pipeline: Row = {"images_per_s": 12.5, "missing": None, "processor": "SomeImageProcessor"}
    tables = {"phases": rows, "pipeline": [pipeline]}
    return Record(
        tool=Tool(name="qwenprof", version="0"),
        created="2026-01-01T00:00:00+00:00",
        command=[],
        environment={"device": {"type": device, "name": "Some device"}},
        workload={"scope": scope, "device": device, "batch": 1},
        stages={"breakdown": StageResult(status="ok", duration_s=1.0, tables=tables)},
    )


def judged(given: Record) -> Finding:
    return rules()["input-bound"].judge(given)


@pytest.mark.parametrize(
    ("processor_s", "verdict", "severity"),
    [
        (0.024, "clear", "info"),
        (0.026, "problem", "info"),
        (0.049, "problem", "info"),
        (0.051, "problem", "warning"),
        (0.079, "problem", "warning"),
        (0.081, "problem", "critical"),
    ],
)
def test_the_severity_follows_the_share_of_the_inputs(
    processor_s: float, verdict: str, severity: str
) -> None:
    vision_s = 0.1 - processor_s
    finding = judged(record(processor=processor_s - 0.001, transfer=0.001, vision=vision_s))

    assert (finding.verdict, finding.severity) == (verdict, severity)


def test_a_processor_that_takes_most_of_the_time_is_named() -> None:
    finding = judged(record(processor=0.3, transfer=0.01, vision=0.04, language=0.05, scope="full"))

    assert finding.culprit == "image preprocessing"
    assert finding.title.startswith("Preparing the inputs takes 77.5 % of the time")
    assert finding.cost_share == pytest.approx(0.775)
    assert finding.factor is None
    assert finding.evidence[0].startswith(
        "One after the other: processor 300 ms, transfer 10.0 ms, vision 40.0 ms and language "
        "50.0 ms; 77.5 %"
    )
    assert any("12.5 images per second" in sentence for sentence in finding.evidence)
    assert any("SomeImageProcessor" in sentence for sentence in finding.evidence)
    assert "400 ms" in finding.evidence[-1]
    assert "not of the forward" in finding.evidence[-1]
    assert "num_workers" in finding.advice


def test_a_transfer_that_takes_most_of_the_time_is_named() -> None:
    finding = judged(record(processor=0.01, transfer=0.3, vision=0.1))

    assert finding.culprit == "transfer of pixels to the device"
    assert "pin_memory" in finding.advice
    assert "num_workers" not in finding.advice


def test_on_a_cpu_workers_are_not_promised_to_help() -> None:
    finding = judged(record(device="cpu", processor=0.3, transfer=None, vision=0.1, language=None))

    assert finding.verdict == "problem"
    assert "idle" in finding.advice
    assert "cuda" not in finding.advice


def test_a_neighbour_makes_it_less_sure() -> None:
    quiet = record(device="cpu", processor=0.3, transfer=None, vision=0.1)
    busy: Row = {"cores_busy_elsewhere": 1.5}
    tables = {**quiet.stages["breakdown"].tables, "conditions": [busy]}
    disturbed = quiet.with_stage("breakdown", with_times(tables))

    assert judged(quiet).confidence == "high"
    assert judged(disturbed).confidence == "medium"


def with_times(tables: Any) -> StageResult:
    from qwenprof.record.record import Series

    series = {"vision": Series(unit="s", values=[0.1], stop_reason="budget")}
    return StageResult(status="ok", duration_s=1.0, tables=tables, series=series)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (record(), "not both timed"),
        (record(vision=0.1), "not both timed"),
        (record(processor=0.1, vision=None), "not both timed"),
        (record(processor=0.1, vision=0.1), "transfer"),
        (record(processor=0.1, vision=0.1, transfer=None), "transfer"),
        (record(scope="full", processor=0.1, vision=0.1, transfer=0.1), "language"),
    ],
)
def test_without_every_phase_nothing_is_said(given: Record, why: str) -> None:
    finding = judged(given)

    assert finding.verdict == "not assessed"
    assert why in finding.evidence[0]


def test_a_phase_that_could_not_be_measured_leaves_the_question_open() -> None:
    given = record(processor=0.1, transfer=0.1, vision=0.1)
    given.stages["breakdown"].tables["pipeline"][0]["missing"] = "language"

    finding = judged(given)

    assert finding.verdict == "not assessed"
    assert "language" in finding.evidence[0]
