"""Charts as text that GitHub draws: mermaid's xychart, which needs no upload.

The diagram is written as `xychart-beta`: mermaid has read that name since 10.6, and still does
beside the newer `xychart`. Its numbers have no exponent, its axes are linear, and it has no
legend. Source: packages/mermaid/src/diagrams/xychart/parser/xychart.jison of mermaid-js/mermaid.

A label keeps letters, digits and a few signs, so that no name from a record can end a string, open
a directive or start another statement.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from qwenprof.formatting import clean, shortened
from qwenprof.report.section import Code

LANGUAGE = "mermaid"
LONGEST_LABEL, LONGEST_TITLE = 34, 90
MOST_BARS = 12
ROOM = 1.05  # of an axis, above its largest value
DIGITS = 4
SMALLEST, LARGEST = 1e-12, 1e15  # of what can be drawn; what lies outside is no measurement

_UNSAFE = re.compile(r"[^A-Za-z0-9 ,._+()/:=%-]+|%(?=%)|-(?=->)")


@dataclass(frozen=True, kw_only=True)
class Bars:
    """Bars over names, and beside them at most one line over the same names.

    labels, values: of equal length; line: values of equal length, or ().
    axis: what the values are, with their unit.
    limit: where the axis ends at most, unless a value lies beyond it; None for no such end.
    horizontal: for names that are long.
    """

    title: str
    axis: str
    labels: Sequence[str]
    values: Sequence[float]
    line: Sequence[float] = ()
    horizontal: bool = False
    limit: float | None = None


def xychart(chart: Bars) -> Code | None:
    """The chart as a block for GitHub; None where it has nothing to show.

    Of more than 12 bars the first are drawn. A value that is negative or no number is drawn as
    nothing, with the line's value at the same place.
    """
    shown = _first(chart)
    top = max((*map(_drawable, shown.values), *map(_drawable, shown.line)), default=0.0)
    if top <= 0:
        return None
    names = ", ".join(f'"{name}"' for name in _distinct([label(each) for each in shown.labels]))
    lines = [
        "xychart-beta" + (" horizontal" if shown.horizontal else ""),
        f'    title "{label(shown.title, LONGEST_TITLE)}"',
        f"    x-axis [{names}]",
        f'    y-axis "{label(shown.axis, LONGEST_TITLE)}" 0 --> {plain(_end(top, shown.limit))}',
        f"    bar [{_numbers(shown.values)}]",
    ]
    if shown.line:
        lines.append(f"    line [{_numbers(shown.line)}]")
    return Code(text="\n".join(lines), language=LANGUAGE)


def _end(top: float, limit: float | None) -> float:
    """Of the axis: a little above the largest value, which is never cut off."""
    return top * ROOM if limit is None else max(top, min(top * ROOM, limit))


def label(text: str, longest: int = LONGEST_LABEL) -> str:
    """A name that nothing in mermaid's grammar takes for anything but text; never empty."""
    safe = _UNSAFE.sub("_", clean(text))
    return shortened(" ".join(safe.split()), longest - 1).replace("…", "..") or "_"


def plain(value: float) -> str:
    """A number with four significant digits and without an exponent."""
    return format(Decimal(f"{_drawable(value):.{DIGITS}g}"), "f")


def _first(chart: Bars) -> Bars:
    count = min(len(chart.labels), len(chart.values), MOST_BARS)
    line = chart.line[:count] if len(chart.line) >= count else ()
    return replace(chart, labels=chart.labels[:count], values=chart.values[:count], line=line)


def _drawable(value: float) -> float:
    return value if SMALLEST <= value <= LARGEST else 0.0


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(plain(value) for value in values)


def _distinct(names: Sequence[str]) -> list[str]:
    """Equal names fall on one bar, so each but the first of them gets a number."""
    found: list[str] = []
    for name in names:
        number, candidate = 2, name
        while candidate in found:
            candidate, number = f"{name} ({number})", number + 1
        found.append(candidate)
    return found
