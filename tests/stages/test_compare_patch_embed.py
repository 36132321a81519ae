"""The comparison for real: every variant on a CPU, forward and backward."""

from __future__ import annotations

import contextlib
import inspect
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import nn

from qwenprof import runner
from qwenprof.diagnosis.bounds import number
from qwenprof.errors import MeasurementError, NotApplicable
from qwenprof.fix.patch import fixed
from qwenprof.harness.plan import Allowance, TimePlan
from qwenprof.harness.simulated import SimulatedDevice
from qwenprof.record.record import Record, Row
from qwenprof.stages import _fused_worker, _launches, _variants, compare_patch_embed
from qwenprof.stages._projection import BACKWARD, FORWARD, Projection
from qwenprof.stages._variants import CONV, FIX, LINEAR, SLOW_DIRECT, Layer, Variant
from qwenprof.workload.workload import Workload
from tests.conftest import TINY, TINY_VISION, tiny_size

STAGE = "compare-patch-embed"
KERNEL = (2, 16, 16)
TIMED_ON_A_CPU = {
    CONV,
    FIX,
    LINEAR,
    "lazy swap",
    "channels_last_3d",
    "bias apart",
    "oneDNN off",
    SLOW_DIRECT,
}


@pytest.fixture
def conv() -> nn.Conv3d:
    torch.manual_seed(0)
    return nn.Conv3d(3, 16, KERNEL, stride=KERNEL)


@pytest.fixture
def patches() -> torch.Tensor:
    return torch.rand(24, 3, *KERNEL) - 0.5


@pytest.fixture(scope="module")
def record() -> Record:
    with tiny_size():
        return runner.run(Workload.default(**TINY), [STAGE], budget_s=7.0)


def rows_of(record: Record, **cells: Any) -> list[Row]:
    return [
        row
        for row in record.rows(STAGE, "variants")
        if all(row[key] == value for key, value in cells.items())
    ]


def test_every_variant_has_a_row_in_both_directions(record: Record) -> None:
    assert record.stages[STAGE].status == "ok"
    names = {each.name for each in _variants.variants("cpu")} | {_variants.FUSED}

    for direction in (FORWARD, BACKWARD):
        rows = rows_of(record, direction=direction, dtype="fp32")
        assert {row["variant"] for row in rows} == names
        assert all(row["what"] for row in rows)
        assert all(row["reason"] for row in rows if row["status"] != "ok")


def test_the_row_of_the_fusion_has_the_columns_of_all_others(tiny: dict[str, Any]) -> None:
    record = runner.run(Workload.default(**tiny), [STAGE], budget_s=25.0)

    rows = record.rows(STAGE, "variants")
    assert len({tuple(sorted(row)) for row in rows}) == 1
    (fused, *_) = rows_of(record, variant=_variants.FUSED)
    assert (fused["status"] == "ok") == knows_fusion()


def test_what_runs_on_a_cpu_was_timed_and_is_right(record: Record) -> None:
    measured = rows_of(record, direction=FORWARD, dtype="fp32", status="ok")

    assert {row["variant"] for row in measured} >= TIMED_ON_A_CPU
    assert all((number(row["relative_error"]) or 1.0) < 1e-5 for row in measured)
    assert all((number(row["speedup"]) or 0.0) > 0 for row in rows_of(record, status="ok"))
    backends = {str(row["variant"]): row["backend"] for row in measured}
    assert backends[SLOW_DIRECT] == "SlowDilated3d"
    assert backends["oneDNN off"] == "Slow3d"
    assert backends[FIX] == backends[LINEAR] == "GEMM"


def test_what_needs_a_gpu_says_so(record: Record) -> None:
    (row,) = rows_of(record, variant="cudnn_convolution", direction=FORWARD)

    assert (row["status"], row["median_s"]) == ("skipped", None)
    assert row["reason"] == "cuDNN needs a CUDA device, this is cpu"


def test_a_gradient_that_is_not_the_operators_own_is_not_timed(record: Record) -> None:
    (row,) = rows_of(record, variant=SLOW_DIRECT, direction=BACKWARD)

    assert row["status"] == "skipped"
    assert "gradient" in str(row["reason"])


def test_what_takes_long_to_start_waits_for_a_larger_budget(record: Record) -> None:
    (row,) = rows_of(record, variant="Linear compiled", direction=FORWARD)

    assert row["status"] == "skipped"
    assert "raise --budget" in str(row["reason"])


