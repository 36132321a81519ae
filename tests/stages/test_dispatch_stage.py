"""The stage for real: who runs each convolution of a model, why, and what it would be otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import nn

from qwenprof import runner
from qwenprof.diagnosis.bounds import number
from qwenprof.diagnosis.finding import Finding, diagnose
from qwenprof.diagnosis.responsibility import responsibility
from qwenprof.fix.patch import fixed
from qwenprof.fix.upstream import STYLES, checked_style, upstream_diff
from qwenprof.harness.dispatch import (
    is_conv3d_without_library,
)
from qwenprof.record.record import Record
from qwenprof.stages._upstream import upstream_rows
from qwenprof.stages.dispatch import captured, description
from qwenprof.stages.stage import Stage, stages
from qwenprof.workload.loading import foreign_subject
from qwenprof.workload.workload import Workload
from tests.conftest import TINY, tiny_size

STAGE = "dispatch"
BUDGET_S = 8.0
PATH = "patch_embed.proj"


def measured(**options: Any) -> Record:
    with tiny_size():
        chosen: dict[str, Any] = {**TINY, **options}
        return runner.run(Workload.default(**chosen), [STAGE], budget_s=BUDGET_S)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads that wait for each other on a busy machine are slower than any loop."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def record() -> Record:
    return measured()


@pytest.fixture(scope="module")
def provoked() -> Record:
    return measured(dtype="bf16", provoke="slow-conv")


def finding(given: Record, rule: str) -> Finding:
    return next(each for each in diagnose(given) if each.rule == rule)


# the tiny tower


def test_the_convolution_of_the_model_is_described(record: Record) -> None:
    assert record.stages[STAGE].status == "ok"
    (row,) = record.rows(STAGE, "convolutions")

    assert row["module"] == record.rows("compare-patch-embed", "variants")[0]["module"] == PATH
    described = {
        "module_type": "Conv3d",
        "dtype": "fp32",
        "rank": 5,
        "kernel": "2x16x16",
        "input_shape": "528x3x2x16x16",
        "weight_shape": "64x3x2x16x16",
        "features_in": 1536,
        "features": 64,
        "bias": True,
        "patches": 528,
        "memory_format": "contiguous",
        "library_dtype_supported": True,
        "library_switched_off": False,
        "backend": "Mkldnn",
        "backend_library_off": "Slow3d",
        "backend_without_bias": "Mkldnn",
        "backend_channels_last": "Mkldnn",
        "backend_fp32": "Mkldnn",
    }
    assert {key: row[key] for key in described} == described
    assert {row["backend_bf16"], row["backend_fp16"]} <= {"Mkldnn", "Slow3d"}


def test_the_conditions_of_the_dispatcher_are_kept_one_by_one(record: Record) -> None:
    rows = record.rows(STAGE, "gate")

    assert [row["condition"] for row in rows] == [
        "oneDNN is built in",
        "oneDNN is switched on",
        "oneDNN computes in fp32 on this CPU",
    ]
    assert all(row["holds"] is True and row["found"] == "yes" for row in rows)
    assert {row["module"] for row in rows} == {PATH}
    assert {(row["library"], row["if_all_hold"]) for row in rows} == {("oneDNN", "called")}


def test_the_launches_follow_the_formula(record: Record) -> None:
    rows = record.rows(STAGE, "launches")
    slow = [row for row in rows if row["variant"] == "slow_conv_dilated3d"]

    assert {row["module"] for row in rows} == {PATH}
    assert {row["bias"] for row in slow} == {True, False}
    for row in slow:
        patches, features = number(row["patches"]) or 0, number(row["features"]) or 0
        assert features == 64
        assert row["launches"] == patches * (features * bool(row["bias"]) + 2)
        assert row["counted"] == row["predicted"] == (patches * features if row["bias"] else 0)
    dispatched = [row for row in rows if row["variant"] == "Conv3d"]
    assert dispatched
    assert all(row["counted"] == 0 and row["predicted"] is None for row in dispatched)


def test_the_projection_was_timed_before_and_is_not_timed_again(record: Record) -> None:
    assert record.rows("compare-patch-embed", "variants")
    assert record.rows(STAGE, "experiments") == []


def test_every_layer_has_its_part_and_nobody_passed_the_library_over(record: Record) -> None:
    layers = {layer.name: layer.role for layer in responsibility(record)}

    assert list(layers) == ["model code", "PyTorch", "oneDNN"]
    assert layers["PyTorch"] in ("could fix", "clear")
    assert finding(record, "conv-slow-backend").verdict == "clear"


def test_the_fix_is_kept_as_a_diff_in_every_style(record: Record) -> None:
    rows = record.rows(STAGE, "upstream")

    assert [(row["family"], row["style"]) for row in rows] == [
        ("qwen3_vl", style) for style in STYLES
    ]
    for row in rows:
        assert row["diff"] == upstream_diff("qwen3_vl", checked_style(str(row["style"]))).text
        assert "models/qwen3_vl/modeling_qwen3_vl.py" in str(row["files"])
        assert row["reason"] is None


# somebody's own module


class Patches(nn.Module):
    """Two convolutions whose windows do not overlap, one whose do, and one that is never reached.

    x: (B, 3, 64, 64)
    """

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, 32, 8, stride=8)
        self.merge = nn.Conv2d(32, 16, 2, stride=2, bias=False)
        self.overlapping = nn.Conv2d(16, 16, 3, padding=1)
        self.unused = nn.Conv2d(3, 8, 4, stride=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        merged = self.merge(input=self.projection(x))
        features: torch.Tensor = self.overlapping(merged)
        return features


def foreign(module: nn.Module, *args: Any, wanted: Sequence[Stage], budget_s: float) -> Record:
    subject = foreign_subject(module, args, {})
    experiment = runner.Experiment(
        facts={"device": "cpu", "dtype": "fp32", "summary": "somebody's own"},
        device="cpu",
        dtype="fp32",
        load=lambda: subject,
    )
    return runner.run_experiment(experiment, wanted, None, budget_s, (), runner.Silent())


def alone(module: nn.Module, *args: Any, budget_s: float = 1.0) -> Record:
    """The stage without those that it requires."""
    return foreign(module, *args, wanted=[stages()[STAGE]], budget_s=budget_s)


@pytest.fixture(scope="module")
def own() -> Record:
    torch.manual_seed(0)
    return foreign(Patches(), torch.rand(2, 3, 64, 64), wanted=runner.chosen([STAGE]), budget_s=4.0)


def test_every_convolution_of_this_kind_that_is_reached_is_found(own: Record) -> None:
    rows = {str(row["module"]): row for row in own.rows(STAGE, "convolutions")}

    assert set(rows) == {"projection", "merge"}
    assert (rows["projection"]["patches"], rows["merge"]["patches"]) == (2 * 8 * 8, 2 * 4 * 4)
    assert rows["merge"]["input_shape"] == "2x32x8x8"
    assert (rows["projection"]["rank"], rows["merge"]["bias"]) == (4, False)
    assert "backend_channels_last" not in rows["merge"]


def test_what_no_stage_before_timed_is_timed_here(own: Record) -> None:
    assert own.stages["compare-patch-embed"].status == "skipped"
    rows = own.rows(STAGE, "experiments")

    assert [(row["module"], row["experiment"]) for row in rows] == [
        (path, experiment)
        for path in ("projection", "merge")
        for experiment in ("as dispatched", "as linear", "library off")
    ]
    for row in rows:
        values = own.stages[STAGE].series[f"{row['module']}/{row['experiment']}"].values
        assert (row["status"], row["n"]) == ("ok", len(values))
        assert (number(row["median_s"]) or 0) > 0
        assert (number(row["speedup"]) or 0) > 0
    assert all(row["speedup"] == 1 for row in rows if row["experiment"] == "as dispatched")


def test_launches_are_counted_for_a_conv3d_on_separate_patches_alone(own: Record) -> None:
    assert own.rows(STAGE, "launches") == []


def test_a_convolution_for_which_no_seconds_are_left_has_a_row_that_says_so() -> None:
    given = alone(Patches(), torch.rand(2, 3, 64, 64), budget_s=1e-9)

    (row,) = [row for row in given.rows(STAGE, "experiments") if row["module"] == "merge"]
    assert (row["experiment"], row["status"], row["median_s"]) == ("as dispatched", "skipped", None)
    assert "raise --budget" in str(row["reason"])


def test_a_model_that_is_not_of_transformers_has_no_diff(own: Record) -> None:
    assert own.rows(STAGE, "upstream") == []


def holder(module: str, conv: nn.Module) -> nn.Module:
    """A module with `proj`, whose class says that it is from that file."""
    made: Any = type("Holder", (nn.Module,), {"__module__": module})()
    made.proj = conv
    root = nn.Module()
    root.patch_embed = made
    return root


def test_a_file_of_transformers_without_the_pattern_says_why() -> None:
    conv = nn.Conv3d(3, 8, 2, stride=2)
    model = holder("transformers.models.bert.modeling_bert", conv)

    rows = list(upstream_rows(model, {"patch_embed.proj": (conv, torch.rand(1, 3, 2, 2, 2))}))

    assert [(row["style"], row["diff"]) for row in rows] == [(style, None) for style in STYLES]
    assert all("has no non-overlapping Conv3d" in str(row["reason"]) for row in rows)


def test_only_a_conv3d_has_a_diff() -> None:
    conv = nn.Conv2d(3, 8, 2, stride=2)
    model = holder("transformers.models.vit.modeling_vit", conv)

    assert list(upstream_rows(model, {"patch_embed.proj": (conv, torch.rand(1, 3, 2, 2))})) == []


def test_a_model_without_such_a_convolution_is_skipped() -> None:
    given = alone(nn.Conv2d(3, 8, 3), torch.rand(1, 3, 16, 16))

    assert given.stages[STAGE].status == "skipped"
    assert "no convolution" in str(given.stages[STAGE].reason)


def test_a_process_in_which_the_fix_is_applied_is_not_looked_at() -> None:
    with fixed():
        given = alone(Patches(), torch.rand(2, 3, 64, 64))

    assert given.stages[STAGE].status == "skipped"
    assert "undo_fix" in str(given.stages[STAGE].reason)
    assert given.rows(STAGE, "convolutions") == []


def test_looking_leaves_no_hooks_behind() -> None:
    module = Patches()

    found = captured(foreign_subject(module, (torch.rand(1, 3, 64, 64),), {}))

    assert set(found) == {"projection", "merge"}
    assert not any(each._forward_pre_hooks for each in module.modules())


@pytest.mark.parametrize(("last", "expected"), [(False, "contiguous"), (True, "channels_last_3d")])
def test_a_memory_format_is_told_by_input_or_weight(last: bool, expected: str) -> None:
    conv = nn.Conv3d(3, 8, (2, 4, 4), stride=(2, 4, 4))
    x = torch.rand(5, 3, 2, 8, 8)
    changed: Any = {"memory_format": torch.channels_last_3d} if last else {}

    by_input = description("", conv, x.to(**changed), "cpu")
    by_weight = description("", conv.to(**changed), x, "cpu")

    assert by_input["memory_format"] == by_weight["memory_format"] == expected
    assert by_input["patches"] == 5 * 4


# the slow path, on purpose


def test_a_provoked_slow_convolution_is_found_with_its_cause(provoked: Record) -> None:
    problem = finding(provoked, "conv-slow-backend")

    assert (problem.verdict, problem.culprit) == ("problem", PATH)
    assert "slow loop Slow3d" in problem.title
    assert problem.cause.endswith("because oneDNN is switched off")
    assert problem.advice.startswith("Run without --provoke slow-conv: this fault was made")
    assert finding(provoked, "device-health").cause == ""


def test_the_layers_blame_the_setting_and_clear_the_library(provoked: Record) -> None:
    layers = {layer.name: layer.role for layer in responsibility(provoked)}

    assert layers == {
        "settings": "at fault",
        "model code": "could fix",
        "PyTorch": "clear",
        "oneDNN": "clear",
    }


def test_a_provoked_record_says_so(provoked: Record) -> None:
    (row,) = provoked.rows(STAGE, "convolutions")

    assert "PROVOKED ON PURPOSE: slow-conv" in str(provoked.workload["summary"])
    assert (row["backend"], row["library_switched_off"]) == ("Slow3d", True)
    switch = next(
        each for each in provoked.rows(STAGE, "gate") if "switched on" in str(each["condition"])
    )
    assert switch["holds"] is False
    assert provoked.fact("torch", "onednn_enabled") is True


def test_the_provocation_ends_with_the_run(provoked: Record, record: Record) -> None:
    assert provoked.stages
    assert not is_conv3d_without_library()
    assert record.rows(STAGE, "convolutions")[0]["library_switched_off"] is False
