"""The loop: what becomes of a stage that works, fails, runs out of memory or is interrupted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qwenprof import runner
from qwenprof.errors import MeasurementError, NotApplicable, UsageError
from qwenprof.harness.dispatch import is_conv3d_without_library
from qwenprof.record.record import Series, StageResult, load
from qwenprof.stages.stage import Bench, Stage, stages
from qwenprof.workload.workload import Workload

Measure = Callable[[Bench], None]


def stage(name: str, measure: Measure, *, order: int = 1, budget_s: float = 1.0) -> Stage:
    return Stage(
        name=name, order=order, question="?", suspect="-", measure=measure, budget_s=budget_s
    )


def good(bench: Bench) -> None:
    bench.add_row("table", {"value": 1})
    bench.add_series({"x": Series(unit="s", values=[1.0], stop_reason="budget")})


def raising(error: BaseException) -> Measure:
    def measure(bench: Bench) -> None:
        bench.add_row("table", {"value": 1})
        raise error

    return measure


def run(wanted: list[Stage], **options: Any) -> Any:
    experiment = runner.Experiment(
        facts={"summary": "nothing"}, device="cpu", dtype="fp32", load=lambda: pytest.fail("built")
    )
    arguments = {"out": None, "budget_s": None, "command": (), "observer": runner.Silent()}
    return runner.run_experiment(experiment, wanted, **(arguments | options))


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (RuntimeError("boom"), "failed", "RuntimeError('boom')"),
        (MeasurementError("its sums are off"), "failed", "its sums are off"),
        (NotApplicable("no tower here"), "skipped", "no tower here"),
        (MemoryError("no room"), "out_of_memory", "no room"),
        (KeyboardInterrupt(), "interrupted", "stopped by the user"),
    ],
)
def test_what_happens_to_a_stage_becomes_its_status(
    error: BaseException, status: str, reason: str
) -> None:
    record = run([stage("bad", raising(error))])

    result: StageResult = record.stages["bad"]
    assert (result.status, result.reason) == (status, reason)
    assert result.tables["table"] == [{"value": 1}], "what was measured before is kept"


@pytest.mark.parametrize(
    ("cases", "status"),
    [
        (["ok", "failed"], "ok"),
        (["failed", "skipped"], "failed"),
        (["skipped", "skipped"], "skipped"),
        (["out_of_memory"], "out_of_memory"),
        (["out_of_memory", "skipped"], "failed"),
        ([], "ok"),
    ],
)
def test_a_stage_of_which_no_case_was_measured_did_not_go_well(
    cases: list[str], status: str
) -> None:
    def measure(bench: Bench) -> None:
        for case in cases:
            bench.add_row("table", {"status": case, "reason": f"it is {case}"})

    result = run([stage("sweep", measure)]).stages["sweep"]

    assert result.status == status
    if status != "ok":
        assert result.reason == f"none of {len(cases)} cases was measured: it is {cases[0]}"


def test_a_failure_does_not_stop_the_next_stage_but_an_interrupt_does() -> None:
    failed = run([stage("bad", raising(RuntimeError("boom"))), stage("good", good)])
    interrupted = run([stage("bad", raising(KeyboardInterrupt())), stage("good", good)])

    assert list(failed.stages) == ["bad", "good"]
    assert list(interrupted.stages) == ["bad"]


def test_the_record_is_on_disk_after_every_stage(tmp_path: Path) -> None:
    def look(bench: Bench) -> None:
        seen.append(list(load(tmp_path).stages))

    seen: list[list[str]] = []
    record = run([stage("first", good), stage("second", look)], out=tmp_path)

    assert seen == [["first"]]
    assert load(tmp_path) == record


def test_after_a_whole_run_pytorchs_own_account_of_the_machine_is_kept(tmp_path: Path) -> None:
    """It is what trackers ask for, and it takes seconds: after the stages, and on disk."""
    told = runner._with_account(run([stage("first", good)]), tmp_path)

    assert "PyTorch version: " in str(told.fact("collect_env", "text"))
    assert list(told.stages) == ["first"]
    assert load(tmp_path) == told


def test_every_stage_starts_with_an_empty_bench_and_keeps_its_conditions() -> None:
    record = run([stage("first", good), stage("second", lambda _: None)])

    assert "table" not in record.stages["second"].tables
    assert not record.stages["second"].series
    assert all(len(result.tables["conditions"]) == 1 for result in record.stages.values())


def test_a_fault_is_provoked_while_the_stages_run_and_said_in_the_record(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    look = stage("look", lambda _: seen.append(is_conv3d_without_library()))
    monkeypatch.setattr(runner, "chosen", lambda _: [look])

    record = runner.run(Workload.default(**tiny, provoke="slow-conv"))
    runner.run(Workload.default(**tiny))

    assert seen == [True, False]
    assert not is_conv3d_without_library()
    assert record.workload["provoke"] == "slow-conv"
    assert "PROVOKED ON PURPOSE: slow-conv" in str(record.workload["summary"])


def test_a_budget_is_shared_in_proportion() -> None:
    def remember(bench: Bench) -> None:
        budgets.append(bench.budget_s)

    budgets: list[float] = []
    wanted = [stage("a", remember, budget_s=1.0), stage("b", remember, budget_s=3.0)]
    run(wanted)
    run(wanted, budget_s=20.0)

    assert budgets == [1.0, 3.0, 5.0, 15.0]


def test_the_observer_hears_of_every_stage() -> None:
    class Listener(runner.Silent):
        def __init__(self) -> None:
            self.heard: list[str] = []

        def started(self, stage: Stage) -> None:
            self.heard.append(f"started {stage.name}")

        def said(self, text: str) -> None:
            self.heard.append(text)

        def finished(self, stage: Stage, result: StageResult) -> None:
            self.heard.append(f"finished {stage.name}: {result.status}")

    listener = Listener()
    run([stage("a", lambda bench: bench.say("working"))], observer=listener)

    assert listener.heard == ["started a", "working", "finished a: ok"]


def test_chosen_stages_come_in_order_with_what_they_require() -> None:
    assert [each.name for each in runner.chosen(["per-layer"])] == ["matmul", "per-layer"]
    assert [each.name for each in runner.chosen(["per-layer", "batch-sweep"])] == [
        "matmul",
        "batch-sweep",
        "per-layer",
    ]
    assert [each.name for each in runner.chosen(None)] == list(stages())


def test_an_unknown_stage_is_named_with_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"warp-drive.*choose from matmul"):
        runner.chosen(["warp-drive"])


def test_a_folder_that_is_not_there_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    def never(_: Bench) -> None:
        pytest.fail("measured")

    with pytest.raises(UsageError, match="is not a folder: make it first"):
        run([stage("a", never)], out=tmp_path / "missing")
