"""The script of a ticket: it runs, agrees with what was measured, and nothing gets into it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qwenprof import runner
from qwenprof.diagnosis.finding import Finding, diagnose
from qwenprof.diagnosis.projection import comparison
from qwenprof.record.published import writeup
from qwenprof.record.record import Cell, Record, Row, StageResult
from qwenprof.report.repro import (
    FOR_EVERYTHING,
    FOR_THE_CONVOLUTION,
    Case,
    reproduction,
    script,
)
from qwenprof.workload.workload import Workload
from tests.conftest import TINY, TINY_VISION, tiny_size
from tests.kept import kept

PATCHES = Case(
    batch=8,
    shape=(3, 2, 16, 16),
    kernel=(2, 16, 16),
    features=32,
    bias=True,
    dtype="fp32",
    device="cpu",
    hundredths=100,
)
CASES = {
    "patches": PATCHES,
    "no bias": replace(PATCHES, bias=False, dtype="bf16"),
    "channels last": replace(PATCHES, channels_last="channels_last_3d"),
    "clip": replace(PATCHES, batch=1, shape=(3, 4, 35, 32)),
    "images": replace(PATCHES, batch=2, shape=(3, 30, 28), kernel=(14, 14), benchmark=True),
    "sound": replace(PATCHES, batch=2, shape=(4, 40), kernel=(8,)),
    "provoked": replace(PATCHES, off=FOR_THE_CONVOLUTION),
    "all at once": replace(
        PATCHES,
        batch=2,
        shape=(3, 28, 28),
        kernel=(14, 14),
        device="cuda",
        off=FOR_EVERYTHING,
        channels_last="channels_last",
        benchmark=True,
    ),
}


def run(text: str, folder: Path, *arguments: str) -> tuple[int, str]:
    path = folder / "repro.py"
    path.write_text(text)
    done = subprocess.run(
        [sys.executable, str(path), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1, 2), done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout


def spread(said: str) -> tuple[float, float, float]:
    """Least ratio of a round, factor and most, as the script printed them."""
    found = re.search(r"linear ([0-9.]+) times as fast; by round ([0-9.]+) to ([0-9.]+);", said)
    assert found is not None, said
    factor, low, high = map(float, found.groups())
    return low, factor, high


@pytest.fixture(scope="module")
def provoked() -> Record:
    return kept("epyc-2-cores-slow-conv")


def described(record: Record, **cells: Cell) -> Record:
    """The record with other cells in what is known of its convolution."""
    result = record.stages["dispatch"]
    rows: list[Row] = [{**row, **cells} for row in result.tables["convolutions"]]
    stage = StageResult(
        status=result.status,
        duration_s=result.duration_s,
        tables={**result.tables, "convolutions": rows},
    )
    return record.with_stage("dispatch", stage)


@pytest.mark.parametrize("name", CASES)
def test_every_shape_makes_a_short_script_of_torch_alone(name: str) -> None:
    text = script(CASES[name])
    tree = compile(text, "repro.py", "exec", ast.PyCF_ONLY_AST)
    assert len(text.splitlines()) < 60
    assert max(map(len, text.splitlines())) <= 110
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert imported == {"contextlib", "statistics", "sys", "time", "torch"}
    assert not any(isinstance(node, ast.ImportFrom) for node in ast.walk(tree))


@pytest.mark.parametrize("name", ["patches", "clip", "images", "all at once"])
def test_it_runs_and_gives_its_verdict(name: str, tmp_path: Path) -> None:
    """Where the recorded factor is 1, it is reached or missed; both are answers."""
    code, said = run(script(CASES[name]), tmp_path, "2")
    verdict = said.splitlines()[-1]
    away = "CANNOT TELL: cuda is not here, this ran on cpu"
    assert verdict.startswith(("REPRODUCED", "NOT REPRODUCED", away)[code] + " (linear ")
    assert (code == 2) == (CASES[name].device == "cuda")
    low, factor, high = spread(said)
    assert 0 < low <= factor <= high
    assert "batch 2 on cpu backend" in said
    off_fp64 = re.findall(r"from fp64: conv (\S+), linear (\S+)$", said, re.MULTILINE)
    assert all(float(error) < 1e-5 for error in off_fp64[0])


def test_a_factor_out_of_reach_is_not_reproduced(tmp_path: Path) -> None:
    code, said = run(script(replace(PATCHES, hundredths=10**9)), tmp_path)
    assert code == 1
    assert "\nNOT REPRODUCED (linear " in said


@pytest.mark.parametrize(
    ("factor", "least"), [(1.0, 1.0), (1.1, 1.1), (1.3, 1.2), (4.0, 2.0), (53_700.0, 231.7)]
)
def test_a_small_factor_is_not_reproduced_by_noise(factor: float, least: float) -> None:
    text = script(replace(PATCHES, hundredths=round(100 * factor)))
    line = next(line for line in text.splitlines() if line.startswith("wanted = "))
    names = {"RECORDED": factor, "__builtins__": {"min": min, "max": max}}
    exec(line, names)  # a line of our own template
    assert names["wanted"] == pytest.approx(least, rel=1e-3)


@pytest.mark.slow
def test_its_factor_agrees_with_the_comparison(tmp_path: Path) -> None:
    """Both measured in this test on the slow path of this machine: what each saw, overlaps."""
    with wide_projection():
        options = {**TINY, "short_edge": 128, "provoke": "slow-conv"}
        stages = ["compare-patch-embed", "dispatch"]
        record = runner.run(Workload.default(**options), stages, budget_s=20.0)
    measured = comparison(record)
    assert measured is not None
    assert measured.patches >= 512
    found = reproduction(record, diagnose(record))
    assert found.script is not None, found.said

    code, said = run(found.script, tmp_path)

    low, factor, high = spread(said)
    least, most = measured.ratio.interval or (measured.ratio.value, measured.ratio.value)
    assert (low <= most and least <= high) or least <= factor <= most, (said, measured.ratio)
    assert code == 0, said
    assert f"backend {measured.backend}" in said


@contextmanager
def wide_projection() -> Iterator[None]:
    """The tiny size with a projection as wide as that of the real model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TINY_VISION, "hidden_size", 1024)
        with tiny_size():
            yield


