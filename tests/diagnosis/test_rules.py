"""Every rule: problem, clear, not assessed."""

from __future__ import annotations

from typing import Any

import pytest

from qwenprof.diagnosis.caveats import caveats
from qwenprof.diagnosis.finding import diagnose, rules
from qwenprof.diagnosis.rules.batching import scaling
from qwenprof.diagnosis.rules.culprit import Part, usual_slowdown
from qwenprof.record.record import Record, Row, StageResult, Tool


def record(dtype: str = "bf16", attention: str = "sdpa", **tables: list[Row]) -> Record:
    """A record with these tables; a keyword is a stage and a table, as in `matmul__gemm`."""
    stages: dict[str, StageResult] = {}
    for key, rows in tables.items():
        stage, table = key.replace("_", "-").split("--")
        before = stages.get(stage)
        merged = {**(before.tables if before else {}), table: rows}
        stages[stage] = StageResult(status="ok", duration_s=1.0, tables=merged)
    return Record(
        tool=Tool(name="qwenprof", version="0"),
        created="2026-01-01T00:00:00+00:00",
        command=[],
        environment={"device": {"name": "Some GPU"}},
        workload={"dtype": dtype, "attention": attention, "batch": 1},
        stages=stages,
    )


def judged(name: str, given: Record) -> Any:
    return rules()[name].judge(given)


def gemm(dtype: str, tflops: float, verdict: str = "not assessed", **columns: Any) -> Row:
    row: Row = {"size": 8192, "dtype": dtype, "tflops": tflops, "best_tflops": tflops}
    return row | {"verdict": verdict, "peak_tflops": None, "peak_source": None} | columns


PEAK = {"peak_tflops": 209.5, "peak_source": "a datasheet"}


def test_device_health() -> None:
    healthy = judged("device-health", record(matmul__gemm=[gemm("bf16", 180, "healthy", **PEAK)]))
    sick = judged("device-health", record(matmul__gemm=[gemm("bf16", 20, "unhealthy", **PEAK)]))
    unknown = judged("device-health", record(matmul__gemm=[gemm("bf16", 20)]))
    other = judged("device-health", record(matmul__gemm=[gemm("fp32", 20)]))

    assert (healthy.verdict, healthy.culprit) == ("clear", None)
    assert (sick.verdict, sick.severity, sick.culprit) == ("problem", "critical", "Some GPU")
    assert "10% of the 209.5 in the a datasheet" in sick.evidence[0]
    assert unknown.verdict == other.verdict == "not assessed"


def test_dtype_support() -> None:
    emulated = record(matmul__gemm=[gemm("bf16", 0.05), gemm("fp32", 0.2)], matmul__machine=[{}])
    native = record(matmul__gemm=[gemm("bf16", 200), gemm("fp32", 60)], matmul__machine=[{}])
    alone = record(matmul__gemm=[gemm("bf16", 200)], matmul__machine=[{}])

    assert judged("dtype-support", emulated).verdict == "problem"
    assert "4.00 x slower" in judged("dtype-support", emulated).title
    assert judged("dtype-support", native).verdict == "clear"
    assert judged("dtype-support", record(dtype="fp32")).verdict == "not assessed"
    assert judged("dtype-support", alone).verdict == "not assessed"


def batches(*rows: tuple[int, float | None, int]) -> Record:
    return record(
        batch_sweep__batches=[
            {"batch": batch, "median_s": seconds, "patches": patches}
            for batch, seconds, patches in rows
        ]
    )


def test_batching_is_cleared_when_a_sample_always_takes_as_long() -> None:
    finding = judged("batching", batches((1, 16.5, 6080), (4, 65.3, 24320), (8, 130.0, 48640)))

    assert finding.verdict == "clear"
    assert "stays the same" in finding.title
    assert "16.2 s at batch 8" in finding.evidence[0]
    assert "grew in proportion" in finding.evidence[-1]


def test_batching_notices_that_the_work_did_not_grow() -> None:
    """As in the published table, where batch 16 takes as long as batch 8."""
    finding = judged("batching", batches((8, 148.0, 48640), (16, 145.0, 48640)))

    assert finding.verdict == "problem"
    assert "did not grow" in finding.title


def test_batching_is_a_problem_when_a_sample_takes_longer_in_a_batch() -> None:
    assert judged("batching", batches((1, 1.0, 10), (4, 8.0, 40))).verdict == "problem"
    assert judged("batching", batches((1, 1.0, 10), (4, None, 40))).verdict == "not assessed"


def test_scaling_fits_a_fixed_cost_and_a_cost_per_sample() -> None:
    found = scaling(batches((1, 3.0, 1), (2, 5.0, 2), (4, 9.0, 4)))

    assert found is not None
    assert found.fit is not None
    assert found.fit.intercept == pytest.approx(1.0)
    assert found.fit.slope == pytest.approx(2.0)


