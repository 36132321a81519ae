"""The real stages and a real tower on a simulated GPU: each fault, and who speaks of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import msgspec
import pytest

from qwenprof.diagnosis.bounds import number
from qwenprof.diagnosis.finding import diagnose, rules
from qwenprof.record.record import Record, Row
from qwenprof.simulation import SYNC_S, simulated_gpu, simulated_run, wait_in_every_block

RULES = ("first-call", "launch-bound", "hidden-sync")
DEPTH, FORWARD_OPERATORS = 6, 257
LAUNCH_S, SLOW_HOST_S, AUTOTUNE_S = 5e-6, 100e-6, 0.5
SOME = ("matmul", "batch-sweep", "per-layer")
STRANGE = (None, True, 0, -1, 10**30, 1e308, -1e308, 5e-324, 0.5, "", "ok")


FAULTS: dict[str, Callable[[], Record]] = {
    "none": lambda: simulated_run(simulated_gpu(noise=0.02)),
    "slow device": lambda: simulated_run(simulated_gpu(rate_factor=0.2), SOME),
    "throttled": lambda: simulated_run(simulated_gpu(), SOME, throttled_from="batch-sweep"),
    "wait in every block": lambda: simulated_run(
        simulated_gpu(noise=0.02, seed=1), SOME, plant=wait_in_every_block
    ),
    "lengths": lambda: simulated_run(simulated_gpu(lengths_wait=True), SOME),
    "launch-bound": lambda: simulated_run(
        simulated_gpu(host_operator_s=SLOW_HOST_S), SOME, plant=wait_in_every_block
    ),
    "autotune": lambda: simulated_run(simulated_gpu(autotune_s=AUTOTUNE_S), SOME),
}


@cache
def run(fault: str) -> Record:
    """One run a fault for all tests here."""
    return FAULTS[fault]()


def modules(record: Record) -> dict[str, Row]:
    return {str(row["path"]): row for row in record.rows("per-layer", "modules")}


def value(cell: object) -> float:
    found = number(cell)  # type: ignore[arg-type]
    assert found is not None
    return found


def problems(record: Record) -> set[str]:
    return {name for name in RULES if rules()[name].judge(record).verdict == "problem"}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_stage_ran_and_the_record_says_that_it_is_simulated(fault: str) -> None:
    record = run(fault)

    assert {result.status for result in record.stages.values()} == {"ok"}
    assert record.environment["device"]["type"] == "simulated"
    assert record.fact("device", "name") == "simulated GPU"
    assert record.workload["device"] == "simulated"
    assert "bf16 on a simulated GPU" in str(record.workload["summary"])


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("none", set()),
        ("slow device", set()),
        ("throttled", set()),
        ("wait in every block", {"hidden-sync"}),
        ("lengths", {"hidden-sync"}),
        ("launch-bound", {"launch-bound"}),
        ("autotune", {"first-call"}),
    ],
)
def test_the_right_rule_speaks_and_the_others_do_not(fault: str, named: set[str]) -> None:
    assert problems(run(fault)) == named


def test_a_healthy_device_is_accused_of_nothing() -> None:
    record = run("none")

    verdicts = {name: rules()[name].judge(record).verdict for name in (*RULES, "device-health")}
    assert set(verdicts.values()) == {"clear"}
    accused = [each for each in diagnose(record) if each.verdict == "problem"]
    assert not [each for each in accused if each.severity != "info"]


def test_rates_come_out_of_the_virtual_clock() -> None:
    record = run("autotune")
    (machine,) = record.rows("matmul", "machine")
    gemms = {(row["dtype"], row["size"]): row for row in record.rows("matmul", "gemm")}

    assert gemms["bf16", 2048]["tflops"] == pytest.approx(0.06, rel=1e-3)
    assert gemms["bf16", 2048]["peak_tflops"] == pytest.approx(0.06)
    assert gemms["fp32", 1024]["tflops"] == pytest.approx(0.03, rel=1e-3)
    assert gemms["fp32", 1024]["peak_tflops"] is None
    assert machine["memory_bytes_per_s"] == pytest.approx(15e9, rel=1e-3)
    assert machine["launch_latency_s"] == pytest.approx(LAUNCH_S)


def test_the_same_run_twice_is_the_same_record() -> None:
    first, second = (simulated_run(simulated_gpu(noise=0.1, seed=7), ("matmul",)) for _ in range(2))

    series = [each.stages["matmul"].series for each in (first, second)]
    assert series[0] == series[1]
    assert len(set(series[0]["memory_copy"].values)) > 1


def test_parts_are_told_with_operators_host_time_and_fastest_pass() -> None:
    rows = modules(run("none"))

    assert rows[""]["operators"] == FORWARD_OPERATORS
    blocks = [value(rows[f"blocks.{i}"]["operators"]) for i in range(DEPTH)]
    assert len(set(blocks)) == 1
    assert value(rows["blocks.0.mlp"]["operators"]) == 3
    for row in rows.values():
        assert 0 < value(row["min_s"]) <= value(row["inclusive_s"]) * 1.05
        assert value(row["host_s"]) > 0
        assert row["waits"] == 0
    (summary,) = run("none").rows("per-layer", "summary")
    assert value(summary["host_alone_s"]) == pytest.approx(FORWARD_OPERATORS * LAUNCH_S, rel=0.1)
    assert value(summary["most_behind_s"]) > 0.5 * value(summary["plain_s"])
    assert summary["synchronizations"] is None


def test_a_slow_device_is_held_against_its_specification() -> None:
    finding = rules()["device-health"].judge(run("slow device"))

    assert (finding.verdict, finding.severity) == ("problem", "critical")
    assert finding.culprit == "simulated GPU"
    assert "20.0 %" in finding.title


def test_throttling_is_seen_in_the_stages_after_it_and_slows_them() -> None:
    record = run("throttled")
    shares = {name: record.rows(name, "conditions")[0]["throttled_share"] for name in SOME}
    reasons = record.rows("per-layer", "conditions")[0]["throttle_reasons"]

    assert shares == {"matmul": 0.0, "batch-sweep": 1.0, "per-layer": 1.0}
    assert reasons == "software thermal slowdown"
    healthy, hot = (value(modules(run(each))[""]["min_s"]) for each in ("autotune", "throttled"))
    assert hot / healthy == pytest.approx(2.5, rel=0.05)


@pytest.mark.parametrize("fault", ["wait in every block", "lengths"])
def test_waits_are_found_where_they_are(fault: str) -> None:
    rows = modules(run(fault))
    waiting = {path: row["waits"] for path, row in rows.items() if row["waits"]}

    others = {f"blocks.{i}": 1 for i in range(1, DEPTH)}
    assert waiting == {"blocks.0.attn": 1} | others
    finding = rules()["hidden-sync"].judge(run(fault))
    assert finding.culprit == "blocks.0.attn"
    assert finding.severity == "warning"
    (summary,) = run(fault).rows("per-layer", "summary")
    least_s = DEPTH * (SYNC_S + LAUNCH_S)
    assert finding.cost_share == pytest.approx(least_s / value(summary["plain_s"]), rel=0.05)


def test_the_least_cost_of_the_waits_is_what_they_cost() -> None:
    """Nothing else is in the host's way here, so that the least is all of it."""
    with_them = value(modules(run("wait in every block"))[""]["inclusive_s"])
    without = value(modules(run("none"))[""]["inclusive_s"])

    told = rules()["hidden-sync"].judge(run("wait in every block")).cost_share
    assert told is not None
    assert 0.5 < told * with_them / (with_them - without) < 2.0


