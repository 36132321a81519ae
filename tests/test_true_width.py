"""The main job as a user starts it: a true-width tower, the real command, a fresh process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from qwenprof.diagnosis.bounds import number
from qwenprof.record.record import load

pytestmark = pytest.mark.slow


def test_diagnose_runs_to_the_end_on_a_true_width_tower(tmp_path: Path) -> None:
    """GIVEN the 2b tower in bf16 and a small frame WHEN it is diagnosed in two minutes."""
    command = [sys.executable, "-m", "qwenprof", "diagnose", "--device", "cpu", "--size", "2b"]
    options = ["--short-edge", "128", "--budget", "120", "--quiet", "--out", str(tmp_path / "out")]

    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{tmp_path / 'out' / 'report.md'}\n"
    record = load(tmp_path / "out")
    assert {result.status for result in record.stages.values()} == {"ok"}
    assert record.workload["parameters"] == 406_957_056
    patches = number(record.workload["patches"])
    conv = [
        row
        for row in record.rows("compare-patch-embed", "variants")
        if row["variant"] == "Conv3d" and row["dtype"] == "bf16" and row["patches"] == patches
    ]
    assert conv[0]["backend"]
    assert conv[0]["median_s"]
    report = (tmp_path / "out" / "report.md").read_text()
    assert "Conv3d" in report
    assert "not assessed" in report
    assert "nan" not in report.lower().split()
