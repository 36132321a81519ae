"""The rules about the patch projection: on a slow loop, or beaten by the linear that it equals."""

from __future__ import annotations

import msgspec
import pytest

from qwenprof.diagnosis.finding import Finding
from qwenprof.diagnosis.projection import UNMISTAKABLE
from qwenprof.record.record import Record, Row, Series, StageResult
from tests.diagnosis.convolutions import (
    FEATURES,
    GATED,
    HEALTHY_CPU,
    HEALTHY_GPU,
    MODULE,
    PATCHES,
    compared,
    pair,
    row,
    without_interval,
)
from tests.diagnosis.handmade import disturbed, judged, record

SLOW, AGAINST_LINEAR = "conv-slow-backend", "conv-against-linear"
LAUNCHES = PATCHES * (FEATURES + 2)


def said(finding: Finding) -> str:
    return " ".join(finding.evidence)


def gated(
    backend: str | None = "SlowDilated3d",
    conv_s: float = 16.1,
    forward_s: float | None = None,
    latency_s: float | None = None,
) -> Record:
    """The published kind: torch 2.9.0 on a GPU, bf16, 6.24 million launches."""
    variants = pair(backend, conv_s, 0.0003)
    return compared(variants, torch=GATED, forward_s=forward_s, latency_s=latency_s)


# a slow loop of PyTorch


def test_a_convolution_in_a_slow_loop_is_named_with_its_cause() -> None:
    finding = judged(SLOW, gated(forward_s=16.2))

    assert (finding.verdict, finding.severity, finding.confidence) == (
        "problem",
        "critical",
        "high",
    )
    assert finding.culprit == MODULE
    assert finding.title == (
        "Conv3d in bf16 runs in PyTorch's slow loop SlowDilated3d: the equal Linear is 53,700 x "
        "as fast"
    )
    assert "because the gate of torch 2.9.0+cu128 keeps cuDNN 9.10.2 away from bf16" in (
        finding.cause
    )
    assert finding.cost_share == pytest.approx(16.0997 / 16.2)
    assert finding.factor == pytest.approx(16.1 / 0.0003)
    assert "the memory format is contiguous (contiguous)" in said(finding)
    assert "apply_fix" in finding.advice
    assert "163539" in finding.links[0]


@pytest.mark.parametrize(
    ("forward_s", "severity"),
    [(None, "critical"), (1.5, "critical"), (4.0, "warning"), (40.0, "warning"), (200, "info")],
)
def test_a_slow_loop_weighs_what_it_costs_of_the_forward(
    forward_s: float | None, severity: str
) -> None:
    """However little it costs here, it grows with the patches."""
    given = compared(pair("SlowDilated3d", 1.0, 0.001), torch=GATED, forward_s=forward_s)

    assert judged(SLOW, given).severity == severity


def test_one_sample_of_a_disturbed_run_accuses_no_healthy_backend() -> None:
    no_interval: Row = {"speedup_low": None, "speedup_high": None}
    conv, linear = pair("Mkldnn", 0.028, 0.00116)
    given = compared([conv | no_interval, linear | no_interval])

    assert judged(AGAINST_LINEAR, given).verdict == "problem"
    assert judged(AGAINST_LINEAR, disturbed(given, "compare-patch-embed")).verdict == "not assessed"


def test_a_healthy_backend_is_in_no_slow_loop() -> None:
    finding = judged(SLOW, compared(pair("Cudnn", 0.012, 0.001)))

    assert (finding.verdict, finding.culprit) == ("clear", None)
    assert "it takes Cudnn" in finding.title
    assert "12.0 x" in said(finding)


def test_a_slow_loop_that_does_no_harm_is_cleared() -> None:
    finding = judged(SLOW, compared(pair("Slow3d", 0.0012, 0.001), device_type="cpu"))

    assert finding.verdict == "clear"
    assert "does no harm" in finding.title


def test_a_slow_loop_whose_interval_reaches_down_to_harmless_accuses_nobody() -> None:
    variants = pair("Slow3d", 0.003, 0.001)
    variants[1] |= {"speedup_low": 1.2, "speedup_high": 5.0}

    assert judged(SLOW, compared(variants, device_type="cpu")).verdict == "clear"


