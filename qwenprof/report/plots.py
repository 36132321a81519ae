"""How charts look: one style, legible in greyscale and to the colour-blind, on a canvas of its own.

Colours are Okabe and Ito's, and never the only difference: bars have hatches, lines have markers
and dashes. Nothing touches pyplot, so a program that draws its own figures sees no change.

Source of the colours: Okabe and Ito, Color Universal Design, 2008.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import matplotlib as mpl
from matplotlib import font_manager, ft2font, ticker
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from qwenprof.report.charts import Bar, BarChart, Line, LineChart, Panel
from qwenprof.report.formatting import clean, without_homes

DPI = 160
WIDTH_IN = 8.4
INK, QUIET, EMPHASIS = "#1a1a1a", "#6b6b6b", "#D55E00"
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9")
BAR_COLOURS = ("#8FB8D6", "#E9B949", "#3E9C80", "#CC9CB8", "#BBBBBB")
HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\")
MARKERS = ("o", "s", "^", "D", "v")
MARK_SIGNS = ("|", "D", "*")
LOG_FROM = 40.0  # bars that differ by more cannot be seen side by side on a linear axis
LONGEST_LABEL, LONGEST_NOTE = 38, 46
FONT = "DejaVu Sans"
STYLE = {
    "font.family": FONT,
    "font.size": 9.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.labelsize": 9.0,
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
    "text.parse_math": False,
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
    figure.set_size_inches(WIDTH_IN, 1.55 + 0.30 * max(len(chart.bars), 2))
    axes = figure.add_subplot()
    log = _is_log([bar.value for bar in chart.bars])
    low, high = _bar_range(chart.bars, log=log)
    for row, bar in enumerate(chart.bars):
        _draw_bar(axes, chart, bar, row, low)
    if log:
        axes.set_xscale("log")
    axes.set_xlim(low, _with_room(low, high, _longest_note(chart.bars), log=log))
    axes.set_ylim(len(chart.bars) - 0.4, -0.6)
    axes.set_yticks(range(len(chart.bars)), [label(bar.label) for bar in chart.bars])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"{chart.axis}, logarithmic" if log else chart.axis)
    _value_axis(axes.xaxis, chart.write, log=log, most=5)
    axes.grid(visible=True, axis="x")
    _frame(figure, chart.title, chart.footer, _bar_legend(chart))


def draw_lines(figure: Figure, chart: LineChart) -> None:
    """Panels side by side; error bars where there is an interval."""
    figure.set_size_inches(WIDTH_IN, 4.1)
    panels = figure.subplots(1, len(chart.panels), squeeze=False)[0]
    for axes, panel in zip(panels, chart.panels, strict=True):
        _draw_panel(axes, panel)
    _frame(figure, chart.title, chart.footer, _line_legend(chart))


def label(text: str, longest: int = LONGEST_LABEL) -> str:
    """Text from a record as a label: short, on one line, in characters that the font has."""
    known = _known_characters()
    return "".join(
        character if ord(character) in known else "?"
        for character in clean(without_homes(text), longest)
    )


def _draw_bar(axes: Axes, chart: BarChart, bar: Bar, row: int, low: float) -> None:
    drawable = bar.value is not None and bar.value > low
    note = label(bar.note, LONGEST_NOTE)
    if bar.value is not None and drawable:
        axes.barh(row, bar.value - low, left=low, height=0.72, **_bar_look(bar))
        if bar.interval:
            _error_bar(axes, bar.value, bar.interval, row)
    for sign, (_, value) in zip(MARK_SIGNS, bar.marks.items(), strict=False):
        axes.plot([value], [row], sign, color=INK, markersize=11 if sign == "|" else 6,
                  markeredgewidth=1.8 if sign == "|" else 0.8, markerfacecolor="white", zorder=4)
    end = max([bar.value or low, *(bar.interval or ()), *bar.marks.values()])
    axes.annotate(
        note, (end if drawable or bar.marks else low, row), xytext=(6, 0),
        textcoords="offset points", va="center", fontsize=8.5, annotation_clip=False,
        color=INK if drawable else QUIET, weight="bold" if bar.emphasis else "normal",
        style="normal" if drawable else "italic",
    )


def _bar_look(bar: Bar) -> dict[str, str | float]:
    if bar.emphasis:
        return {"color": EMPHASIS, "edgecolor": INK, "linewidth": 0.9}
    kind = bar.kind % len(BAR_COLOURS)
    return {"facecolor": BAR_COLOURS[kind], "hatch": HATCHES[kind], "edgecolor": INK, "linewidth": 0.6}


def _error_bar(axes: Axes, value: float, interval: tuple[float, float], row: int) -> None:
    low, high = interval
    axes.errorbar(
        [value], [row], xerr=[[max(0.0, value - low)], [max(0.0, high - value)]], fmt="none",
        ecolor=INK, elinewidth=1.1, capsize=3, zorder=3,
    )


def _draw_panel(axes: Axes, panel: Panel) -> None:
    if panel.log:
        axes.set_xscale("log")
        axes.set_yscale("log")
    for line in panel.lines:
        _draw_line(axes, line)
    xs = sorted({point.x for line in panel.lines for point in line.points if not line.fit_only})
    axes.set_xticks(xs, [f"{x:,.0f}" for x in xs])
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    if not panel.log:
        axes.set_ylim(bottom=0.0)
        axes.margins(x=0.12)
    _value_axis(axes.yaxis, panel.write, log=panel.log, most=6)
    axes.set_xlabel(panel.x_axis)
    axes.set_ylabel(f"{panel.y_axis}, logarithmic" if panel.log else panel.y_axis)
    axes.set_title(panel.title)
    axes.grid(visible=True, axis="both")


def _draw_line(axes: Axes, line: Line) -> None:
    look = _line_look(line)
    xs, ys = [point.x for point in line.points], [point.y for point in line.points]
    axes.plot(xs, ys, **look)
    for point in line.points:
        if point.interval:
            low, high = point.interval
            axes.errorbar(
                [point.x], [point.y], yerr=[[max(0.0, point.y - low)], [max(0.0, high - point.y)]],
                fmt="none", ecolor=look["color"], elinewidth=1.2, capsize=3,
            )
        if point.note:
            axes.annotate(label(point.note, LONGEST_NOTE), (point.x, point.y), xytext=(0, 8),
                          textcoords="offset points", ha="center", fontsize=8)


def _line_look(line: Line) -> dict[str, object]:
    kind = line.kind % len(COLOURS)
    if line.fit_only:
        return {"color": QUIET, "linestyle": (0, (2, 2)), "linewidth": 1.2, "marker": ""}
    return {
        "color": COLOURS[kind],
        "linestyle": (0, (5, 2)) if line.dashed else "-",
        "linewidth": 1.6,
        "marker": MARKERS[kind],
        "markersize": 5.5,
        "markerfacecolor": "white" if line.dashed else COLOURS[kind],
    }


def _frame(figure: Figure, title: str, footer: str, legend: Sequence[Line2D | Patch]) -> None:
    """Title on top, legend under it, and at the bottom what a reader needs to believe it."""
    figure.suptitle(label(title, 110), x=0.01, ha="left", weight="bold", fontsize=10.5)
    figure.supxlabel(label(footer, 150), x=0.01, ha="left", fontsize=7, color=QUIET)
    if legend:
        figure.legend(handles=list(legend), loc="outside upper left", ncols=4, borderaxespad=0.3)


def _bar_legend(chart: BarChart) -> list[Line2D | Patch]:
    used = sorted({bar.kind for bar in chart.bars if not bar.emphasis})
    handles: list[Line2D | Patch] = []
    if any(bar.emphasis for bar in chart.bars) and chart.emphasis:
        handles.append(Patch(facecolor=EMPHASIS, edgecolor=INK, label=chart.emphasis))
    if len(chart.kinds) > 1:
        handles += [
            Patch(facecolor=BAR_COLOURS[kind], hatch=HATCHES[kind], edgecolor=INK,
                  label=label(chart.kinds[kind]))
            for kind in used
        ]
    return handles + _mark_legend(chart.bars)


def _mark_legend(bars: Sequence[Bar]) -> list[Line2D | Patch]:
    names = dict.fromkeys(name for bar in bars for name in bar.marks)
    return [
        Line2D([], [], linestyle="", marker=sign, color=INK, markerfacecolor="white",
               markersize=10 if sign == "|" else 6, label=name)
        for sign, name in zip(MARK_SIGNS, names, strict=False)
    ]


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
    positive = [end for end in ends if end is not None and end > 0] or [1.0]
    return (10 ** math.floor(math.log10(min(positive) * 0.8)) if log else 0.0), max(positive)


def _with_room(low: float, high: float, characters: int, *, log: bool) -> float:
    """The axis' end that leaves so many characters' room beside the longest bar."""
    share = min(0.6, 0.03 + 0.0125 * characters)
    if log:
        return low * math.exp(math.log(high / low) / (1 - share))
    return low + (high - low) / (1 - share)


def _longest_note(bars: Sequence[Bar]) -> int:
    return max((min(len(bar.note), LONGEST_NOTE) for bar in bars), default=0)


def _value_axis(axis: mpl.axis.Axis, write: Callable[[float], str], *, log: bool, most: int) -> None:
    if log:
        axis.set_major_locator(ticker.LogLocator(numticks=most + 3))
        axis.set_minor_locator(ticker.NullLocator())
    else:
        axis.set_major_locator(ticker.MaxNLocator(most))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: _tick(write, value)))


def _tick(write: Callable[[float], str], value: float) -> str:
    """A value as a tick label: no more digits than it needs."""
    number, _, unit = write(value).partition(" ")
    trimmed = number.rstrip("0").rstrip(".") if "." in number else number
    return f"{trimmed} {unit}".strip()


@lru_cache(maxsize=1)
def _known_characters() -> frozenset[int]:
    path = font_manager.findfont(font_manager.FontProperties(family=FONT))
    return frozenset(ft2font.FT2Font(path).get_charmap())
