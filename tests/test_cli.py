"""The command line, as a user meets it: what it prints, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import msgspec
import pytest

from qwenprof import cli
from qwenprof.diagnosis.finding import diagnose, rules
from qwenprof.record.record import Record, Row, StageResult, Tool, load, save
from qwenprof.stages.stage import stages

FAST = ["--size", "tiny", "--dtype", "fp32", "--frames", "1", "--short-edge", "64", "--budget", "4"]


def run(*arguments: str) -> int:
    return cli.run_command_line(list(arguments))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["per-layer", "--size", "5b"], "--size 5b: choose one of 2b, 4b, 8b"),
        (["diagnose", "--batch", "0"], "--batch 0: must be at least 1"),
        (["diagnose", "--batch", "x"], "'--batch'"),
        (["matmul", "--dtype", "int3"], "--dtype int3: choose one of bf16, fp16, fp32"),
        (["matmul", "--device", "warp"], "--device warp: torch knows no such device"),
        (["matmul", "--budget", "0"], "--budget 0: must be at least 1 second"),
        (["matmul", "--stages", "foo"], "--stages foo: choose from matmul"),
        (["matmul", "--out", "a-file"], "--out a-file: is a file, not a folder"),
        (["matmul", "--out", "a-file/deeper"], "give a folder you can write"),
        (["matmul", "--out", "taken"], "already holds a record.json"),
        (["matmul", "--out", "x" * 300], "name too long"),
        (["report", "x" * 300], "name too long"),
        (["matmul", "--seed", "99999999999"], "must be at most"),
        (["matmul", "--provoke", "all"], "--provoke all: choose one of slow-conv"),
        (["matmul", "--nonsense"], "qwenprof matmul --help"),
        (["nonsense"], "qwenprof --help"),
        (["report", "missing"], "cannot read missing"),
        (["findings", "a-file"], "a-file is not a qwenprof record"),
        (["report", "taken", "--format", "pdf"], "pdf"),
    ],
)
def test_a_wrong_option_ends_in_one_line_and_code_2(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (here / "a-file").write_text("not a record")
    (here / "taken").mkdir()
    (here / "taken" / "record.json").write_bytes(_empty_record())

    code = run(*arguments)

    captured = capsys.readouterr()
    assert code == 2
    assert message.lower() in captured.err.lower()
    assert captured.err.count("\n") == 1, "one line"
    assert "Traceback" not in captured.err
    assert captured.out == ""


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "locked").mkdir(mode=0o500)

    assert run("matmul", "--out", "locked") == 2
    assert "not writable" in capsys.readouterr().err


def test_a_device_that_is_not_there_is_one_line_too(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    if torch.accelerator.is_available():
        pytest.skip("there is an accelerator here")

    assert run("matmul", "--device", "cuda") == 2
    assert "use --device cpu" in capsys.readouterr().err


def test_help_names_every_stage_and_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    overview = capsys.readouterr().out
    assert all(name in overview for name in [*stages(), "diagnose", "report", "findings", "env"])

    for stage in stages().values():
        assert run(stage.name, "--help") == 0
        text = " ".join(capsys.readouterr().out.split())
        assert stage.question in text
        assert stage.example in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    import qwenprof

    assert run("--version") == 0
    assert capsys.readouterr().out == f"qwenprof {qwenprof.__version__}\n"


def test_diagnose_ends_with_the_summary_and_the_path_of_the_report(
    here: Path, tiny: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("diagnose", *FAST) == 0

    captured = capsys.readouterr()
    report = Path(captured.out.rstrip().rpartition("report: ")[2])
    assert report.is_file()
    assert report.parent.parent == Path("qwenprof-reports")
    assert "cpu-qwen3-vl-tiny" in report.parent.name
    assert all(f"✓ {name}" in captured.err for name in stages())
    assert max(map(len, captured.out.splitlines()[:-1])) <= 80
    record = load(report.parent)
    assert list(record.stages) == list(stages())
    assert record.command[:4] == ["qwenprof", "diagnose", "--size", "tiny"]
    assert len(list(report.parent.glob("*.png"))) >= 5


def test_json_prints_the_record_alone_and_quiet_the_path_alone(
    here: Path, tiny: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("matmul", *FAST, "--json", "--out", "one") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == json.loads((here / "one" / "record.json").read_text())
    assert printed.err == ""

    assert run("matmul", *FAST, "-q", "--out", "two") == 0
    printed = capsys.readouterr()
    assert printed.out == "two/report.md\n"
    assert printed.err == ""


def test_a_stage_alone_runs_with_what_it_requires(here: Path, tiny: dict[str, Any]) -> None:
    assert run("per-layer", *FAST, "-q", "--out", "out") == 0

    record = load(here / "out")
    assert list(record.stages) == ["matmul", "per-layer"]


def test_a_failing_stage_is_code_3_and_the_others_are_kept(
    here: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("the device fell off the bus")

    monkeypatch.setattr("qwenprof.harness.work_counter.count_work", broken)

    assert run("per-layer", *FAST, "-q", "--out", "out") == 3

    record = load(here / "out")
    assert record.stages["matmul"].status == "ok"
    assert "fell off the bus" in str(record.stages["per-layer"].reason)
    assert "fell off the bus" in (here / "out" / "report.md").read_text()


def test_nothing_private_is_in_the_record(here: Path, tiny: dict[str, Any]) -> None:
    secret = here / "somebody"

    assert run("matmul", *FAST, "-q", "--out", str(secret)) == 0

    text = (secret / "record.json").read_text() + (secret / "report.md").read_text()
    assert "somebody" not in text
    assert str(Path.home()) not in text
    assert os.uname().nodename not in text or len(os.uname().nodename) < 4


def test_report_and_findings_tell_a_record_again(
    here: Path, tiny: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run("matmul", *FAST, "-q", "--out", "out")
    capsys.readouterr()

    assert run("report", "out", "--out", "again") == 0
    assert "again/report.md" in capsys.readouterr().out
    assert (here / "again" / "report.md").read_text() == (here / "out" / "report.md").read_text()

    assert run("findings", "out/record.json") == 0
    assert "datasheet" in capsys.readouterr().out


def test_the_findings_start_with_the_verdict_and_end_with_what_was_not_asked(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """GIVEN a record in which only the convolution was compared."""
    save(compared(0.008, 0.002), here / "record.json")

    assert run("findings", "record.json") == 0

    printed = capsys.readouterr().out
    headline, _, rest = printed.strip().partition("\n  culprit ")
    answers, _, details = rest.partition("\n\n")
    finding = next(each for each in diagnose(load(here)) if each.rule == "conv-against-linear")
    assert headline == finding.title
    assert answers.startswith("patch_embed.proj\n  cause   Cudnn runs")
    assert re.findall(r"^  (\w+)", answers, re.MULTILINE) == ["cause", "sure", "cure", "gain"]
    assert answers.endswith("  gain    the part becomes 4.00 x as fast")
    assert details.startswith(f"✗ {finding.title}")
    unasked = " ".join(printed.partition("Not asked, because their stages did not run:")[2].split())
    assert {"device-health", "batching", "culprit"} <= set(unasked.rstrip(".").split(", "))
    assert "conv-against-linear" not in unasked
    assert max(map(len, printed.splitlines())) <= 80


def test_findings_as_json_are_verdict_layers_and_findings(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(compared(0.008, 0.002), here / "record.json")

    assert run("findings", "record.json", "--json") == 0

    told = json.loads(capsys.readouterr().out)
    assert list(told) == ["verdict", "layers", "findings"]
    assert set(told["verdict"]) == {
        "headline",
        "culprit",
        "cause",
        "confidence",
        "confidence_because",
        "cure",
        "end_to_end",
        "part_factor",
        "forward_share",
        "forward_factor",
        "gain",
        "rules",
        "cleared",
    }
    assert told["verdict"]["part_factor"] == 4.0
    assert told["verdict"]["rules"] == ["conv-against-linear"]
    assert [layer["name"] for layer in told["layers"]] == ["model code", "PyTorch", "cuDNN"]
    assert set(told["layers"][0]) == {"name", "role", "evidence", "fix"}
    assert {finding["rule"] for finding in told["findings"]} == set(rules())
    for finding in told["findings"]:
        assert set(finding) == {
            "rule",
            "verdict",
            "severity",
            "title",
            "culprit",
            "cause",
            "cost_share",
            "factor",
            "confidence",
            "evidence",
            "advice",
            "links",
        }


def test_env_prints_the_environment_as_text_and_as_json(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("env", "--device", "cpu") == 0
    assert "[torch]" in capsys.readouterr().out
    assert run("env", "--device", "cpu", "--json") == 0
    assert json.loads(capsys.readouterr().out)["device"]["type"] == "cpu"


def test_env_warns_of_known_issues_on_stderr_and_lists_them_as_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """GIVEN the versions of the published case, THEN its cause is possible before anything runs."""
    facts = {
        "device": {"type": "cuda"},
        "torch": {"version": "2.9.0+cu128", "cudnn_runtime": 91002},
    }
    monkeypatch.setattr("qwenprof.record.environment.environment", lambda _: facts)

    assert run("env", "--device", "cpu") == 0
    printed = capsys.readouterr()
    assert "possible: PyTorch 2.9.0 never calls cuDNN" in printed.err
    assert "possible" not in printed.out

    assert run("env", "--device", "cpu", "--json") == 0
    printed = capsys.readouterr()
    issues = {each["id"]: each for each in json.loads(printed.out)["known_issues"]}
    assert set(issues["torch-2.9.0-conv3d-gate"]) == set(cli.ISSUE_KEYS)
    assert printed.err == ""


def test_tab_completes_commands_and_values() -> None:
    def complete(words: str) -> list[str]:
        environment = os.environ | {
            "_QWENPROF_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split(" ")) - 1),
        }
        command = [sys.executable, "-m", "qwenprof"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return done.stdout.split()

    assert "per-layer" in complete("qwenprof per")
    assert complete("qwenprof matmul --dtype f") == ["fp16", "fp32"]


INTERRUPTED = """
    import sys
    from tests.conftest import TINY_VISION
    from qwenprof.workload.families import qwen3_vl
    text = qwen3_vl._text(hidden=128, layers=2, heads=8, intermediate=256)
    qwen3_vl.FAMILY.sizes["tiny"] = qwen3_vl._size(TINY_VISION, text, tied=True)
    from qwenprof.cli import run_command_line
    sys.exit(run_command_line(sys.argv[1:]))