def test_without_a_comparison_nothing_is_said_of_the_backend() -> None:
    other_dtype = [each | {"dtype": "fp32"} for each in pair("SlowDilated3d", 16.1, 0.0003)]
    alone = pair("SlowDilated3d", 16.1, 0.0003)[:1]

    for rule in (SLOW, AGAINST_LINEAR):
        for given in (record(), compared(other_dtype), compared(alone)):
            assert judged(rule, given).verdict == "not assessed"


def test_a_library_that_is_off_for_everything_is_not_about_this_convolution() -> None:
    off = HEALTHY_CPU | {"onednn_enabled": False}
    given = compared(pair("Slow3d", 7.7, 0.009), device_type="cpu", torch=off)
    rates: list[Row] = [{"dtype": "bf16", "tflops": 0.001}, {"dtype": "fp32", "tflops": 0.05}]
    slow = given.with_stage(
        "matmul", StageResult(status="ok", duration_s=1.0, tables={"gemm": rates})
    )

    finding = judged(SLOW, slow)

    assert finding.verdict == "not assessed"
    assert "oneDNN is switched off for the whole process" in said(finding)
    assert judged(SLOW, given).verdict == "problem", "nothing shows that products suffer too"


def test_a_library_that_is_off_for_this_convolution_is_its_cause() -> None:
    given = compared(
        pair("Slow3d", 7.7, 0.009), device_type="cpu", convolution={"library_switched_off": True}
    )

    finding = judged(SLOW, given)

    assert finding.verdict == "problem"
    assert finding.cause.endswith("because oneDNN is switched off")
    assert finding.advice.startswith("Switch oneDNN on again. Or else: ")
    assert "launches" not in said(finding)


def test_a_dtype_that_the_cpu_cannot_is_the_cause() -> None:
    cannot: Row = {"library_dtype_supported": False}
    given = compared(pair("Slow3d", 0.7, 0.009), device_type="cpu", convolution=cannot)

    finding = judged(SLOW, given)

    assert "oneDNN does not compute in bf16 on this CPU" in finding.cause
    assert "called where 3 conditions hold; this does not" in said(finding)


def test_a_slow_loop_whose_cause_is_not_known_is_still_a_slow_loop() -> None:
    finding = judged(SLOW, compared(pair("SlowDilated3d", 16.1, 0.0003), torch=HEALTHY_GPU))

    assert finding.verdict == "problem"
    assert "because" not in finding.cause


# a slow loop that nobody asked about, inferred


def test_a_closed_gate_and_a_time_of_plain_launches_are_enough_to_infer_it() -> None:
    finding = judged(SLOW, gated(None))

    assert (finding.verdict, finding.confidence) == ("problem", "medium")
    assert "most likely runs in PyTorch's slow loop SlowDilated3d" in finding.title
    assert "The backend was not recorded" in said(finding)
    assert "an ordinary launch" in said(finding)
    assert f"{16.1 / LAUNCHES * 1e6:.3g} us for each" in said(finding)


@pytest.mark.parametrize(
    "given",
    [
        gated(None, conv_s=0.05),  # a closed gate, and 8 ns for each launch
        compared(pair(None, 16.1, 0.0003), torch={}),  # 2.58 us for each, and no version
    ],
)
def test_one_of_both_signs_leaves_it_likely(given: Record) -> None:
    assert judged(SLOW, given).confidence == "low"


@pytest.mark.parametrize(
    "given",
    [
        gated(None, conv_s=0.0003 * UNMISTAKABLE * 0.9),
        compared(pair(None, 0.05, 0.0003), torch=HEALTHY_GPU),
        # oneDNN in bf16 may be a hundred times as slow as a matrix product, and launches nothing
        compared(pair(None, 16.1, 0.1), device_type="cpu"),
    ],
)
def test_neither_sign_or_a_small_factor_tells_nothing(given: Record) -> None:
    finding = judged(SLOW, given)

    assert finding.verdict == "not assessed"
    assert "not recorded" in said(finding)


def test_what_is_inferred_on_a_cpu_is_the_loop_of_a_cpu() -> None:
    cannot: Row = {"library_dtype_supported": False}
    finding = judged(SLOW, compared(pair(None, 16.1, 0.1), device_type="cpu", convolution=cannot))

    assert "slow loop Slow3d" in finding.title
    assert "launches" not in said(finding)
    assert finding.confidence == "low"


