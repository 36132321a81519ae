"""The same stages on a CUDA device. Skipped, with the reason, where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from qwenprof import runner
from qwenprof.diagnosis.bounds import number
from qwenprof.harness.clock import AcceleratorClock
from qwenprof.harness.conditions import gauge_for
from qwenprof.harness.dispatch import convolution_backend
from qwenprof.harness.memory import peak_bytes
from qwenprof.harness.plan import Allowance
from qwenprof.harness.sampler import Sampler
from qwenprof.record.record import Record, load
from qwenprof.workload.workload import Workload

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """All stages on the true-width 2b tower with two frames, once for all tests here."""
    folder = tmp_path_factory.mktemp("gpu")
    workload = Workload.default("cuda", size="2b", scope="vision", frames=2)
    runner.run(workload, out=folder, budget_s=60.0)
    return load(folder)


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


def test_the_slow_path_is_named_with_its_factor(tmp_path: Path) -> None:
    workload = Workload.default("cuda", size="2b", scope="vision", frames=1)
    with torch.backends.cudnn.flags(enabled=False):
        record = runner.run(workload, ["compare-patch-embed"], tmp_path, budget_s=30.0)

    rows = record.rows("compare-patch-embed", "variants")
    conv = [row for row in rows if row["variant"] == "Conv3d" and row["dtype"] == "bf16"]
    linear = [row for row in rows if row["variant"] == "Linear" and row["dtype"] == "bf16"]
    assert conv[-1]["backend"] == "SlowDilated3d"
    assert (number(linear[-1]["speedup"]) or 0) > 100


def test_every_variant_that_cuda_has_is_timed_or_says_why_not(record: Record) -> None:
    rows = record.rows("compare-patch-embed", "variants")

    names = {row["variant"] for row in rows if row["direction"] == "forward"}
    assert {"cuDNN off", "cudnn.benchmark", "cudnn_convolution", "slow_conv_dilated3d"} <= names
    assert all(row["reason"] for row in rows if row["status"] != "ok")


def test_launches_of_the_slow_path_follow_the_formula(record: Record) -> None:
    rows = record.rows("compare-patch-embed", "launches")

    assert rows
    assert {row["counted_event"] for row in rows} == {"kernel launch"}
    for row in rows:
        assert row["counted"] == row["predicted"], f"{row}"


def test_the_fix_is_exact_and_the_control_fails(record: Record) -> None:
    checks = record.rows("verify", "checks")
    by_fix = [row for row in checks if row["variant"] in ("fix (view)", "apply_fix()")]

    assert all(row["passed"] for row in by_fix if row["status"] == "ok")
    assert [row["passed"] for row in checks if row["must_fail"]] == [False]
