"""Horizontal bars with their notes, and under each what another record has of the same."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from qwenprof.report.charts import Bar, BarChart
from qwenprof.report.plots import (
    BAR_IN,
    INK,
    LONGEST_NAME,
    LONGEST_NOTE,
    OUTLINED,
    QUIET,
    bar_look,
    emphasis_handle,
    frame,
    kind_handle,
    label,
    note_beside,
)
from qwenprof.report.scales import ticks_up_to, with_room

MARK_SIGNS = ("|", "D", "*")
LEAST_END = 1e-30  # what is smaller is no measurement
LOG_FROM = 40.0  # bars that differ by more cannot be seen side by side on a linear axis
ALONE_HEIGHT = 0.72  # of the room that a bar has
PAIR_IN, PAIR_HEIGHT, PAIR_Y, BESIDE_HEIGHT, BESIDE_Y = 0.44, 0.44, -0.16, 0.2, 0.26
BESIDE: Any = {**OUTLINED, "edgecolor": INK}
MEASURED_BESIDE: Any = {"facecolor": QUIET, "edgecolor": QUIET, "linewidth": 1.0}


def draw_bars(figure: Figure, chart: BarChart) -> None:
    """Horizontal bars with their notes at the end; logarithmic where they differ greatly."""
    paired = any(bar.beside is not None for bar in chart.bars)
    pitch_in = PAIR_IN if paired else BAR_IN
    frame(figure, chart, _bar_legend(chart), 0.55 + pitch_in * max(len(chart.bars), 2))
    axes = figure.add_subplot()
    log = _is_log([value for bar in chart.bars for value in (bar.value, bar.beside)])
    low, high = _bar_range(chart.bars, log=log)
    signs = _signs(chart.bars)
    for row, bar in enumerate(chart.bars):
        look = bar_look(bar, published=chart.published)
        _draw_bar(axes, bar, row + PAIR_Y if paired else row, low, signs, look, paired=paired)
        _draw_beside(axes, chart, bar, row, low)
    if log:
        axes.set_xscale("log")
    axes.set_xlim(low, with_room(low, high, _longest_note(chart.bars), log=log))
    axes.set_ylim(len(chart.bars) - 0.4, -0.6)
    axes.set_yticks(range(len(chart.bars)), [label(bar.label) for bar in chart.bars])
    axes.tick_params(axis="y", length=0)
    ticks_up_to(axes, low, high, chart.write, log=log)
    axes.set_xlabel(f"{chart.axis}, logarithmic" if log else chart.axis, loc="left")
    axes.grid(visible=True, axis="x")


def _draw_bar(
    axes: Axes,
    bar: Bar,
    y: float,
    low: float,
    signs: Mapping[str, str],
    look: Mapping[str, Any],
    *,
    paired: bool,
) -> None:
    height = PAIR_HEIGHT if paired else ALONE_HEIGHT
    drawn = bar.value is not None and bar.value > low
    if bar.value is not None and drawn:
        axes.barh(y, bar.value - low, left=low, height=height, **look)
        if bar.interval:
            _error_bar(axes, bar.value, bar.interval, y)
    for name, value in bar.marks.items():
        if name in signs:
            axes.plot([value], [y], linestyle="", zorder=4, **_mark_look(signs[name]))
    note_beside(axes, bar.note, (max([low, *_ends(bar)]), y), strong=bar.emphasis, quiet=not drawn)


def _draw_beside(axes: Axes, chart: BarChart, bar: Bar, row: int, low: float) -> None:
    """Hollow and thin, under the bar, with its own value: nobody takes one for the other.

    Under a published bar, which is hollow itself, it is filled.
    """
    if bar.beside is None:
        return
    y, end = row + BESIDE_Y, max(low, bar.beside)
    axes.barh(y, end - low, left=low, height=BESIDE_HEIGHT, **_beside_look(chart))
    note = bar.beside_note or chart.write(bar.beside)
    note_beside(axes, f"{note}, {_kind(chart)}", (end, y), small=True)


def _beside_look(chart: BarChart) -> dict[str, Any]:
    return dict(MEASURED_BESIDE if chart.published else BESIDE)


def _kind(chart: BarChart) -> str:
    """The first word or two of whose figures they are: the legend has the rest."""
    return chart.beside.partition(",")[0]


def _signs(bars: Sequence[Bar]) -> dict[str, str]:
    """Which sign each kind of mark has, wherever it occurs."""
    names = dict.fromkeys(name for bar in bars for name in bar.marks)
    return dict(zip(names, MARK_SIGNS, strict=False))


def _ends(bar: Bar) -> list[float]:
    """Everything that a bar has along its axis, but for what is beside it."""
    ends = (bar.value, *(bar.interval or ()), *bar.marks.values())
    return [end for end in ends if end is not None]


def _mark_look(sign: str) -> dict[str, Any]:
    is_line = sign == "|"
    return {
        "marker": sign,
        "color": INK,
        "markerfacecolor": "white",
        "markersize": 11 if is_line else 6.5,
        "markeredgewidth": 1.8 if is_line else 1.0,
    }


def _error_bar(axes: Axes, value: float, interval: tuple[float, float], y: float) -> None:
    below, above = max(0.0, value - interval[0]), max(0.0, interval[1] - value)
    axes.errorbar(
        [value],
        [y],
        xerr=[[below], [above]],
        fmt="none",
        ecolor=INK,
        elinewidth=1.1,
        capsize=3,
        zorder=3,
    )


def _bar_legend(chart: BarChart) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = []
    if chart.emphasis and any(bar.emphasis for bar in chart.bars):
        handles.append(emphasis_handle(chart.emphasis, published=chart.published))
    if len(chart.kinds) > 1:
        handles += [
            kind_handle(name, kind, published=chart.published)
            for kind, name in enumerate(chart.kinds)
        ]
    handles += [
        Line2D([], [], linestyle="", label=label(name), **_mark_look(sign))
        for name, sign in _signs(chart.bars).items()
    ]
    if any(bar.beside is not None for bar in chart.bars):
        handles.append(Patch(label=label(chart.beside, LONGEST_NAME), **_beside_look(chart)))
    return handles


def _is_log(values: Sequence[float | None]) -> bool:
    positive = [value for value in values if value is not None and value > 0]
    return len(positive) > 1 and max(positive) > LOG_FROM * min(positive)


def _bar_range(bars: Sequence[Bar], *, log: bool) -> tuple[float, float]:
    """Where the axis starts, and the largest thing on it."""
    besides = [bar.beside for bar in bars if bar.beside is not None]
    ends = [end for bar in bars for end in _ends(bar)] + besides
    positive = [end for end in ends if end > LEAST_END] or [1.0]
    return (10 ** math.floor(math.log10(min(positive) * 0.8)) if log else 0.0), max(positive)


def _longest_note(bars: Sequence[Bar]) -> int:
    return max((min(len(bar.note), LONGEST_NOTE) for bar in bars), default=0)
