"""Every picture is a picture, whatever names it has to hold."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from qwenprof.formatting import seconds
from qwenprof.record.record import Record
from qwenprof.report import bar_plots, plots
from qwenprof.report.charts import Bar, BarChart, Gap, Line, LineChart, Panel, Point, drawing
from qwenprof.report.telling import telling
from qwenprof.report.writing import composed, figures

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def size_of(png: bytes) -> tuple[int, int]:
    """Width and height in pixels, from the header."""
    assert png.startswith(SIGNATURE)
    return struct.unpack(">II", png[16:24])  # type: ignore[return-value]


def test_every_figure_of_a_full_record_is_drawn(simulated_gpu: Record) -> None:
    drawn = {
        figure.stem: plots.png(figure.draw)
        for figure in figures(composed(telling(simulated_gpu, [])))
    }
    assert set(drawn) >= {
        "matmul",
        "batch_sweep",
        "attention_sweep",
        "per_layer",
        "time_against_bound",
        "excess",
        "compare_patch_embed",
    }
    for png in drawn.values():
        width, height = size_of(png)
        assert width == pytest.approx(plots.WIDTH_IN * plots.DPI, abs=1)
        assert height > 300
        assert len(png) > 10_000


@pytest.mark.parametrize(
    "values", [(None, None), (1.0, None), (0.0, -1.0), (1e-9, 1e6), (2.0, 2.0)]
)
def test_bars_of_any_values(values: tuple[float | None, ...], hostile: str) -> None:
    bars = tuple(
        Bar(label=hostile, value=value, note=hostile, emphasis=i == 0, marks={hostile: 1.0})
        for i, value in enumerate(values)
    )
    chart = BarChart(title=hostile, axis="t", bars=bars, write=seconds, emphasis="e", footer="漢字")
    assert size_of(plots.png(drawing(chart)))[1] > 200


@pytest.mark.parametrize("log", [True, False])
def test_one_point_and_many_lines(log: bool) -> None:
    one = Point(x=64.0, y=0.1, interval=(0.05, 0.2), note="n = 1")
    lines = tuple(Line(label=f"line {kind}", points=(one,), kind=kind) for kind in range(7))
    gap = Gap(x=64.0, low=0.1, high=0.2, note="2 x") if log else None
    panel = Panel(title="p", x_axis="x", y_axis="y", lines=lines, write=seconds, log=log, gap=gap)
    chart = LineChart(title="t", panels=(panel, replace(panel, lines=lines[:1])))
    assert size_of(plots.png(drawing(chart)))


def test_bars_that_differ_greatly_get_a_logarithmic_axis() -> None:
    assert bar_plots._is_log([16.1, 0.0005])
    assert not bar_plots._is_log([16.1, 15.0, None])


def test_labels_are_short_and_use_characters_that_the_font_has() -> None:
    assert plots.label("漢 model") == "? model"
    assert len(plots.label("x" * 10_000)) == plots.LONGEST_LABEL
    assert plots.label("a\nb\u202ec") == "a b\ufffdc"


def test_drawing_leaves_the_global_state_of_matplotlib_alone(simulated_gpu: Record) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    plots.png(figures(composed(telling(simulated_gpu, [])))[0].draw)
    assert dict(mpl.rcParams) == before
