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
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from qwenprof.formatting import clean, without_homes
from qwenprof.report.charts import Bar, BarChart, Chart, Gap, Line, LineChart, Panel

DPI = 160
WIDTH_IN = 8.4
TITLE_IN, LEGEND_ROW_IN, FOOTER_IN = 0.34, 0.22, 0.26
BAR_IN, PANEL_IN = 0.29, 3.1
INK, QUIET, EMPHASIS = "#1a1a1a", "#6b6b6b", "#D55E00"
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9")
BAR_COLOURS = ("#8FB8D6", "#E9B949", "#3E9C80", "#CC9CB8", "#BBBBBB")
HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\")
MARKERS = ("o", "s", "^", "D", "v")
MARK_SIGNS = ("|", "D", "*")
LEAST_END = 1e-30  # what is smaller is no measurement
LOG_FROM = 40.0  # bars that differ by more cannot be seen side by side on a linear axis
LONGEST_LABEL, LONGEST_NOTE, LONGEST_NAME = 38, 46, 80
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


def draw_bars(figure: Figure, chart: BarChart) -> None:
    """Horizontal bars with their notes at the end; logarithmic where they differ greatly."""
    legend = _bar_legend(chart)
    frame(figure, chart, legend, 0.55 + BAR_IN * max(len(chart.bars), 2))
    axes = figure.add_subplot()
    log = _is_log([bar.value for bar in chart.bars])
    low, high = _bar_range(chart.bars, log=log)
    for row, bar in enumerate(chart.bars):
        _draw_bar(axes, bar, row, low)
    if log:
        axes.set_xscale("log")
    axes.set_xlim(low, with_room(low, high, _longest_note(chart.bars), log=log))
    axes.set_ylim(len(chart.bars) - 0.4, -0.6)
    axes.set_yticks(range(len(chart.bars)), [label(bar.label) for bar in chart.bars])
    axes.tick_params(axis="y", length=0)
    ticks_up_to(axes, low, high, chart.write, log=log)
    axes.set_xlabel(f"{chart.axis}, logarithmic" if log else chart.axis, loc="left")
    axes.grid(visible=True, axis="x")


def draw_lines(figure: Figure, chart: LineChart) -> None:
    """Panels side by side; error bars where there is an interval."""
    frame(figure, chart, _line_legend(chart), PANEL_IN)
    panels = figure.subplots(1, len(chart.panels), squeeze=False)[0]
    for axes, panel in zip(panels, chart.panels, strict=True):
        _draw_panel(axes, panel)


def label(text: str, longest: int = LONGEST_LABEL) -> str:
    """Text from a record as a label: short, on one line, in characters that the font has."""
    known = _known_characters()
    return "".join(
        character if ord(character) in known else "?"
        for character in clean(without_homes(text), longest)
    )


def frame(figure: Figure, chart: Chart, legend: Sequence[Line2D | Patch], body_in: float) -> None:
    """Title on top, legend under it, at the foot what a reader needs to believe it."""
    columns = max(1, len(legend) if len(legend) < 5 else math.ceil(len(legend) / 2))
    legend_in = LEGEND_ROW_IN * math.ceil(len(legend) / columns)
    height = TITLE_IN + legend_in + body_in + FOOTER_IN
    figure.set_size_inches(WIDTH_IN, height)
    top = 1 - (TITLE_IN + legend_in) / height
    engine: Any = figure.get_layout_engine()
    engine.set(rect=(0.005, FOOTER_IN / height, 0.985, top - FOOTER_IN / height))
    title = label(chart.title, 110)
    figure.text(0.01, 1 - 0.08 / height, title, va="top", weight="bold", fontsize=10.5)
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


def _draw_bar(axes: Axes, bar: Bar, row: int, low: float) -> None:
    drawn = bar.value is not None and bar.value > low
    if bar.value is not None and drawn:
        axes.barh(row, bar.value - low, left=low, height=0.72, **bar_look(bar))
        if bar.interval:
            _error_bar(axes, bar.value, bar.interval, row)
    for sign, value in zip(MARK_SIGNS, bar.marks.values(), strict=False):
        axes.plot([value], [row], linestyle="", zorder=4, **_mark_look(sign))
    ends = [low, bar.value or low, *(bar.interval or ()), *bar.marks.values()]
    note_beside(axes, bar.note, (max(ends), row), strong=bar.emphasis, quiet=not drawn)


def note_beside(
    axes: Axes, note: str, end: tuple[float, float], *, strong: bool = False, quiet: bool = False
) -> None:
    """A note to the right of a bar that ends there."""
    axes.annotate(
        label(note, LONGEST_NOTE),
        end,
        xytext=(9, 0),
        textcoords="offset points",
        va="center",
        fontsize=8.5,
        color=QUIET if quiet else INK,
        weight="bold" if strong else "normal",
        style="italic" if quiet else "normal",
        bbox=CLEAR,
    )


def bar_look(bar: Bar) -> dict[str, Any]:
    """Colour and hatch of a bar, for its kind or its emphasis."""
    if bar.emphasis:
        return {"color": EMPHASIS, "edgecolor": INK, "linewidth": 0.9}
    kind = bar.kind % len(BAR_COLOURS)
    look = {"facecolor": BAR_COLOURS[kind], "hatch": HATCHES[kind]}
    return {**look, "edgecolor": INK, "linewidth": 0.6}


