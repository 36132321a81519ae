"""Memory out of proportion: the convolution, the batch, the dtype; and what cannot be told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from qwenprof.diagnosis.finding import Finding, rules
from qwenprof.record.record import Record, Row, StageResult, Tool, load

REAL = sorted((Path(__file__).parents[2] / "reports").glob("*/record.json"))
MIB, GIB = 1024**2, 1024**3
PATCHES = 6080
WEIGHTS = 800 * MIB  # held by every peak
# (variant, dtype) -> peak; on a healthy device the two differ by little
HEALTHY = {
    ("Conv3d", "bf16"): WEIGHTS + 60 * MIB,
    ("Linear", "bf16"): WEIGHTS + 40 * MIB,
    ("Conv3d", "fp32"): WEIGHTS + 100 * MIB,
    ("Linear", "fp32"): WEIGHTS + 80 * MIB,
}
BATCHES = {1: 900 * MIB, 4: 1200 * MIB, 8: 1600 * MIB}


def record(
    peaks: Mapping[tuple[str, str], float | None] = HEALTHY,
    batches: Mapping[int, float | None] = BATCHES,
    *,
    device: str = "cuda",
    layer_bytes: float | None = 33 * MIB,
    shape: Row | None = None,
) -> Record:
    variants: list[Row] = [
        {
            "variant": variant,
            "dtype": dtype,
            "direction": "forward",
            "patches": PATCHES,
            "median_s": 0.01,
            "peak_bytes": peak,
            "module": "patch_embed.proj",
        }
        for (variant, dtype), peak in peaks.items()
    ]
    sweep: list[Row] = [
        {"batch": batch, "median_s": 1.0, "peak_bytes": peak, "status": "ok"}
        for batch, peak in batches.items()
    ]
    layer: Row = {"path": "visual.patch_embed.proj", "bytes": layer_bytes}
    tables: dict[str, dict[str, list[Row]]] = {
        "batch-sweep": {"batches": sweep},
        "per-layer": {"modules": [layer]},
        "compare-patch-embed": {"variants": variants},
        "dispatch": {"convolutions": [shape] if shape else []},
    }
    return Record(
        tool=Tool(name="qwenprof", version="0"),
        created="2026-01-01T00:00:00+00:00",
        command=[],
        environment={"device": {"type": device}},
        workload={"device": device, "dtype": "bf16", "batch": 1, "patches": PATCHES},
        stages={
            name: StageResult(status="ok", duration_s=1.0, tables=held)
            for name, held in tables.items()
        },
    )


def judged(given: Record) -> Finding:
    return rules()["memory"].judge(given)


def test_nothing_is_out_of_proportion() -> None:
    finding = judged(record())

    assert (finding.verdict, finding.severity) == ("clear", "info")
    assert len(finding.evidence) == 3
    assert "20.0 MiB more than the equal Linear" in finding.evidence[0]
    assert (
        "grows by 400 MiB; at the rate of batch 1 to 4 it would grow by 400 MiB"
        in (finding.evidence[1])
    )


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.parent.name)
def test_the_committed_runs_accuse_nobody(path: Path) -> None:
    assert judged(load(path)).verdict == "clear"


def test_a_convolution_with_a_large_workspace_is_a_problem() -> None:
    finding = judged(record({**HEALTHY, ("Conv3d", "bf16"): WEIGHTS + 440 * MIB}))

    assert (finding.verdict, finding.severity) == ("problem", "warning")
    assert finding.culprit == "patch_embed.proj"
    assert finding.title == "patch_embed.proj takes 400 MiB beyond the tensors that it needs"
    assert "12.1 x its tensors" in finding.cause
    assert "33.0 MiB" in finding.evidence[0]
    assert "linear layer" in finding.advice


@pytest.mark.parametrize(
    ("extra", "layer_bytes", "verdict"),
    [
        (63 * MIB, 1 * MIB, "clear"),  # many times its tensors, but noise
        (65 * MIB, 1 * MIB, "problem"),
        (390 * MIB, 100 * MIB, "clear"),  # much, but of large tensors
        (410 * MIB, 100 * MIB, "problem"),
    ],
)
def test_both_the_amount_and_the_proportion_count(
    extra: float, layer_bytes: float, verdict: str
) -> None:
    peaks = {("Conv3d", "bf16"): WEIGHTS + extra, ("Linear", "bf16"): float(WEIGHTS)}

    assert judged(record(peaks, layer_bytes=layer_bytes)).verdict == verdict


def test_the_tensors_are_counted_from_the_shape_where_it_is_known() -> None:
    shape: Row = {"module": "patch_embed.proj", "features_in": 1536, "features": 1024}
    finding = judged(record(layer_bytes=None, shape=shape))

    needed = 2 * (PATCHES * (1536 + 1024) + 1536 * 1024)
    assert finding.verdict == "clear"
    assert f"input, weight and output are {needed / MIB:.1f} MiB" in finding.evidence[0]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_memory_that_grows_with_the_square_of_the_batch_is_a_problem(device: str) -> None:
    square = {batch: WEIGHTS + batch**2 * 100 * MIB for batch in (1, 2, 4)}
    finding = judged(record(batches=square, device=device))

    assert (finding.verdict, finding.culprit) == ("problem", "batching")
    assert "From batch 2 to 4 the peak grows by 1.17 GiB" in finding.evidence[0]
    assert "it would grow by 600 MiB" in finding.evidence[0]
    assert "attention" in finding.cause


def test_on_a_cpu_the_noise_of_the_first_step_is_carried_to_the_last() -> None:
    """Resident memory as a healthy machine told it: 72 MiB a sample, then 128."""
    resident = {1: 1738 * MIB, 2: 1807 * MIB, 4: 2051 * MIB}

    assert judged(record(batches=resident, device="cpu")).verdict == "clear"
    assert judged(record(batches=resident, device="cuda")).verdict == "problem"


def test_on_a_cpu_it_says_that_only_differences_count() -> None:
    assert "resident memory of the whole process" in judged(record(device="cpu")).evidence[-1]


def test_the_published_regression_is_a_problem() -> None:
    """7.27 GB in bf16 against 2.51 in fp32, as in pytorch/pytorch#166643."""
    peaks = {
        ("Conv3d", "bf16"): WEIGHTS + 7.27 * GIB,
        ("Linear", "bf16"): WEIGHTS + 0.6 * GIB,
        ("Conv3d", "fp32"): WEIGHTS + 2.51 * GIB,
        ("Linear", "fp32"): WEIGHTS + 1.2 * GIB,
    }
    finding = judged(record(peaks, layer_bytes=2 * GIB))

    assert finding.verdict == "problem"
    assert finding.title == "The convolution takes more memory in bf16 than in fp32"
    assert "6.67 GiB in bf16 and 1.31 GiB in fp32" in finding.evidence[0]
    assert finding.links == ("https://github.com/pytorch/pytorch/issues/166643",)


