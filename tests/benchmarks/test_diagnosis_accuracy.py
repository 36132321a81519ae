"""The benchmark of the diagnosis: how it judges, and that its faults change no feature."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from qwenprof.diagnosis.finding import Finding
from qwenprof.workload.attention import tower_output
from qwenprof.workload.loading import Subject, load
from qwenprof.workload.workload import Workload

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def accuracy(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("diagnosis_accuracy")


@pytest.fixture
def plants(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("_plants")


@pytest.fixture
def subject(tiny: dict[str, Any]) -> Subject:
    return load(Workload.default(**tiny))


def problem(rule: str, culprit: str, severity: Any = "warning") -> Finding:
    return Finding(rule=rule, verdict="problem", severity=severity, title=rule, culprit=culprit)


def case(accuracy: ModuleType, name: str) -> Any:
    return next(each for each in accuracy.cases() if each.name == name)


def test_there_are_faults_of_every_kind_and_at_least_six_controls(accuracy: ModuleType) -> None:
    cases = accuracy.cases()
    controls = [each for each in cases if each.is_control]

    assert len(controls) >= 6
    assert len({each.name for each in cases}) == len(cases)
    assert sum(each.simulated is not None and not each.is_control for each in cases) >= 5
    assert {each.options.get("family") for each in controls} >= {"qwen3-vl", "qwen2.5-vl"}


def test_a_fault_is_named_by_its_own_rule_and_the_right_part_alone(accuracy: ModuleType) -> None:
    merger = case(accuracy, "merger in fp64")

    assert accuracy._names(merger, problem("culprit", "merger.linear_fc1"))
    assert not accuracy._names(merger, problem("culprit", "patch_embed"))
    assert not accuracy._names(merger, problem("attention", "merger"))
    assert not accuracy._names(merger, problem("culprit", "deepstack_merger_list"))
    assert not accuracy._names(merger, problem("culprit", "merger", severity="info"))


def test_whoever_else_is_accused_is_accused_falsely(accuracy: ModuleType) -> None:
    merger = case(accuracy, "merger in fp64")
    control = case(accuracy, "control: qwen3-vl 4b bf16")
    loses = problem("conv-against-linear", "patch_embed.proj")

    assert accuracy._is_false(merger, problem("attention", "attention: sdpa"))
    assert accuracy._is_false(control, problem("memory", "patch_embed.proj"))
    assert accuracy._is_false(control, loses)
    assert not accuracy._is_false(merger, loses)
    assert not accuracy._is_false(control, problem("run-quality", "the machine"))


@pytest.mark.parametrize(
    "name",
    [
        "conv_without_onednn",
        "slow_dilated_conv",
        "conv_patch_by_patch",
        "merger_in_fp64",
        "every_mlp_in_fp64",
        "block_that_loops_over_heads",
        "interpolation_that_loops",
        "processor_that_dominates",
    ],
)
def test_a_fault_changes_no_feature_and_leaves_nothing_behind(
    name: str, plants: ModuleType, subject: Subject
) -> None:
    pixels = subject.inputs().pixels
    assert pixels is not None
    before = tower_output(subject, pixels)
    plant = getattr(plants, name)

    with plant(subject):
        spoilt = tower_output(subject, pixels)

    torch.testing.assert_close(spoilt, before, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(tower_output(subject, pixels), before)


def test_a_dense_mask_lets_no_image_see_another(plants: ModuleType, tiny: dict[str, Any]) -> None:
    subject = load(Workload.default(**tiny, attention="eager"))
    pixels = subject.inputs().pixels
    assert pixels is not None
    before = tower_output(subject, pixels)

    with plants.dense_masked_attention(subject):
        torch.testing.assert_close(tower_output(subject, pixels), before, rtol=1e-4, atol=1e-4)


def test_a_batch_that_does_not_grow_stays_at_two(plants: ModuleType, subject: Subject) -> None:
    two = subject.inputs(2).pixels
    with plants.batch_that_does_not_grow(subject):
        four = subject.inputs(4).pixels
    assert two is not None
    assert four is not None

    assert four.patches == two.patches


@pytest.mark.slow
def test_it_runs_and_judges_kept_records_anew(tmp_path: Path) -> None:
    command = [sys.executable, "diagnosis_accuracy.py", "--only", "simulated: launch-bound"]
    options = ["--out", str(tmp_path), "--keep", str(tmp_path / "records")]

    for more in ([], ["--again"]):
        done = subprocess.run(
            [*command, *options, *more], cwd=BENCHMARKS, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "right  seed 0" in done.stdout