"""


def test_ctrl_c_in_the_middle_of_a_stage_keeps_what_was_measured(tmp_path: Path) -> None:
    """GIVEN a real process in the middle of its batch sweep, WHEN it gets the signal."""
    out = tmp_path / "out"
    arguments = ["diagnose", *FAST, "--budget", "60", "--verbose", "--out", str(out)]
    command = [sys.executable, "-c", textwrap.dedent(INTERRUPTED), *arguments]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "batch 2" in line:
            process.send_signal(signal.SIGINT)
            break
    process.communicate()

    record = load(out)
    assert process.returncode == 130
    assert record.stages["matmul"].status == "ok"
    assert record.stages["batch-sweep"].status == "interrupted"
    assert record.rows("batch-sweep", "batches")[0]["batch"] == 1
    assert "attention-sweep" not in record.stages
    assert "interrupted" in (out / "report.md").read_text()


def compared(conv_s: float, linear_s: float) -> Record:
    """A record in which cuDNN's Conv3d was timed beside the equal Linear, and nothing else."""
    common: Row = {"dtype": "bf16", "patches": 760, "direction": "forward", "n": 40, "status": "ok"}
    times = (("Conv3d", conv_s, "Cudnn"), ("Linear", linear_s, "GEMM"))
    rows: list[Row] = [
        common
        | {"variant": name, "backend": backend, "median_s": median_s, "speedup": conv_s / median_s}
        for name, median_s, backend in times
    ]
    result = StageResult(status="ok", duration_s=1.0, tables={"variants": rows})
    return Record(
        tool=Tool(name="qwenprof", version="0"),
        created="2026-01-01T00:00:00+00:00",
        command=[],
        environment={"device": {"type": "cuda"}},
        workload={"dtype": "bf16"},
        stages={"compare-patch-embed": result},
    )


def _empty_record() -> bytes:
    record = Record(
        tool=Tool(name="qwenprof", version="0"),
        created="2026-01-01T00:00:00+00:00",
        command=[],
        environment={},
        workload={},
    )
    return msgspec.json.encode(record)