def test_a_process_that_grows_is_not_taken_for_a_dtype_that_takes_more() -> None:
    # GIVEN a CPU, on which every later peak holds what came before
    peaks = {
        ("Conv3d", "fp32"): WEIGHTS + 0 * MIB,
        ("Linear", "fp32"): WEIGHTS + 10 * MIB,
        ("Conv3d", "bf16"): WEIGHTS + 300 * MIB,
        ("Linear", "bf16"): WEIGHTS + 310 * MIB,
    }

    assert judged(record(peaks, device="cpu")).verdict == "clear"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (record(batches={1: 900 * MIB, 4: 1200 * MIB}), "fewer than three batch sizes"),
        (record(batches={1: 1.0, 2: None, 4: None}), "fewer than three batch sizes"),
        (record({("Conv3d", "bf16"): 1.0 * GIB}), "not measured beside each other"),
        (record({**HEALTHY, ("Linear", "bf16"): None}), "a peak is not known"),
        (record(layer_bytes=None), "the size of its tensors is not known"),
    ],
)
def test_what_could_not_be_checked_is_not_cleared(given: Record, why: str) -> None:
    finding = judged(given)

    assert finding.verdict == "not assessed"
    assert why in finding.evidence[0]


def test_one_dtype_alone_does_not_leave_the_question_open() -> None:
    peaks = {key: peak for key, peak in HEALTHY.items() if key[1] == "bf16"}
    finding = judged(record(peaks))

    assert finding.verdict == "clear"
    assert "Not checked, convolution in half precision" in finding.evidence[-1]
