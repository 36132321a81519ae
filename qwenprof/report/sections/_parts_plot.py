"""The time of each part of a forward as bars, the least time for its work marked on each."""

from __future__ import annotations

from collections.abc import Sequence

from qwenprof.diagnosis.components import Anatomy, Component
from qwenprof.formatting import NOT_MEASURED, percent, seconds, times
from qwenprof.record.published import is_published
from qwenprof.record.record import Record
from qwenprof.report.beside import outlined
from qwenprof.report.charts import Bar, BarChart, drawing
from qwenprof.report.reading import footer, sampled
from qwenprof.report.section import Figure
from qwenprof.report.sections._parts_beside import Theirs, role

MOST_BARS = 14
WORTH_COMPARING = 0.005  # of the forward: below it, the bound is one launch and says little


def figure(
    record: Record, whole: Anatomy, culprit: Component | None, n: str, theirs: Theirs | None
) -> Figure:
    """The largest parts of this record, then those that only the other record has."""
    bars = [_bar(part, part is culprit, theirs) for part in _shown(whole, culprit)]
    chart = BarChart(
        title=f"Parts of one forward of {seconds(whole.total_s)}, {n}",
        axis="time in one forward",
        bars=(*bars, *_only_theirs(whole, theirs)),
        write=seconds,
        emphasis=_accusation(culprit),
        beside=theirs.other.label if theirs else "",
        footer=footer(record),
        published=is_published(record),
    )
    return Figure(
        stem="per_layer",
        alt="Bar chart of the time of each part of the forward, and the least time for its work",
        caption=sampled(
            record, "The mark on a bar is the least time that its work can take on this machine."
        )
        + outlined(chart, theirs.other if theirs else None),
        draw=drawing(chart),
    )


def _accusation(culprit: Component | None) -> str:
    if culprit is None or culprit.excess_s is None:
        return "culprit"
    return f"culprit: {seconds(max(0.0, culprit.excess_s))} more than its work should take"


def _shown(whole: Anatomy, culprit: Component | None) -> list[Component]:
    """The parts worth a bar: the largest, in the forward's order."""
    largest = sorted(whole.components, key=lambda part: part.time_s, reverse=True)[:MOST_BARS]
    return [part for part in whole.components if part is culprit or part in largest]


def _bar(part: Component, is_culprit: bool, theirs: Theirs | None) -> Bar:
    tells = part.slowdown is not None and (part.share or 0.0) >= WORTH_COMPARING
    over = f", {times(part.slowdown)} its bound" if tells else ""
    their = theirs.parts.get(role(part.label)) if theirs else None
    return Bar(
        label=part.label,
        value=part.time_s,
        note=f"{seconds(part.time_s)}, {percent(part.share)}{over}",
        emphasis=is_culprit,
        marks={"least time for its work": part.bound_s} if part.bound_s else {},
        beside=_positive(their),
    )


def _only_theirs(whole: Anatomy, theirs: Theirs | None) -> Sequence[Bar]:
    """Bars for the parts that this record does not have and that count in the other."""
    if theirs is None or not theirs.other.asked:
        return []
    own = {role(part.label) for part in whole.components}
    return [
        Bar(label=part.label, value=None, note=NOT_MEASURED, beside=part.time_s)
        for name, part in theirs.parts.items()
        if name not in own and part.time_s >= WORTH_COMPARING * theirs.whole.total_s
    ][:MOST_BARS]


def _positive(part: Component | None) -> float | None:
    return part.time_s if part is not None and part.time_s > 0 else None
