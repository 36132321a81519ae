"""What each section concludes, and that it says so when it cannot."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import msgspec
import pytest

from qwenprof.diagnosis.finding import Finding, diagnose
from qwenprof.record.record import Cell, Record, Row
from qwenprof.report import markdown
from qwenprof.report.section import Section, sections
from qwenprof.report.telling import telling
from qwenprof.report.writing import composed

STAGES = ("matmul", "batch-sweep", "attention-sweep", "per-layer", "compare-patch-embed")
ALL_STAGES = (
    "matmul",
    "batch-sweep",
    "attention-sweep",
    "breakdown",
    "per-layer",
    "compare-patch-embed",
    "dispatch",
    "verify",
)


def told(record: Record, section: str, findings: Sequence[Finding] = ()) -> str:
    """One section of the report as markdown."""
    blocks = sections()[section].compose(telling(record, findings))
    return "\n\n".join(markdown.render_block(block) for block in blocks)


def test_the_order_of_the_sections() -> None:
    known = [name for name in sections() if name in {*ALL_STAGES, "summary", "workload", "method"}]
    assert known == ["summary", "workload", *ALL_STAGES, "method"]


@pytest.mark.parametrize("section", sections().values(), ids=lambda section: section.name)
def test_every_section_copes_with_an_empty_record(section: Section, empty_record: Record) -> None:
    text = told(empty_record, section.name)
    assert "None" not in text
    assert "nan" not in text.split()


@pytest.mark.parametrize("stage", ALL_STAGES)
def test_a_missing_stage_is_said_to_be_missing(empty_record: Record, stage: str) -> None:
    assert told(empty_record, stage).startswith("**Not measured.**")


@pytest.mark.parametrize(
    ("status", "label"),
    [
        ("failed", "**Failed**"),
        ("skipped", "**Skipped**"),
        ("interrupted", "**Interrupted**"),
        ("out_of_memory", "**Out of memory**"),
    ],
)
@pytest.mark.parametrize("stage", STAGES)
def test_trouble_comes_first_then_what_was_measured(
    simulated_gpu: Record, changed: Callable[..., Record], stage: str, status: str, label: str
) -> None:
    record = changed(simulated_gpu, stage, status=status, reason="the cable was pulled")
    text = told(record, stage)
    assert text.startswith(f"{label}: the cable was pulled. What was measured until then follows.")
    assert "|--:|" in text
    nothing = changed(simulated_gpu, stage, status=status, reason="no luck", tables={}, series={})
    assert told(nothing, stage) == f"{label}: no luck. Nothing was measured until then."


def test_the_summary_leads_with_the_worst_problem(
    simulated_gpu: Record, findings: list[Finding]
) -> None:
    text = told(simulated_gpu, "summary", findings)
    assert text.startswith(
        "**patch_embed.proj takes 172,000 x what its work should cost.**\n\n"
        "- **Culprit:** `model.visual.patch_embed.proj`\n"
        "- **Confidence:** high: "
    )
    cure = "- **Cure:** Look at how this part is implemented.\n- **Cleared:** 1 question, "
    assert cure in text
    assert "| **PROBLEM** |" in text
    assert "| not assessed | No datasheet peak is known. |" in text
    assert "software power cap in 12% of the readings, during batch-sweep" in text


def test_the_summary_tells_cause_and_gain_where_a_finding_does(
    simulated_gpu: Record, findings: list[Finding]
) -> None:
    told_more = replace(findings[0], cause="a loop over the patches", cost_share=0.75, factor=100.0)
    text = told(simulated_gpu, "summary", [told_more, *findings[1:]])
    assert "- **Cause:** a loop over the patches\n" in text
    assert (
        "- **Gain:** the part becomes 100 x as fast; 75.0 % of the forward is saved, so that the "
        "forward becomes 4.00 x as fast\n" in text
    )


def test_the_summary_leads_with_what_costs_the_most(
    simulated_gpu: Record, findings: list[Finding]
) -> None:
    cheap = replace(findings[0], rule="attention", title="Attention is slow", cost_share=0.1)
    dear = replace(findings[0], rule="batching", title="Batching is slow", cost_share=0.6)
    for order in ([cheap, dear], [dear, cheap]):
        assert told(simulated_gpu, "summary", order).startswith("**Batching is slow.**")


def test_the_summary_without_problems_and_without_rules(
    simulated_gpu: Record, findings: list[Finding]
) -> None:
    clear = told(simulated_gpu, "summary", findings[1:])
    assert clear.startswith("**Whether any part of the model is slow could not be assessed.**")
    assert "- **Culprit:** not known\n" in clear
    assert "- **Cleared:** 1 question, answered as clear in the table below\n" in clear
    nothing = told(simulated_gpu, "summary", findings[2:])
    assert nothing.startswith("**Nothing could be assessed: ")
    assert told(simulated_gpu, "summary").startswith("**No rule judged this record.**")


def test_the_workload_says_how_it_differs(simulated_gpu: Record) -> None:
    text = told(simulated_gpu, "workload")
    assert "differs from the published case in device, batch sizes swept and weights." in text
    assert "| Device | **Simulated GPU** | *NVIDIA GeForce RTX 5090* | no |" in text


def test_the_workload_beside_itself_differs_in_nothing(simulated_gpu: Record) -> None:
    twin = msgspec.structs.replace(simulated_gpu, created="2026-02-02T00:00:00+00:00")
    blocks = sections()["workload"].compose(telling(simulated_gpu, against=twin))
    text = "\n\n".join(markdown.render_block(block) for block in blocks)

    assert "No property below is known to differ from the other run." in text
    assert "| Device | Simulated GPU | Simulated GPU | yes |" in text
    assert "Another run, of 2026-02-02: Simulated GPU" in text
    assert "provoked" not in text


def test_what_is_not_recorded_is_not_called_the_same(
    simulated_gpu: Record, empty_record: Record
) -> None:
    blocks = sections()["workload"].compose(telling(simulated_gpu, against=empty_record))
    text = "\n\n".join(markdown.render_block(block) for block in blocks)

    assert "| dtype | bf16 | not recorded | not known |" in text


def test_tokens_of_a_bare_tower_are_not_taken_for_the_published_sequence(
    simulated_gpu: Record,
) -> None:
    facts = simulated_gpu.workload | {"scope": "vision"}
    text = told(msgspec.structs.replace(simulated_gpu, workload=facts), "workload")
    assert "**1,653 visual tokens, no language model**" in text


def test_a_foreign_module_is_not_held_against_the_published_case(simulated_gpu: Record) -> None:
    record = msgspec.structs.replace(
        simulated_gpu, workload={"family": None, "dtype": "bf16", "summary": "MyModule, bf16"}
    )
    everything = markdown.render("t", composed(telling(record, [])))
    assert "5090" not in everything


def test_the_environment_shows_nothing_private(simulated_gpu: Record) -> None:
    host = simulated_gpu.environment["host"] | {"hostname": "secret-box", "user": "alice"}
    environment = simulated_gpu.environment | {"host": host}
    record = msgspec.structs.replace(
        simulated_gpu, environment=environment, command=["qwenprof", "--out", "/home/alice/x"]
    )
    text = told(record, "environment")
    assert "secret-box" not in text
    assert "alice" not in text
    assert "~/x" in text


def test_matmul_holds_the_rate_against_the_datasheet(
    simulated_gpu: Record, with_rows: Callable[..., Record]
) -> None:
    text = told(simulated_gpu, "matmul")
    assert "n = 20: 97.2 % of the 209.5 TFLOPS in the fixture datasheet, healthy." in text
    assert "*223.7 TFLOPS*" in text
    unknown = with_rows(
        simulated_gpu,
        "matmul",
        "gemm",
        lambda r: r | {"peak_tflops": None, "fraction_of_peak": None},
    )
    assert "its health is not assessed" in told(unknown, "matmul")


def test_batch_sweep_constant(simulated_gpu: Record) -> None:
    text = told(simulated_gpu, "batch-sweep")
    assert "the time of one sample stays the same: 16.5 s (n = 1) and 16.4 s (n = 1)" in text
    assert "too few samples for an interval" in text
    assert "time of a forward = 174 ms + 16.3 s x batch (R2 = 1.000 over 3 batch sizes)." in text
    assert "**batch 16**: one call would take about 262 s" in text
    assert "| *145 s* | *9.06 s* |" in text
    assert (
        "What it shows: Not batching: the time of one sample stays the same up to batch 8" in text
    )


def test_batch_sweep_whose_work_did_not_grow(
    simulated_gpu: Record, with_rows: Callable[..., Record]
) -> None:
    record = with_rows(simulated_gpu, "batch-sweep", "batches", lambda r: r | {"patches": 6080})
    text = told(record, "batch-sweep")
    assert text.startswith("**The work did not grow with the batch:** batch 4 has 6,080 patches")
    assert "Fitted" not in text


@pytest.mark.parametrize(
    ("factor", "word"), [(1.0, "stays the same"), (0.5, "falls"), (1.5, "rises")]
)
def test_batch_sweep_with_intervals(
    simulated_gpu: Record, changed: Callable[..., Record], factor: float, word: str
) -> None:
    series = {
        f"batch={batch}": msgspec.structs.replace(
            simulated_gpu.stages["batch-sweep"].series["batch=1"],
            values=[batch * scale * (1 + i / 1000) for i in range(20)],
        )
        for batch, scale in ((1, 1.0), (4, factor))
    }
    rows: list[Row] = [
        {"batch": b, "patches": 100 * b, "median_s": b * s * 1.0095, "n": 20, "status": "ok"}
        for b, s in ((1, 1.0), (4, factor))
    ]
    record = changed(simulated_gpu, "batch-sweep", series=series, tables={"batches": rows})
    text = told(record, "batch-sweep")
    assert f"the time of one sample {word}: " in text
    assert f"a ratio of {factor:.2f}"[:-1] in text
    assert "too few samples" not in text
    assert "fits exactly and proves nothing" in text


def test_attention_sweep_excludes_attention(simulated_gpu: Record) -> None:
    text = told(simulated_gpu, "attention-sweep")
    assert "the slowest implementation, eager at 17.1 s, n = 1, takes 1.04 x as long" in text
    assert "which attention is used does not explain the time" in text
    assert "comes to 2.10 % of the forward" in text
    assert "- flash_attention_2 forced on every block, batch 1: 16.5 s, n = 1" in text
    assert "differs by at most 0.00210 of the largest feature" in text
    assert "not measured (out of memory)" in text
    assert "**eager, switched, batch 8**: CUDA out of memory." in text


def test_attention_sweep_that_explains_the_time(
    simulated_gpu: Record, with_rows: Callable[..., Record]
) -> None:
    def slow_sdpa(row: Row) -> Row:
        own = (row["attention"], row["experiment"]) == ("sdpa", "switched")
        return row | {"median_s": 40.0} if own and row["median_s"] else row

    text = told(
        with_rows(simulated_gpu, "attention-sweep", "backends", slow_sdpa), "attention-sweep"
    )
    assert "saves 59.0 % of the time of sdpa" in text


def test_per_layer_names_the_culprit(simulated_gpu: Record, findings: list[Finding]) -> None:
    text = told(simulated_gpu, "per-layer", findings)
    assert text.startswith(
        "`patch_embed` takes 16.1 s of the 16.3 s forward (99.1 %, n = 1), 172,000 x the "
        "93.5 us that its work should take at least on this machine."
    )
    assert "| **patch_embed** |" in text
    assert "All timed modules and functions are in Appendix A." in text
    assert "78" in told(simulated_gpu, "appendix-modules")


def test_per_layer_calls_nobody_a_culprit_whom_no_finding_accuses(simulated_gpu: Record) -> None:
    assert "| **patch_embed** |" not in told(simulated_gpu, "per-layer")


def test_per_layer_without_bounds_accuses_nobody(
    simulated_gpu: Record, with_rows: Callable[..., Record]
) -> None:
    unbound = dict.fromkeys(("bound_s", "excess_s", "slowdown"))
    record = with_rows(simulated_gpu, "per-layer", "modules", lambda row: row | unbound)
    text = told(record, "per-layer")
    assert "and what it should take is not known" in text
    assert "**patch_embed**" not in text


def test_per_layer_doubts_bounds_that_were_beaten(
    simulated_gpu: Record, with_rows: Callable[..., Record]
) -> None:
    record = with_rows(simulated_gpu, "per-layer", "modules", lambda row: row | {"bound_s": 100.0})
    text = told(record, "per-layer", diagnose(record))
    assert "**Bounds to be doubted:**" in text


def test_compare_patch_embed_without_an_interval(simulated_gpu: Record) -> None:
    text = told(simulated_gpu, "compare-patch-embed")
    assert text.startswith(
        "At 6,080 patches in bf16 on Simulated GPU, Conv3d (SlowDilated3d) takes 16.1 s, n = 1 and "
        "the equal Linear 292 us [291, 292], n = 20. Linear comes out **55,200 x** as fast, with "
        "too few samples for an interval."
    )
    assert "| bf16 | Conv3d | 2.65 ms |" in text


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (1.3, 1.4, "Linear is **"),
        (0.8, 0.9, "the convolution is the faster of the two"),
        (0.9, 1.1, "which includes 1, so no difference is claimed"),
    ],
)
def test_compare_patch_embed_claims_what_the_interval_allows(
    simulated_gpu: Record, with_rows: Callable[..., Record], low: float, high: float, said: str
) -> None:
    ends: Row = {"speedup_low": low, "speedup_high": high}
    record = with_rows(simulated_gpu, "compare-patch-embed", "variants", lambda row: row | ends)
    assert said in told(record, "compare-patch-embed").partition("In other dtypes")[0]


def test_method_lists_what_is_not_known(simulated_gpu: Record, findings: list[Finding]) -> None:
    text = told(simulated_gpu, "method", findings)
    assert "**Not assessed:** Is the device healthy? No datasheet peak is known." in text
    assert "The weights are random" in text
    assert "**Perturbation.** The forward takes 16.3 s with the marks" in text
    assert "n is the number of samples" in text


ODD: tuple[Cell, ...] = (None, "text", True, -1.0, 0, 1e12, 1e-12, "|<b>", 10**15)


@pytest.mark.parametrize("seed", range(25))
def test_no_valid_record_makes_a_section_fail(
    simulated_gpu: Record, findings: list[Finding], seed: int
) -> None:
    """Cells of a record may hold anything that JSON can."""
    generator = random.Random(seed)

    def damaged(row: Row) -> Row:
        kept = {key: value for key, value in row.items() if generator.random() > 0.02}
        return {
            key: generator.choice(ODD) if generator.random() < 0.05 else value
            for key, value in kept.items()
        }

    stages = {
        name: msgspec.structs.replace(
            result, tables={t: [damaged(row) for row in rows] for t, rows in result.tables.items()}
        )
        for name, result in simulated_gpu.stages.items()
    }
    workload = damaged(simulated_gpu.workload)
    record = msgspec.structs.replace(simulated_gpu, stages=stages, workload=workload)
    assert markdown.render("t", composed(telling(record, findings)))
