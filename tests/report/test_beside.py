"""Another record's figures beside this one's: in every table and plot, matched by what they are."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import msgspec
import pytest

from qwenprof.record.published import writeup
from qwenprof.record.record import Cell, Record, Row, StageResult
from qwenprof.report import markdown, plots
from qwenprof.report.beside import beside
from qwenprof.report.charts import Bar, BarChart, LineChart
from qwenprof.report.section import Block, Figure, Table, published, sections
from qwenprof.report.telling import Other, telling, usual_other

STAGES = (
    "matmul",
    "batch-sweep",
    "attention-sweep",
    "per-layer",
    "compare-patch-embed",
    "dispatch",
)
LABEL = "published, RTX 5090"
TABLE = Table(
    header=("Key", "Time"), align="lr", rows=(("a", "1 s"), ("b", "2 s")), caption="Mine."
)


def composed(record: Record, section: str, against: Record | None = None) -> list[Block]:
    asked = usual_other(record) if against is None else against
    return sections()[section].compose(telling(record, against=asked))


def rendered(blocks: Sequence[Block]) -> str:
    return "\n\n".join(markdown.render_block(block) for block in blocks)


def chart_of(blocks: Sequence[Block], stem: str) -> BarChart | LineChart:
    figure = next(each for each in blocks if isinstance(each, Figure) and each.stem == stem)
    return figure.draw.args[0]  # type: ignore[attr-defined,no-any-return]


def bars(blocks: Sequence[Block], stem: str) -> dict[str, Bar]:
    chart = chart_of(blocks, stem)
    assert isinstance(chart, BarChart)
    assert chart.beside == LABEL
    return {bar.label: bar for bar in chart.bars}


@pytest.fixture
def twin(simulated_gpu: Record) -> Record:
    """Another run of the same, on a device of another name."""
    device = simulated_gpu.environment["device"] | {"name": "Other GPU"}
    environment = simulated_gpu.environment | {"device": device}
    return msgspec.structs.replace(simulated_gpu, environment=environment)


def test_what_only_the_published_case_has_is_told_to_whoever_asked_for_it(
    simulated_gpu: Record,
) -> None:
    section = sections()["attention-sweep"]
    alone = rendered(section.compose(telling(simulated_gpu)))
    asked = rendered(section.compose(telling(simulated_gpu, against=writeup())))

    assert alone.count("\n| ") < asked.count("\n| ")
    assert LABEL in alone


class TestTheTable:
    def test_a_figure_stands_in_the_row_that_it_is_about(self) -> None:
        told = beside(TABLE, ["a", "b"], Other(record=writeup()), {"time": {"b": "9 s"}})

        assert told.header == ("Key", "Time", f"{LABEL}: time")
        assert told.align == "lrr"
        assert told.rows == (("a", "1 s", "-"), ("b", "2 s", published("9 s")))
        assert told.caption.startswith("Mine. Published for NVIDIA GeForce RTX 5090")
        assert told.caption.endswith("not measured here.")

    def test_what_only_the_other_has_is_a_row_without_figures_of_this_run(self) -> None:
        other = Other(record=writeup())
        columns = {"": {"c": "9 s", "d": None}}
        told = beside(TABLE, ["a", "b"], other, columns, {"a": ("A",), "c": ("c",), "d": ("d",)})

        assert told.rows[2:] == (("c", "not measured", published("9 s")),)
        assert told.header[2] == LABEL

    def test_without_any_figure_there_is_no_column(self) -> None:
        other = Other(record=writeup())

        assert beside(TABLE, ["a", "b"], other, {"": {"x": "1 s"}, "n": {"a": None}}) is TABLE
        assert beside(TABLE, ["a", "b"], None, {"": {"a": "1 s"}}) is TABLE

    def test_figures_that_were_measured_are_not_set_apart(self, twin: Record) -> None:
        told = beside(TABLE, ["a", "b"], Other(record=twin), {"": {"a": "9 s"}})

        assert told.rows[0] == ("a", "1 s", "9 s")
        assert told.header[2] == "other run, Other GPU"


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_labels_the_other_run(simulated_gpu: Record, twin: Record, stage: str) -> None:
    blocks = composed(simulated_gpu, stage, twin)
    headers = [heading for each in blocks if isinstance(each, Table) for heading in each.header]

    assert any(heading.startswith("other run, Other GPU") for heading in headers)
    assert "published, " not in rendered(blocks)


@pytest.mark.parametrize("stage", STAGES)
def test_nothing_of_a_record_without_the_stage_is_told(
    simulated_gpu: Record, empty_record: Record, stage: str
) -> None:
    text = rendered(composed(simulated_gpu, stage, empty_record))

    assert "other run" not in text
    assert "Another run" not in text


def test_matrix_products(simulated_gpu: Record) -> None:
    blocks = composed(simulated_gpu, "matmul")

    assert "| *4.90 ms* | *224 TFLOPS* |" in rendered(blocks)
    own = bars(blocks, "matmul")
    assert own["bf16  8,192"].beside == pytest.approx(223.7e12)
    assert own["bf16  8,192"].value is not None


def test_a_product_that_only_the_other_measured_has_a_row_and_a_bar(
    simulated_gpu: Record, with_rows: Callable[..., Record]
) -> None:
    smaller = with_rows(simulated_gpu, "matmul", "gemm", lambda row: row | {"size": 1024})
    blocks = composed(smaller, "matmul")

    row = "| bf16 | 8,192 | not measured | - | - | - | - | - | - | *4.90 ms* | *224 TFLOPS* |"
    assert row in rendered(blocks)
    bar = bars(blocks, "matmul")["bf16  8,192"]
    assert (bar.value, bar.note, bar.beside) == (None, "not measured", pytest.approx(223.7e12))


def test_batches(simulated_gpu: Record) -> None:
    blocks = composed(simulated_gpu, "batch-sweep")
    text = rendered(blocks)

    assert f"{LABEL}: per sample, computed" in text
    assert "| *16.5 s* | *16.5 s* | *9.03 GiB* |" in text
    chart = chart_of(blocks, "batch_sweep")
    assert isinstance(chart, LineChart)
    for panel in chart.panels:
        other = next(line for line in panel.lines if line.beside)
        assert other.label == LABEL
        assert [point.x for point in other.points] == [1, 4, 8, 16]


def test_times_that_are_far_apart_share_a_logarithmic_axis(
    simulated_gpu: Record, with_rows: Callable[..., Record]
) -> None:
    def is_log(record: Record) -> list[bool]:
        chart = chart_of(composed(record, "batch-sweep"), "batch_sweep")
        assert isinstance(chart, LineChart)
        return [panel.log for panel in chart.panels]

    def fast(row: Row) -> Row:
        return row | {"median_s": 0.001 * float(row["batch"] or 1)} if row["median_s"] else row

    assert is_log(simulated_gpu) == [False, False]
    assert is_log(with_rows(simulated_gpu, "batch-sweep", "batches", fast)) == [True, True]


def test_the_figures_of_a_published_record_are_never_called_measured(simulated_gpu: Record) -> None:
    chart = chart_of(composed(writeup(), "batch-sweep", simulated_gpu), "batch_sweep")
    assert isinstance(chart, LineChart)

    labels = {line.label for panel in chart.panels for line in panel.lines}
    assert labels == {"published", "fitted line", "other run, Simulated GPU"}


def test_attention(simulated_gpu: Record) -> None:
    blocks = composed(simulated_gpu, "attention-sweep")
    text = rendered(blocks)

    assert "| eager | switched | 1 | 17.1 s | 1 |" in text
    assert "| *17.1 s* |" in text
    assert "| sdpa | replaced by plain SDPA | 8 | not measured |" in text
    assert bars(blocks, "attention_sweep")["eager, batch 1"].beside == 17.1
    assert bars(blocks, "attention_sweep")["sdpa replaced, batch 8"].beside == 150


def test_phases(simulated_gpu: Record, changed: Callable[..., Record]) -> None:
    row: Row = {"phase": "vision", "median_s": 0.3, "n": 20, "share": 0.75, "clock": "device"}
    own = changed(simulated_gpu, "breakdown", tables={"phases": [row]})
    other = row | {"median_s": 0.6, "share": 0.5}
    extra = other | {"phase": "language"}
    against = changed(simulated_gpu, "breakdown", tables={"phases": [other, extra]})

    text = rendered(composed(own, "breakdown", against))
    assert "| the device's clock | 600 ms, n = 20 | 50.0 % |" in text
    assert "| language model | not measured | - | - | - | 600 ms, n = 20 | 50.0 % |" in text


def test_parts_are_matched_by_role(simulated_gpu: Record) -> None:
    blocks = composed(simulated_gpu, "per-layer")
    text = rendered(blocks)

    assert "| *16.1 s* | *99.4 %* |" in text
    assert "| *56.4 ms* | *0.35 %* |" in text  # stated for all blocks, not added up
    assert "| *1.40 ms* | - |" in text
    drawn = bars(blocks, "per_layer")
    assert drawn["patch_embed"].beside == 16.1113
    assert drawn["position interpolation"].beside == 0.0228
    assert drawn["rotary position"].beside == 0.0207


def test_blocks_of_another_number_are_the_same_part(simulated_gpu: Record) -> None:
    """A larger model has more of them."""
    other = writeup()
    rows = [
        row for row in other.rows("per-layer", "modules") if "blocks.23" not in str(row["path"])
    ]
    stage = StageResult(status="ok", duration_s=0.0, tables={"modules": rows})
    text = rendered(composed(simulated_gpu, "per-layer", other.with_stage("per-layer", stage)))

    assert "all 23" not in text
    assert "| *54.3 ms* |" in text


def test_the_comparison(simulated_gpu: Record) -> None:
    blocks = composed(simulated_gpu, "compare-patch-embed")
    text = rendered(blocks)

    assert "| *16.1 s* | *300 us* | *53,700 x* |" in text
    chart = chart_of(blocks, "compare_patch_embed")
    assert isinstance(chart, LineChart)
    hollow = {line.label: line for line in chart.panels[0].lines if line.beside}
    assert list(hollow) == [f"Conv3d bf16, {LABEL}", f"Linear bf16, {LABEL}"]
    assert not any(line.joined for line in hollow.values())


def test_variants_are_matched_on_the_same_patches_only(
    simulated_gpu: Record, changed: Callable[..., Record]
) -> None:
    def record(patches: int, median_s: float, *names: str) -> Record:
        rows: list[Row] = [
            {
                "variant": name,
                "what": f"how {name} runs",
                "dtype": "bf16",
                "patches": patches,
                "direction": "forward",
                "median_s": median_s,
                "n": 20,
                "status": "ok",
            }
            for name in names
        ]
        return changed(simulated_gpu, "compare-patch-embed", tables={"variants": rows})

    own = record(64, 0.001, "Conv3d", "Linear")
    same = rendered(composed(own, "compare-patch-embed", record(64, 0.5, "Conv3d", "lazy swap")))
    assert "other run, Simulated GPU: forward" in same
    assert "| lazy swap | not recorded | not measured |" in same
    fewer = rendered(composed(own, "compare-patch-embed", record(32, 0.5, "Conv3d")))
    assert "other run, Simulated GPU: forward" not in fewer


def test_checks_are_matched_though_their_names_tell_how_many_images(
    simulated_gpu: Record,
) -> None:
    check: Row = {
        "check": "published: pooled features of 4 image(s) after the whole tower",
        "variant": "fix (view)",
        "dtype": "bf16",
        "metric": "cosine, the least",
        "value": 0.9999,
        "tolerance": 0.99,
        "reference": "the forward with Conv3d",
        "passed": True,
        "must_fail": False,
        "status": "ok",
    }
    stage = StageResult(status="ok", duration_s=1.0, tables={"checks": [check]})
    text = rendered(composed(simulated_gpu.with_stage("verify", stage), "verify"))

    assert "| 0.99990000 | 0.990 | passed | *> 0.999* |" in text
    assert "*< 1e-07*" in text


def test_errors_against_fp64_are_matched_by_variant_and_dtype(simulated_gpu: Record) -> None:
    def record(value: float) -> Record:
        check: Row = {
            "check": "output",
            "variant": "fix (view)",
            "dtype": "bf16",
            "metric": "relative error (2-norm)",
            "value": value,
            "tolerance": 0.004,
            "passed": True,
            "must_fail": False,
            "status": "ok",
        }
        stage = StageResult(status="ok", duration_s=1.0, tables={"checks": [check]})
        return simulated_gpu.with_stage("verify", stage)

    blocks = composed(record(0.001), "verify", record(0.002))
    assert "| passed | 0.00200 |" in rendered(blocks)
    chart = chart_of(blocks, "verify")
    assert isinstance(chart, BarChart)
    assert (chart.bars[0].beside, chart.bars[0].beside_note) == (0.5, "0.00200")


def test_the_dispatch(simulated_gpu: Record) -> None:
    text = rendered(composed(simulated_gpu, "dispatch"))

    assert f"{LABEL}: part in it" in text
    assert "*6,080 x (1,024 + 2) = 6.24 million*" in text
    assert "*2.58 us*" in text


def test_backends_are_matched_by_the_tail_of_the_module(
    simulated_gpu: Record, changed: Callable[..., Record]
) -> None:
    def record(module: str, backend: str) -> Record:
        row: Row = {"module": module, "dtype": "bf16", "backend": backend, "patches": 8}
        return changed(simulated_gpu, "dispatch", tables={"convolutions": [row]})

    own, other = record("patch_embed.proj", "Mkldnn"), record("model.visual.patch_embed.proj", "X3")
    table = next(
        each
        for each in composed(own, "dispatch", other)
        if isinstance(each, Table) and each.header[0] == "Convolution"
    )
    assert table.header[-1] == "other run, Simulated GPU: backend"
    assert table.rows[0][-1] == "X3"


@pytest.mark.parametrize("way", ["beside the published", "beside a run", "published beside a run"])
def test_every_plot_with_two_records_is_drawn(
    simulated_gpu: Record, twin: Record, way: str
) -> None:
    pairs = {
        "beside the published": (simulated_gpu, writeup()),
        "beside a run": (simulated_gpu, twin),
        "published beside a run": (writeup(), twin),
    }
    own, other = pairs[way]
    drawn = [
        plots.png(block.draw)
        for stage in STAGES
        for block in composed(own, stage, other)
        if isinstance(block, Figure)
    ]
    assert len(drawn) >= 5
    assert all(png.startswith(b"\x89PNG") for png in drawn)


ODD: tuple[Cell, ...] = (None, "text", True, -1.0, 0, 1e12, 1e-12, "|<b>", 10**15)


@pytest.mark.parametrize("seed", range(15))
def test_no_valid_record_beside_makes_a_section_fail(simulated_gpu: Record, seed: int) -> None:
    generator = random.Random(seed)

    def damaged(row: Row) -> Row:
        kept = {key: value for key, value in row.items() if generator.random() > 0.05}
        return {
            k: generator.choice(ODD) if generator.random() < 0.1 else v for k, v in kept.items()
        }

    stages = {
        name: msgspec.structs.replace(
            result, tables={t: [damaged(row) for row in rows] for t, rows in result.tables.items()}
        )
        for name, result in simulated_gpu.stages.items()
    }
    other = msgspec.structs.replace(
        simulated_gpu, stages=stages, workload=damaged(simulated_gpu.workload)
    )
    for stage in (*STAGES, "workload", "breakdown", "verify"):
        assert rendered(composed(simulated_gpu, stage, other))


def test_hostile_names_of_the_other_record_stay_text(simulated_gpu: Record, hostile: str) -> None:
    device = {"type": "cuda", "name": hostile}
    rows = [row | {"dtype": hostile} for row in simulated_gpu.rows("matmul", "gemm")]
    other = msgspec.structs.replace(
        simulated_gpu.with_stage(
            "matmul", StageResult(status="ok", duration_s=1.0, tables={"gemm": rows})
        ),
        environment=simulated_gpu.environment | {"device": device},
    )
    text = rendered(composed(simulated_gpu, "matmul", other))

    assert "\\<script>" in text
    assert "alice" not in text
    assert "\x1b" not in text


def test_a_caption_says_whose_figures_are_outlined(simulated_gpu: Record, twin: Record) -> None:
    def captions(against: Record | None) -> dict[str, str]:
        blocks = [each for stage in STAGES for each in composed(simulated_gpu, stage, against)]
        return {block.stem: block.caption for block in blocks if isinstance(block, Figure)}

    beside_run = captions(twin)
    for stem in ("matmul", "batch_sweep", "attention_sweep", "per_layer", "compare_patch_embed"):
        assert "Outlined in black: Another run, of 2026-01-01: Other GPU" in beside_run[stem]
    assert "not measured here" in captions(None)["matmul"]
    assert "Outlined" not in beside_run["excess"]
