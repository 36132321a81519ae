"""The axes of a plot: how far they reach, and where they have ticks."""

from __future__ import annotations

import math
from collections.abc import Callable

from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.axis import Axis

MOST_CHARACTERS = 44  # of all labels of an axis, beside which notes have their room


def with_room(low: float, high: float, characters: int, *, log: bool) -> float:
    """The axis' end that leaves so many characters' room beside the longest bar."""
    share = min(0.6, 0.03 + 0.0125 * characters)
    if log:
        return float(low * math.exp(math.log(high / low) / (1 - share)))
    return low + (high - low) / (1 - share)


def ticks_up_to(
    axes: Axes, low: float, high: float, write: Callable[[float], str], *, log: bool
) -> None:
    """Ticks where there are bars; the room for notes is no part of the axis."""
    locator = _locator(log=log)
    ticks = [tick for tick in locator.tick_values(low, high) if low <= tick <= high * 1.0001]
    while sum(len(_tick(write, tick)) for tick in ticks) > MOST_CHARACTERS:
        ticks = ticks[::2]
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
