"""Right or wrong numbers: what fails accuses, and a control that passes disqualifies."""

from __future__ import annotations

import re
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


OUTPUT = check("output", reference="fp64")
FIXED = check("output", variant="fix (view)", reference="fp64")


def judged(*rows: Row, device: str = "cuda") -> Finding:
    result = StageResult(status="ok", duration_s=1.0, tables={"checks": list(rows)})
    record = Record(
        tool=Tool(name="qwenprof", version="0"),
        created="2026-01-01T00:00:00+00:00",
        command=[],
        environment={"device": {"type": device}},
        workload={"dtype": "bf16"},
        stages={"verify": result},
    )
    return rules()["numerics"].judge(record)


def test_all_passed_and_the_control_failed() -> None:
    finding = judged(CONTROL, OUTPUT, FIXED)

    assert finding.verdict == "clear"
    assert finding.title.endswith("2 of 2 checks passed")
    assert "The control fails, as it must" in finding.evidence[1]
    assert "0.190 where 0.00390 is allowed" in finding.evidence[1]


def test_a_wrong_gradient_in_the_workloads_dtype_is_critical() -> None:
    finding = judged(CONTROL, check(value=0.19, passed=False), FIXED)

    assert (finding.verdict, finding.severity) == ("problem", "critical")
    assert finding.title.startswith("The convolution computes wrong numbers: weight gradient in")
    assert finding.title.endswith("bf16, 48.7 x its tolerance")
    assert finding.culprit == "patch_embed.proj"
    assert "Do not train in bf16" in finding.advice
    assert "163539" in finding.links[0]


def test_the_published_bug_is_not_named_where_it_cannot_be() -> None:
    wrong = check(value=0.19, passed=False)

    assert judged(CONTROL, wrong, FIXED, device="cpu").links == ()
    assert judged(CONTROL, wrong | {"dtype": "fp16"}, FIXED).links == ()


def test_a_little_beyond_rounding_is_not_called_wrong() -> None:
    finding = judged(CONTROL, OUTPUT, FIXED, check(dtype="fp16", value=0.0066, passed=False))

    assert (finding.verdict, finding.severity) == ("problem", "info")
    assert "less exact than rounding allows" in finding.title
    assert "1.69 x its tolerance" in finding.title
    assert "Do not train in fp16" in finding.advice


@pytest.mark.parametrize(
    ("dtype", "value", "severity"),
    [
        ("bf16", 0.19, "critical"),
        ("bf16", 0.005, "warning"),
        ("fp16", 0.19, "warning"),
        ("fp16", 0.005, "info"),
    ],
)
def test_how_bad_it_is_depends_on_how_far_off_and_in_which_dtype(
    dtype: str, value: float, severity: str
) -> None:
    finding = judged(CONTROL, OUTPUT, FIXED, check(dtype=dtype, value=value, passed=False))

    assert finding.severity == severity


def test_a_result_that_is_no_number_is_wrong() -> None:
    finding = judged(CONTROL, FIXED, check(value=None, passed=False))

    assert finding.title == (
        "The convolution computes wrong numbers: weight gradient in bf16, no number"
    )


def test_a_fix_that_fails_alone_is_accused_itself() -> None:
    finding = judged(CONTROL, OUTPUT, FIXED | {"value": 0.5, "passed": False})

    assert finding.verdict == "problem"
    assert finding.title.startswith("The fix does not pass 1 check")
    assert "Do not use the fix" in finding.advice
    assert finding.culprit is None


def test_where_both_fail_the_fix_is_not_to_blame() -> None:
    finding = judged(*(row | {"passed": False, "value": 0.01} for row in (CONTROL, OUTPUT, FIXED)))

    assert finding.title.startswith("Convolution and matrix product are both less exact")
    assert finding.culprit is None
    assert "Do not use the fix" not in finding.advice


def test_an_absolute_difference_accuses_nobody_whose_results_are_exact() -> None:
    absolute = check("published", variant="fix (view)", metric="max abs difference", passed=False)

    assert judged(CONTROL, OUTPUT, FIXED, absolute).verdict == "clear"
    assert judged(CONTROL, absolute).verdict == "problem"


def test_a_control_that_passes_makes_the_rest_worthless() -> None:
    finding = judged(CONTROL | {"passed": True, "value": 0.001}, OUTPUT, FIXED)

    assert finding.verdict == "not assessed"
    assert "the other checks prove nothing" in finding.evidence[0]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([OUTPUT, FIXED], "no control was run"),
        ([CONTROL, OUTPUT], r"fix \(view\) was not held against fp64 in bf16"),
        ([CONTROL, FIXED], "Conv3d was not held against fp64 in bf16"),
        ([CONTROL, OUTPUT | {"dtype": "fp32"}, FIXED], "Conv3d was not held"),
    ],
)
def test_without_what_a_clear_answer_needs_it_is_not_clear(rows: list[Row], reason: str) -> None:
    finding = judged(*rows)

    assert finding.verdict == "not assessed"
    assert re.search(reason, finding.evidence[0])


def test_what_could_not_be_checked_is_not_passed() -> None:
    missing = check("whole forwards", passed=None, value=None)

    finding = judged(CONTROL, OUTPUT, FIXED, missing)

    assert finding.title.endswith("2 of 2 checks passed")
    assert any("Not checked: whole forwards" in sentence for sentence in finding.evidence)


@pytest.mark.parametrize("rows", [[], [CONTROL], [check(passed=None)], [check(passed="yes")]])
def test_without_checks_nothing_is_clear(rows: list[Row]) -> None:
    assert judged(*rows).verdict == "not assessed"
