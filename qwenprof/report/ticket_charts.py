"""The charts of a ticket: where the forward goes, what is beyond its bound, and time by patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from qwenprof.diagnosis.bounds import number
from qwenprof.diagnosis.caveats import provoked_fault
from qwenprof.diagnosis.components import Anatomy, anatomy
from qwenprof.diagnosis.projection import CONV, LINEAR, measured
from qwenprof.formatting import count, seconds
from qwenprof.record.record import Record
from qwenprof.report.mermaid import Bars, xychart
from qwenprof.report.reading import median_s
from qwenprof.report.section import Code
from qwenprof.report.telling import Telling

MOST_PARTS = 8
FEWEST_COUNTS = 2  # of patches: one alone shows no growth
UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"))

Chart = tuple[str, Code]


def charts(told: Telling) -> list[Chart]:
    """Each chart with its caption; those for which the record holds nothing are left out."""
    whole = anatomy(told.record.rows("per-layer", "modules"))
    drawn = [*([_shares(whole), _excess(whole)] if whole else []), _patches(told.record)]
    suffix = f", PROVOKED: {fault}" if (fault := provoked_fault(told.record)) else ""
    pictures = [
        (caption, xychart(replace(bars, title=bars.title + suffix)))
        for caption, bars in drawn
        if bars is not None
    ]
    return [(caption, picture) for caption, picture in pictures if picture is not None]


def _shares(whole: Anatomy) -> tuple[str, Bars | None]:
    parts = sorted(whole.components, key=lambda part: -part.time_s)
    shown, rest = parts[:MOST_PARTS], parts[MOST_PARTS:]
    labels, values = [part.label for part in shown], [part.share or 0.0 for part in shown]
    if rest:
        labels.append(f"{len(rest)} other parts")
        values.append(sum(part.share or 0.0 for part in rest))
    chart = Bars(
        title="Where one forward goes",
        axis="% of the forward",
        labels=labels,
        values=[100 * value for value in values],
        horizontal=True,
        limit=100.0,
    )
    return f"Share of one forward of {seconds(whole.total_s)}, by part.", chart


def _excess(whole: Anatomy) -> tuple[str, Bars | None]:
    """The parts with the most time beyond the least that their work takes on this machine."""
    parts = [(part.label, part.excess_s) for part in whole.components]
    known = sorted(
        ((name, excess) for name, excess in parts if excess is not None and excess > 0),
        key=lambda each: -each[1],
    )[:MOST_PARTS]
    scale, unit = _unit([excess for _, excess in known])
    chart = Bars(
        title="Time beyond what the work should take",
        axis=unit,
        labels=[name for name, _ in known],
        values=[excess / scale for _, excess in known],
        horizontal=True,
    )
    caption = (
        f"Time beyond the bound of each part's work, in {unit}, the {len(known)} largest: the "
        "bound is made of the rates that this machine was seen to reach."
    )
    return caption, chart


def _patches(record: Record) -> tuple[str, Bars | None]:
    """Convolution and Linear over the patch counts that both were timed at."""
    times_s: dict[float, dict[str, float]] = {}
    for row in measured(record):
        patches = number(row.get("patches"))
        if patches is not None and row.get("variant") in (CONV, LINEAR):
            times_s.setdefault(patches, {})[str(row["variant"])] = median_s(row)
    both = {patches: each for patches, each in sorted(times_s.items()) if len(each) == 2}
    if len(both) < FEWEST_COUNTS:
        return "", None
    scale, unit = _unit([time_s for each in both.values() for time_s in each.values()])
    dtype = record.workload.get("dtype")
    chart = Bars(
        title=f"Conv3d (bars) and Linear (line) in {dtype}",
        axis=unit,
        labels=[f"{count(patches)} patches" for patches in both],
        values=[each[CONV] / scale for each in both.values()],
        line=[each[LINEAR] / scale for each in both.values()],
    )
    pairs = "; ".join(
        f"{count(patches)}: {seconds(each[CONV])} and {seconds(each[LINEAR])}"
        for patches, each in both.items()
    )
    caption = f"Bars are Conv3d, the line is the equal Linear, in {unit}. By patches: {pairs}."
    return caption, chart


def _unit(values_s: Sequence[float]) -> tuple[float, str]:
    """The unit in which the largest value is at least one."""
    most = max(values_s, default=0.0)
    return next((each for each in UNITS if most >= each[0]), UNITS[-1])
