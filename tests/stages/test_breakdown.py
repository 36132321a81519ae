"""The phases from frames to features: on a real CPU, and on an accelerator that exists on paper."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from qwenprof import runner
from qwenprof.harness.sampler import Sampler
from qwenprof.harness.simulated import SimulatedDevice
from qwenprof.record.record import Record, Row
from qwenprof.stages import breakdown
from qwenprof.stages._timed_row import empty_row
from qwenprof.workload import inputs as workload_inputs
from qwenprof.workload.loading import foreign_subject
from qwenprof.workload.loading import load as load_subject
from qwenprof.workload.workload import Workload
from tests.conftest import TINY, tiny_size

BUDGET_S, LANGUAGE_S = 4.0, 0.25
COLUMNS = ["phase", "median_s", "ci_low_s", "ci_high_s", "n", "share", "clock", "status", "reason"]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """A tiny model on two threads waits for the slower one, which a busy machine makes long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tower() -> Record:
    with tiny_size():
        return runner.run(Workload.default(**TINY), ["breakdown"], budget_s=BUDGET_S / 2)


@pytest.fixture(scope="module")
def whole() -> Record:
    """A whole model of two samples, whose language part takes LANGUAGE_S more than it would."""
    with tiny_size():
        subject = load_subject(Workload.default(**TINY, scope="full", batch=2))
        subject.call(subject.inputs())()  # a first call on a busy machine may take all the seconds
        subject.model.register_forward_pre_hook(lambda *_: time.sleep(LANGUAGE_S))
        return breakdown_of(subject, BUDGET_S)


def phases(record: Record) -> dict[str, Row]:
    return {str(row["phase"]): row for row in record.rows("breakdown", "phases")}


def median_s(record: Record, series: str) -> float:
    return statistics.median(record.stages["breakdown"].series[series].values)


def cell(row: Row, column: str) -> float:
    return float(str(row[column]))


def test_the_phases_come_in_the_order_in_which_the_data_flows(tower: Record) -> None:
    rows = tower.rows("breakdown", "phases")

    assert [row["phase"] for row in rows] == ["processor", "transfer", "vision", "language"]
    assert all(list(row) == COLUMNS for row in rows)
    assert tower.stages["breakdown"].status == "ok"


def test_every_time_is_the_median_of_its_raw_samples(tower: Record) -> None:
    for phase in ("processor", "vision"):
        row = phases(tower)[phase]
        assert row["status"] == "ok"
        assert row["median_s"] == median_s(tower, phase)
        assert row["n"] == len(tower.stages["breakdown"].series[phase].values)
        assert row["clock"] == "host"


def test_what_a_tower_on_a_cpu_does_not_have_is_skipped_with_the_reason(tower: Record) -> None:
    transfer, language = phases(tower)["transfer"], phases(tower)["language"]

    assert (transfer["status"], transfer["reason"]) == ("skipped", breakdown.NOT_ON_CPU)
    assert (language["status"], language["reason"]) == ("skipped", breakdown.NO_LANGUAGE)
    assert {transfer["median_s"], transfer["share"], language["n"], language["clock"]} == {None}


@pytest.mark.parametrize("name", ["tower", "whole"])
def test_shares_and_rate_are_of_the_sum_of_what_was_measured(
    name: str, request: pytest.FixtureRequest
) -> None:
    record: Record = request.getfixturevalue(name)
    measured = [row for row in phases(record).values() if row["status"] == "ok"]
    pipeline = record.rows("breakdown", "pipeline")[0]
    total_s = sum(cell(row, "median_s") for row in measured)

    assert sum(cell(row, "share") for row in measured) == pytest.approx(1.0)
    assert pipeline["serial_s"] == pytest.approx(total_s)
    assert pipeline["images"] == (2 if name == "tower" else 4)
    assert pipeline["images_per_s"] == pytest.approx(cell(pipeline, "images") / total_s)
    assert pipeline["bound_by"] == max(measured, key=lambda row: cell(row, "median_s"))["phase"]
    assert pipeline["missing"] is None
    assert "ImageProcessor" in str(pipeline["processor"])


def test_the_language_part_is_what_the_whole_forward_takes_beyond_the_tower(whole: Record) -> None:
    row = phases(whole)["language"]

    assert row["status"] == "ok"
    assert row["median_s"] == pytest.approx(median_s(whole, "forward") - median_s(whole, "vision"))
    counts = [len(whole.stages["breakdown"].series[key].values) for key in ("forward", "vision")]
    assert row["n"] == min(counts)


