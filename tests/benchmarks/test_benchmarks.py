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
from safetensors.torch import save_file

from qwenprof.harness.statistics import Ratio

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = sorted(path for path in BENCHMARKS.glob("*.py") if not path.name.startswith("_"))


@pytest.fixture
def common(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("_common")


@pytest.fixture
def suite(common: ModuleType) -> ModuleType:
    return importlib.import_module("gpu_suite")


@pytest.fixture
def end_to_end(common: ModuleType) -> ModuleType:
    return importlib.import_module("end_to_end")


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
            "patch_embed",
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
            "patch_embed",
            "harness",
            "overhead",
        }


class TestEndToEnd:
    def test_each_kind_is_as_often_first_as_second(self, end_to_end: ModuleType) -> None:
        plain, fixed = end_to_end.PLAIN, end_to_end.FIXED
        assert list(end_to_end.order(2)) == [plain, fixed, fixed, plain]

    @pytest.mark.parametrize(
        ("ci", "share", "verdict"),
        [
            (None, 0.99, "NOT RUN"),
            ((0.9, 1.1), 0.02, "UNSETTLED"),
            ((1.1, 1.2), 0.15, "PASS"),
            ((0.8, 0.9), 0.15, "FAIL"),
            ((60.0, 70.0), 0.985, "PASS"),
            ((60.0, 70.0), 0.02, "UNSETTLED"),  # more than the convolution's share can explain
        ],
    )
    def test_a_speed_up_is_claimed_only_where_its_interval_allows(
        self,
        ci: tuple[float, float] | None,
        share: float,
        verdict: str,
        end_to_end: ModuleType,
    ) -> None:
        ratio = Ratio(value=sum(ci) / 2 if ci else 1.0, ci=ci)
        claim = end_to_end.faster_claim(ratio, share, label=" (slow path provoked)")
        assert claim.verdict == verdict
        assert "(slow path provoked)" in claim.text
        assert f"the patch embedding was {share:.1%} of the time" in claim.detail

    @pytest.mark.parametrize(
        ("told", "verdict"),
        [
            ("qwenprof: 1 Conv3d module ran as Linear in 2 calls", "PASS"),
            ("qwenprof: no Conv3d ran as Linear in this process", "FAIL"),
            ("", "FAIL"),
        ],
    )
    def test_a_fix_that_did_not_reach_the_job_is_a_failure(
        self, told: str, verdict: str, end_to_end: ModuleType, tmp_path: Path
    ) -> None:
        def job(told: str) -> object:
            batches = [{"samples": 2, "seconds": 9.0}, {"samples": 4, "seconds": 2.0}]
            return end_to_end.Job(way="", out=tmp_path, wall_s=20.0, batches=batches, told=told)

        assert end_to_end.reached_claim([job("")], [job(told)]).verdict == verdict
        assert end_to_end.reached_claim([job(told or "qwenprof")], [job(told)]).verdict == "FAIL"
        assert job("").steady_s == 0.5  # type: ignore[attr-defined]

    def test_features_are_compared_by_name(self, end_to_end: ModuleType, tmp_path: Path) -> None:
        # GIVEN two jobs that wrote the same samples in another order, and one that lacks one
        rows = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
        one = feature_folder(tmp_path / "one", {"a": rows[0], "b": rows[1], "c": rows[2]})
        near = feature_folder(tmp_path / "near", {"a": rows[0], "b": rows[1] + 0.5, "c": rows[2]})
        less = feature_folder(tmp_path / "less", {"a": rows[0], "b": rows[1]})
        # THEN the worst sample counts, and a missing one is no agreement
        assert end_to_end.agreement(one, one) == pytest.approx((1.0, 0.0))
        expected = torch.nn.functional.cosine_similarity(rows[1], rows[1] + 0.5, dim=0)
        assert end_to_end.agreement(one, near) == pytest.approx((float(expected), 0.5))
        assert end_to_end.agreement(one, less) is None

    @pytest.mark.parametrize(
        ("value_s", "text"),
        [(16.5 * 29_169, "5.57 days"), (0.27 * 29_169, "2.19 h"), (90.0, "1.5 min")],
    )
    def test_long_jobs_are_told_in_hours_and_days(
        self, value_s: float, text: str, end_to_end: ModuleType
    ) -> None:
        assert end_to_end.long_time(value_s) == text

    def test_the_slow_path_is_that_of_the_convolution_alone(self, tmp_path: Path) -> None:
        # GIVEN a script that has a convolution and a matrix product
        script, spent = tmp_path / "job.py", tmp_path / "spent.json"
        script.write_text(
            "import sys, torch\n"
            "conv = torch.nn.Conv3d(3, 8, (2, 4, 4), stride=(2, 4, 4))\n"
            "with torch.profiler.profile() as profile:\n"
            "    conv(torch.randn(5, 3, 2, 4, 4))\n"
            "print(sys.argv[1:])\n"
            "print(any('slow_conv3d' in event.key for event in profile.key_averages()))\n"
            "print(torch._C._get_mkldnn_enabled())\n"
        )
        # WHEN it runs with the slow path provoked, and without
        for flags, is_slow in ((["--slow", "--seconds", str(spent)], True), ([], False)):
            launcher = [str(BENCHMARKS / "_convolution.py"), *flags, str(script), "--slow", "x"]
            done = subprocess.run(
                [sys.executable, *launcher], capture_output=True, text=True, check=True
            )
            # THEN its convolution runs in PyTorch's own loop, and all else as before
            arguments, slow, library = done.stdout.splitlines()
            assert arguments == "['--slow', 'x']"
            assert slow == str(is_slow)
            assert library == "True"
        (seconds,) = json.loads(spent.read_text())
        assert seconds > 0

    @pytest.mark.slow
    @pytest.mark.parametrize("more", [[], ["--slow-path", "--dtype", "bf16"]], ids=str)
    def test_it_runs_in_short(self, more: list[str], tmp_path: Path) -> None:
        # GIVEN a tiny tower WHEN the job runs plain and under `qwenprof run`
        script = str(BENCHMARKS / "end_to_end.py")
        asked = ["--quick", "--device", "cpu", "--out", str(tmp_path), *more]
        done = subprocess.run(
            [sys.executable, script, *asked], capture_output=True, text=True, check=False
        )
        # THEN the fix reaches it, the features agree, and no speed-up is claimed
        assert done.returncode == 0, done.stdout + done.stderr
        (path,) = tmp_path.glob("end_to_end*.json")
        verdicts = [claim["verdict"] for claim in json.loads(path.read_text())["claims"]]
        assert verdicts == ["PASS", "PASS", "NOT RUN"]


