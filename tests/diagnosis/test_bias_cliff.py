"""Whether the bias of the convolution is the cliff."""

from __future__ import annotations

import pytest

from qwenprof.diagnosis.finding import Finding
from tests.diagnosis.convolutions import GATED, MODULE, compared, pair, row
from tests.diagnosis.handmade import disturbed, judged, record

BIAS = "bias-cliff"


def said(finding: Finding) -> str:
    return " ".join(finding.evidence)


def apart(
    ratio: float,
    interval: tuple[float, float] | None = None,
    backend: str = "SlowDilated3d",
    forward_s: float | None = None,
    **cells: str | int | float | bool | None,
) -> Finding:
    conv_s = 16.0
    bare = row("bias apart", conv_s / ratio, ratio, interval, backend=backend, **cells)
    variants = [*pair(backend, conv_s, 0.0003), bare]
    return judged(BIAS, compared(variants, torch=GATED, forward_s=forward_s))


def test_a_bias_that_is_the_cliff() -> None:
    finding = apart(400.0, forward_s=16.4)

    assert (finding.verdict, finding.severity, finding.culprit) == ("problem", "critical", MODULE)
    assert "one fill for each feature of each patch" in finding.cause
    assert finding.cost_share == pytest.approx((16.0 - 0.04) / 16.4)
    assert said(finding).startswith(
        "6,080 patches in bf16: with its bias the convolution takes 16.0 s, with the bias added "
        "after it 40.0 ms: 400 x"
    )
    assert said(finding).endswith("It costs 97.3 % of the forward.")


@pytest.mark.parametrize(
    ("forward_s", "severity"),
    [(None, "warning"), (17.0, "critical"), (160.0, "warning"), (1000.0, "info")],
)
def test_how_bad_the_cliff_is_depends_on_its_share(forward_s: float | None, severity: str) -> None:
    assert apart(400.0, forward_s=forward_s).severity == severity


def test_launches_are_blamed_only_where_the_backend_launches() -> None:
    cause = apart(3.0, backend="Mkldnn").cause

    assert "launches" not in cause
    assert cause.startswith("Mkldnn takes longer")


def test_a_bias_that_costs_little_is_cleared() -> None:
    assert apart(1.05).verdict == "clear"
    assert apart(1.05).title.startswith("Not the bias")
    assert apart(1.6, (1.2, 2.0)).verdict == "not assessed", "the interval leaves both open"


def test_a_convolution_without_a_bias_has_no_cliff() -> None:
    variants = [each | {"bias": False} for each in pair("SlowDilated3d", 0.03, 0.0003)]

    finding = judged(BIAS, compared(variants, torch=GATED))

    assert (finding.verdict, finding.title) == ("clear", "The convolution has no bias")


def test_a_bias_that_was_not_taken_apart_is_not_assessed() -> None:
    alone = judged(BIAS, compared(pair("SlowDilated3d", 16.1, 0.0003)))

    assert alone.verdict == "not assessed"
    assert judged(BIAS, record()).verdict == "not assessed"
    assert apart(400.0, patches=64).verdict == "not assessed"
    assert "different numbers of patches" in said(apart(400.0, patches=64))


@pytest.mark.parametrize(
    ("backend", "verdict"), [("Mkldnn", "not assessed"), ("SlowDilated3d", "problem")]
)
def test_a_librarys_bias_that_looks_expensive_in_a_disturbed_run(
    backend: str, verdict: str
) -> None:
    bare = row("bias apart", 0.005, 5.0, backend=backend)
    quiet = compared([*pair(backend, 0.025, 0.004), bare])

    assert judged(BIAS, quiet).verdict == "problem"
    assert judged(BIAS, disturbed(quiet, "compare-patch-embed")).verdict == verdict
