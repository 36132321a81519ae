"""The proof for real: what is right passes, and what is wrong is found out."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from qwenprof import runner
from qwenprof.diagnosis.bounds import number
from qwenprof.diagnosis.finding import rules
from qwenprof.fix import patch
from qwenprof.fix.patch import is_fixed
from qwenprof.record.record import Record, Row
from qwenprof.stages import _numerics, _round_trip, verify
from qwenprof.stages._checks import at_least, at_most, rounding_tolerance
from qwenprof.workload.workload import Workload
from tests.conftest import TINY, tiny_size

KERNEL = (2, 16, 16)


@pytest.fixture(scope="module")
def record() -> Record:
    with tiny_size():
        options = TINY | {"scope": "full"}
        return runner.run(Workload.default(**options), ["verify"], budget_s=15.0)


@pytest.fixture
def conv() -> nn.Conv3d:
    torch.manual_seed(0)
    return nn.Conv3d(3, 64, KERNEL, stride=KERNEL)


@pytest.fixture
def patches() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.rand(48, 3, *KERNEL) - 0.5


def checks(record: Record, **cells: Any) -> list[Row]:
    return [
        row
        for row in record.rows("verify", "checks")
        if all(row[key] == value for key, value in cells.items())
    ]


def test_output_and_gradients_are_checked_in_every_dtype_and_way(record: Record) -> None:
    against_fp64 = checks(record, reference="fp64", must_fail=False)

    assert {(row["variant"], row["dtype"], row["check"]) for row in against_fp64} == {
        (variant, dtype, check)
        for variant in ("Conv3d", "fix (view)")
        for dtype in ("fp32", "bf16", "fp16")
        for check in ("output", "weight gradient", "bias gradient", "input gradient")
    }
    assert all(row["passed"] for row in against_fp64 if row["variant"] == "fix (view)")
    assert all(row["tolerance_source"] for row in against_fp64)


def test_the_published_tests_pass(record: Record) -> None:
    published = [row for row in checks(record) if str(row["check"]).startswith("published")]

    assert [(row["dtype"], row["tolerance"]) for row in published] == [
        ("fp32", 1e-5),
        ("bf16", 0.999),
        ("fp32", 0.99),
    ]
    assert all(row["passed"] for row in published)


def test_a_whole_model_gives_the_same_logits_and_token(record: Record) -> None:
    (logits,) = checks(record, check="next-token logits of 1 sample(s)")
    (token,) = [row for row in checks(record) if str(row["check"]).startswith("next token,")]

    assert logits["passed"]
    assert (number(logits["value"]) or 0.0) > 0.999
    assert (token["value"], token["passed"]) in [(0.0, True), (None, None)]


def test_layers_and_process_stay_as_they_were(record: Record) -> None:
    exact = checks(record, metric="differing elements")

    assert len(exact) == 5
    assert all((row["value"], row["passed"]) == (0.0, True) for row in exact)
    assert not is_fixed()


def test_the_control_fails_and_the_verdict_rests_on_it(record: Record) -> None:
    (control,) = checks(record, must_fail=True)
    finding = rules()["exactness"].judge(record)

    assert (control["variant"], control["passed"]) == ("slow_conv_dilated3d", False)
    assert (number(control["value"]) or 0.0) > (number(control["tolerance"]) or 1.0)
    assert finding.verdict == "clear"
    assert any("The control fails, as it must" in sentence for sentence in finding.evidence)


def test_the_slow_path_is_right_but_for_what_it_adds_up_over_patches(
    conv: nn.Conv3d, patches: torch.Tensor
) -> None:
    from qwenprof.harness.dispatch import library_off

    asked = _numerics.problem(conv, patches, "bf16")
    with library_off("cpu")():
        results = _numerics.computed(asked, conv, _numerics._on_the_slow_path)

    passed = {
        row["check"]: row["passed"] for row in _numerics.error_rows(asked, "slow", results, "bf16")
    }
    assert (passed["output"], passed["input gradient"]) == (True, True)
    assert not passed["weight gradient"]


@pytest.mark.parametrize(
    ("spoil", "check"),
    [
        (lambda y: y * 1.02, "output"),
        (lambda y: y * 1.008, "output"),
        (lambda y: y + 0.02 * y.detach(), "output"),
        (lambda y: y.detach() + 1.02 * (y - y.detach()), "weight gradient"),
    ],
    ids=["scaled", "scaled by two roundings", "output alone", "gradient alone"],
)
def test_a_wrong_convolution_is_found_out(
    spoil: Callable[[torch.Tensor], torch.Tensor],
    check: str,
    conv: nn.Conv3d,
    patches: torch.Tensor,
) -> None:
    asked = _numerics.problem(conv, patches, "bf16")

    results = _numerics.computed(asked, conv, lambda layer, x: spoil(layer(x)))

    failed = {
        row["check"]
        for row in _numerics.error_rows(asked, "spoilt", results, "bf16")
        if not row["passed"]
    }
    assert check in failed


def test_a_result_that_is_no_number_fails(conv: nn.Conv3d, patches: torch.Tensor) -> None:
    asked = _numerics.problem(conv, patches, "fp32")

    results = _numerics.computed(asked, conv, lambda layer, x: layer(x) * math.nan)

    rows = list(_numerics.error_rows(asked, "spoilt", results, "fp32"))
    assert not any(row["passed"] for row in rows if row["check"] != "bias gradient")
    assert rows[0]["value"] is None


def test_a_fix_that_changes_the_checkpoint_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.qwen3_vl import modeling_qwen3_vl as modeling

    from tests.conftest import TINY_VISION

    tower = modeling.Qwen3VLVisionModel(modeling.Qwen3VLVisionConfig(**TINY_VISION))
    install = patch._install

    def spoiling() -> None:
        install()
        with torch.no_grad():
            tower.patch_embed.proj.weight.add_(0.0 if not is_fixed() else 1.0)

    monkeypatch.setattr(patch, "_install", spoiling)

    rows = list(_round_trip.checkpoint_rows(tower, left_s=60.0))

    assert not all(row["passed"] for row in rows)


def test_a_name_or_shape_that_differs_counts_whole() -> None:
    left = {"a": torch.zeros(2, 3), "b": torch.zeros(4), "c": torch.zeros(5)}
    right = {"a": torch.zeros(3, 2), "b": torch.tensor([0.0, 0.0, 1.0, 2.0])}

    assert _round_trip._differing(left, right) == 6 + 2 + 5
    assert _round_trip._differing(left, left) == 0


def test_without_room_on_the_disk_the_rest_is_kept(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_round_trip.tempfile, "TemporaryDirectory", full)

    record = runner.run(Workload.default(**tiny), ["verify"], budget_s=6.0)

    (failed,) = checks(record, check="checkpoint round trip")
    assert (failed["status"], failed["passed"]) == ("failed", None)
    assert "No space left" in str(failed["reason"])
    assert len(checks(record, status="ok")) > 20


def test_files_are_taken_away_again(tiny: dict[str, Any], tmp_path: Path) -> None:
    monkeypatch = pytest.MonkeyPatch()
    with monkeypatch.context() as context:
        context.setattr("tempfile.tempdir", str(tmp_path))
        runner.run(Workload.default(**tiny), ["verify"], budget_s=6.0)

    assert list(tmp_path.iterdir()) == []


@given(
    terms=st.integers(1, 10**6),
    dtype=st.sampled_from(["fp32", "fp16", "bf16", "TF32"]),
    cancellation=st.floats(0, 1e6),
)
def test_tolerances_grow_with_the_sum_and_never_below_one_rounding(
    terms: int, dtype: str, cancellation: float
) -> None:
    from qwenprof.stages._checks import UNIT_ROUNDOFF

    tolerance, source = rounding_tolerance(dtype, terms, cancellation)
    longer, _ = rounding_tolerance(dtype, terms + 1, cancellation)
    harder, _ = rounding_tolerance(dtype, terms, cancellation + 2)

    assert UNIT_ROUNDOFF[dtype] < tolerance <= longer
    assert tolerance < harder
    assert dtype in source


def test_healthy_arithmetic_passes_on_data_that_cancels(conv: nn.Conv3d) -> None:
    """Smooth patches under filters of zero mean: the result is far smaller than its terms."""
    with torch.no_grad():
        conv.weight.sub_(conv.weight.mean((1, 2, 3, 4), keepdim=True))
    patches = 1 + 1e-3 * torch.rand(64, 3, *KERNEL)
    bare = nn.Conv3d(3, 64, KERNEL, stride=KERNEL, bias=False)
    bare.weight = conv.weight
    asked = _numerics.problem(bare, patches, "fp32")

    for way in (_numerics.as_conv, _numerics.as_fixed):
        rows = _numerics.error_rows(asked, "way", _numerics.computed(asked, bare, way), "fp32")
        assert all(row["passed"] for row in rows)
    assert any("with cancellation" in str(row["tolerance_source"]) for row in rows)


def test_patches_of_zeros_are_no_division_by_zero() -> None:
    conv = nn.Conv3d(3, 8, KERNEL, stride=KERNEL, bias=False)
    asked = _numerics.problem(conv, torch.zeros(4, 3, *KERNEL), "fp32")
    rows = _numerics.error_rows(
        asked, "conv", _numerics.computed(asked, conv, _numerics.as_conv), "fp32"
    )

    assert all(row["passed"] for row in rows)


def test_the_control_fails_on_a_single_patch_too(conv: nn.Conv3d, patches: torch.Tensor) -> None:
    row = _numerics.slow_path_row(conv, patches[:1], "bf16")

    assert (row["passed"], row["patches"]) == (False, _numerics.CONTROL_PATCHES)


def test_what_was_measured_on_few_patches_survives_a_failure_on_all(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = _numerics.computed

    def out_of_memory(asked: _numerics.Problem, *args: Any) -> Any:
        if len(asked.patches) > verify.FEW_PATCHES:
            raise MemoryError("no room")
        return computed(asked, *args)

    monkeypatch.setattr(verify, "computed", out_of_memory)

    record = runner.run(Workload.default(**tiny), ["verify"], budget_s=8.0)

    few = checks(record, reference="fp64", variant="fix (view)", dtype="fp32")
    assert {row["patches"] for row in few} == {verify.FEW_PATCHES}
    assert any(row["status"] == "out_of_memory" for row in checks(record))


def test_a_large_tower_is_saved_with_one_block(record: Record) -> None:
    from transformers.models.qwen3_vl import modeling_qwen3_vl as modeling

    from tests.conftest import TINY_VISION

    tower = modeling.Qwen3VLVisionModel(modeling.Qwen3VLVisionConfig(**TINY_VISION))
    rows = list(_round_trip.checkpoint_rows(tower, left_s=0.0))

    assert all(row["passed"] and "with one block" in str(row["check"]) for row in rows)


def test_bits_are_compared_and_not_values() -> None:
    left = {"a": torch.tensor([0.0, math.nan, 1.0])}

    assert _round_trip._differing(left, {"a": torch.tensor([-0.0, math.nan, 1.0])}) == 1
    assert _round_trip._differing(left, {"a": left["a"].clone()}) == 0


def test_what_is_no_number_never_passes() -> None:
    for check in (at_most, at_least):
        cells = check(math.nan, 1.0)
        assert (cells["passed"], cells["value"]) == (False, None)