def test_a_launch_bound_tower_hides_its_waits_and_clears_none() -> None:
    record = run("launch-bound")
    (row, *_) = record.rows("batch-sweep", "batches")

    assert value(row["host_enqueue_s"]) / value(row["median_s"]) > 0.99
    assert rules()["hidden-sync"].judge(record).verdict == "not assessed"
    finding = rules()["launch-bound"].judge(record)
    assert finding.confidence == "high"
    assert finding.cost_share == pytest.approx(0.6, abs=0.1)


def test_a_first_call_that_tunes_itself_is_in_every_batch_size() -> None:
    rows = run("autotune").rows("batch-sweep", "batches")

    for row in rows:
        assert value(row["first_call_s"]) > 5 * AUTOTUNE_S
        assert value(row["median_s"]) < 0.1
    assert "anew" in rules()["first-call"].judge(run("autotune")).evidence[1]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("fault", ["wait in every block", "launch-bound"])
def test_no_odd_cell_makes_a_rule_fail(rule: str, fault: str) -> None:
    record = run(fault)
    for stage, table in (
        ("per-layer", "modules"),
        ("per-layer", "summary"),
        ("batch-sweep", "batches"),
        ("matmul", "machine"),
    ):
        for column in record.rows(stage, table)[0]:
            for odd in STRANGE:
                rows = [row | {column: odd} for row in record.rows(stage, table)]
                result = record.stages[stage]
                changed = msgspec.structs.replace(result, tables=result.tables | {table: rows})
                assert rules()[rule].judge(record.with_stage(stage, changed)).evidence
