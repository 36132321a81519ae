"""The stages for real: real model classes on a CPU, every table as others rely on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import qwenprof
from qwenprof import runner
from qwenprof.errors import UsageError
from qwenprof.record.record import Record, Row, load
from qwenprof.stages import attention_sweep, compare_patch_embed, matmul
from qwenprof.workload.workload import Workload
from tests.conftest import TINY, tiny_size

BUDGET_S = 22.0


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """All stages on the tiny model, once for all tests here; as it was read back from disk."""
    with tiny_size():
        folder = tmp_path_factory.mktemp("run")
        runner.run(Workload.default(**TINY), out=folder, budget_s=BUDGET_S)
        return load(folder)


TABLES = {
    (
        "matmul",
        "gemm",
    ): "size dtype median_s tflops peak_tflops peak_source fraction_of_peak verdict",
    ("matmul", "machine"): "memory_bytes_per_s launch_latency_s",
    ("batch-sweep", "batches"): (
        "batch patches sequence_length median_s per_sample_s peak_bytes status"
    ),
    ("attention-sweep", "backends"): "attention batch median_s peak_bytes status reason",
    ("breakdown", "phases"): "phase median_s share status reason",
    ("compare-patch-embed", "after_fix"): (
        "variant batch images patches median_s ci_low_s ci_high_s n first_call_s per_sample_s "
        "speedup speedup_low speedup_high peak_bytes status reason"
    ),
    ("per-layer", "modules"): (
        "path module_type calls inclusive_s exclusive_s share flops bytes bound_s excess_s slowdown"
    ),
    ("compare-patch-embed", "variants"): (
        "variant dtype patches direction backend median_s ci_low_s ci_high_s n speedup "
        "max_abs_error cosine peak_bytes status reason"
    ),
    ("dispatch", "convolutions"): (
        "module module_type dtype rank kernel features bias patches memory_format backend "
        "backend_library_off backend_without_bias backend_channels_last"
    ),
    ("dispatch", "gate"): "module library if_all_hold condition found holds",
    ("dispatch", "launches"): (
        "module variant patches features bias counted_event counted predicted launches"
    ),
    ("verify", "checks"): "check dtype metric value tolerance reference passed",
}


@pytest.mark.parametrize(("place", "columns"), TABLES.items(), ids=lambda value: str(value)[:40])
def test_the_tables_have_the_promised_columns(
    record: Record, place: tuple[str, str], columns: str
) -> None:
    rows = record.rows(*place)

    assert rows
    assert all(set(columns.split()) <= set(row) for row in rows)
    assert len({tuple(row) for row in rows}) == 1, "every row of a table has the same columns"


def test_every_stage_ran(record: Record) -> None:
    assert {name: result.status for name, result in record.stages.items()} == dict.fromkeys(
        (
            "matmul",
            "batch-sweep",
            "attention-sweep",
            "breakdown",
            "per-layer",
            "compare-patch-embed",
            "dispatch",
            "verify",
        ),
        "ok",
    )
    assert record.workload["patches"] == 528


def test_every_timing_is_backed_by_its_raw_samples(record: Record) -> None:
    series = record.stages["batch-sweep"].series
    for row in record.rows("batch-sweep", "batches"):
        if row["status"] == "ok":
            values = series[f"batch={row['batch']}"].values
            assert row["n"] == len(values)
            assert row["first_call_s"] == series[f"batch={row['batch']}/first_call"].values[0]


def test_the_work_grows_with_the_batch(record: Record) -> None:
    rows = [row for row in record.rows("batch-sweep", "batches") if row["status"] == "ok"]

    assert len(rows) >= 2
    assert [row["patches"] for row in rows] == [528 * int(str(row["batch"])) for row in rows]
    assert {row["sequence_length"] for row in rows} == {132}


def test_attention_rows_say_what_ran_and_why_not(record: Record) -> None:
    rows = record.rows("attention-sweep", "backends")
    by_key = {(row["attention"], row["experiment"], row["batch"]): row for row in rows}

    assert {row["batch"] for row in rows} == {1, 2}
    flash = by_key["flash_attention_2", attention_sweep.SWITCHED, 1]
    assert flash["status"] == "skipped"
    assert "CUDA" in str(flash["reason"])
    eager = by_key["eager", attention_sweep.SWITCHED, 1]
    assert (eager["blocks"], eager["blocks_using"]) == (3, 3)
    assert by_key["sdpa", attention_sweep.FORCED, 1]["blocks_using"] == 3
    replaced = by_key["sdpa", attention_sweep.REPLACED, 1]
    assert float(str(replaced["max_relative_difference"])) < 1e-4


def test_exclusive_times_add_up_to_the_measured_total(record: Record) -> None:
    rows = record.rows("per-layer", "modules")
    total_s = float(str(rows[0]["inclusive_s"]))

    assert rows[0]["path"] == ""
    assert sum(float(str(row["exclusive_s"])) for row in rows) == pytest.approx(total_s, rel=0.01)
    summary = record.rows("per-layer", "summary")[0]
    assert float(str(summary["unaccounted_share"])) < 0.01
    assert summary["overhead"] is not None


def test_every_part_is_there_by_name(record: Record) -> None:
    paths = {str(row["path"]) for row in record.rows("per-layer", "modules")}

    assert {
        "patch_embed",
        "patch_embed.proj",
        "pos_embed",
        "rotary_pos_emb",
        "blocks.0.attn.qkv",
        "blocks.0.mlp.linear_fc1",
        "blocks.1",
        "blocks.2",
        "merger.linear_fc2",
        "deepstack_merger_list.0",
    } <= paths
    assert "blocks.1.attn" not in paths
    interpolation = {"fast_pos_embed_interpolate", "get_vision_interpolation_indices_and_weights"}
    rotary = {"rot_pos_emb", "get_vision_position_ids"}
    assert interpolation & paths
    assert rotary & paths
    blocks = {row["path"]: row for row in record.rows("per-layer", "blocks")}
    assert blocks["blocks"]["count"] == 3


def test_work_is_counted_exactly(record: Record) -> None:
    """528 patches; hidden 64, intermediate 128, 3 heads' worth of two 264-patch segments."""
    rows = {row["path"]: row for row in record.rows("per-layer", "modules")}

    assert rows["patch_embed.proj"]["flops"] == 2 * 528 * 1536 * 64
    assert rows["blocks.0.attn.qkv"]["flops"] == 2 * 528 * 64 * 192
    attention_flops = 2 * (2 * 2 * 264 * 264 * 64)
    projections = 2 * 528 * 64 * (192 + 64)
    assert rows["blocks.0.attn"]["flops"] == projections + attention_flops
    assert rows["blocks.0.mlp.linear_fc1"]["bytes"] == 4 * (528 * 64 + 528 * 128 + 64 * 128 + 128)


