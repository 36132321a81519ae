"""Right or wrong numbers: what fails accuses, and a control that passes disqualifies."""

from __future__ import annotations

from typing import Any

import pytest

from qwenprof.diagnosis.finding import Finding, rules
from qwenprof.record.record import Record, Row, StageResult, Tool


def check(name: str = "weight gradient", **cells: Any) -> Row:
    base: Row = {
        "check": name,
        "module": "patch_embed.proj",
        "variant": "Conv3d",
        "dtype": "bf16",
        "metric": "relative error (2-norm)",
        "value": 0.0017,
        "tolerance": 0.0039,
        "passed": True,
        "must_fail": False,
    }
    return base | cells


CONTROL = check(
    "control: weight gradient",
    variant="slow_conv_dilated3d",
    value=0.19,
    passed=False,
    must_fail=True,
)


def judged(*rows: Row) -> Finding:
    result = StageResult(status="ok", duration_s=1.0, tables={"checks": list(rows)})
    record = Record(
        tool=Tool(name="qwenprof", version="0"),
        created="2026-01-01T00:00:00+00:00",
        command=[],
        environment={},
        workload={"dtype": "bf16"},
        stages={"verify": result},
    )
    return rules()["numerics"].judge(record)


def test_all_passed_and_the_control_failed() -> None:
    finding = judged(CONTROL, check("output"), check(variant="fix (view)"))

    assert finding.verdict == "clear"
    assert finding.title.endswith("2 of 2 checks passed")
    assert "The control fails, as it must" in finding.evidence[1]
    assert "0.190 where 0.00390 is allowed" in finding.evidence[1]


def test_a_wrong_gradient_in_the_workloads_dtype_is_critical() -> None:
    finding = judged(CONTROL, check(value=0.19, passed=False), check(variant="fix (view)"))

    assert (finding.verdict, finding.severity) == ("problem", "critical")
    assert finding.title == "The convolution computes wrong numbers: weight gradient in bf16"
    assert finding.culprit == "patch_embed.proj"
    assert "Do not train" in finding.advice


def test_a_wrong_gradient_in_another_dtype_is_a_warning() -> None:
    finding = judged(CONTROL, check(), check(dtype="fp16", value=0.01, passed=False))

    assert (finding.verdict, finding.severity) == ("problem", "warning")
    assert "not the workload's dtype" in finding.advice


def test_a_fix_that_fails_is_accused_itself() -> None:
    finding = judged(CONTROL, check(), check(variant="fix (view)", value=0.5, passed=False))

    assert finding.verdict == "problem"
    assert finding.title.startswith("The fix does not pass 1 check")
    assert "Do not use the fix" in finding.advice
    assert finding.culprit is None


def test_a_control_that_passes_makes_the_rest_worthless() -> None:
    finding = judged(CONTROL | {"passed": True, "value": 0.001}, check())

    assert finding.verdict == "not assessed"
    assert "the other checks prove nothing" in finding.evidence[0]


def test_a_missing_control_is_said() -> None:
    finding = judged(check())

    assert finding.verdict == "clear"
    assert any("No control was run" in sentence for sentence in finding.evidence)


def test_what_could_not_be_checked_is_not_passed() -> None:
    finding = judged(CONTROL, check(), check("whole forwards", passed=None, value=None))

    assert finding.title.endswith("1 of 1 check passed")
    assert any("Not checked: whole forwards" in sentence for sentence in finding.evidence)


@pytest.mark.parametrize("rows", [[], [CONTROL], [check(passed=None)], [check(passed="yes")]])
def test_without_checks_nothing_is_clear(rows: list[Row]) -> None:
    assert judged(*rows).verdict == "not assessed"
