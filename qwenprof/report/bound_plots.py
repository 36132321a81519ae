"""Two pictures of times beside bounds: spots about a diagonal, and a waterfall between totals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from qwenprof.report.charts import Bar, Scatter, Spot, Step, Waterfall
from qwenprof.report.plots import (
    BAR_IN,
    CLEAR,
    COLOURS,
    DPI,
    EMPHASIS,
    INK,
    LONGEST_NAME,
    LONGEST_NOTE,
    QUIET,
    bar_look,
    emphasis_handle,
    frame,
    kind_handle,
    label,
    note_beside,
)
from qwenprof.report.scales import ticks_up_to, value_ticks, with_room

SCATTER_IN = 4.3
TOTAL: Any = {"facecolor": "#4a4a4a", "edgecolor": INK, "linewidth": 0.6}
BELOW, GUIDE = "#f0f0f0", "#bdbdbd"
MOST_GUIDES, MOST_LABELS = 9, 12
BAR_HEIGHT = 0.72
LEAST_WIDTH = 1e-12  # of an axis, which cannot end where it begins
LONGEST_SPOT = 30
SPOT_SIZE, EMPHASIS_SIZE = 7.0, 10.5  # points
CLEARANCE = 2.0  # pixels about a label
APART = (22.0, 3.0)  # pixels from a label to any other spot, which it could be taken for
PLACES: tuple[tuple[float, float, str, str], ...] = (  # away from the diagonal first
    (-8, 0, "right", "center"),
    (8, 0, "left", "center"),
    (-6, 6, "right", "bottom"),
    (0, 8, "center", "bottom"),
    (6, 6, "left", "bottom"),
    (0, -8, "center", "top"),
    (6, -6, "left", "top"),
    (-6, -6, "right", "top"),
)

Range = tuple[float, float]


def draw_scatter(figure: Figure, chart: Scatter) -> None:
    """Spots about the diagonal; a label stands only where it overlaps nothing."""
    frame(figure, chart, _scatter_legend(chart), SCATTER_IN)
    axes = figure.add_subplot(xscale="log", yscale="log")
    across, up = _ranges(chart.spots)
    axes.set(xlim=across, ylim=up)
    corner = _draw_diagonal(axes, chart.below, across)
    _draw_guides(axes, across, up)
    for spot in chart.spots:
        axes.plot([spot.x], [spot.y], zorder=4, **_spot_look(spot))
    value_ticks(axes.xaxis, chart.write, log=True)
    value_ticks(axes.yaxis, chart.write, log=True)
    axes.set_xlabel(f"{chart.x_axis}, logarithmic", loc="left")
    axes.set_ylabel(f"{chart.y_axis}, logarithmic")
    _label_spots(figure, axes, chart.spots, corner)


def draw_waterfall(figure: Figure, chart: Waterfall) -> None:
    """Bars from total to total; a step that takes something away is drawn backwards."""
    frame(figure, chart, _waterfall_legend(chart), 0.55 + BAR_IN * (len(chart.steps) + 2))
    axes = figure.add_subplot()
    last = len(chart.steps) + 1
    _draw_total(axes, chart.start, 0)
    for row, (step, start) in enumerate(zip(chart.steps, chart.levels, strict=False), start=1):
        _draw_step(axes, step, row, start)
    _draw_total(axes, chart.end, last)
    for row, level in enumerate(chart.levels):
        ends = [row + BAR_HEIGHT / 2, row + 1 - BAR_HEIGHT / 2]
        axes.plot([level, level], ends, color=QUIET, linewidth=0.9)
    low, high = _waterfall_range(chart)
    axes.set_xlim(low, with_room(low, high, _longest_note(chart), log=False))
    axes.set_ylim(last + 0.6, -0.6)
    names = [chart.start.label, *(step.label for step in chart.steps), chart.end.label]
    axes.set_yticks(range(last + 1), [label(name) for name in names])
    axes.tick_params(axis="y", length=0)
    ticks_up_to(axes, low, high, chart.write, log=False)
    axes.set_xlabel(chart.axis, loc="left")
    axes.grid(visible=True, axis="x")


def _ranges(spots: Sequence[Spot]) -> tuple[Range, Range]:
    """Of both axes; the diagonal runs through the whole width."""
    xs = [math.log10(spot.x) for spot in spots] or [-3.0, 0.0]
    ys = [*xs, *(math.log10(spot.y) for spot in spots)]
    across, up = _padded(xs, 0.16), _padded(ys, 0.10)
    return across, (min(across[0], up[0]), max(across[1], up[1]))


def _padded(exponents: Sequence[float], share: float) -> Range:
    """With room at both ends, and two decades at least, so that there is more than one tick."""
    low, high = min(exponents), max(exponents)
    room = max(share * (high - low), 1.0 - 0.5 * (high - low))
    return float(10 ** (low - room)), float(10 ** (high + room))


def _draw_diagonal(axes: Axes, below: str, across: Range) -> Annotation:
    """The diagonal, and the half under it in grey with its meaning in the corner."""
    axes.fill_between(across, across, [axes.get_ylim()[0]] * 2, color=BELOW, linewidth=0, zorder=0)
    axes.plot(across, across, color=INK, linewidth=1.6, zorder=2)
    return axes.annotate(
        label(below, LONGEST_NAME),
        (1, 0),
        xycoords="axes fraction",
        xytext=(-6, 6),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=8,
        style="italic",
        color=QUIET,
    )


def _draw_guides(axes: Axes, across: Range, up: Range) -> None:
    """Lines of one ratio, each named where it leaves the axes."""
    decades = math.floor(math.log10(up[1] / across[0]) - 0.05 * math.log10(across[1] / across[0]))
    stride = max(1, math.ceil(decades / MOST_GUIDES))
    for exponent in range(0, decades + 1, stride):
        factor = 10.0**exponent
        if exponent:
            ends = [factor * x for x in across]
            axes.plot(across, ends, color=GUIDE, linewidth=0.8, zorder=1, dashes=(5, 3))
        name = f"{factor:,.0f} x" if exponent < 8 else f"1e{exponent} x"
        _name_guide(axes, name, factor, (across[1], up[1]))


def _name_guide(axes: Axes, name: str, factor: float, corner: tuple[float, float]) -> None:
    """At the right edge, or at the top where the line gets there first."""
    right, top = corner
    at_top = factor * right > top
    axes.annotate(
        name,
        (top / factor, top) if at_top else (right, factor * right),
        xytext=(0, 3) if at_top else (4, 0),
        textcoords="offset points",
        ha="center" if at_top else "left",
        va="bottom" if at_top else "center",
        fontsize=8,
        color=QUIET,
        annotation_clip=False,
    )


def _spot_look(spot: Spot) -> dict[str, Any]:
    """Shape, size and filling tell spots apart; colour only helps."""
    colour = EMPHASIS if spot.emphasis else COLOURS[0]
    return {
        "linestyle": "",
        "marker": "D" if spot.emphasis else "o",
        "markersize": EMPHASIS_SIZE if spot.emphasis else SPOT_SIZE,
        "markerfacecolor": "white" if spot.hollow else colour,
        "markeredgecolor": colour if spot.hollow else INK,
        "markeredgewidth": 1.5 if spot.hollow else 0.8,
    }


def _label_spots(figure: Figure, axes: Axes, spots: Sequence[Spot], corner: Annotation) -> None:
    """Labels beside their spots in the order of the spots, as many as find a free place."""
    figure.draw_without_rendering()  # only now is it known where things are
    labels = [corner.get_window_extent()]
    for spot in spots[:MOST_LABELS]:
        others = [_about(axes, other) for other in spots if other is not spot]
        box = _place_label(axes, spot, [*labels, *others])
        labels += [box] if box else []


def _about(axes: Axes, spot: Spot) -> Bbox:
    """The marker of a spot and what is too near to it for the label of another."""
    x, y = axes.transData.transform((spot.x, spot.y))
    half = 0.5 * (EMPHASIS_SIZE if spot.emphasis else SPOT_SIZE) * DPI / 72
    width, height = half + APART[0], half + APART[1]
    return Bbox.from_extents(x - width, y - height, x + width, y + height)


def _place_label(axes: Axes, spot: Spot, taken: Sequence[Bbox]) -> Bbox | None:
    """Where the label went; None where every place beside the spot is taken.

    The diagonal is left in sight where that can be. The culprit has its label whatever it covers.
    """
    texts = [_spot_label(axes, spot, place) for place in PLACES]
    boxes = [text.get_window_extent().padded(CLEARANCE) for text in texts]
    inside = [place for place, box in enumerate(boxes) if _is_within(box, axes.bbox)]
    free = [place for place in inside if boxes[place].count_overlaps(taken) == 0]
    choice = free or ((inside or range(len(PLACES))) if spot.emphasis else [])
    chosen = min(choice, key=lambda place: _hides_diagonal(axes, boxes[place]), default=None)
    for place, text in enumerate(texts):
        if place != chosen:
            text.remove()
    if chosen is None:
        return None
    if _is_below(axes, boxes[chosen]):
        texts[chosen].set_bbox({**CLEAR, "facecolor": BELOW})
    return boxes[chosen]


def _is_within(box: Bbox, outer: Any) -> bool:
    return bool(
        outer.x0 <= box.x0 and outer.y0 <= box.y0 and box.x1 <= outer.x1 and box.y1 <= outer.y1
    )


def _hides_diagonal(axes: Axes, box: Bbox) -> bool:
    right, bottom = axes.transData.inverted().transform((box.x1, box.y0))
    return bool(bottom < right) and not _is_below(axes, box)


def _is_below(axes: Axes, box: Bbox) -> bool:
    left, top = axes.transData.inverted().transform((box.x0, box.y1))
    return bool(top < left)


def _spot_label(axes: Axes, spot: Spot, place: tuple[float, float, str, str]) -> Annotation:
    dx, dy, ha, va = place
    name = label(spot.label, LONGEST_SPOT)
    far = EMPHASIS_SIZE / SPOT_SIZE if spot.emphasis else 1.0
    look: dict[str, Any] = {"ha": ha, "va": va, "weight": "bold" if spot.emphasis else "normal"}
    text = axes.annotate(
        f"{name}, {label(spot.note, LONGEST_NOTE)}" if spot.note else name,
        (spot.x, spot.y),
        xytext=(far * dx, far * dy),
        textcoords="offset points",
        fontsize=8.5,
        bbox=CLEAR,
        zorder=3,
        **look,
    )
    text.set_in_layout(False)
    return text


def _scatter_legend(chart: Scatter) -> list[Line2D | Patch]:
    """Only of the kinds that occur."""
    kinds = {_kind(spot): spot for spot in reversed(chart.spots)}
    names = {"emphasis": chart.emphasis, "filled": chart.filled, "hollow": chart.hollow}
    handles: list[Line2D | Patch] = [
        Line2D([], [], label=label(name), **_spot_look(kinds[kind]))
        for kind, name in names.items()
        if kind in kinds
    ]
    return [*handles, Line2D([], [], color=INK, linewidth=1.6, label=label(chart.diagonal))]


def _kind(spot: Spot) -> str:
    return "emphasis" if spot.emphasis else "hollow" if spot.hollow else "filled"


def _draw_total(axes: Axes, bar: Bar, row: int) -> None:
    value = bar.value or 0.0
    axes.barh(row, value, height=BAR_HEIGHT, **TOTAL)
    note_beside(axes, bar.note, (max(0.0, value), row))


def _draw_step(axes: Axes, step: Step, row: int, start: float) -> None:
    look = bar_look(Bar(label="", value=None, kind=step.kind, emphasis=step.emphasis))
    axes.barh(row, step.change, left=start, height=BAR_HEIGHT, **look)
    end = (max(start, start + step.change), row)
    note_beside(axes, step.note, end, strong=step.emphasis)


def _waterfall_range(chart: Waterfall) -> Range:
    ends = [0.0, chart.start.value or 0.0, *chart.levels, chart.end.value or 0.0]
    return min(ends), max(*ends, min(ends) + LEAST_WIDTH)


def _longest_note(chart: Waterfall) -> int:
    notes = [chart.start.note, *(step.note for step in chart.steps), chart.end.note]
    return max(min(len(note), LONGEST_NOTE) for note in notes)


def _waterfall_legend(chart: Waterfall) -> list[Line2D | Patch]:
    occurring = sorted({step.kind for step in chart.steps if not step.emphasis})
    emphasis = (
        [emphasis_handle(chart.emphasis)] if any(step.emphasis for step in chart.steps) else []
    )
    return [*emphasis, *(kind_handle(chart.kinds[kind], kind) for kind in occurring)]
