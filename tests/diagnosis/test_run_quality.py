"""What disturbs a run and what does not: problem, clear, not assessed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from qwenprof.diagnosis.disturbance import disturbances, power_capped
from qwenprof.diagnosis.finding import Finding, rules
from qwenprof.diagnosis.rules.run_quality import ANSWERS
from qwenprof.record.record import Record, Row, Series, StageResult, Tool, load
from qwenprof.stages.stage import stages

REAL = sorted((Path(__file__).parents[2] / "reports").glob("*/record.json"))
QUIET_CPU: Row = {
    "throttled_share": None,
    "throttle_reasons": None,
    "other_gpu_processes": None,
    "cores_busy_elsewhere": 0.05,
    "cores_busy_elsewhere_meanwhile": 0.1,
    "cores_busy_elsewhere_after": 0.0,
}
QUIET_GPU = QUIET_CPU | {"throttled_share": 0.0, "other_gpu_processes": 0}
FOUR = (1.08, 1.12, 1.0, 1.04)
STEADY = (1.0, 1.01, 1.02) * 4


def stage(
    conditions: Row | None, values: Sequence[float] = STEADY, key: str = "forward, plain"
) -> StageResult:
    tables = {"conditions": [conditions]} if conditions is not None else {}
    series = {key: Series(unit="s", values=list(values), stop_reason="budget")} if values else {}
    return StageResult(status="ok", duration_s=1.0, tables=tables, series=series)


def record(device: str = "cpu", **results: StageResult) -> Record:
    return Record(
        tool=Tool(name="qwenprof", version="0"),
        created="2026-01-01T00:00:00+00:00",
        command=[],
        environment={"device": {"type": device, "name": "Some device"}},
        workload={"device": device, "batch": 1},
        stages={name.replace("_", "-"): result for name, result in results.items()},
    )


def judged(given: Record) -> Finding:
    return rules()["run-quality"].judge(given)


class TestClear:
    def test_a_quiet_cpu(self) -> None:
        finding = judged(record(per_layer=stage(QUIET_CPU)))

        assert (finding.verdict, finding.severity) == ("clear", "info")
        assert finding.title == "Nothing was seen to disturb the run"
        assert finding.evidence == ("Looked for other processes in per-layer, and found none.",)

    def test_a_quiet_gpu(self) -> None:
        finding = judged(record("cuda", per_layer=stage(QUIET_GPU)))

        assert finding.verdict == "clear"
        assert "throttling" in finding.evidence[0]

    def test_four_forwards_of_a_second_are_no_problem_but_a_remark(self) -> None:
        """An ordinary run on two cores."""
        given = record(
            batch_sweep=stage(QUIET_CPU, FOUR, "batch=1"), per_layer=stage(QUIET_CPU, FOUR[:1])
        )
        finding = judged(given)

        assert finding.verdict == "clear"
        assert "short of samples" in finding.title
        assert "4 times in batch-sweep and 1 time in per-layer" in finding.evidence[1]

    def test_in_a_container_it_says_that_neighbours_on_the_gpu_cannot_be_told(self) -> None:
        finding = judged(record("cuda", per_layer=stage(QUIET_GPU | {"other_gpu_processes": None})))

        assert finding.verdict == "clear"
        assert "container" in finding.evidence[-1]

    def test_an_older_record_looked_only_before_each_stage_and_says_so(self) -> None:
        finding = judged(record(per_layer=stage({"cores_busy_elsewhere": 0.0})))

        assert finding.verdict == "clear"
        assert "only before" in finding.evidence[-1]

    def test_a_busy_host_does_not_disturb_a_gpu(self) -> None:
        busy = QUIET_GPU | {"cores_busy_elsewhere": 3.0}

        assert judged(record("cuda", per_layer=stage(busy))).verdict == "clear"

    def test_a_stage_without_times_cannot_be_disturbed(self) -> None:
        busy = QUIET_CPU | {"cores_busy_elsewhere": 3.0}
        given = record(per_layer=stage(QUIET_CPU), verify=stage(busy, ()))

        assert judged(given).verdict == "clear"

    def test_matrix_products_at_the_power_limit_are_only_remarked_on(self) -> None:
        capped = QUIET_GPU | {"throttled_share": 0.6, "throttle_reasons": "software power cap"}
        given = record("cuda", matmul=stage(capped, STEADY, "gemm"))

        finding = judged(given)

        assert finding.verdict == "clear"
        assert "60.0 % of the readings, as usual under matrix products" in finding.evidence[1]
        assert power_capped(record("cuda", per_layer=stage(capped)), "per-layer") == []

    @pytest.mark.parametrize("path", REAL, ids=lambda path: path.parent.name)
    def test_the_committed_runs_were_quiet(self, path: Path) -> None:
        assert judged(load(path)).verdict == "clear"


class TestProblem:
    @pytest.mark.parametrize("column", ["cores_busy_elsewhere", "cores_busy_elsewhere_after"])
    def test_what_runs_only_while_nothing_else_does_disturbs_nothing(self, column: str) -> None:
        """As a process at idle priority: on average it had no core while the stage ran."""
        given = record(
            matmul=stage(QUIET_CPU, STEADY, "gemm"),
            per_layer=stage(QUIET_CPU | {column: 1.0, "cores_busy_elsewhere_meanwhile": 0.02}),
        )
        assert judged(given).verdict == "clear"

    @pytest.mark.parametrize(
        ("column", "when"),
        [
            ("cores_busy_elsewhere", "before it"),
            ("cores_busy_elsewhere_meanwhile", "on average while it ran"),
            ("cores_busy_elsewhere_after", "after it"),
        ],
    )
    def test_a_neighbour_at_any_look(self, column: str, when: str) -> None:
        unknown: Row = {"cores_busy_elsewhere_meanwhile": None}
        given = record(
            matmul=stage(QUIET_CPU, STEADY, "gemm"),
            per_layer=stage(QUIET_CPU | unknown | {column: 0.75}),
        )
        finding = judged(given)

        assert (finding.verdict, finding.severity) == ("problem", "warning")
        assert finding.title.startswith("Something disturbed 1 of 2 stages")
        assert finding.cause == "other processes"
        said = f"per-layer: cores busy with other processes: 0.750 {when}."
        assert finding.evidence[0] == said
        assert "Which component is it?" in finding.evidence[1]
        assert "Is the device healthy?" not in finding.evidence[1]

    def test_a_throttled_gpu(self) -> None:
        hot = QUIET_GPU | {"throttled_share": 0.4, "throttle_reasons": "hardware thermal slowdown"}
        finding = judged(record("cuda", batch_sweep=stage(hot, STEADY, "batch=1")))

        assert (finding.verdict, finding.severity) == ("problem", "warning")
        assert finding.cause == "throttling"
        assert "hardware thermal slowdown" in finding.evidence[0]
        assert "40.0 % of the readings" in finding.evidence[0]

    def test_a_moment_at_a_limit_is_not_throttling(self) -> None:
        touched = QUIET_GPU | {"throttled_share": 0.01, "throttle_reasons": "software power cap"}

        assert judged(record("cuda", per_layer=stage(touched))).verdict == "clear"

    @pytest.mark.parametrize(
        ("others", "said"), [(1, "1 other process on"), (2, "2 other processes")]
    )
    def test_other_processes_on_the_gpu(self, others: int, said: str) -> None:
        shared = QUIET_GPU | {"other_gpu_processes": others}
        finding = judged(record("cuda", per_layer=stage(shared)))

        assert finding.verdict == "problem"
        assert said in finding.evidence[0]

    @pytest.mark.parametrize(
        ("values", "said"),
        [
            ((1.0, 1.5) * 6, "spreads by"),
            ([1.0 + 0.05 * i for i in range(12)], "slower from the first to the last third"),
            ([2.0 - 0.08 * i for i in range(12)], "faster from the first to the last third"),
        ],
    )
    def test_a_forward_that_does_not_repeat(self, values: Sequence[float], said: str) -> None:
        finding = judged(record(batch_sweep=stage(QUIET_CPU, values, "batch=1")))

        assert finding.verdict == "problem"
        assert said in finding.evidence[0]
        assert finding.cause == "a forward that does not repeat"

    def test_another_series_that_does_not_repeat_is_no_problem(self) -> None:
        given = record(compare_patch_embed=stage(QUIET_CPU, (1.0, 1.5) * 6, "Conv3d/bf16"))

        assert judged(given).verdict == "clear"

    def test_too_few_samples_tell_no_spread(self) -> None:
        given = record(batch_sweep=stage(QUIET_CPU, (1.0, 1.6, 1.0, 1.6), "batch=1"))

        assert judged(given).verdict == "clear"


class TestNotAssessed:
    def test_nobody_looked(self) -> None:
        finding = judged(record(per_layer=stage(None)))

        assert finding.verdict == "not assessed"
        assert "Nobody looked" in finding.evidence[0]

    def test_nobody_could_tell(self) -> None:
        unknown: Row = dict.fromkeys(QUIET_CPU)

        assert judged(record(per_layer=stage(unknown))).verdict == "not assessed"
        assert judged(record("cuda", per_layer=stage(unknown))).verdict == "not assessed"

    def test_one_stage_was_not_looked_at(self) -> None:
        finding = judged(record(matmul=stage(None), per_layer=stage(QUIET_CPU)))

        assert finding.verdict == "not assessed"
        assert "matmul" in finding.evidence[0]

    def test_there_are_no_times(self) -> None:
        assert judged(record(verify=stage(QUIET_CPU, ()))).verdict == "not assessed"


def test_flags_of_the_samples_are_counted_by_stage() -> None:
    flags = ["noisy: interquartile range 12% of the median", "few_samples: n = 4"]
    series = {
        "a": Series(unit="s", values=list(FOUR), stop_reason="budget", flags=flags),
        "a/first_call": Series(unit="s", values=[1.0], stop_reason="first_call", flags=flags),
        "b": Series(unit="s", values=list(FOUR), stop_reason="budget", flags=flags[1:]),
    }
    result = StageResult(
        status="ok", duration_s=1.0, tables={"conditions": [QUIET_CPU]}, series=series
    )

    evidence = judged(record(matmul=result)).evidence

    assert "Flags of the samples: matmul, 2 series: 1 noisy, 2 few samples." in evidence


def test_other_rules_can_ask_about_one_stage() -> None:
    busy: dict[str, Any] = {**QUIET_CPU, "cores_busy_elsewhere_meanwhile": 1.0}
    given = record(matmul=stage(QUIET_CPU, STEADY, "gemm"), per_layer=stage(busy))

    assert disturbances(given, "matmul") == []
    assert disturbances(given, "per-layer") == [
        "cores busy with other processes: 1.00 on average while it ran"
    ]
    assert disturbances(given, "no-such-stage") == []


def test_the_questions_are_those_of_the_stages() -> None:
    known = stages()

    assert {name: known[name].question for name in ANSWERS if name in known} == {
        name: question for name, question in ANSWERS.items() if name in known
    }
