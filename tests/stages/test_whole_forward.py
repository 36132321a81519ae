"""The whole forward with and without the fix, for real on a small model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from qwenprof import runner
from qwenprof.diagnosis.bounds import number
from qwenprof.fix.patch import fixed, is_fixed
from qwenprof.harness import statistics
from qwenprof.harness.plan import Allowance, Refusal
from qwenprof.harness.sampler import Sampler
from qwenprof.harness.simulated import SimulatedDevice
from qwenprof.record.record import Record, Row
from qwenprof.stages import _whole_forward, compare_patch_embed
from qwenprof.stages._variants import CONV, LINEAR
from qwenprof.workload.loading import Subject, foreign_subject, load
from qwenprof.workload.workload import Workload
from tests.conftest import TINY, tiny_size

STAGE, TABLE = "compare-patch-embed", "after_fix"
PUBLISHED_FORWARD_S, PUBLISHED_CONV_S, PUBLISHED_FIXED_S = 16.5, 16.1113, 0.27


@pytest.fixture(scope="module")
def record() -> Record:
    with tiny_size():
        return runner.run(Workload.default(**TINY), ["batch-sweep", STAGE], budget_s=24.0)


def by_case(record: Record) -> dict[tuple[str, int], Row]:
    rows = record.rows(STAGE, TABLE)
    return {(str(row["variant"]), int(number(row["batch"]) or 0)): row for row in rows}


def test_both_forwards_are_timed_at_the_own_and_at_the_largest_batch(record: Record) -> None:
    rows = by_case(record)

    assert set(rows) == {(CONV, 1), (LINEAR, 1), (CONV, 4), (LINEAR, 4)}
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert {(row["batch"], row["images"], row["patches"]) for row in rows.values()} == {
        (1, 2, 528),
        (4, 8, 2112),
    }
    assert len({tuple(row) for row in rows.values()}) == 1, "all have the same columns"


def test_the_rows_are_what_their_raw_samples_say(record: Record) -> None:
    series = record.stages[STAGE].series

    for (variant, batch), row in by_case(record).items():
        samples = series[f"whole forward/{variant}/batch={batch}"].values
        conv = series[f"whole forward/{CONV}/batch={batch}"].values
        assert row["n"] == len(samples)
        assert row["median_s"] == pytest.approx(statistics.median(samples))
        assert row["per_sample_s"] == pytest.approx(statistics.median(samples) / batch)
        if variant == LINEAR:
            ratio = statistics.median(conv) / statistics.median(samples)
            assert row["speedup"] == pytest.approx(ratio)
        else:
            assert row["speedup"] is None
        assert f"whole forward/{variant}/batch={batch}/first_call" in series


def test_nothing_is_fixed_afterwards(record: Record) -> None:
    assert record.stages[STAGE].status == "ok"
    assert not is_fixed()


def test_the_projection_alone_is_still_compared(record: Record) -> None:
    rows = record.rows(STAGE, "variants")

    assert {CONV, LINEAR} <= {str(row["variant"]) for row in rows if row["status"] == "ok"}


def test_a_process_in_which_the_fix_is_applied_has_rows_that_say_so(tiny: dict[str, Any]) -> None:
    with fixed():
        record = runner.run(Workload.default(**tiny), [STAGE], budget_s=4.0)

    assert record.stages[STAGE].status == "skipped"
    rows = by_case(record)
    assert set(rows) == {(CONV, 1), (LINEAR, 1)}
    assert all(row["status"] == "skipped" and row["median_s"] is None for row in rows.values())
    assert all("undo_fix" in str(row["reason"]) for row in rows.values())


def test_a_module_without_such_a_convolution_has_rows_that_say_so() -> None:
    subject = foreign_subject(nn.Linear(2, 2), (torch.zeros(1, 2),), {})
    experiment = runner.Experiment(
        facts={"summary": "a module"}, device="cpu", dtype="fp32", load=lambda: subject
    )
    wanted = runner.chosen([STAGE])
    record = runner.run_experiment(experiment, wanted, None, 4.0, (), runner.Silent())

    assert record.stages[STAGE].status == "skipped"
    assert {row["status"] for row in record.rows(STAGE, TABLE)} == {"skipped"}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "out_of_memory"),
        (RuntimeError("x"), "failed"),
    ],
)
def test_what_a_larger_batch_runs_into_loses_nothing(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch, error: Exception, status: str
) -> None:
    monkeypatch.setattr(Subject, "call", failing_above(1, Subject.call, error))
    record = runner.run(Workload.default(**tiny), [STAGE], budget_s=14.0)

    rows = by_case(record)
    assert record.stages[STAGE].status == "ok"
    assert rows[CONV, 1]["status"] == rows[LINEAR, 1]["status"] == "ok"
    assert rows[CONV, 4]["status"] == rows[LINEAR, 4]["status"] == status
    assert rows[CONV, 4]["reason"] == str(error)


def failing_above(batch: int, call: Callable[..., Any], error: Exception) -> Callable[..., Any]:
    """Subject.call that gives a forward which fails for more samples than that."""

    def replaced(subject: Subject, inputs: Any) -> Callable[[], Any]:
        if inputs is subject.inputs(batch):
            forward: Callable[[], Any] = call(subject, inputs)
            return forward

        def fail() -> Any:
            raise error

        return fail

    return replaced


def test_a_fix_that_reaches_no_convolution_is_not_called_useless(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were the forward not changed at all, a ratio of 1 would read as a fix without a gain."""
    monkeypatch.setattr("qwenprof.fix.patch.runs_as_linear", lambda _: False)
    experiment = runner.Experiment(
        facts={"summary": "tiny"},
        device="cpu",
        dtype="fp32",
        load=lambda: load(Workload.default(**tiny)),
    )
    bench = runner.Laboratory(experiment, runner._empty_record(experiment, ()), runner.Silent())
    bench.clear(4.0)

    _whole_forward.compare_whole_forwards(bench, bench.subject(), conv_s=0.0, share=1.0)

    rows = bench.tables[TABLE]
    assert {row["status"] for row in rows} == {"skipped"}
    assert all("both forwards are the same" in str(row["reason"]) for row in rows)


