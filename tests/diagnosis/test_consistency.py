"""Numbers that follow from others: those of real runs add up, and what was changed is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from qwenprof.diagnosis.finding import Finding, rules
from qwenprof.record.record import Record, Row, Series, StageResult, Tool, load

REAL = sorted((Path(__file__).parents[2] / "reports").glob("*/record.json"))


def record(stage: str, series: dict[str, list[float]] | None = None, **tables: list[Row]) -> Record:
    kept = {
        key: Series(unit="s", values=values, stop_reason="budget")
        for key, values in (series or {}).items()
    }
    return Record(
        tool=Tool(name="somebody", version="0"),
        created="2026-01-01T00:00:00+00:00",
        command=[],
        environment={},
        workload={},
        stages={stage: StageResult(status="ok", duration_s=1.0, tables=tables, series=kept)},
    )


def judged(given: Record) -> Finding:
    return rules()["consistency"].judge(given)


def batch(count: int, median_s: float, per_sample_s: float, **columns: Any) -> Row:
    row: Row = {"batch": count, "median_s": median_s, "per_sample_s": per_sample_s}
    return row | columns


def modules(share: float) -> list[Row]:
    return [
        {"path": "", "inclusive_s": 16.212},
        {"path": "patch_embed", "inclusive_s": 16.1113, "share": share},
    ]


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.parent.name)
def test_what_qwenprof_measured_adds_up(path: Path) -> None:
    finding = judged(load(path))

    assert finding.verdict == "clear"
    assert "sample counts" in finding.evidence[0]


def test_nothing_to_recompute_is_not_clear() -> None:
    assert judged(record("batch-sweep")).verdict == "not assessed"
    alone: list[Row] = [{"batch": 4, "median_s": 65.3, "per_sample_s": None}]
    assert judged(record("batch-sweep", batches=alone)).verdict == "not assessed"


def test_the_time_of_one_sample_may_be_rounded_but_not_wrong() -> None:
    rows = [batch(4, 65.3, 16.3), batch(8, 148, 18.5), batch(16, 145, 9.3, source="stage 2")]

    finding = judged(record("batch-sweep", batches=rows))

    assert (finding.verdict, finding.severity) == ("problem", "info")
    assert finding.title.startswith("1 of the 3 numbers")
    assert finding.evidence == (
        "batch-sweep, batch 16 (stage 2): one sample is stated to take 9.3 s, but 145 s / 16 is "
        "9.06 s.",
    )


def test_a_share_is_held_against_both_times() -> None:
    wrong = judged(record("per-layer", modules=modules(0.96)))

    assert wrong.verdict == "problem"
    assert "stated as 96 % of the time, but 16.1 s of 16.2 s is 99.4 %" in wrong.evidence[0]
    assert judged(record("per-layer", modules=modules(0.99))).verdict == "clear"
    assert judged(record("per-layer", modules=modules(0.9938))).verdict == "clear"


def test_a_slowdown_is_time_over_bound() -> None:
    row: Row = {"path": "a", "inclusive_s": 0.081, "bound_s": 0.001, "slowdown": 81.0}

    assert judged(record("per-layer", modules=[row])).verdict == "clear"
    assert judged(record("per-layer", modules=[row | {"slowdown": 50.0}])).verdict == "problem"
    assert judged(record("per-layer", modules=[row | {"bound_s": 0.0}])).verdict == "not assessed"


def test_a_speedup_is_the_convolution_over_the_variant_in_the_same_case() -> None:
    def compared(speedup: float) -> Finding:
        rows: list[Row] = [
            {"variant": "Conv3d", "batch": 1, "median_s": 16.5},
            {"variant": "Linear", "batch": 1, "median_s": 0.27, "speedup": 61},
            {"variant": "Conv3d", "batch": 8, "median_s": 150},
            {"variant": "Linear", "batch": 8, "median_s": 2.16, "speedup": speedup},
        ]
        return judged(record("compare-patch-embed", after_fix=rows))

    assert compared(70).verdict == "clear"  # 69.4, rounded
    assert compared(65).verdict == "problem"
    assert "the times give 69.4 x" in compared(65).evidence[0]


def test_the_rate_of_a_matrix_product() -> None:
    """As published: 0.8 ms is anything from 0.75 to 0.85, so 182.3 TFLOPS are possible."""
    row: Row = {"size": 4096, "dtype": "bf16", "median_s": 0.0008, "tflops": 182.3}

    assert judged(record("matmul", gemm=[row])).verdict == "clear"
    assert judged(record("matmul", gemm=[row | {"tflops": 120.0}])).verdict == "problem"


def test_exclusive_times_have_to_add_up_to_the_forward() -> None:
    def summed(own_s: float) -> Finding:
        rows: list[Row] = [
            {"path": "", "inclusive_s": 1.0, "exclusive_s": own_s},
            {"path": "a", "inclusive_s": 0.9, "exclusive_s": 0.9},
        ]
        return judged(record("per-layer", modules=rows))

    assert summed(0.1).verdict == "clear"
    assert summed(0.105).verdict == "clear"
    assert summed(0.2).verdict == "problem"
    assert "add up to 1.10 s" in summed(0.2).evidence[0]


def test_raw_samples_outweigh_what_a_table_says_of_them() -> None:
    series = {"batch=1": [1.0, 1.1, 5.0]}

    def swept(median_s: float, n: int) -> Finding:
        return judged(record("batch-sweep", series, batches=[batch(1, median_s, median_s, n=n)]))

    assert swept(1.1, 3).verdict == "clear"
    assert (swept(1.1, 20).verdict, swept(1.1, 20).severity) == ("problem", "warning")
    assert "n = 20 is stated, but it has 3 samples" in swept(1.1, 20).evidence[0]
    assert (
        "a median of 0.9 s is stated, but that of its 3 samples is 1.10 s"
        in (swept(0.9, 3).evidence[0])
    )
    assert "measure again" in swept(0.9, 3).advice


@pytest.mark.parametrize(
    ("stage", "table", "column"),
    [
        ("batch-sweep", "batches", "per_sample_s"),
        ("attention-sweep", "backends", "median_s"),
        ("per-layer", "modules", "share"),
        ("per-layer", "modules", "slowdown"),
        ("per-layer", "modules", "exclusive_s"),
        ("per-layer", "summary", "plain_s"),
        ("compare-patch-embed", "variants", "speedup"),
        ("compare-patch-embed", "variants", "n"),
        ("matmul", "gemm", "tflops"),
    ],
)
def test_a_changed_number_of_a_real_record_is_found(stage: str, table: str, column: str) -> None:
    def doubled(row: Row) -> Row:
        value = row.get(column)
        return row | {column: 2 * value + 1} if isinstance(value, int | float) else row

    finding = judged(changed(load(REAL[0]), stage, table, doubled))

    assert finding.verdict == "problem"
    assert all(sentence.startswith((stage, "And ")) for sentence in finding.evidence)


def changed(given: Record, stage: str, table: str, change: Callable[[Row], Row]) -> Record:
    result = given.stages[stage]
    rows = [change(row) for row in result.tables[table]]
    tables = {**result.tables, table: rows}
    return given.with_stage(stage, msgspec.structs.replace(result, tables=tables))


@pytest.mark.parametrize("odd", [None, True, "x", 0, -1.0, 10**40, 1e308, 5e-324])
@pytest.mark.parametrize("column", ["batch", "median_s", "per_sample_s", "size", "tflops", "n"])
def test_odd_cells_fail_nothing(odd: Any, column: str) -> None:
    row: Row = batch(1, 1.0, 1.0, n=1, size=64, tflops=1.0, dtype="bf16") | {column: odd}
    samples = {"batch=1": [1.0], "gemm/bf16/64": [1e308, 1e308]}

    judged(record("batch-sweep", samples, batches=[row]))
    judged(record("matmul", samples, gemm=[row]))