def backend(attention: str, seconds: float, experiment: str = "switched", used: int = 24) -> Row:
    row: Row = {"attention": attention, "experiment": experiment, "median_s": seconds, "n": 20}
    return row | {"batch": 1, "status": "ok", "blocks": 24, "blocks_using": used}


def plain(seconds: float) -> Row:
    return backend("sdpa", seconds, "replaced by plain SDPA") | {
        "blocks": None,
        "blocks_using": None,
    }


def test_attention() -> None:
    def sweep(*rows: Row) -> Any:
        return judged("attention", record(attention_sweep__backends=list(rows)))

    same = sweep(backend("eager", 17.1), backend("sdpa", 16.5), plain(16.4))
    slow = sweep(backend("sdpa", 3.0), backend("flash_attention_2", 1.0))
    around = sweep(backend("sdpa", 3.0), plain(1.0))
    ignored = sweep(backend("sdpa", 3.0, used=20), backend("eager", 3.0))
    alone = sweep(backend("sdpa", 3.0))

    assert same.verdict == "clear"
    assert (slow.verdict, slow.severity, slow.culprit) == ("problem", "critical", "attention: sdpa")
    assert "flash_attention_2" in slow.advice
    assert "plain SDPA" in around.title
    assert ignored.verdict == "problem"
    assert "20 of 24" in ignored.title
    assert alone.verdict == "not assessed"


def module(path: str, time_s: float, bound_s: float | None, total_s: float = 16.2) -> Row:
    row: Row = {"path": path, "module_type": "Module", "inclusive_s": time_s, "bound_s": bound_s}
    return row | {"share": time_s / total_s}


def layers(*parts: Row) -> Record:
    return record(per_layer__modules=list(parts))


BLOCKS = [module(f"blocks.{index}", 0.0014, 0.0004) for index in range(24)]


def test_the_culprit_is_the_part_with_the_largest_excess() -> None:
    patch_embed = module("patch_embed.proj", 16.1113, 0.0003)
    parent = module("patch_embed", 16.1114, 0.0003)

    finding = judged("culprit", layers(module("", 16.2, 0.05), parent, patch_embed, *BLOCKS))

    assert (finding.verdict, finding.severity) == ("problem", "critical")
    assert finding.culprit == "patch_embed.proj"
    assert "53,700 x" in finding.title


def test_a_machine_that_is_slow_everywhere_accuses_nobody() -> None:
    slow = [module(f"blocks.{i}", 0.1, 0.001, total_s=2.6) for i in range(24)]
    larger = module("patch_embed.proj", 0.2, 0.002, total_s=2.6)

    assert judged("culprit", layers(larger, *slow)).verdict == "clear"


def test_a_small_part_far_off_its_bound_is_no_culprit() -> None:
    tiny = module("norm", 0.0001, 0.0000001, total_s=0.034)
    blocks = [module(f"blocks.{i}", 0.0014, 0.0004, total_s=0.034) for i in range(24)]

    assert judged("culprit", layers(tiny, *blocks)).verdict == "clear"


def test_no_culprit_without_bounds() -> None:
    unbound = [module(f"blocks.{index}", 0.0014, None) for index in range(24)]

    assert judged("culprit", layers(*unbound)).verdict == "not assessed"


def test_the_usual_slowdown_is_weighted_by_time() -> None:
    parts = [
        Part(path="a", kind="", time_s=1.0, bound_s=0.5, share=0.1),
        Part(path="b", kind="", time_s=10.0, bound_s=2.5, share=0.9),
    ]

    assert usual_slowdown(parts) == pytest.approx(4.0)
    assert usual_slowdown([]) is None


def variants(speedup: float, low: float | None, high: float | None, backend: str) -> Record:
    linear_s = 0.0003
    common: Row = {"dtype": "bf16", "direction": "forward", "n": 20, "patches": 6080}
    errors: Row = {"max_abs_error": 0.004, "max_abs_difference": 0.004}
    conv: Row = {"variant": "Conv3d", "backend": backend, "median_s": linear_s * speedup}
    linear: Row = {"variant": "Linear", "backend": "GEMM", "median_s": linear_s}
    interval: Row = {"speedup": speedup, "speedup_low": low, "speedup_high": high}
    smaller = [row | common | errors | {"patches": 64} for row in (conv, linear | interval)]
    return record(
        compare_patch_embed__variants=[
            *smaller,
            conv | common | errors,
            linear | interval | common | errors,
        ],
        per_layer__summary=[{"plain_s": 0.1 + linear_s * speedup}],
    )