def test_bounds_come_from_the_rates_of_the_same_record(record: Record) -> None:
    row = next(r for r in record.rows("per-layer", "modules") if r["path"] == "patch_embed.proj")
    best = max(
        float(str(gemm["best_tflops"]))
        for gemm in record.rows("matmul", "gemm")
        if gemm["dtype"] == "fp32" and gemm["best_tflops"]
    )

    assert float(str(row["bound_s"])) >= float(str(row["flops"])) / (best * 1e12) * 0.999
    assert float(str(row["excess_s"])) == pytest.approx(
        float(str(row["inclusive_s"])) - float(str(row["bound_s"]))
    )


def test_conv_and_linear_are_compared_with_the_backend_by_name(record: Record) -> None:
    rows = [
        row
        for row in record.rows("compare-patch-embed", "variants")
        if row["variant"] in ("Conv3d", "Linear") and row["direction"] == "forward"
    ]
    measured = [row for row in rows if row["status"] == "ok" and row["dtype"] == "fp32"]

    assert {row["variant"] for row in measured} == {"Conv3d", "Linear"}
    assert sorted({int(str(row["patches"])) for row in rows}) == [64, 256, 528]
    assert all("budget" in str(row["reason"]) for row in rows if row["status"] == "skipped")
    conv = [row for row in measured if row["variant"] == "Conv3d"]
    assert {row["backend"] for row in conv} <= {"Mkldnn", "Slow3d"}
    assert all(float(str(row["max_abs_error"])) < 1e-5 for row in measured)
    assert all(float(str(row["cosine"])) > 0.9999 for row in measured)
    assert {row["dtype"] for row in rows} == {"bf16", "fp16", "fp32"}


def test_the_projection_that_was_compared_is_the_one_whose_dispatch_is_explained(
    record: Record,
) -> None:
    (conv,) = record.rows("dispatch", "convolutions")
    compared = {row["module"] for row in record.rows("compare-patch-embed", "variants")}
    launches = record.rows("dispatch", "launches")

    assert compared == {conv["module"]} == {row["module"] for row in launches}
    assert conv["patches"] == 528
    dispatched = [
        row["backend"]
        for row in record.rows("compare-patch-embed", "variants")
        if (row["variant"], row["dtype"], row["status"]) == ("Conv3d", "fp32", "ok")
    ]
    assert set(dispatched) == {conv["backend"]}
    for row in launches:
        if row["variant"] == "slow_conv_dilated3d":
            assert row["counted"] == row["predicted"]