def feature_folder(folder: Path, features: dict[str, torch.Tensor]) -> Path:
    """What extract_features.py leaves, its rows from the last sample to the first."""
    folder.mkdir()
    names = sorted(features)
    rows = {name: row for row, name in enumerate(reversed(names))}
    save_file({"features": torch.stack([features[name] for name in rows])}, folder / "rows")
    places = {name: {"file": "rows", "key": "features", "row": rows[name]} for name in names}
    (folder / "index.json").write_text(json.dumps({"samples": places}))
    return folder


class TestPatchEmbed:
    @pytest.mark.parametrize(
        ("interval", "verdict"),
        [
            ((0.98, 1.10), "PASS"),
            ((0.90, 0.95), "FAIL"),
            ((0.90, 1.10), "UNSETTLED"),
            (None, "NOT RUN"),
        ],
    )
    def test_a_rival_is_judged_by_the_interval(
        self,
        interval: tuple[float, float] | None,
        verdict: str,
        common: ModuleType,
    ) -> None:
        # GIVEN the time of a rival over that of the fix WHEN it may be at most 3 % faster
        script = importlib.import_module("patch_embed")
        claim = script._no_slower("close", Ratio(value=1.0, ci=interval), "rival over fix")
        # THEN only an interval on one side of the limit decides
        assert claim.verdict == verdict

    def test_it_runs_in_short(self, tmp_path: Path) -> None:
        script = str(BENCHMARKS / "patch_embed.py")
        options = ["--quick", "--device", "cpu", "--out", str(tmp_path)]
        done = subprocess.run(
            [sys.executable, script, *options], capture_output=True, text=True, check=False
        )
        assert done.returncode in (0, 1), done.stderr
        written = json.loads((tmp_path / "patch_embed.json").read_text(encoding="utf-8"))
        names = {row["variant"] for row in written["rows"]}
        assert {"bare F.linear", "fix (view)", "Conv3d", "oneDNN off"} <= names
        assert len(written["claims"]) >= 4
