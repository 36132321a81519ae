"""Times beside bounds: the pictures say what the record says, and nothing in them overlaps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import matplotlib as mpl
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation

from qwenprof.diagnosis.components import Anatomy, Component, anatomy
from qwenprof.formatting import seconds
from qwenprof.record.record import Record, Row, Tool
from qwenprof.report import markdown, plots
from qwenprof.report.charts import Bar, Chart, Scatter, Spot, Step, Waterfall, drawing
from qwenprof.report.section import Figure
from qwenprof.report.sections import _bounds, method, per_layer
from qwenprof.report.telling import telling

RECORD = Record(
    tool=Tool(name="qwenprof", version="0"),
    created="2026-01-01T00:00:00+00:00",
    command=[],
    environment={},
    workload={"dtype": "bf16"},
)
ORDINARY = st.floats(1e-9, 1e9)


def part(label: str, time_s: float, bound_s: float | None) -> Component:
    return Component(
        label=label,
        paths=(label,),
        module_type="Module",
        time_s=time_s,
        share=None,
        bound_s=bound_s,
    )


def forward(*parts: Component, rest_s: float = 0.0) -> Anatomy:
    total_s = sum(each.time_s for each in parts) + rest_s
    return Anatomy(total_s=total_s, tower="", components=parts)


def scatter_of(spots: tuple[Spot, ...], text: str = "") -> Scatter:
    return Scatter(
        title=f"t{text}",
        x_axis="bound",
        y_axis="time",
        spots=spots,
        write=seconds,
        diagonal="limit",
        below="below",
        filled="filled",
        hollow="hollow",
        emphasis="culprit",
        footer=text,
    )


def drawn(chart: Chart) -> Canvas:
    """The canvas after `chart` was drawn on it, as it would go to a file."""
    with mpl.rc_context(plots.STYLE):
        canvas = Canvas(dpi=plots.DPI, layout="constrained")
        FigureCanvasAgg(canvas)
        drawing(chart)(canvas)
        canvas.draw_without_rendering()
    return canvas


def whole_of(record: Record) -> Anatomy:
    whole = anatomy(record.rows("per-layer", "modules"))
    assert whole is not None
    return whole


class TestScatter:
    def test_the_culprit_comes_first_and_is_far_off_the_diagonal(
        self, simulated_gpu: Record
    ) -> None:
        whole = whole_of(simulated_gpu)
        culprit = whole.holding("model.visual.patch_embed.proj")
        chart = _bounds.scatter(simulated_gpu, whole, culprit, "n = 1")

        first = chart.spots[0]
        assert (first.label, first.note) == ("patch_embed", "172,000 x its bound")
        assert first.y / first.x > 1e5
        assert [spot.label for spot in chart.spots if spot.emphasis] == ["patch_embed"]
        excess = [spot.y - spot.x for spot in chart.spots[1:]]
        assert excess == sorted(excess, reverse=True)
        assert chart.title.endswith("n = 1")

    def test_a_bound_of_one_launch_is_hollow_and_claims_no_slowdown(
        self, simulated_gpu: Record
    ) -> None:
        chart = _bounds.scatter(simulated_gpu, whole_of(simulated_gpu), None, "n = 1")
        hollow = {spot.label: spot.note for spot in chart.spots if spot.hollow}
        assert hollow == {"position interpolation": "", "rotary position": ""}

    def test_a_launch_for_each_of_many_calls_is_one_launch_only_too(
        self, simulated_gpu: Record, with_rows: Callable[..., Record]
    ) -> None:
        def called_often(row: Row) -> Row:
            own = str(row["path"]).endswith("patch_embed")
            return row | ({"calls": 7, "bound_s": 7 * 2.6e-6} if own else {})

        record = with_rows(simulated_gpu, "per-layer", "modules", called_often)
        embed = whole_of(record).holding("model.visual.patch_embed")
        assert embed is not None
        assert _bounds.one_launch_only(record, embed)
        assert not _bounds.one_launch_only(record, replace(embed, bound_s=8 * 2.6e-6))
        assert not _bounds.one_launch_only(RECORD, embed)

    def test_parts_without_a_bound_are_named_in_the_caption(self, simulated_gpu: Record) -> None:
        whole = whole_of(simulated_gpu)
        figure = _bounds.pictures(simulated_gpu, whole, None, "n = 1")[0]
        assert isinstance(figure, Figure)
        assert figure.caption.endswith("own code of the tower; own code around the tower.")

    @settings(max_examples=12, deadline=None)
    @given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9), st.booleans()), max_size=10))
    def test_no_label_overlaps_another_or_a_spot(
        self, places: list[tuple[float, float, bool]]
    ) -> None:
        spots = tuple(
            Spot(label=f"part {i}", x=10**x, y=10**y, note="2 x", hollow=hollow)
            for i, (x, y, hollow) in enumerate(places)
        )
        axes = drawn(scatter_of(spots)).axes[0]
        labels = [text for text in axes.texts if text.get_text().startswith("part")]
        boxes = [text.get_window_extent() for text in labels]
        for i, (text, box) in enumerate(zip(labels, boxes, strict=True)):
            assert isinstance(text, Annotation)
            assert box.count_overlaps(boxes[:i]) == 0
            assert axes.bbox.x0 <= box.x0 < box.x1 <= axes.bbox.x1
            assert axes.bbox.y0 <= box.y0 < box.y1 <= axes.bbox.y1
            for spot in spots:
                x, y = axes.transData.transform((spot.x, spot.y))
                assert not box.contains(x, y)

    def test_the_culprit_is_labelled_where_there_is_no_room(self) -> None:
        crowd = [Spot(label=f"part {i}", x=1e-3, y=1e-3 * 1.05**i) for i in range(-9, 10)]
        spots = (Spot(label="culprit", x=1e-3, y=1e-3, emphasis=True), *crowd)
        names = [text.get_text() for text in drawn(scatter_of(spots)).axes[0].texts]
        assert "culprit" in names
        assert len([name for name in names if name.startswith("part")]) < len(crowd)

    @pytest.mark.parametrize(
        "ends", [(), ((1.0, 1.0),), ((1e-9, 1e9), (1e9, 1e-9)), ((1e-12, 1e12), (1e-3, 1e-3))]
    )
    def test_any_values_are_drawn(
        self, ends: tuple[tuple[float, float], ...], hostile: str
    ) -> None:
        spots = tuple(
            Spot(label=hostile, x=x, y=y, note=hostile, emphasis=i == 0, hollow=i == 1)
            for i, (x, y) in enumerate(ends)
        )
        assert len(plots.png(drawing(scatter_of(spots, hostile)))) > 5_000


class TestWaterfall:
    def test_from_the_bounds_to_the_forward(self, simulated_gpu: Record) -> None:
        whole = whole_of(simulated_gpu)
        culprit = whole.holding("model.visual.patch_embed.proj")
        chart = _bounds.waterfall(simulated_gpu, whole, culprit, "n = 1")

        assert chart.title == "From bounds of 53.7 ms to a forward of 16.3 s, n = 1"
        assert chart.end.value == whole.total_s
        assert chart.levels[-1] == pytest.approx(whole.total_s)
        assert [(step.label, step.emphasis) for step in chart.steps] == [
            ("patch_embed", True),
            ("blocks, all 24", False),
            ("position interpolation", False),
            ("rotary position", False),
            ("7 smaller parts", False),
        ]
        assert chart.steps[0].note == "+16.1 s, 99.1 % of the forward"

    @settings(deadline=None)
    @given(
        st.lists(st.tuples(ORDINARY, st.none() | ORDINARY), min_size=1, max_size=20),
        st.floats(-0.5, 0.5),
        st.integers(0, 19),
    )
    def test_the_steps_always_add_up(
        self, times: list[tuple[float, float | None]], rest: float, accused: int
    ) -> None:
        parts = [part(f"part {i}", *each) for i, each in enumerate([*times, (1.0, 1.0)])]
        whole = forward(*parts, rest_s=rest * sum(each.time_s for each in parts))
        culprit = parts[accused % len(parts)]
        chart = _bounds.waterfall(RECORD, whole, culprit, "n = 1")

        largest = max(map(abs, (*chart.levels, whole.total_s)))
        assert chart.levels[0] == chart.start.value
        assert chart.levels[0] == pytest.approx(sum(each.bound_s or 0.0 for each in parts))
        assert math.isclose(chart.levels[-1], whole.total_s, rel_tol=1e-9, abs_tol=1e-9 * largest)
        assert [step.label for step in chart.steps if step.emphasis] == [culprit.label]
        assert len(chart.steps) <= _bounds.MOST_STEPS + 3

    def test_parts_that_are_alike_are_all_counted(self) -> None:
        whole = forward(*[part("twin", 1.0, 0.5)] * 14)
        chart = _bounds.waterfall(RECORD, whole, None, "n = 1")
        assert chart.steps[-1].label == "6 smaller parts"
        assert chart.levels[-1] == pytest.approx(14.0)

    def test_a_single_small_part_keeps_its_name(self) -> None:
        parts = [part(f"part {i}", 10.0**-i, 1e-6) for i in range(4)]
        chart = _bounds.waterfall(RECORD, forward(*parts), None, "n = 1")
        assert [step.label for step in chart.steps] == [each.label for each in parts]

    def test_a_beaten_bound_goes_back_and_a_part_without_one_counts_whole(self) -> None:
        whole = forward(
            part("slow", 3.0, 1.0), part("beaten", 1.0, 1.5), part("own code", 0.5, None)
        )
        chart = _bounds.waterfall(RECORD, whole, None, "n = 1")
        assert [(step.label, step.change, step.kind) for step in chart.steps] == [
            ("slow", 2.0, _bounds.OVER),
            ("own code", 0.5, _bounds.UNBOUND),
            ("beaten", -0.5, _bounds.UNDER),
        ]
        assert chart.steps[-1].note == "-500 ms, 11.1 % of the forward"
        bars = [bar for bar in drawn(chart).axes[0].patches if isinstance(bar, Rectangle)]
        ends = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in bars]
        assert ends == [(0, 2.5), (2.5, 4.5), (4.5, 5.0), (5.0, 4.5), (0, 4.5)]

    def test_what_no_part_accounts_for_is_shown(self) -> None:
        whole = forward(part("a", 1.0, 0.5), rest_s=0.5)
        chart = _bounds.waterfall(RECORD, whole, None, "n = 1")
        assert [(step.label, step.change) for step in chart.steps] == [
            ("a", 0.5),
            ("in no part", 0.5),
        ]

    @pytest.mark.parametrize(
        "changes", [(), (0.0,), (-5.0,), (1e-9, 1e9), (1e9, -1e9, 1e-9), (1e30, -1e30)]
    )
    @pytest.mark.parametrize("start", [0.0, 1e-9, 1.0])
    def test_any_values_are_drawn(
        self, changes: tuple[float, ...], start: float, hostile: str
    ) -> None:
        steps = tuple(
            Step(label=hostile, change=change, note=hostile, emphasis=i == 0, kind=i % 4)
            for i, change in enumerate(changes)
        )
        chart = Waterfall(
            title=hostile,
            axis="t",
            start=Bar(label=hostile, value=start, note=hostile),
            steps=steps,
            end=Bar(label="end", value=None),
            write=seconds,
            kinds=_bounds.KINDS,
            footer="漢字",
        )
        assert len(plots.png(drawing(chart))) > 5_000


class TestSection:
    def test_the_caption_says_what_bounds_are_made_of_and_leave_out(
        self, simulated_gpu: Record
    ) -> None:
        text = "\n\n".join(
            markdown.render_block(block) for block in per_layer.compose(telling(simulated_gpu, []))
        )
        made_of = "204 TFLOPS (bf16 GEMM), 1.72 TB/s (memory) and 2.60 us a launch"
        assert f"at the best rates measured on this machine: {made_of}." in text
        assert _bounds.UNCOUNTED in text
        assert "(time_against_bound.png)" in text
        assert "(excess.png)" in text

    def test_the_section_on_method_says_the_same_of_what_is_left_out(self) -> None:
        assert method.UNCOUNTED == _bounds.UNCOUNTED

    def test_without_bounds_there_is_a_sentence_and_no_picture(
        self, simulated_gpu: Record, with_rows: Callable[..., Record]
    ) -> None:
        record = with_rows(simulated_gpu, "per-layer", "modules", lambda r: r | {"bound_s": None})
        text = "".join(
            markdown.render_block(block)
            for block in _bounds.pictures(record, whole_of(record), None, "n = 1")
        )
        assert text.startswith("**No bounds.** What the parts should take is not known: the record")
        rateless = {name: stage for name, stage in record.stages.items() if name != "matmul"}
        blocks = _bounds.pictures(
            msgspec.structs.replace(record, stages=rateless), whole_of(record), None, "n = 1"
        )
        assert len(blocks) == 1
        assert "that is the stage matmul" in markdown.render_block(blocks[0])

    @pytest.mark.parametrize("cell", [None, 0.0, -1.0, 1e-300, 1e29, "text"])
    @pytest.mark.parametrize("column", ["inclusive_s", "exclusive_s", "bound_s"])
    def test_strange_cells_are_drawn_or_left_out(
        self,
        simulated_gpu: Record,
        with_rows: Callable[..., Record],
        column: str,
        cell: float | str | None,
    ) -> None:
        def strange(row: Row) -> Row:
            return row | {column: cell} if str(row["path"]).endswith("embed") else row

        record = with_rows(simulated_gpu, "per-layer", "modules", strange)
        for block in _bounds.pictures(record, whole_of(record), None, "n = 1"):
            assert isinstance(block, Figure)
            assert len(plots.png(block.draw)) > 10_000
