"""The same stages on a CUDA device. Skipped, with the reason, where there is none."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qwenprof import runner
from qwenprof.diagnosis.bounds import number
from qwenprof.diagnosis.finding import rules
from qwenprof.diagnosis.projection import SLOW_DIRECT
from qwenprof.diagnosis.responsibility import responsibility
from qwenprof.harness.clock import AcceleratorClock
from qwenprof.harness.conditions import gauge_for
from qwenprof.harness.dispatch import convolution_backend
from qwenprof.harness.memory import peak_bytes
from qwenprof.harness.plan import Allowance
from qwenprof.harness.sampler import Sampler
from qwenprof.record.record import Cell, Record, Row, load
from qwenprof.stages._launches import COUNTED_PATCHES
from qwenprof.workload.workload import Workload

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """All stages on the true-width 2b tower with two frames, once for all tests here."""
    folder = tmp_path_factory.mktemp("gpu")
    workload = Workload.default("cuda", size="2b", scope="vision", frames=2)
    runner.run(workload, out=folder, budget_s=60.0)
    return load(folder)


@pytest.fixture(scope="module")
def without_cudnn(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """The comparison and the dispatch with cuDNN switched off, on one frame; once for all tests."""
    workload = Workload.default("cuda", size="2b", scope="vision", frames=1)
    with torch.backends.cudnn.flags(enabled=False):
        return runner.run(
            workload, ["dispatch"], tmp_path_factory.mktemp("no-cudnn"), budget_s=36.0
        )


def test_every_stage_runs(record: Record) -> None:
    assert {result.status for result in record.stages.values()} == {"ok"}


def test_gpu_time_agrees_with_wall_time_for_long_work() -> None:
    """Both clocks time the same 10 ms of matrix products: they must agree within 5 %."""
    left = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    sampler = Sampler(AcceleratorClock(torch.device("cuda")))

    timing = sampler.measure(
        lambda: [left @ left for _ in range(4)], Allowance(case_s=5.0, limit_s=10.0)
    )

    assert timing.wall is not None
    assert timing.host is not None
    assert min(timing.wall.values) == pytest.approx(timing.median_s, rel=0.05)
    assert min(timing.host.values) < timing.median_s / 2, "the host runs ahead"


def test_exclusive_times_add_up(record: Record) -> None:
    summary = record.rows("per-layer", "summary")[0]

    assert (number(summary["unaccounted_share"]) or 0.0) < 0.01


def test_conditions_are_read_from_the_driver(record: Record) -> None:
    assert gauge_for("cuda") is not None
    row = record.rows("batch-sweep", "conditions")[0]

    assert (number(row["readings"]) or 0) > 0
    assert (number(row["sm_clock_mhz_median"]) or 0) > 100


def test_peak_memory_sees_an_allocation() -> None:
    peak = peak_bytes(lambda: torch.empty(256 * 1024**2, dtype=torch.uint8, device="cuda"), "cuda")

    assert peak is not None
    assert peak >= 256 * 1024**2


def test_without_cudnn_the_conv_falls_into_the_slow_path() -> None:
    conv = nn.Conv3d(3, 1024, (2, 16, 16), stride=(2, 16, 16)).to("cuda", torch.bfloat16)
    patches = torch.randn(64, 3, 2, 16, 16, device="cuda", dtype=torch.bfloat16)

    with torch.backends.cudnn.flags(enabled=False):
        assert convolution_backend(conv, patches) == "SlowDilated3d"


def test_the_slow_path_is_named_with_its_factor(without_cudnn: Record) -> None:
    rows = without_cudnn.rows("compare-patch-embed", "variants")
    conv = [row for row in rows if row["variant"] == "Conv3d" and row["dtype"] == "bf16"]
    linear = [row for row in rows if row["variant"] == "Linear" and row["dtype"] == "bf16"]
    assert conv[-1]["backend"] == "SlowDilated3d"
    assert (number(linear[-1]["speedup"]) or 0) > 100


def test_every_variant_that_cuda_has_is_timed_or_says_why_not(record: Record) -> None:
    rows = record.rows("compare-patch-embed", "variants")

    names = {row["variant"] for row in rows if row["direction"] == "forward"}
    assert {"cuDNN off", "cudnn.benchmark", "cudnn_convolution", "slow_conv_dilated3d"} <= names
    assert all(row["reason"] for row in rows if row["status"] != "ok")


def counted_launches(record: Record, variant: str) -> dict[tuple[Cell, Cell], Row]:
    """The rows of the dispatch stage for one variant, by patches and bias."""
    rows = record.rows("dispatch", "launches")
    return {
        (row["patches"], row["bias"]): row
        for row in rows
        if row["variant"] == variant and row["counted_event"] == "kernel launch"
    }


def test_launches_of_the_slow_path_follow_the_formula(record: Record) -> None:
    found = counted_launches(record, SLOW_DIRECT)

    assert set(found) == {(count, bias) for count in COUNTED_PATCHES for bias in (True, False)}
    for (patches, bias), row in found.items():
        formula = (number(patches) or 0) * ((number(row["features"]) or 0) * bool(bias) + 2)
        assert row["counted"] == row["predicted"] == row["launches"] == formula, f"{row}"


def test_the_bias_costs_a_launch_for_every_feature_of_every_patch(record: Record) -> None:
    """However many launches its matrix product takes on this device."""
    found = counted_launches(record, SLOW_DIRECT)

    for count in COUNTED_PATCHES:
        with_bias, bare = (number(found[count, bias]["counted"]) or 0 for bias in (True, False))
        assert bare > 0
        assert with_bias - bare == count * 1024


def test_the_dispatch_of_the_projection_is_explained(record: Record) -> None:
    (conv,) = record.rows("dispatch", "convolutions")
    gate = [row for row in record.rows("dispatch", "gate") if row["module"] == conv["module"]]

    assert conv["backend_library_off"] == "SlowDilated3d"
    assert conv["backend"] in ("Cudnn", "SlowDilated3d")
    assert (conv["features"], conv["bias"], conv["rank"]) == (1024, True, 5)
    assert {row["library"] for row in gate} == {"cuDNN"}
    switched_on = next(row for row in gate if row["condition"] == "cuDNN is switched on")
    assert switched_on["holds"] is True


def test_without_cudnn_the_finding_names_the_slow_loop_and_who_switched_it_off(
    without_cudnn: Record,
) -> None:
    (conv,) = without_cudnn.rows("dispatch", "convolutions")
    assert conv["backend"] == "SlowDilated3d"
    finding = rules()["conv-slow-backend"].judge(without_cudnn)
    assert finding.verdict == "problem"
    assert "SlowDilated3d" in finding.title
    assert "cuDNN is switched off" in finding.cause
    assert finding.culprit == conv["module"]
    assert finding.confidence == "high"
    assert (finding.factor or 0.0) > 100
    settings, *_ = responsibility(without_cudnn)
    assert (settings.name, settings.role) == ("settings", "at fault")


def test_the_fix_is_exact_and_the_control_fails(record: Record) -> None:
    checks = record.rows("verify", "checks")
    by_fix = [row for row in checks if row["variant"] in ("fix (view)", "apply_fix()")]

    assert all(row["passed"] for row in by_fix if row["status"] == "ok")
    assert [row["passed"] for row in checks if row["must_fail"]] == [False]
