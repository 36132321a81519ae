"""The benchmarks as scripts: what they promise to run, and what they do about failure."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = sorted(path for path in BENCHMARKS.glob("*.py") if not path.name.startswith("_"))


@pytest.fixture
def common(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("_common")


@pytest.fixture
def suite(common: ModuleType) -> ModuleType:
    return importlib.import_module("gpu_suite")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_benchmark_says_what_it_claims_and_how_to_read_it(script: Path) -> None:
    text = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
    assert "\nClaim" in text
    assert "\nHow to read it\n" in text


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [(["PASS"], 0), (["PASS", "FAIL"], 1), (["UNSETTLED", "NOT RUN"], 0), ([], 0)],
)
def test_only_a_claim_that_failed_fails_a_benchmark(
    verdicts: list[str],
    code: int,
    common: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # GIVEN claims WHEN a benchmark ends
    claims = [common.Claim(text="it holds", verdict=verdict, detail="5 s") for verdict in verdicts]
    rows = [{"step": "a", "seconds": "1.5"}, {"step": "longer", "seconds": "12"}]
    returned = common.conclude("name", "a machine", rows, claims, tmp_path / "new")
    # THEN each is printed with its verdict, and the JSON holds the same
    assert returned == code
    printed = capsys.readouterr().out
    assert "step    seconds\n------  -------\na           1.5\nlonger       12\n" in printed
    assert [line.split("  ")[0] for line in printed.splitlines() if "it holds" in line] == verdicts
    written = json.loads((tmp_path / "new" / "name.json").read_text(encoding="utf-8"))
    assert [claim["verdict"] for claim in written["claims"]] == verdicts
    assert written["rows"] == rows


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (1.5, "1.5 s"), (0.0123, "12.3 ms"), (2e-6, "2 us"), (2e-9, "0.002 us")],
)
def test_durations_are_readable(value: float | None, text: str, common: ModuleType) -> None:
    assert common.seconds(value) == text


class TestGpuSuite:
    @pytest.mark.parametrize(("device", "quick"), [("cuda", False), ("cpu", True)])
    def test_its_plan_is_complete_and_fits_into_eight_minutes(
        self, device: str, quick: bool, suite: ModuleType, tmp_path: Path
    ) -> None:
        # GIVEN a device WHEN the steps are planned
        steps = suite.plan(device, tmp_path, quick=quick)
        # THEN all are there, none can make the suite too long, and each knows its device
        assert [step.name for step in steps] == [
            "tests",
            "diagnose",
            "slow_path",
            "harness",
            "overhead",
        ]
        assert sum(step.limit_s for step in steps) <= suite.LIMIT_S == 480
        for step in steps[1:]:
            where = list(step.arguments).index("--device")
            assert step.arguments[where + 1] == device
            assert any(str(part).startswith(str(tmp_path)) for part in step.arguments)
        scripts = [part for step in steps for part in step.arguments if str(part).endswith(".py")]
        assert all(Path(script).exists() for script in scripts)

    def test_a_step_that_fails_or_hangs_does_not_stop_the_next(
        self, suite: ModuleType, tmp_path: Path
    ) -> None:
        # GIVEN a step that fails, one that never ends, and one that is fine
        steps = [
            suite.Step(name="broken", arguments=["-c", "print('why'); exit(3)"], limit_s=60),
            suite.Step(name="endless", arguments=["-c", "while True: pass"], limit_s=0.5),
            suite.Step(name="fine", arguments=["-c", "print('done')"], limit_s=60),
        ]
        # WHEN they are run
        outcomes = suite.run_all(steps, tmp_path)
        # THEN each has its status, and its output is in its log
        assert [each.status for each in outcomes] == ["failed (3)", "out of time (0.5 s)", "ok"]
        assert (tmp_path / "broken.log").read_text() == "why\n"
        assert (tmp_path / "fine.log").read_text() == "done\n"

    def test_without_a_gpu_it_says_so_in_one_line(
        self,
        suite: ModuleType,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(sys, "argv", ["gpu_suite.py"])
        assert suite.main() == 2
        (line,) = capsys.readouterr().out.splitlines()
        assert line.startswith("no GPU:")

    @pytest.mark.slow
    def test_its_steps_run_on_a_cpu(self, tmp_path: Path) -> None:
        # GIVEN the same steps with hardly any time WHEN the suite runs them on a CPU
        script, out = str(BENCHMARKS / "gpu_suite.py"), str(tmp_path)
        done = subprocess.run(
            [sys.executable, script, "--device", "cpu", "--quick", "--out", out],
            capture_output=True,
            text=True,
            check=False,
        )
        # THEN all of them end well, and records, report and logs are in one folder
        assert done.returncode == 0, done.stdout
        assert (tmp_path / "diagnose" / "report.md").exists()
        assert (tmp_path / "slow-path" / "record.json").exists()
        assert {path.stem for path in tmp_path.glob("*.log")} == {
            "tests",
            "diagnose",
            "slow_path",
            "harness",
            "overhead",
        }