def test_what_was_provoked_is_provoked_again(provoked: Record) -> None:
    found = reproduction(provoked, diagnose(provoked))
    assert found.script is not None
    assert "# PROVOKED ON PURPOSE" in found.script
    assert "provoked on purpose" in found.said
    assert "int((sys.argv[1:] or [760])[0]), (3, 2, 16, 16)" in found.script


def test_the_published_case_has_its_numbers() -> None:
    found = reproduction(writeup(), diagnose(writeup()))
    assert found.script is not None
    assert "[6080]" in found.script
    assert 'torch.bfloat16, "cuda"' in found.script
    assert "PROVOKED" not in found.script
    assert "RECORDED = 53700.0  # as published: " in found.script
    assert "published {RECORDED}" in found.script
    assert "recorded" not in found.script + found.said


def test_another_culprit_has_no_script(provoked: Record) -> None:
    merger = Finding(
        rule="culprit", verdict="problem", severity="critical", title="t", culprit="merger"
    )
    found = reproduction(provoked, [merger])
    assert found.script is None
    assert "what was found is about merger" in found.said


def test_a_healthy_model_has_no_script(provoked: Record) -> None:
    clear = Finding(rule="culprit", verdict="clear", severity="info", title="t")
    assert reproduction(provoked, [clear]).script is None


def test_a_record_without_shapes_says_so(simulated_gpu: Record) -> None:
    found = reproduction(simulated_gpu, diagnose(simulated_gpu))
    assert found.script is None
    assert "does not hold the shapes" in found.said