def _mark_look(sign: str) -> dict[str, Any]:
    is_line = sign == "|"
    return {
        "marker": sign,
        "color": INK,
        "markerfacecolor": "white",
        "markersize": 11 if is_line else 6.5,
        "markeredgewidth": 1.8 if is_line else 1.0,
    }


def _error_bar(axes: Axes, value: float, interval: tuple[float, float], row: int) -> None:
    below, above = max(0.0, value - interval[0]), max(0.0, interval[1] - value)
    axes.errorbar(
        [value],
        [row],
        xerr=[[below], [above]],
        fmt="none",
        ecolor=INK,
        elinewidth=1.1,
        capsize=3,
        zorder=3,
    )


def _draw_panel(axes: Axes, panel: Panel) -> None:
    if panel.log:
        axes.set_xscale("log")
        axes.set_yscale("log")
    for line in panel.lines:
        _draw_line(axes, line)
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
    axes.set_xlim(right=gap.x * math.exp(0.28 * width))
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


def _draw_line(axes: Axes, line: Line) -> None:
    look = _line_look(line)
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


def _line_look(line: Line) -> dict[str, Any]:
    """Later kinds are wider and lie below, so that lines on top of each other are all seen."""
    kind = line.kind % len(COLOURS)
    if line.fit_only:
        return {"color": QUIET, "linestyle": (0, (2, 2)), "linewidth": 1.2, "marker": ""}
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


def _bar_legend(chart: BarChart) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = []
    if chart.emphasis and any(bar.emphasis for bar in chart.bars):
        handles.append(emphasis_handle(chart.emphasis))
    if len(chart.kinds) > 1:
        handles += [kind_handle(name, kind) for kind, name in enumerate(chart.kinds)]
    names = dict.fromkeys(name for bar in chart.bars for name in bar.marks)
    return handles + [
        Line2D([], [], linestyle="", label=label(name), **_mark_look(sign))
        for sign, name in zip(MARK_SIGNS, names, strict=False)
    ]


def emphasis_handle(name: str) -> Patch:
    """What the legend shows for the one bar that the reader must see."""
    return Patch(facecolor=EMPHASIS, edgecolor=INK, label=label(name, LONGEST_NAME))


def kind_handle(name: str, kind: int) -> Patch:
    """What the legend shows for bars of one kind."""
    return Patch(label=label(name), **bar_look(Bar(label="", value=None, kind=kind)))


def _line_legend(chart: LineChart) -> list[Line2D | Patch]:
    lines = {line.label: line for panel in chart.panels for line in panel.lines}
    if len(lines) < 2:
        return []
    return [Line2D([], [], label=label(name), **_line_look(line)) for name, line in lines.items()]


def _is_log(values: Sequence[float | None]) -> bool:
    positive = [value for value in values if value is not None and value > 0]
    return len(positive) > 1 and max(positive) > LOG_FROM * min(positive)


def _bar_range(bars: Sequence[Bar], *, log: bool) -> tuple[float, float]:
    """Where the axis starts, and the largest thing on it."""
    ends = [end for bar in bars for end in (bar.value, *(bar.interval or ()), *bar.marks.values())]
    positive = [end for end in ends if end is not None and end > LEAST_END] or [1.0]
    return (10 ** math.floor(math.log10(min(positive) * 0.8)) if log else 0.0), max(positive)


def with_room(low: float, high: float, characters: int, *, log: bool) -> float:
    """The axis' end that leaves so many characters' room beside the longest bar."""
    share = min(0.6, 0.03 + 0.0125 * characters)
    if log:
        return float(low * math.exp(math.log(high / low) / (1 - share)))
    return low + (high - low) / (1 - share)


def _longest_note(bars: Sequence[Bar]) -> int:
    return max((min(len(bar.note), LONGEST_NOTE) for bar in bars), default=0)


def ticks_up_to(
    axes: Axes, low: float, high: float, write: Callable[[float], str], *, log: bool
) -> None:
    """Ticks where there are bars; the room for notes is no part of the axis."""
    locator = _locator(log=log)
    ticks = [tick for tick in locator.tick_values(low, high) if low <= tick <= high * 1.0001]
    axes.set_xticks(ticks, [_tick(write, tick) for tick in ticks])
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.spines["bottom"].set_bounds(low, high)


def value_ticks(axis: Axis, write: Callable[[float], str], *, log: bool) -> None:
    """Few ticks, each with its unit."""
    axis.set_major_locator(_locator(log=log))
    axis.set_minor_locator(ticker.NullLocator())
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: _tick(write, value)))


def _locator(*, log: bool) -> ticker.Locator:
    return ticker.LogLocator(numticks=7) if log else ticker.MaxNLocator(5)


def _tick(write: Callable[[float], str], value: float) -> str:
    """A value as a tick label: no more digits than it needs."""
    number, _, unit = write(value).partition(" ")
    trimmed = number.rstrip("0").rstrip(".") if "." in number else number
    return f"{trimmed} {unit}".strip()


@lru_cache(maxsize=1)
def _known_characters() -> frozenset[int]:
    path = font_manager.findfont(font_manager.FontProperties(family=FONT))
    return frozenset(ft2font.FT2Font(path).get_charmap())
