"""Bound by launches or by the host, on an accelerator and on a CPU."""

from __future__ import annotations

from typing import Any

import pytest

from qwenprof.diagnosis.finding import Finding
from qwenprof.record.record import Record, Row
from tests.diagnosis.handmade import judged, record


def batch(size: int, median_s: float, host_s: float | None) -> Row:
    row: Row = {"batch": size, "median_s": median_s, "per_sample_s": median_s / size, "n": 20}
    return row | {"host_enqueue_s": host_s}


def modules(waits: int | None = 0, **operators: int) -> list[Row]:
    total: Row = {"path": "", "operators": sum(operators.values()), "waits": 0}
    parts: list[Row] = [{"path": path, "operators": n} for path, n in operators.items()]
    return [total, *(part | {"waits": waits if not i else 0} for i, part in enumerate(parts))]


def on_gpu(host_s: float | None, alone_s: float | None = None, **tables: Any) -> Record:
    summary: Row = {"plain_s": 0.010, "host_alone_s": alone_s}
    return record(
        **{
            "matmul__machine": [{"launch_latency_s": 5e-6}],
            "batch_sweep__batches": [batch(1, 0.010, host_s), batch(4, 0.012, host_s)],
            "per_layer__modules": modules(blocks=1800, norm=100),
            "per_layer__summary": [summary],
        }
        | tables
    )


def on_cpu(operators: int, latency_s: float | None = 2e-6, forward_s: float = 0.010) -> Record:
    return record(
        "cpu",
        matmul__machine=[{"launch_latency_s": latency_s}],
        per_layer__modules=modules(blocks=operators),
        per_layer__summary=[{"plain_s": forward_s, "host_alone_s": None}],
    )


def judge(given: Record) -> Finding:
    return judged("launch-bound", given)


def test_a_host_that_needs_as_long_as_the_device_is_the_problem() -> None:
    finding = judge(on_gpu(0.0098, 0.0099))

    assert (finding.verdict, finding.severity, finding.confidence) == (
        "problem",
        "critical",
        "high",
    )
    assert "98.0 % of it" in finding.evidence[0]
    assert "1,900 operators of 5.00 us" in finding.evidence[1]
    assert finding.cost_share == pytest.approx(1 - 3 / 10), "as the batch of four was seen to save"


def test_a_part_with_most_of_the_operators_is_the_culprit() -> None:
    loop = modules(**{"pos_embed": 1500, "blocks.0": 200, "blocks.1": 200})
    shared = modules(**{"pos_embed": 500, "blocks.0": 700, "blocks.1": 700})

    assert judge(on_gpu(0.0098, 0.0099, per_layer__modules=loop)).culprit == "pos_embed"
    assert judge(on_gpu(0.0098, 0.0099, per_layer__modules=shared)).culprit is None


def test_what_a_part_has_below_it_is_not_its_own() -> None:
    rows: list[Row] = [
        {"path": "", "operators": 1000},
        {"path": "visual", "operators": 1000},
        {"path": "visual.pos_embed", "operators": 900},
    ]

    assert judge(on_gpu(0.0098, 0.0099, per_layer__modules=rows)).culprit == "visual.pos_embed"


def test_a_host_that_runs_ahead_is_clear() -> None:
    assert judge(on_gpu(0.002, 0.0021)).verdict == "clear"


def test_a_host_that_only_waits_is_clear_or_not_assessed_but_no_problem() -> None:
    """It takes as long as the device, but with nothing to wait for it takes a third."""
    waiting = modules(waits=6, blocks=1900)

    assert judge(on_gpu(0.0098, 0.003, per_layer__modules=waiting)).verdict == "clear"
    unknown = judge(on_gpu(0.0098, 0.0097, per_layer__modules=waiting))
    assert unknown.verdict == "not assessed"
    assert "6 times" in unknown.evidence[0]


def test_without_the_host_alone_it_is_less_sure() -> None:
    finding = judge(on_gpu(0.0098, None))

    assert (finding.verdict, finding.confidence) == ("problem", "medium")
    assert "would look the same" in finding.evidence[0]


def test_a_module_that_was_only_taken_apart_is_assessed_too() -> None:
    assert judge(on_gpu(None, 0.0099, batch_sweep__batches=[])).verdict == "problem"
    assert judge(on_gpu(None, 0.0030, batch_sweep__batches=[])).verdict == "clear"


def test_a_cpu_that_spends_its_time_on_starting_operators() -> None:
    finding = judge(on_cpu(4000))

    assert (finding.verdict, finding.culprit) == ("problem", "blocks")
    assert finding.cost_share == pytest.approx(0.8)
    assert "80.0 % of the 10.0 ms" in finding.evidence[0]


def test_a_cpu_that_works() -> None:
    assert judge(on_cpu(400)).verdict == "clear"


@pytest.mark.parametrize(
    "given",
    [record(), on_gpu(None), on_cpu(4000, latency_s=None), on_cpu(0)],
    ids=["nothing", "no host time", "no latency", "no operators"],
)
def test_without_the_input_it_is_not_assessed(given: Record) -> None:
    assert judge(given).verdict == "not assessed"