def test_patch_counts_grow_fourfold_up_to_the_workloads() -> None:
    assert compare_patch_embed.patch_counts(6080) == [64, 256, 1024, 4096, 6080]
    assert compare_patch_embed.patch_counts(64) == [64]
    assert compare_patch_embed.patch_counts(10) == [10]


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA GeForce RTX 5090", 209.5),
        ("NVIDIA H100 80GB HBM3", 989.0),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA H200", 989.0),
    ],
)
def test_a_known_device_has_its_own_peak(name: str, peak: float) -> None:
    published = matmul.known(name, "bf16")

    assert published is not None
    assert published.peak == peak
    assert published.source


@pytest.mark.parametrize(
    "name",
    [None, "NVIDIA GeForce RTX 5090 Laptop GPU", "NVIDIA H100 NVL", "NVIDIA GeForce RTX 6090", ""],
)
def test_an_unknown_device_has_no_peak(name: str | None) -> None:
    assert matmul.known(name, "bf16") is None
    assert matmul.known("NVIDIA H200", "fp32") is None


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [(0.87, "healthy"), (0.5, "healthy"), (0.4, "suspicious"), (0.1, "unhealthy")],
)
def test_the_verdict_follows_the_fraction_of_peak(fraction: float, expected: str) -> None:
    assert matmul.verdict(fraction) == expected
    assert matmul.verdict(None) == "not assessed"


def test_running_out_of_memory_is_a_row_and_the_sweep_goes_on(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """GIVEN a device on which a batch of two does not fit."""
    from transformers.models.qwen3_vl import modeling_qwen3_vl as modeling

    forward = modeling.Qwen3VLVisionModel.forward

    def too_large(self: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if hidden_states.shape[0] == 2 * 528:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nmore")
        return forward(self, hidden_states, *args, **kwargs)

    monkeypatch.setattr(modeling.Qwen3VLVisionModel, "forward", too_large)

    record = runner.run(Workload.default(**tiny), ["batch-sweep"], budget_s=6.0)

    rows = {row["batch"]: row for row in record.rows("batch-sweep", "batches")}
    assert [rows[batch]["status"] for batch in (1, 2, 4)] == ["ok", "out_of_memory", "ok"]
    assert rows[2]["reason"] == "CUDA out of memory. Tried to allocate 20.00 GiB."
    assert rows[2]["median_s"] is None


def test_a_host_that_runs_out_of_memory_says_nothing_and_is_still_a_row(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """GIVEN Python's own MemoryError, which carries no message."""
    from transformers.models.qwen3_vl import modeling_qwen3_vl as modeling

    def too_large(*_: Any, **__: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(modeling.Qwen3VLVisionModel, "forward", too_large)

    record = runner.run(Workload.default(**tiny), ["batch-sweep"], budget_s=3.0)

    rows = record.rows("batch-sweep", "batches")
    assert {(row["status"], row["reason"]) for row in rows} == {("out_of_memory", "MemoryError")}


def test_a_tower_without_such_a_conv_is_skipped_with_the_reason(tiny: dict[str, Any]) -> None:
    from qwenprof.workload.loading import load as load_subject

    workload = Workload.default(**tiny)
    subject = load_subject(workload)
    projection: Any = subject.model.get_submodule("patch_embed")
    projection.proj = nn.Conv3d(3, 64, (2, 16, 16), stride=(2, 8, 8))
    experiment = runner.Experiment(
        facts=workload.facts(), device="cpu", dtype="fp32", load=lambda: subject
    )

    record = runner.run_experiment(
        experiment, runner.chosen(["compare-patch-embed"]), None, 5.0, (), runner.Silent()
    )

    result = record.stages["compare-patch-embed"]
    assert result.status == "skipped"
    assert "stride" in str(result.reason)


def test_profile_module_works_on_anybodys_module(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64))

    record = qwenprof.profile_module(module, torch.randn(512, 64), out=tmp_path)

    rows: dict[str, Row] = {str(row["path"]): row for row in record.rows("per-layer", "modules")}
    assert list(rows) == ["", "0", "1", "2"]
    assert rows["0"]["flops"] == 2 * 512 * 64 * 256
    assert rows["0"]["bound_s"] is not None
    assert record.workload["summary"] == "Sequential, fp32 on cpu"
    assert load(tmp_path) == record
    assert {finding.rule for finding in qwenprof.diagnose(record)}


def test_profile_module_times_a_dtype_that_no_gemm_is_measured_in() -> None:
    record = qwenprof.profile_module(nn.Linear(8, 8).double(), torch.randn(4, 8).double())

    assert {result.status for result in record.stages.values()} == {"ok"}
    assert record.rows("per-layer", "modules")[0]["bound_s"] is None


def test_profile_module_refuses_arguments_on_another_device_than_the_module() -> None:
    with pytest.raises(UsageError, match="cpu, meta: put them on one device"):
        qwenprof.profile_module(nn.Linear(8, 8), torch.empty(4, 8, device="meta"))
