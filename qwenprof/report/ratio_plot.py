"""The picture of a comparison: spots about a line of no change, told apart by shape and filling."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from qwenprof.diagnosis.change import Judgement
from qwenprof.formatting import significant
from qwenprof.report.charts import BarChart
from qwenprof.report.comparison_chart import LONGEST_NAME, RatioChart, Spot, band_name
from qwenprof.report.plots import BAR_IN, COLOURS, EMPHASIS, INK, QUIET, frame, label

LONGEST_NOTE = 44
NOISE, BAND = "#ececec", "#bcd7ea"
LEAST_REACH = 1.25  # of the axis to either side of one
LARGEST = 1e12  # beyond it there is an arrow's tip and no more axis
WHOLE, FINE = (1.0, 2.0, 5.0), (0.4, 0.6, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0)

# judgement -> marker, colour, whether it is filled
LOOKS: dict[Judgement, tuple[str, str, bool]] = {
    "SLOWER": (">", EMPHASIS, True),
    "FASTER": ("<", COLOURS[0], True),
    "DIFFERENT": ("D", COLOURS[3], True),
    "SAME": ("o", INK, True),
    "INCONCLUSIVE": ("o", QUIET, False),
    "NOT COMPARED": ("x", QUIET, False),
}


def draw_ratios(figure: Figure, chart: RatioChart) -> None:
    """One row a case: its noise in grey, its interval, its ratio."""
    heading = BarChart(title=chart.title, axis="", bars=(), write=significant, footer=chart.footer)
    frame(figure, heading, _legend(chart), 0.55 + BAR_IN * max(len(chart.spots), 2))
    axes = figure.add_subplot(xscale="log")
    low, high = _range(chart)
    axes.set_xlim(low, high)
    axes.set_ylim(len(chart.spots) - 0.4, -0.6)
    for row, spot in enumerate(chart.spots):
        _draw_noise(axes, spot, row)
    width = 1 + chart.min_change
    axes.axvspan(max(low, 1 / width), min(high, width), color=BAND, zorder=1, linewidth=0)
    axes.axvline(1.0, color=INK, linewidth=1.2, zorder=2)
    for row, spot in enumerate(chart.spots):
        _draw_spot(axes, spot, row)
    names = [label(spot.label, LONGEST_NAME) for spot in chart.spots]
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    _draw_ticks(axes, low, high)
    axes.set_xlabel(f"{chart.axis}, logarithmic", loc="left")
    axes.grid(visible=True, axis="x", zorder=0)


def ticks(low: float, high: float) -> list[float]:
    """Round ratios between two, one among them, and about seven at most."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    if high / low < 9:
        found = list(FINE)
    elif len(decades) <= 4:
        found = [step * 10.0**decade for decade in decades for step in WHOLE]
    else:
        stride = math.ceil(len(decades) / 7)
        found = [10.0**decade for decade in decades if decade % stride == 0]
    return [each for each in found if low <= each <= high]


def _range(chart: RatioChart) -> tuple[float, float]:
    """Of the axis; noise beyond the spots and their intervals does not widen it."""
    ends = [end for spot in chart.spots for end in (spot.ratio, *(spot.interval or ()))]
    known = [min(max(end, 1 / LARGEST), LARGEST) for end in ends] + [1 / LEAST_REACH, LEAST_REACH]
    room = (max(known) / min(known)) ** 0.04
    return min(known) / room, max(known) * room


def _draw_noise(axes: Axes, spot: Spot, row: int) -> None:
    if spot.noise is None:
        return
    low, high = axes.get_xlim()
    left, right = max(low, 1 / (1 + spot.noise)), min(high, 1 + spot.noise)
    axes.add_patch(
        Rectangle((left, row - 0.4), right - left, 0.8, facecolor=NOISE, linewidth=0, zorder=0.5)
    )


def _draw_spot(axes: Axes, spot: Spot, row: int) -> None:
    low, high = axes.get_xlim()
    at = min(max(spot.ratio, low), high)
    if spot.interval:
        ends = [min(max(end, low), high) for end in spot.interval]
        axes.plot(ends, [row, row], color=_look(spot.judgement)["color"], linewidth=1.6, zorder=3)
        axes.plot(ends, [row, row], "|", color=INK, markersize=6, zorder=3)
    axes.plot([at], [row], zorder=4, **_look(spot.judgement))
    axes.annotate(
        label(spot.note, LONGEST_NOTE),
        (1.0, row),
        xycoords=("axes fraction", "data"),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        fontsize=7.5,
        weight="bold" if LOOKS[spot.judgement][2] and spot.judgement != "SAME" else "normal",
        color=INK,
    )


def _draw_ticks(axes: Axes, low: float, high: float) -> None:
    axes.xaxis.set_major_locator(FixedLocator(ticks(low, high)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))


def _tick(value: float) -> str:
    return f"{value:,.0f} x" if value >= 10 else f"{value:.3g} x"


def _look(judgement: Judgement) -> dict[str, Any]:
    marker, colour, filled = LOOKS[judgement]
    return {
        "linestyle": "",
        "marker": marker,
        "markersize": 5.5 if judgement == "SAME" else 8.0,
        "color": colour,
        "markerfacecolor": colour if filled else "white",
        "markeredgecolor": INK if filled else colour,
        "markeredgewidth": 0.8 if filled else 1.4,
    }


def _legend(chart: RatioChart) -> list[Line2D | Patch]:
    """Only the judgements that occur, and the two bands."""
    found = {spot.judgement for spot in chart.spots}
    handles: list[Line2D | Patch] = [
        Line2D([], [], label=judgement, **_look(judgement))
        for judgement in LOOKS
        if judgement in found
    ]
    handles.append(Patch(facecolor=BAND, label=label(band_name(chart.min_change))))
    if any(spot.noise is not None for spot in chart.spots):
        handles.append(Patch(facecolor=NOISE, label="its own noise"))
    return handles
