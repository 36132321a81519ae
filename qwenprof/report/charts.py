"""What the plots show, as data. A section builds it; plots.py draws it, and imports matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar and what stands beside it.

    value: None where it was not measured; `note` says why.
    interval: of the value, drawn as an error bar.
    note: printed at the bar's end.
    emphasis: for the one bar that the reader must see.
    kind: index into the chart's kinds, for colour and hatch.
    marks: values to compare with, by name: a bound, a peak.
    beside: the same of another record, None where it has none.
    beside_note: printed at its end, where that is not the value itself.
    """

    label: str
    value: float | None
    interval: tuple[float, float] | None = None
    note: str = ""
    emphasis: bool = False
    kind: int = 0
    marks: Mapping[str, float] = field(default_factory=dict)
    beside: float | None = None
    beside_note: str = ""


@dataclass(frozen=True, kw_only=True)
class BarChart:
    """Horizontal bars, the first on top.

    axis: what the bars' length is. write: a value with its unit.
    kinds: what colour and hatch mean; one kind needs no legend.
    beside: whose figures the bars have beside them.
    footer: device, versions and workload.
    published: its own figures were not measured: they are outlined, and its title says so.
    """

    title: str
    axis: str
    bars: tuple[Bar, ...]
    write: Callable[[float], str]
    kinds: tuple[str, ...] = ("",)
    emphasis: str = ""
    beside: str = ""
    footer: str = ""
    published: bool = False


@dataclass(frozen=True, kw_only=True)
class Point:
    """One measurement; `interval` is None where there were too few samples for one."""

    x: float
    y: float
    interval: tuple[float, float] | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Line:
    """Points of one kind, in the order of x. `dashed` and `kind` tell it from the others.

    joined: whether a line runs through the points.
    fit_only: it is a fitted line, without points of its own.
    beside: it is of another record.
    """

    label: str
    points: tuple[Point, ...]
    kind: int = 0
    dashed: bool = False
    joined: bool = True
    fit_only: bool = False
    beside: bool = False


@dataclass(frozen=True, kw_only=True)
class Gap:
    """The distance between two lines at one x, and what it says."""

    x: float
    low: float
    high: float
    note: str


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One pair of axes, both logarithmic or x alone. `gap` is marked beside the last points."""

    title: str
    x_axis: str
    y_axis: str
    lines: tuple[Line, ...]
    write: Callable[[float], str]
    log: bool = False
    log_x: bool = False
    gap: Gap | None = None


@dataclass(frozen=True, kw_only=True)
class LineChart:
    """Panels side by side, with one legend for all. `published` is as in a BarChart."""

    title: str
    panels: tuple[Panel, ...]
    footer: str = ""
    published: bool = False


@dataclass(frozen=True, kw_only=True)
class Spot:
    """One thing of which two quantities are compared; both are greater than nought.

    note: follows the label where there is room.
    hollow: drawn as an outline, for what the comparison says little about.
    """

    label: str
    x: float
    y: float
    note: str = ""
    emphasis: bool = False
    hollow: bool = False


@dataclass(frozen=True, kw_only=True)
class Scatter:
    """Spots on logarithmic axes of one unit, with the diagonal y = x and guides parallel to it.

    spots: what is to have a label before others comes first.
    diagonal, below: what the diagonal and the half under it mean.
    filled, hollow: what a filled and a hollow spot stand for.
    """

    title: str
    x_axis: str
    y_axis: str
    spots: tuple[Spot, ...]
    write: Callable[[float], str]
    diagonal: str
    below: str
    filled: str
    hollow: str
    emphasis: str = ""
    footer: str = ""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One change on the way from the first total to the last. `kind` is as in a Bar."""

    label: str
    change: float
    note: str = ""
    emphasis: bool = False
    kind: int = 0


@dataclass(frozen=True, kw_only=True)
class Waterfall:
    """How steps lead from a total to another: each starts where the one before it ended.

    start, end: the totals, as bars from nought. end is where the last step arrives, up to rounding.
    kinds: what colour and hatch of the steps mean; only those that occur are in the legend.
    """

    title: str
    axis: str
    start: Bar
    steps: tuple[Step, ...]
    end: Bar
    write: Callable[[float], str]
    kinds: tuple[str, ...]
    emphasis: str = ""
    footer: str = ""

    @property
    def levels(self) -> tuple[float, ...]:
        """Where the first step starts, then where each ends."""
        return tuple(
            accumulate((step.change for step in self.steps), initial=self.start.value or 0.0)
        )


Chart = BarChart | LineChart | Scatter | Waterfall


def drawing(chart: Chart) -> Callable[[Canvas], None]:
    """What draws the chart on an empty canvas, when it is wanted."""
    return partial(_draw, chart)


def _draw(chart: Chart, canvas: Canvas) -> None:
    from qwenprof.report import bar_plots, bound_plots, plots

    match chart:
        case BarChart():
            bar_plots.draw_bars(canvas, chart)
        case LineChart():
            plots.draw_lines(canvas, chart)
        case Scatter():
            bound_plots.draw_scatter(canvas, chart)
        case Waterfall():
            bound_plots.draw_waterfall(canvas, chart)
