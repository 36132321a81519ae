"""Every rule: problem, clear, not assessed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from qwenprof.diagnosis.caveats import caveats
from qwenprof.diagnosis.finding import diagnose, rules
from qwenprof.diagnosis.rules.batching import scaling
from qwenprof.record.record import Record, Row, StageResult, Tool
from tests.diagnosis.convolutions import compared, pair


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
    assert "9.55 % of the 209.5 in the a datasheet" in sick.evidence[0]
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


@pytest.mark.parametrize(
    ("sets", "cause", "confidence"),
    [
        (None, "most likely has no instructions for bf16", "medium"),
        ("avx2, avx512f", "has no instructions for bf16 (avx2, avx512f)", "high"),
        ("avx512f, avx512_bf16", "not known: the CPU has instructions for bf16", "medium"),
    ],
)
def test_why_a_dtype_is_slow_is_read_from_the_instruction_sets(
    sets: str | None, cause: str, confidence: str
) -> None:
    given = record(matmul__gemm=[gemm("bf16", 0.05), gemm("fp32", 0.2)])
    device = {"type": "cpu", "name": "some CPU", "instructions": sets}
    given = msgspec.structs.replace(given, environment=given.environment | {"device": device})

    finding = judged("dtype-support", given)

    assert cause in finding.cause
    assert finding.confidence == confidence
    assert finding.factor == pytest.approx(4.0)


def test_a_library_that_is_switched_off_is_not_the_dtype() -> None:
    given = record(matmul__gemm=[gemm("bf16", 0.05), gemm("fp32", 0.2)])
    switched: dict[str, dict[str, Any]] = {
        "device": {"type": "cpu", "name": "some CPU"},
        "torch": {"onednn_enabled": False},
    }
    given = msgspec.structs.replace(given, environment=switched)

    assert judged("device-health", given).culprit == "the setting that switches oneDNN off"
    assert judged("dtype-support", given).verdict == "not assessed"


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
    assert (
        "Not measured: flash_attention_2."
        in judged(
            "attention",
            record(
                attention_sweep__backends=[
                    backend("sdpa", 16.5),
                    plain(16.4),
                    backend("flash_attention_2", 1.0) | {"status": "skipped", "median_s": None},
                ]
            ),
        ).evidence
    )
    assert (slow.verdict, slow.severity, slow.culprit) == ("problem", "critical", "attention: sdpa")
    assert "flash_attention_2" in slow.advice
    assert "plain SDPA" in around.title
    assert "around the attention kernel" in around.cause
    assert slow.cause == "", "it is faster without, and nothing more is known"
    assert "writes the score of every pair" in (
        judged(
            "attention",
            record(
                attention="eager",
                attention_sweep__backends=[backend("eager", 9.0), backend("sdpa", 1.0)],
            ),
        ).cause
    )
    assert ignored.verdict == "problem"
    assert "20 of 24" in ignored.title
    assert alone.verdict == "not assessed"


def test_problems_come_first_and_the_worst_on_top() -> None:
    given = compared(pair("SlowDilated3d", 16.1113, 0.0003), forward_s=16.2)

    findings = diagnose(given)

    assert (findings[0].rule, findings[0].severity) == ("conv-slow-backend", "critical")
    assert findings[-1].verdict == "not assessed"
    assert len(findings) == len(rules())


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