def test_a_conv_that_fell_into_a_slow_implementation_is_critical() -> None:
    finding = judged("patch-embedding", variants(53704, 53000, 54000, "SlowDilated3d"))

    assert (finding.verdict, finding.severity) == ("problem", "critical")
    assert "slow implementation (SlowDilated3d)" in finding.title
    assert "99.4 %" in finding.evidence[-1]
    assert finding.links


def test_a_healthy_backend_that_loses_to_linear_is_another_verdict() -> None:
    finding = judged("patch-embedding", variants(6.0, 5.5, 6.5, "Cudnn"))

    assert (finding.verdict, finding.severity) == ("problem", "info")
    assert "loses to Linear (Cudnn)" in finding.title


def test_a_difference_inside_the_noise_is_clear() -> None:
    same = judged("patch-embedding", variants(1.02, 0.98, 1.06, "Cudnn"))
    unclear = judged("patch-embedding", variants(1.10, 0.93, 1.40, "Cudnn"))

    assert same.verdict == "clear"
    assert unclear.verdict == "not assessed"
    assert "Inconclusive" in unclear.evidence[0]


def test_few_samples_are_not_enough_for_a_small_difference_but_for_a_large_one() -> None:
    small = judged("patch-embedding", variants(1.5, None, None, "Cudnn"))
    large = judged("patch-embedding", variants(5000, None, None, "SlowDilated3d"))

    assert small.verdict == "not assessed"
    assert large.verdict == "problem"


def test_problems_come_first_and_the_worst_on_top() -> None:
    given = variants(53704, 53000, 54000, "SlowDilated3d")

    findings = diagnose(given)

    assert findings[0].rule == "patch-embedding"
    assert findings[-1].verdict == "not assessed"
    assert len(findings) == len(rules())


def test_a_list_of_blocks_without_a_row_of_its_own_does_not_hide_them() -> None:
    """As in most encoders: `encoder` is called, `encoder.layers` is not."""
    whole = [module("", 1.0, 0.3, 1.0), module("encoder", 0.99, 0.3, 1.0)]
    healthy = [module(f"encoder.layers.{i}", 0.1, 0.03, 1.0) for i in (0, 1, 3, 4)]
    sick = module("encoder.layers.2", 0.5, 0.03, 1.0)

    finding = judged("culprit", layers(*whole, *healthy, sick))

    assert finding.verdict == "problem"
    assert finding.culprit == "encoder.layers.2"


def test_missing_input_is_never_clear() -> None:
    """The same implementation switched on in two ways excludes nothing; nor does unknown work."""
    forced = backend("sdpa", 3.0, "forced on every block")
    attention = judged(
        "attention", record(attention_sweep__backends=[backend("sdpa", 3.0), forced])
    )
    rows: list[Row] = [{"batch": batch, "median_s": float(batch)} for batch in (1, 2, 4)]
    batching = judged("batching", record(batch_sweep__batches=rows))

    assert attention.verdict == "not assessed"
    assert batching.verdict == "not assessed"


def test_attention_never_advises_what_is_in_use_already() -> None:
    """Forced on every block, the same implementation came out faster: that is noise."""
    rows = [
        backend("sdpa", 13.0),
        backend("sdpa", 10.2, "forced on every block"),
        backend("eager", 11.0),
    ]

    assert judged("attention", record(attention_sweep__backends=rows)).verdict == "clear"


def test_one_forward_each_is_not_enough_to_accuse_attention() -> None:
    rows = [backend("sdpa", 13.0) | {"n": 1}, backend("eager", 9.0) | {"n": 1}]

    finding = judged("attention", record(attention_sweep__backends=rows))

    assert finding.verdict == "not assessed"
    assert "1.44 x" in finding.evidence[0]


def test_a_run_whose_own_check_fails_clears_no_part() -> None:
    blocks = [module(f"blocks.{i}", 0.1, 0.03, total_s=2.4) for i in range(24)]
    summary: list[Row] = [{"with_marks_s": 3.31, "plain_s": 4.62}]

    finding = judged("culprit", record(per_layer__modules=blocks, per_layer__summary=summary))

    assert finding.verdict == "not assessed"
    assert "3.31 s with marks and 4.62 s without" in finding.evidence[0]


def test_caveats_name_what_disturbed_a_run_and_what_it_left_out() -> None:
    given = record(
        matmul__gemm=[{"dtype": "bf16", "status": "ok"}, {"dtype": "fp16", "status": "skipped"}],
        matmul__conditions=[{"flags": "busy_host: 1.9 cores busy with something else"}],
    )

    assert caveats(given) == [
        "disturbed: matmul: busy_host: 1.9 cores busy with something else",
        "not measured: 1 case of matmul; the report says why",
    ]
    assert caveats(record()) == []