def test_a_convolution_that_the_dispatch_stage_timed(provoked: Record) -> None:
    """A Conv2d of another tower: its input is the whole image."""
    path = "vision_model.embeddings.patch_embedding"
    conv: Row = {
        "module": path,
        "dtype": "fp32",
        "kernel": "14x14",
        "input_shape": "2x3x224x224",
        "weight_shape": "1024x3x14x14",
        "bias": False,
        "memory_format": "contiguous",
    }
    times: list[Row] = [
        {"module": path, "experiment": "as dispatched", "median_s": 0.03},
        {"module": path, "experiment": "as linear", "median_s": 0.01},
    ]
    stage = StageResult(
        status="ok", duration_s=1.0, tables={"convolutions": [conv], "experiments": times}
    )
    record = Record(
        tool=provoked.tool,
        created=provoked.created,
        command=[],
        environment=provoked.environment,
        workload={"dtype": "fp32"},
        stages={"dispatch": stage},
    )
    accused = Finding(
        rule="culprit",
        verdict="problem",
        severity="critical",
        title="t",
        culprit="vision_model.embeddings",
    )
    found = reproduction(record, [accused])
    assert found.script is not None, found.said
    assert "torch.nn.Conv2d" in found.script
    assert "[2])[0]), (3, 224, 224)" in found.script
    assert "RECORDED = 3.0  # as recorded: " in found.script


KEYS = ("kernel", "input_shape", "weight_shape", "bias", "memory_format", "library_switched_off")
BAD: list[Cell] = [
    '1);__import__("os").system("true");(',
    '"""\nimport os\n"""',
    "2x16x16; import os",
    "-1x2",
    "0x0x0",
    "9" * 400,
    "1e9x1x1",
    "\u0662x\u0662x\u0662",
    1e308,
    True,
    None,
]


@pytest.mark.parametrize("cell", BAD)
@pytest.mark.parametrize(
    "key",
    ["kernel", "input_shape", "weight_shape", "bias", "memory_format", "library_switched_off"],
)
def test_no_cell_of_a_record_gets_into_the_script(provoked: Record, key: str, cell: Cell) -> None:
    """Either there is no script, or it is one of those that a clean record can have."""
    findings = diagnose(provoked)
    clean = reproduction(provoked, findings).script
    found = reproduction(described(provoked, **{key: cell}), findings)
    without_bias = clean.replace("1024, True", "1024, False") if clean else None
    assert found.script in (None, clean, without_bias)


@pytest.mark.parametrize("cell", BAD)
def test_neither_do_names(provoked: Record, cell: Cell, with_rows: Callable[..., Record]) -> None:
    findings = diagnose(provoked)
    dtyped = with_rows(
        provoked, "compare-patch-embed", "variants", lambda row: {**row, "dtype": cell}
    )
    workload: dict[str, Any] = {**provoked.workload, "dtype": cell}
    environment = {**provoked.environment, "device": {"type": str(cell)}}
    for record in (
        Record(**{**_fields(dtyped), "workload": workload}),
        Record(**{**_fields(provoked), "environment": environment}),
    ):
        assert reproduction(record, findings).script is None


def _fields(record: Record) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__}


@pytest.mark.parametrize(
    "fields",
    [
        {"batch": 0},
        {"batch": "1"},
        {"batch": 2.0},
        {"batch": True},
        {"shape": (3, 2, 16)},
        {"shape": (3, 1, 16, 16)},
        {"kernel": (1, 1, 1, 1)},
        {"features": 2**40},
        {"bias": 1},
        {"benchmark": "False"},
        {"is_published": 1},
        {"dtype": "float32"},
        {"device": "cuda:0"},
        {"off": "x"},
        {"channels_last": "y"},
        {"hundredths": 1.5},
    ],
)
def test_a_case_that_is_none_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no script can be made"):
        script(replace(PATCHES, **fields))