class Virtual:
    """A bench of which nothing but the clock is used."""

    def __init__(self) -> None:
        self.sampler = Sampler(SimulatedDevice())


def allowed(left_s: float, pair_s: float) -> Allowance | Refusal:
    bench: Any = Virtual()
    return _whole_forward._allowance(bench, bench.sampler.clock.now_s() + left_s, pair_s)


def test_a_forward_of_sixteen_seconds_is_called_twice_in_the_seconds_that_a_gpu_gets() -> None:
    budget_s = runner.ACCELERATOR_BUDGET * compare_patch_embed.STAGE.budget_s
    left_s = budget_s * compare_patch_embed.WHOLE_SHARE - PUBLISHED_FIXED_S
    allowance = allowed(left_s, 2 * PUBLISHED_FIXED_S + PUBLISHED_CONV_S)

    assert isinstance(allowance, Allowance)
    assert allowance.case_s / 2 < PUBLISHED_FORWARD_S, "so that it leaves the round as a slow one"
    assert allowance.limit_s >= 2 * PUBLISHED_FORWARD_S + PUBLISHED_FIXED_S


def test_a_forward_of_a_second_gets_the_seconds_for_an_interval() -> None:
    allowance = allowed(24.0, 2.2)

    assert isinstance(allowance, Allowance)
    assert allowance.case_s / 2.2 > statistics.MIN_SAMPLES_FOR_CI


def test_a_forward_that_does_not_fit_is_refused_with_what_it_would_take() -> None:
    refused = allowed(24.0, 60.0)

    assert isinstance(refused, Refusal)
    assert "about 60 s" in refused.reason
