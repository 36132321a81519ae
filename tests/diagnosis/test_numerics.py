"""Right or wrong numbers, an exact fix or not: what fails accuses, a control that passes voids."""

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
        "reference": "fp64",
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
OUTPUT, FIXED = check("output"), check("output", variant="fix (view)")
GRADIENT = check(variant="fix (view)")


def judged(rule: str, *rows: Row, device: str = "cuda") -> Finding:
    result = StageResult(status="ok", duration_s=1.0, tables={"checks": list(rows)})
    record = Record(
        tool=Tool(name="qwenprof", version="0"),
        created="2026-01-01T00:00:00+00:00",
        command=[],
        environment={"device": {"type": device}},
        workload={"dtype": "bf16"},
        stages={"verify": result},
    )
    return rules()[rule].judge(record)


def numbers(*rows: Row, device: str = "cuda") -> Finding:
    return judged("numerics", *rows, device=device)


def exactness(*rows: Row) -> Finding:
    return judged("exactness", *rows)


def test_all_passed_and_the_control_failed() -> None:
    conv, fix = (each(CONTROL, OUTPUT, FIXED, GRADIENT) for each in (numbers, exactness))

    assert (conv.verdict, fix.verdict) == ("clear", "clear")
    assert conv.title == "The convolution computes the right numbers: 1 of 1 check passed"
    assert fix.title == "The fix is exact: 2 of 2 checks passed"
    for finding in (conv, fix):
        assert "The control fails, as it must" in finding.evidence[0]
        assert "0.190 where 0.00390 is allowed" in finding.evidence[0]


def test_a_wrong_gradient_in_the_workloads_dtype_is_critical() -> None:
    rows = (CONTROL, OUTPUT, check(value=0.19, passed=False), FIXED, GRADIENT)
    finding = numbers(*rows)

    assert (finding.verdict, finding.severity) == ("problem", "critical")
    assert finding.title.startswith("The convolution computes wrong numbers: weight gradient in")
    assert finding.title.endswith("bf16, 48.7 x its tolerance")
    assert finding.culprit == "patch_embed.proj"
    assert "Do not train in bf16" in finding.advice
    assert "163539" in finding.links[0]
    assert exactness(*rows).verdict == "clear", "the fault of the convolution is not the fix's"


def test_the_published_bug_is_not_named_where_it_cannot_be() -> None:
    wrong = check(value=0.19, passed=False)

    assert numbers(CONTROL, wrong, FIXED, device="cpu").links == ()
    assert numbers(CONTROL, wrong | {"dtype": "fp16"}, FIXED).links == ()


def test_a_little_beyond_rounding_is_not_called_wrong() -> None:
    finding = numbers(CONTROL, OUTPUT, FIXED, check(dtype="fp16", value=0.0066, passed=False))

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
    wrong = check(dtype=dtype, value=value, passed=False)

    assert numbers(CONTROL, OUTPUT, FIXED, wrong).severity == severity
    fixed = wrong | {"variant": "fix (view)"}
    assert exactness(CONTROL, OUTPUT, FIXED, fixed).severity == severity


def test_a_result_that_is_no_number_is_wrong() -> None:
    finding = numbers(CONTROL, FIXED, check(value=None, passed=False))

    assert finding.title == (
        "The convolution computes wrong numbers: weight gradient in bf16, no number"
    )


def test_a_fix_that_fails_alone_is_accused_itself() -> None:
    rows = (CONTROL, OUTPUT, FIXED | {"value": 0.5, "passed": False})
    finding = exactness(*rows)

    assert (finding.verdict, finding.severity) == ("problem", "critical")
    assert finding.title == "The fix does not pass 1 check of its own"
    assert "Do not use the fix" in finding.advice
    assert numbers(*rows).verdict == "clear", "the fault of the fix is not the convolution's"


def test_a_checkpoint_that_changed_is_the_fixs_own_fault() -> None:
    changed = check(
        "checkpoint",
        variant="linearize_model()",
        dtype=None,
        metric="differing elements",
        value=8.0,
        tolerance=0.0,
        passed=False,
    )

    finding = exactness(CONTROL, OUTPUT, FIXED, changed)

    assert (finding.verdict, finding.severity) == ("problem", "critical")


def test_where_both_fail_the_fix_is_not_to_blame() -> None:
    rows = [row | {"passed": False, "value": 0.01} for row in (CONTROL, OUTPUT, FIXED)]

    assert numbers(*rows).title.startswith("Convolution and matrix product are both less exact")
    assert numbers(*rows).culprit is None
    assert exactness(*rows).verdict == "not assessed"
    assert "fails as the convolution does" in exactness(*rows).evidence[0]


def test_an_absolute_difference_accuses_nobody_whose_results_are_exact() -> None:
    absolute = check(
        "published",
        variant="fix (view)",
        metric="max abs difference",
        reference="Conv3d",
        passed=False,
    )

    assert exactness(CONTROL, OUTPUT, FIXED, absolute).verdict == "clear"
    assert exactness(CONTROL, absolute).verdict == "problem"


@pytest.mark.parametrize("rule", ["numerics", "exactness"])
def test_a_control_that_passes_makes_the_rest_worthless(rule: str) -> None:
    passing = CONTROL | {"passed": True, "value": 0.001}

    for rows in ([OUTPUT, FIXED], [row | {"passed": False} for row in (OUTPUT, FIXED)]):
        finding = judged(rule, passing, *rows)
        assert finding.verdict == "not assessed"
        assert "the other checks prove nothing" in finding.evidence[0]


@pytest.mark.parametrize(
    ("rule", "rows", "reason"),
    [
        ("numerics", [OUTPUT], "No control was run"),
        ("exactness", [FIXED], "No control was run"),
        ("exactness", [CONTROL, OUTPUT], "The fix was not checked"),
        ("numerics", [CONTROL, FIXED], "The convolution was not held against fp64"),
        ("numerics", [CONTROL, OUTPUT | {"dtype": "fp32"}], "Conv3d was not held.*in bf16"),
        ("exactness", [CONTROL, FIXED | {"reference": "Conv3d"}], "was not held against fp64"),
    ],
)
def test_without_what_a_clear_answer_needs_it_is_not_clear(
    rule: str, rows: list[Row], reason: str
) -> None:
    finding = judged(rule, *rows)

    assert finding.verdict == "not assessed"
    assert re.search(reason, finding.evidence[0])


def test_what_could_not_be_checked_is_not_passed() -> None:
    missing = check("whole forwards", variant=None, passed=None, value=None)

    finding = exactness(CONTROL, OUTPUT, FIXED, missing)

    assert finding.title.endswith("1 of 1 check passed")
    assert any("Not checked: whole forwards" in sentence for sentence in finding.evidence)


@pytest.mark.parametrize("rule", ["numerics", "exactness"])
@pytest.mark.parametrize("rows", [[], [CONTROL], [check(passed=None)], [check(passed="yes")]])
def test_without_checks_nothing_is_clear(rule: str, rows: list[Row]) -> None:
    assert judged(rule, *rows).verdict == "not assessed"