def test_launches_are_counted_and_follow_the_formula(
    conv: nn.Conv3d, patches: torch.Tensor
) -> None:
    """By the dispatch stage, on the projection that is compared here."""
    rows, _ = _launches.launch_tables(Projection.of(conv, patches, torch.float32))
    slow_path = [row for row in rows if row["variant"] == SLOW_DIRECT]

    assert {(row["patches"], row["bias"]) for row in slow_path} == {
        (count, bias) for count in _launches.COUNTED_PATCHES for bias in (True, False)
    }
    for row in slow_path:
        features, count = number(row["features"]) or 0, number(row["patches"]) or 0
        assert row["counted"] == row["predicted"] == (count * features if row["bias"] else 0)
        assert row["launches"] == count * (features * bool(row["bias"]) + 2)


def test_of_the_convolution_as_dispatched_no_count_is_predicted(
    conv: nn.Conv3d, patches: torch.Tensor
) -> None:
    rows, _ = _launches.launch_tables(Projection.of(conv, patches, torch.float32))
    as_dispatched = [row for row in rows if row["variant"] == CONV]

    assert len(as_dispatched) == 2 * len(_launches.COUNTED_PATCHES)
    assert {(row["counted"], row["predicted"], row["launches"]) for row in as_dispatched} == {
        (0, None, None)
    }, "a library fills nothing feature by feature"


def test_the_operators_of_a_call_are_counted_by_name(
    conv: nn.Conv3d, patches: torch.Tensor
) -> None:
    _, rows = _launches.launch_tables(Projection.of(conv, patches, torch.float32))
    patches_counted = _launches.COUNTED_PATCHES[-1]
    counts = {(row["variant"], row["event"]): row["count"] for row in rows}

    assert {row["patches"] for row in rows} == {patches_counted}
    assert counts[CONV, "aten::conv3d"] == 1
    assert counts[SLOW_DIRECT, "aten::fill_"] == patches_counted * conv.out_channels
    for name in (CONV, SLOW_DIRECT):
        own = [number(row["count"]) or 0 for row in rows if row["variant"] == name]
        assert 0 < len(own) <= _launches.MOST_EVENTS
        assert own == sorted(own, reverse=True)


def test_the_comparison_itself_counts_no_launches(record: Record) -> None:
    assert not record.rows(STAGE, "launches")


@pytest.mark.parametrize("direction", [FORWARD, BACKWARD])
@pytest.mark.parametrize("name", sorted(TIMED_ON_A_CPU))
def test_every_variant_computes_the_same(
    name: str, direction: str, conv: nn.Conv3d, patches: torch.Tensor
) -> None:
    variant = next(each for each in _variants.variants("cpu") if each.name == name)
    projection = Projection.of(conv, patches, torch.float32)
    layer = variant.build(projection.conv)

    with variant.around():
        projection.call(name, layer, direction)()

    error = number(projection.errors(name, direction)["relative_error"])
    assert error is not None
    assert error < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Conv3d compiled", "Linear compiled"])
def test_compiled_variants_compute_the_same(
    name: str, conv: nn.Conv3d, patches: torch.Tensor
) -> None:
    variant = next(each for each in _variants.variants("cpu") if each.name == name)
    reason = variant.obstacle("cpu", conv)
    if reason:
        pytest.skip(reason)
    projection = Projection.of(conv, patches, torch.float32)
    layer = variant.build(projection.conv)

    for direction in (FORWARD, BACKWARD):
        projection.call(name, layer, direction)()
        error = number(projection.errors(name, direction)["relative_error"])
        assert error is not None
        assert error < 1e-5


def test_an_error_is_seen_in_output_and_gradient(conv: nn.Conv3d, patches: torch.Tensor) -> None:
    projection = Projection.of(conv, patches, torch.float32)
    wrong = Layer(
        forward=lambda x: 1.01 * projection.conv(x), parameters=lambda: [projection.conv.weight]
    )

    for direction in (FORWARD, BACKWARD):
        projection.call("wrong", wrong, direction)()
        found = number(projection.errors("wrong", direction)["relative_error"])
        assert found == pytest.approx(0.01, rel=0.01)


