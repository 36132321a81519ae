"""How the proof and the comparison of all variants are told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from qwenprof.record.record import Record, Row, Series, StageResult
from qwenprof.report import markdown
from qwenprof.report.section import Figure, sections
from qwenprof.report.telling import telling


def told(record: Record, section: str) -> str:
    blocks = sections()[section].compose(telling(record, []))
    return "\n\n".join(markdown.render_block(block) for block in blocks)


def with_stage(record: Record, name: str, **options: Any) -> Record:
    result = StageResult(**({"status": "ok", "duration_s": 1.0} | options))
    return msgspec.structs.replace(record, stages={**record.stages, name: result})


def check(**cells: Any) -> Row:
    base: Row = {
        "check": "output",
        "variant": "fix (view)",
        "dtype": "bf16",
        "patches": 760,
        "metric": "relative error (2-norm)",
        "value": 0.00166,
        "tolerance": 0.0039,
        "tolerance_source": "u(bf16): one rounding",
        "reference": "fp64",
        "passed": True,
        "must_fail": False,
        "status": "ok",
        "reason": None,
    }
    return base | cells


CONTROL = check(
    check="control: weight gradient", variant="slow", value=0.07, passed=False, must_fail=True
)


def test_the_proof_says_what_passed_and_that_the_control_failed(empty_record: Record) -> None:
    exact = check(check="undone", dtype=None, metric="differing elements", value=0.0, tolerance=0.0)
    skipped = check(check="whole forwards", passed=None, status="skipped", reason="no time left")
    rows = [CONTROL, check(), exact, skipped]
    text = told(with_stage(empty_record, "verify", tables={"checks": rows}), "verify")

    assert text.startswith("**The fix passed 2 of 2 checks.** The control")
    assert "fails as it must" in text
    assert "| failed, as it must |" in text
    assert "| undone | - | fp64 | differing elements | 0 | 0 | passed |" in text
    assert "**whole forwards**: no time left" in text
    assert "| u(bf16): one rounding |" in text


def test_a_failed_check_is_named_first(empty_record: Record) -> None:
    failed = check(variant="Conv3d", dtype="fp16", value=0.004, passed=False)
    rows = [CONTROL, check(), failed]
    text = told(with_stage(empty_record, "verify", tables={"checks": rows}), "verify")

    assert text.startswith(
        "**The fix passed 1 of 1 check.** The convolution passed 0 of 1 check. "
        "It failed: output fp16."
    )
    assert "| **FAILED** |" in text


def test_only_a_failure_that_must_not_be_stands_out(empty_record: Record) -> None:
    failed = check(variant="Conv3d", dtype="fp16", value=0.004, passed=False)
    record = with_stage(empty_record, "verify", tables={"checks": [CONTROL, check(), failed]})
    blocks = sections()["verify"].compose(telling(record, []))
    figure = next(each for each in blocks if isinstance(each, Figure))

    chart = figure.draw.args[0]  # type: ignore[attr-defined]
    assert [bar.emphasis for bar in chart.bars] == [False, False, True]
    assert [chart.kinds[bar.kind] for bar in chart.bars] == [
        "the control, which must fail",
        "fix (view)",
        "Conv3d",
    ]


def test_a_control_that_passed_is_not_hidden(empty_record: Record) -> None:
    rows = [CONTROL | {"passed": True}, check()]
    text = told(with_stage(empty_record, "verify", tables={"checks": rows}), "verify")

    assert "cannot be trusted" in text
    assert "**passed, but had to fail**" in text


def variant(name: str, direction: str = "forward", **cells: Any) -> Row:
    base: Row = {
        "variant": name,
        "what": f"how {name} runs",
        "dtype": "bf16",
        "patches": 760,
        "direction": direction,
        "backend": "GEMM",
        "median_s": 0.002,
        "ci_low_s": 0.0019,
        "ci_high_s": 0.0021,
        "n": 40,
        "speedup": 4.0,
        "speedup_low": 3.9,
        "speedup_high": 4.1,
        "relative_error": 0.00166,
        "peak_bytes": 2**20,
        "status": "ok",
        "reason": None,
    }
    return base | cells


def unmeasured(name: str, direction: str = "forward") -> Row:
    return variant(name, direction, median_s=None, status="skipped", reason=f"no {name} here")


@pytest.fixture
def compared(simulated_gpu: Record, changed: Callable[..., Record]) -> Record:
    rows = [
        variant("Conv3d", median_s=0.008, backend="Cudnn", speedup=1.0),
        variant("Linear"),
        variant("Conv3d", "backward", median_s=0.02, speedup=1.0),
        variant("Linear", "backward"),
        variant("Conv3d", patches=256, median_s=0.003, speedup=1.0),
        variant("slow", patches=64, median_s=0.5, ci_low_s=None, ci_high_s=None, n=1),
        unmeasured("slow"),
        unmeasured("slow", "backward"),
    ]
    return changed(simulated_gpu, "compare-patch-embed", tables={"variants": rows})


def counted(**cells: Any) -> Row:
    """Launches of the slow path for eight patches."""
    base: Row = {
        "module": "patch_embed.proj",
        "variant": "slow_conv_dilated3d",
        "patches": 8,
        "features": 1024,
        "bias": True,
        "counted_event": "aten::fill_",
        "counted": 8192,
        "predicted": 8192,
        "launches": 8208,
    }
    return base | cells


AS_DISPATCHED = counted(variant="Conv3d", counted=0, predicted=None, launches=None)


def launching(record: Record, *rows: Row, stage: str = "dispatch") -> str:
    """The section about the dispatch, where these launches were counted."""
    before = record.stages.get(stage)
    tables = {**(before.tables if before else {}), "launches": list(rows)}
    return told(with_stage(record, stage, tables=tables), "dispatch")


def test_every_variant_is_told_forward_and_backward(compared: Record) -> None:
    text = told(compared, "compare-patch-embed")

    assert "**Every way to run it.** 760 patches in bf16." in text
    assert "| Linear | GEMM | 2.00 ms [1.90, 2.10] | 40 | 4.00 x [3.90, 4.10] | 0.00166 |" in text
    assert "**Linear**: how Linear runs." in text
    assert "| slow | GEMM | 500 ms (64 patches) | 1 |" in text
    assert "not measured (skipped)" in text
    assert "slow, backward, bf16, 760 patches" in text


def test_launches_stand_beside_what_was_expected(compared: Record) -> None:
    text = launching(compared, AS_DISPATCHED, counted())

    assert "fills, counted on a few patches, agree with the formula." in text
    assert "| slow_conv_dilated3d | 8 | 1,024 | yes | aten::fill\\_ | 8,192 | 8,192 |" in text
    assert "| Conv3d | 8 | 1,024 | yes | aten::fill\\_ | 0 | - |" in text


def test_launches_of_a_gpu_are_counted_themselves(compared: Record) -> None:
    on_gpu = counted(counted_event="kernel launch", counted=8208, predicted=8208)

    assert "launches, counted on a few patches, agree" in launching(compared, on_gpu)


def test_launches_in_a_record_of_before_the_dispatch_stage_are_told(compared: Record) -> None:
    row = {key: value for key, value in counted().items() if key not in ("module", "variant")}
    text = launching(compared, row, stage="compare-patch-embed")

    assert "fills, counted on a few patches, agree with the formula." in text
    assert "| slow_conv_dilated3d | 8 | 1,024 | yes | aten::fill\\_ | 8,192 | 8,192 |" in text


def test_a_count_that_disagrees_is_said(compared: Record) -> None:
    text = launching(compared, counted(), counted(counted=5))

    assert "The slow path's count does not agree with the formula" in text
    assert "agree with the formula." not in text


@pytest.mark.parametrize(
    "empty", [{"counted": 0, "predicted": 0}, {"counted": None, "predicted": None}]
)
def test_what_counted_nothing_agrees_with_nothing(compared: Record, empty: Row) -> None:
    assert "Nothing was counted here" in launching(compared, AS_DISPATCHED, counted(**empty))


def test_where_nobody_counted_no_count_is_told(compared: Record) -> None:
    text = told(compared, "dispatch")

    assert "**Launches and patches.**" in text
    assert "counted" not in text
    assert "formula" not in text


def test_only_what_ran_on_all_patches_has_a_bar(compared: Record) -> None:
    blocks = sections()["compare-patch-embed"].compose(telling(compared, []))
    figure = next(
        each for each in blocks if isinstance(each, Figure) and each.stem == "patch_embed_variants"
    )

    chart = figure.draw.args[0]  # type: ignore[attr-defined]
    assert [(bar.label, bar.value) for bar in chart.bars] == [
        ("Conv3d", 0.008),
        ("Linear", 0.002),
        ("slow", None),
    ]
    assert chart.bars[2].note == "not on all: 500 ms for 64 patches"


def test_an_interrupted_run_says_so_before_anything_else(
    simulated_gpu: Record, changed: Callable[..., Record]
) -> None:
    record = changed(simulated_gpu, "per-layer", status="interrupted", reason="stopped by the user")

    assert told(record, "summary").startswith("**The run was interrupted** during per-layer:")


def test_an_image_that_the_processor_enlarged_is_remarked(simulated_gpu: Record) -> None:
    facts = simulated_gpu.workload | {
        "short_edge": 64,
        "processed_height": 192,
        "processed_width": 352,
    }
    enlarged = msgspec.structs.replace(simulated_gpu, workload=facts)
    as_asked = msgspec.structs.replace(simulated_gpu, workload=facts | {"short_edge": 192})

    assert "made each image 192 x 352 pixels" in told(enlarged, "workload")
    assert "made each image" not in told(as_asked, "workload")


def test_device_host_and_wall_time_stand_apart(empty_record: Record) -> None:
    def series(value: float) -> Series:
        return Series(unit="s", values=[value], stop_reason="budget")

    timed = {"batch=1": 0.010, "batch=1/host_enqueue": 0.009, "batch=1/wall": 0.012}
    record = with_stage(
        empty_record, "batch-sweep", series={key: series(value) for key, value in timed.items()}
    )

    text = told(record, "method")
    assert "| batch-sweep: batch=1 | 10.0 ms | 9.00 ms | 12.0 ms | 0.90 |" in text