def test_making_the_frames_is_not_timed(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN a count of how often frames of a sample are made
    made, original = [], workload_inputs.random_frames

    def counted(workload: Workload, sample: int) -> list[torch.Tensor]:
        made.append(sample)
        return original(workload, sample)

    monkeypatch.setattr(workload_inputs, "random_frames", counted)
    # WHEN the processor is called again and again
    record = runner.run(Workload.default(**tiny), ["breakdown"], budget_s=1.0)
    # THEN they were made once for it, and once for the forward
    assert cell(phases(record)["processor"], "n") > 2
    assert made == [0, 0]


def test_on_an_accelerator_the_host_times_the_processor_and_the_device_the_rest(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN a device on paper: 2 ms for each transfer, 30 ms for each forward of the tower
    device, subject = SimulatedDevice(), load_subject(Workload.default(**tiny))
    subject.require_vision().tower.module.register_forward_hook(lambda *_: device.kernel(30e-3))
    moved = workload_inputs.moved

    def transferred(pixels: Any, dtype: torch.dtype, target: torch.device) -> Any:
        device.kernel(2e-3)
        return moved(pixels, dtype, target)

    subject.inputs()
    monkeypatch.setattr(workload_inputs, "moved", transferred)
    workload = Workload.default(**tiny)
    bench = runner.Laboratory(
        runner.Experiment(
            facts=workload.facts(),
            device="cpu",
            dtype="fp32",
            load=lambda: replace(subject, device=torch.device("meta")),
        ),
        runner.run(workload, []),
        runner.Silent(),
    )
    bench.sampler = Sampler(device)
    bench.clear(1.0)
    # WHEN its phases are timed
    breakdown.measure(bench)
    rows = {str(row["phase"]): row for row in bench.tables["phases"]}
    # THEN the device's timeline holds transfer and tower, and the processor took real seconds
    assert rows["transfer"]["median_s"] == pytest.approx(2e-3, rel=0.01)
    assert rows["vision"]["median_s"] == pytest.approx(30e-3, rel=0.01)
    assert cell(rows["processor"], "median_s") > 0
    assert "processor/host_enqueue" not in bench.series
    assert {phase: row["clock"] for phase, row in rows.items()} == {
        "processor": "host",
        "transfer": "device",
        "vision": "device",
        "language": None,
    }


def test_a_rate_is_not_told_where_a_phase_is_missing(tiny: dict[str, Any]) -> None:
    # GIVEN a tower that runs out of memory
    subject = load_subject(Workload.default(**tiny))

    def too_large(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    subject.inputs()
    subject.require_vision().tower.module.register_forward_pre_hook(too_large)
    # WHEN the stage runs THEN the processor's time is kept, and no rate is made of it
    record = breakdown_of(subject)
    pipeline = record.rows("breakdown", "pipeline")[0]
    assert phases(record)["processor"]["status"] == "ok"
    assert phases(record)["vision"]["status"] == "out_of_memory"
    assert pipeline["missing"] == "vision"
    assert {pipeline["images_per_s"], pipeline["serial_s"], pipeline["bound_by"]} == {None}


def test_what_was_measured_before_a_failure_is_kept(tiny: dict[str, Any]) -> None:
    subject = load_subject(Workload.default(**tiny))

    def fail(*_: Any) -> None:
        raise ValueError("broken")

    subject.inputs()
    subject.require_vision().tower.module.register_forward_pre_hook(fail)
    record = breakdown_of(subject)

    assert record.stages["breakdown"].status == "failed"
    assert phases(record)["processor"]["status"] == "ok"
    assert record.rows("breakdown", "pipeline")[0]["missing"] == "vision"


def test_a_bare_module_has_no_such_phases() -> None:
    subject = foreign_subject(nn.Linear(4, 4), (torch.zeros(1, 4),), {})

    assert breakdown_of(subject).stages["breakdown"].status == "skipped"


def test_the_rest_of_a_forward_that_is_not_longer_than_its_tower_is_unknown() -> None:
    def timed(seconds: float | None) -> Row:
        known: Row = {"median_s": seconds, "ci_low_s": None, "ci_high_s": None, "n": 3}
        return empty_row("ok", "") | known

    longer = breakdown._remainder(timed(3.0), timed(1.0))
    known = {"ci_low_s": 2.9, "ci_high_s": 3.2}, {"ci_low_s": 0.9, "ci_high_s": 1.1}
    sure = breakdown._remainder(timed(3.0) | known[0], timed(1.0) | known[1])
    shorter = breakdown._remainder(timed(1.0), timed(1.1))
    refused = breakdown._remainder(empty_row("skipped", "raise --budget"), timed(1.0))

    assert (longer["median_s"], longer["ci_low_s"], longer["n"]) == (2.0, None, 3)
    assert (sure["ci_low_s"], sure["ci_high_s"]) == pytest.approx((1.8, 2.3))
    assert (shorter["median_s"], shorter["status"]) == (None, "skipped")
    assert (refused["status"], refused["reason"]) == (
        "skipped",
        "the whole forward was not measured: raise --budget",
    )


def breakdown_of(subject: Any, budget_s: float = 1.0) -> Record:
    """The stage alone, on a subject that is there already."""
    experiment = runner.Experiment(
        facts={"summary": "a subject"}, device="cpu", dtype="fp32", load=lambda: subject
    )
    chosen = runner.chosen(["breakdown"])
    return runner.run_experiment(experiment, chosen, None, budget_s, (), runner.Silent())