def test_a_variant_that_fails_does_not_stop_the_others(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: nn.Conv3d) -> Layer:
        def forward(_: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no kernel for this device")

        return Layer(forward=forward, parameters=list)

    known = _variants.variants("cpu")
    given = [*known, Variant(name="broken", what="it breaks", build=broken, in_turn=True)]
    monkeypatch.setattr(compare_patch_embed, "variants", lambda _: given)

    record = runner.run(Workload.default(**tiny), [STAGE], budget_s=4.0)

    failed = rows_of(record, variant="broken", direction=FORWARD)
    assert {(row["status"], row["reason"]) for row in failed} == {
        ("failed", "no kernel for this device")
    }
    assert rows_of(record, variant=CONV, direction=FORWARD, dtype="fp32", status="ok")


def test_a_convolution_of_sixteen_seconds_is_called_twice_at_the_count_that_matters() -> None:
    """The published case: 2.65 ms a patch, in the seconds that a GPU gets by default."""
    clock = SimulatedDevice()
    budget_s = runner.ACCELERATOR_BUDGET * compare_patch_embed.STAGE.budget_s
    share_s = budget_s * compare_patch_embed.MAIN_SHARE
    plan = TimePlan(clock, share_s, {"64": 64.0, "6080": 6080.0})

    assert isinstance(plan.start("64"), Allowance)
    clock.host_work(2 * 64 * 2.65e-3)
    plan.learn("64", 64 * 2.65e-3)
    allowance = plan.start("6080")

    assert isinstance(allowance, Allowance)
    assert allowance.limit_s >= 2 * 16.111


def test_a_process_in_which_the_fix_is_applied_is_not_compared(tiny: dict[str, Any]) -> None:
    with fixed():
        record = runner.run(Workload.default(**tiny), [STAGE], budget_s=4.0)

    result = record.stages[STAGE]
    assert result.status == "skipped"
    assert "undo_fix" in str(result.reason)


@pytest.fixture
def order() -> _fused_worker.Order:
    own = {**TINY_VISION, "patch_size": 16, "temporal_patch_size": 2}
    return _fused_worker.Order(
        home="transformers.models.qwen3_vl.modeling_qwen3_vl",
        model="Qwen3VLVisionModel",
        config=_fused_worker.shallow(own),
        holder="patch_embed",
        dtype="fp32",
        device="cpu",
        patches=8,
        features_in=3 * 2 * 16 * 16,
        case_s=0.2,
        directions=(FORWARD, BACKWARD),
    )


def knows_fusion() -> bool:
    from transformers import PreTrainedModel

    return "fusion_config" in inspect.signature(PreTrainedModel.from_pretrained).parameters


def test_transformers_own_fusion_is_timed_and_leaves_this_process_alone(
    order: _fused_worker.Order,
) -> None:
    if not knows_fusion():
        with pytest.raises(NotApplicable, match="has no fusion_config"):
            _fused_worker.ask(order, limit_s=120.0)
        return
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

    answer = _fused_worker.ask(order, limit_s=120.0)

    for direction in (FORWARD, BACKWARD):
        timed = answer.directions[direction]
        assert timed.series[""].values
        assert (number(timed.row["relative_error"]) or 1.0) < 1e-5
    here = Qwen3VLVisionModel(Qwen3VLVisionModel.config_class(**order.config))
    assert isinstance(here.patch_embed.proj, nn.Conv3d)


def test_a_worker_that_fails_gives_its_last_line(order: _fused_worker.Order) -> None:
    with pytest.raises(MeasurementError, match="NoSuchModel"):
        _fused_worker.ask(msgspec.structs.replace(order, model="NoSuchModel"), limit_s=120.0)


def test_the_worker_runs_no_code_of_the_folder_where_it_is_asked(
    order: _fused_worker.Order, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trap = tmp_path / "trap"
    (tmp_path / "transformers.py").write_text(f"open({str(trap)!r}, 'w').close()")
    monkeypatch.chdir(tmp_path)

    with contextlib.suppress(NotApplicable):
        _fused_worker.ask(order, limit_s=120.0)

    assert not trap.exists()


def test_a_worker_without_an_answer_is_an_error_of_ours(
    order: _fused_worker.Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_fused_worker, "_carry_out_apart", lambda *_: None)

    with pytest.raises(MeasurementError, match="no answer"):
        _fused_worker.ask(order, limit_s=1.0)


def test_a_worker_that_takes_too_long_is_stopped(order: _fused_worker.Order) -> None:
    with pytest.raises(MeasurementError, match=r"stopped after 0\.1 s"):
        _fused_worker.ask(order, limit_s=0.1)