# what explains the time


def test_the_launches_are_told_with_the_latency_that_was_measured() -> None:
    finding = judged(SLOW, gated(latency_s=2.5e-6))

    assert (
        "The slow path makes 6,080 patches x (1,024 + 2) = 6.24 million launches in a call: at the "
        "2.50 us that one launch takes here, 15.6 s; the call takes 16.1 s."
    ) in finding.evidence


def test_without_a_bias_there_are_two_launches_a_patch() -> None:
    variants = [each | {"bias": False} for each in pair("SlowDilated3d", 0.03, 0.0003)]
    given = compared(variants, torch=GATED, latency_s=2.5e-6, convolution={"bias": False})

    assert "6,080 patches x 2 = 12,160 launches" in said(judged(SLOW, given))


def test_a_shape_that_is_not_known_makes_no_launches() -> None:
    given = compared(
        pair("SlowDilated3d", 16.1, 0.0003), torch=GATED, convolution={"features": None}
    )

    assert "launches" not in said(judged(SLOW, given))


def swept(backend: str, **cells: str | int | float | bool | None) -> list[Row]:
    """Three patch counts at 2.5 ms a patch."""
    counts = (64, 512, PATCHES)
    return [
        each | cells | {"patches": n} for n in counts for each in pair(backend, 2.5e-3 * n, 0.0003)
    ]


def test_the_slope_over_the_patches_is_told_from_three_counts_on() -> None:
    finding = judged(SLOW, compared(swept("SlowDilated3d"), torch=GATED))
    two = judged(SLOW, compared(swept("SlowDilated3d")[2:], torch=GATED))

    sentence = "Over the patch counts the convolution takes 2.50 ms for each patch (R^2 = 1.000)."
    assert sentence in finding.evidence
    assert "for each patch" not in said(two)


def test_the_largest_count_of_patches_decides() -> None:
    finding = judged(SLOW, compared(swept("SlowDilated3d"), torch=GATED, forward_s=16.0))

    assert finding.cost_share == pytest.approx((15.2 - 0.0003) / 16.0)
    assert said(finding).startswith("6,080 patches in bf16: Conv3d 15.2 s (n = 20)")


def test_outputs_that_differ_are_told() -> None:
    variants = [
        each | {"max_abs_error": 0.004, "max_abs_difference": 0.0156}
        for each in pair("SlowDilated3d", 16.1, 0.0003)
    ]

    assert "differ by at most 0.0156" in said(judged(SLOW, compared(variants, torch=GATED)))


# a healthy backend


def against(
    ratio: float,
    interval: tuple[float, float] | None = None,
    backend: str | None = "Cudnn",
    forward_s: float | None = None,
) -> Finding:
    linear = row("Linear", 0.001, ratio, interval, backend="GEMM")
    variants = [row("Conv3d", 0.001 * ratio, 1.0, backend=backend), linear]
    return judged(AGAINST_LINEAR, compared(variants, forward_s=forward_s))


def test_a_healthy_backend_that_loses_is_a_problem_of_its_own() -> None:
    finding = against(4.18, forward_s=0.010)

    assert (finding.verdict, finding.culprit) == ("problem", MODULE)
    assert finding.title == "Conv3d in bf16 loses to Linear (Cudnn): Linear is 4.18 x as fast"
    assert finding.cause.startswith("Cudnn runs as a convolution what is one matrix product")
    assert finding.cost_share == pytest.approx(0.318)
    assert "1.47 x as fast" in said(finding)
    assert "launches" not in said(finding)


@pytest.mark.parametrize(
    ("forward_s", "severity"),
    [(None, "warning"), (0.006, "critical"), (0.02, "warning"), (0.1, "warning"), (0.2, "info")],
)
def test_how_bad_a_lost_comparison_is_depends_on_its_share(
    forward_s: float | None, severity: str
) -> None:
    assert against(4.18, forward_s=forward_s).severity == severity


