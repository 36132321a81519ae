"""How charts look: one style, legible in greyscale and to the colour-blind, on its own canvas.

Colours are Okabe and Ito's, and never the only difference: bars have hatches, lines have markers
and dashes. Nothing touches pyplot, so a program that draws its own figures sees no change.

Source of the colours: Okabe and Ito, Color Universal Design, 2008.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import matplotlib as mpl
from matplotlib import font_manager, ft2font, ticker
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from qwenprof.formatting import clean, without_homes
from qwenprof.report.charts import Bar, BarChart, Chart, Gap, Line, LineChart, Panel
from qwenprof.report.scales import value_ticks

DPI = 160
WIDTH_IN = 8.4
TITLE_IN, LEGEND_ROW_IN, FOOTER_IN = 0.34, 0.22, 0.26
BAR_IN, PANEL_IN = 0.29, 3.1
CHARACTER_IN = 0.062  # of a legend, on average
INK, QUIET, EMPHASIS = "#1a1a1a", "#6b6b6b", "#D55E00"
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9")
BAR_COLOURS = ("#8FB8D6", "#E9B949", "#3E9C80", "#CC9CB8", "#BBBBBB")
HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\")
MARKERS = ("o", "s", "^", "D", "v")
BESIDE: Any = {  # what another record has: always hollow, and never of a colour of this one's
    "color": INK,
    "marker": "o",
    "markersize": 7.5,
    "markerfacecolor": "white",
    "markeredgewidth": 1.5,
}
MEASURED_BESIDE: Any = {"color": QUIET, "markerfacecolor": QUIET}  # beside what is outlined itself
OUTLINED: Any = {"facecolor": "white", "linewidth": 1.0, "linestyle": (0, (3, 2))}
DASHES, DOTS = (0, (4, 3)), (0, (1, 2))
TITLE_FITS = 94  # characters of a title in its full size
PUBLISHED = ", published, not measured"
LONGEST_LABEL, LONGEST_NOTE, LONGEST_NAME, LONGEST_TITLE = 38, 46, 80, 110
FONT = "DejaVu Sans"
CLEAR: Any = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}  # no grid through a note
STYLE: Any = {
    "font.family": FONT,
    "font.size": 9.0,
    "text.color": INK,
    "text.parse_math": False,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.unicode_minus": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.7,
    "hatch.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "white",
}


def png(draw: Callable[[Figure], None]) -> bytes:
    """What `draw` draws, as a PNG file."""
    with mpl.rc_context(STYLE):
        figure = Figure(dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": "qwenprof"})
    return buffer.getvalue()


def draw_lines(figure: Figure, chart: LineChart) -> None:
    """Panels side by side; error bars where there is an interval."""
    frame(figure, chart, _line_legend(chart), PANEL_IN)
    panels = figure.subplots(1, len(chart.panels), squeeze=False)[0]
    for axes, panel in zip(panels, chart.panels, strict=True):
        _draw_panel(axes, panel, published=chart.published)


def label(text: str, longest: int = LONGEST_LABEL) -> str:
    """Text from a record as a label: short, on one line, in characters that the font has."""
    known = _known_characters()
    return "".join(
        character if ord(character) in known else "?"
        for character in clean(without_homes(text), longest)
    )


def frame(figure: Figure, chart: Chart, legend: Sequence[Line2D | Patch], body_in: float) -> None:
    """Title on top, legend under it, at the foot what a reader needs to believe it."""
    columns = _columns([str(handle.get_label()) for handle in legend])
    legend_in = LEGEND_ROW_IN * math.ceil(len(legend) / columns)
    height = TITLE_IN + legend_in + body_in + FOOTER_IN
    figure.set_size_inches(WIDTH_IN, height)
    top = 1 - (TITLE_IN + legend_in) / height
    engine: Any = figure.get_layout_engine()
    engine.set(rect=(0.005, FOOTER_IN / height, 0.985, top - FOOTER_IN / height))
    title = _title(chart)
    size = 10.5 * min(1.0, TITLE_FITS / len(title)) if title else 10.5
    figure.text(0.01, 1 - 0.08 / height, title, va="top", weight="bold", fontsize=size)
    footer = label(chart.footer, 170)
    figure.text(0.01, 0.06 / height, footer, va="bottom", fontsize=7, color=QUIET)
    if legend:
        figure.legend(
            handles=list(legend),
            loc="upper left",
            bbox_to_anchor=(0.008, 1 - (TITLE_IN - 0.06) / height),
            ncols=columns,
            borderaxespad=0.0,
            borderpad=0.2,
            columnspacing=1.6,
        )


def _title(chart: Chart) -> str:
    """Whatever has to be cut, it says last that figures are published."""
    said = PUBLISHED if isinstance(chart, BarChart | LineChart) and chart.published else ""
    return label(chart.title, LONGEST_TITLE - len(said)) + said


def _columns(names: Sequence[str]) -> int:
    """Of a legend: one row if it fits, at most as many as the width holds."""
    wanted = len(names) if len(names) < 5 else math.ceil(len(names) / 2)
    column_in = 0.55 + CHARACTER_IN * max(map(len, names), default=0)
    return max(1, min(wanted, int(WIDTH_IN / column_in)))


def note_beside(
    axes: Axes,
    note: str,
    end: tuple[float, float],
    *,
    strong: bool = False,
    quiet: bool = False,
    small: bool = False,
) -> None:
    """A note to the right of a bar that ends there."""
    axes.annotate(
        label(note, LONGEST_NOTE),
        end,
        xytext=(9, 0),
        textcoords="offset points",
        va="center",
        fontsize=7.5 if small else 8.5,
        color=QUIET if quiet else INK,
        weight="bold" if strong else "normal",
        style="italic" if quiet or small else "normal",
        bbox=CLEAR,
    )


def bar_look(bar: Bar, *, published: bool = False) -> dict[str, Any]:
    """Colour and hatch of a bar, for its kind or its emphasis; an outline where it is published."""
    kind = bar.kind % len(BAR_COLOURS)
    if published and bar.emphasis:
        return {**OUTLINED, "edgecolor": EMPHASIS, "linewidth": 2.0}
    if published:
        return {**OUTLINED, "edgecolor": INK, "hatch": HATCHES[kind]}
    if bar.emphasis:
        return {"color": EMPHASIS, "edgecolor": INK, "linewidth": 0.9}
    look = {"facecolor": BAR_COLOURS[kind], "hatch": HATCHES[kind]}
    return {**look, "edgecolor": INK, "linewidth": 0.6}


def _draw_panel(axes: Axes, panel: Panel, *, published: bool) -> None:
    if panel.log or panel.log_x:
        axes.set_xscale("log")
    if panel.log:
        axes.set_yscale("log")
    for line in panel.lines:
        _draw_line(axes, line, published=published)
    points = [point for line in panel.lines for point in line.points]
    xs = sorted({point.x for line in panel.lines if not line.fit_only for point in line.points})
    axes.set_xticks(xs, [f"{x:,.0f}" for x in xs])
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    if not panel.log:
        tops = [end for point in points for end in (point.y, *(point.interval or ()))]
        axes.set_ylim(0.0, 1.18 * max(tops))
    axes.margins(x=0.10)
    if panel.gap:
        _draw_gap(axes, panel.gap, xs[0])
    value_ticks(axes.yaxis, panel.write, log=panel.log)
    axes.set_xlabel(panel.x_axis)
    axes.set_ylabel(f"{panel.y_axis}, logarithmic" if panel.log else panel.y_axis)
    axes.set_title(panel.title)
    axes.grid(visible=True, axis="both")


def _draw_gap(axes: Axes, gap: Gap, least_x: float) -> None:
    """A bracket beyond the last points; on logarithmic axes only."""
    width = math.log(gap.x / least_x) if gap.x > least_x else 1.0
    beside = gap.x * math.exp(0.05 * width)
    axes.set_xlim(right=max(gap.x * math.exp(0.28 * width), axes.get_xlim()[1]))
    axes.plot([beside, beside], [gap.low, gap.high], "_-", color=INK, linewidth=1.0)
    axes.annotate(
        label(gap.note, LONGEST_NOTE),
        (beside, math.sqrt(gap.low * gap.high)),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        weight="bold",
        bbox=CLEAR,
    )


def _draw_line(axes: Axes, line: Line, *, published: bool) -> None:
    look = _line_look(line, published=published)
    axes.plot([point.x for point in line.points], [point.y for point in line.points], **look)
    for point in line.points:
        if point.interval:
            below = max(0.0, point.y - point.interval[0])
            above = max(0.0, point.interval[1] - point.y)
            axes.errorbar(
                [point.x],
                [point.y],
                yerr=[[below], [above]],
                fmt="none",
                ecolor=look["color"],
                elinewidth=1.2,
                capsize=3,
            )
        if point.note:
            axes.annotate(
                label(point.note, LONGEST_NOTE),
                (point.x, max(point.y, *(point.interval or (0.0,)))),
                xytext=(0, 6),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                bbox=CLEAR,
            )


def _line_look(line: Line, *, published: bool) -> dict[str, Any]:
    """Later kinds are wider and lie below, so that lines on top of each other are all seen."""
    if line.fit_only:
        return {"color": QUIET, "linestyle": (0, (2, 2)), "linewidth": 1.2, "marker": ""}
    if line.beside:
        return _beside_look(line, measured=published)
    return _published_look(line) if published else _measured_look(line)


def _beside_look(line: Line, *, measured: bool) -> dict[str, Any]:
    """Filled and joined beside published figures, which are outlined and dashed themselves."""
    style = ("-" if measured else DASHES) if line.joined else ""
    marker = MARKERS[line.kind % len(COLOURS)]
    look = {"linestyle": style, "linewidth": 1.2, "marker": marker, "zorder": 4}
    return {**BESIDE, **look, **(MEASURED_BESIDE if measured else {})}


def _published_look(line: Line) -> dict[str, Any]:
    """All markers are hollow and no line is solid, so `dashed` is another marker, and dots."""
    style = DOTS if line.dashed else DASHES
    marker = MARKERS[(line.kind + line.dashed) % len(MARKERS)]
    look = _measured_look(line)
    hollow = {"markerfacecolor": "white", "markeredgewidth": 1.5, "marker": marker}
    return {**look, **hollow, "linestyle": style if line.joined else ""}


def _measured_look(line: Line) -> dict[str, Any]:
    kind = line.kind % len(COLOURS)
    style = (0, (5, 2)) if line.dashed else "-"
    return {
        "color": COLOURS[kind],
        "linestyle": style if line.joined else "",
        "linewidth": 1.4 + 0.9 * kind,
        "marker": MARKERS[kind],
        "markersize": 4.8 + 1.7 * kind,
        "markerfacecolor": "white" if line.dashed else COLOURS[kind],
        "zorder": 3 - 0.1 * kind,
    }


def emphasis_handle(name: str, *, published: bool = False) -> Patch:
    """What the legend shows for the one bar that the reader must see."""
    bar = Bar(label="", value=None, emphasis=True)
    look = bar_look(bar, published=True) if published else {"fc": EMPHASIS, "ec": INK}
    return Patch(label=label(name, LONGEST_NAME), **look)


def kind_handle(name: str, kind: int, *, published: bool = False) -> Patch:
    """What the legend shows for bars of one kind."""
    bar = Bar(label="", value=None, kind=kind)
    return Patch(label=label(name), **bar_look(bar, published=published))


def _line_legend(chart: LineChart) -> list[Line2D | Patch]:
    lines = {line.label: line for panel in chart.panels for line in panel.lines}
    if len(lines) < 2:
        return []
    return [
        Line2D(
            [], [], label=label(name, LONGEST_NAME), **_line_look(line, published=chart.published)
        )
        for name, line in lines.items()
    ]


@lru_cache(maxsize=1)
def _known_characters() -> frozenset[int]:
    path = font_manager.findfont(font_manager.FontProperties(family=FONT))
    return frozenset(ft2font.FT2Font(path).get_charmap())