def test_noisy_samples_accuse_by_their_fastest_alone() -> None:
    """Medians that others' work has moved are no cost of the convolution."""
    variants = [row("Conv3d", 0.020, 1.0, backend="Mkldnn"), row("Linear", 0.002, 10.0)]
    samples = {"Conv3d": [0.004, 0.02, 0.02, 0.03, 0.04], "Linear": [0.001, 0.002, 0.002, 0.004]}
    quiet = compared(variants, forward_s=0.2)
    noisy = with_samples(quiet, samples)

    assert judged(AGAINST_LINEAR, quiet).severity == "warning"
    finding = judged(AGAINST_LINEAR, noisy)
    assert (finding.severity, finding.cost_share) == ("info", pytest.approx(0.003 / 0.2))
    assert "Linear would save 3.00 ms of each forward, 1.50 %" in said(finding)


def with_samples(given: Record, samples: dict[str, list[float]]) -> Record:
    series = {
        f"{name}/bf16/{PATCHES}": Series(unit="s", values=values, stop_reason="budget")
        for name, values in samples.items()
    }
    stage = given.stages["compare-patch-embed"]
    return given.with_stage("compare-patch-embed", msgspec.structs.replace(stage, series=series))


def test_a_patch_embedding_that_costs_next_to_nothing_is_not_to_blame() -> None:
    finding = against(4.18, forward_s=0.5)

    assert finding.severity == "info"
    assert finding.title == (
        "The patch embedding is not to blame, though Linear is 4.18 x as fast as its Conv3d in "
        "bf16 (Cudnn), and a fix gains at most 0.64 % of the forward"
    )


def test_a_comparison_that_is_a_draw_clears_it_and_says_what_a_fix_could_gain() -> None:
    finding = against(1.02, (0.98, 1.06), forward_s=0.01)

    assert finding.verdict == "clear"
    assert finding.title == (
        "The patch embedding is not to blame: the equal Linear is 1.02 x [0.98, 1.06] as fast, "
        "and a fix gains at most 0.20 % of the forward"
    )


def test_a_linear_that_loses_gains_nothing() -> None:
    finding = against(0.8, forward_s=0.01)

    assert finding.verdict == "clear"
    assert "gains at most 0 % of the forward" in finding.title


@pytest.mark.parametrize(("ratio", "interval"), [(1.10, (0.93, 1.40)), (1.05, (1.02, 1.12))])
def test_an_interval_that_leaves_both_open_is_not_assessed(
    ratio: float, interval: tuple[float, float]
) -> None:
    finding = against(ratio, interval)

    assert finding.verdict == "not assessed"
    assert "Inconclusive" in said(finding)


@pytest.mark.parametrize(
    ("ratio", "verdict"), [(5.0, "problem"), (1.5, "not assessed"), (0.9, "clear")]
)
def test_few_samples_are_enough_for_a_large_difference_alone(ratio: float, verdict: str) -> None:
    conv, linear = pair("Cudnn", 0.001 * ratio, 0.001)
    given = compared([conv, without_interval(linear)])

    finding = judged(AGAINST_LINEAR, given)

    assert finding.verdict == verdict
    if verdict == "problem":
        assert "too few samples for an interval" in said(finding)


def test_a_wide_interval_takes_digits_from_the_factor() -> None:
    assert "Linear is about 33 x as fast" in against(32.9, (25.0, 41.0)).title
    assert "Linear is 32.9 x as fast" in against(32.9, (31.0, 34.0)).title


@pytest.mark.parametrize("backend", [None, "SlowDilated3d", "Slow3d"])
def test_without_a_healthy_backend_this_is_another_rules_question(backend: str | None) -> None:
    finding = against(100.0, backend=backend)

    assert finding.verdict == "not assessed"
    assert "healthy backend" in said(finding)


def test_the_cure_of_a_fault_made_on_purpose_is_not_to_make_it() -> None:
    given = compared(pair("Slow3d", 0.3, 0.003), torch=HEALTHY_CPU, forward_s=1.6)
    provoked = msgspec.structs.replace(given, workload=given.workload | {"provoke": "slow-conv"})

    advice = judged(SLOW, provoked).advice

    assert advice.startswith("Run without --provoke slow-conv: this fault was made on purpose.")
    assert "--provoke" not in judged(SLOW, given).advice
