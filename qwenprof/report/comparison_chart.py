"""What the picture of a comparison shows, as data: ratios beside the line of no change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from qwenprof.diagnosis.change import Change, Judgement
from qwenprof.diagnosis.comparing import CHANGED, Comparison, Run
from qwenprof.diagnosis.run_differences import Difference
from qwenprof.formatting import clean, count, shortened, times_with_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

MOST = 25
LONGEST_NAME, LONGEST_FOOTER = 44, 150
TOLD = ("device", "torch", "cudnn", "transformers", "driver")
FORWARD_STAGES = ("batch-sweep", "breakdown", "per-layer")


@dataclass(frozen=True, kw_only=True)
class Spot:
    """One case: how many times as long NEW takes.

    noise: what it was held against, as the band (1 / (1 + noise), 1 + noise); None for none.
    note: stands at the right edge.
    """

    label: str
    ratio: float
    interval: tuple[float, float] | None
    noise: float | None
    judgement: Judgement
    note: str


@dataclass(frozen=True, kw_only=True)
class RatioChart:
    """Ratios on a logarithmic axis, the largest on top. min_change: half the width of the band."""

    title: str
    axis: str
    spots: tuple[Spot, ...]
    min_change: float
    footer: str


def ratio_chart(comparison: Comparison) -> RatioChart | None:
    """The cases that changed the most and the forwards; None where no case has a ratio."""
    rows = chosen(comparison.rows)
    if not rows:
        return None
    shown = len(rows)
    every = sum(1 for row in comparison.rows if row.ratio and not row.is_first_call)
    of_all = f", {shown} of {every} cases" if shown < every else ""
    return RatioChart(
        title=f"NEW over BASE{of_all}: right of the line is more, left of it less",
        axis="ratio of medians, NEW over BASE, with its 95 % interval",
        spots=tuple(_spot(row) for row in rows),
        min_change=comparison.min_change,
        footer=footer(comparison),
    )


def chosen(rows: Sequence[Change], most: int = MOST) -> list[Change]:
    """What changed, then the forwards, then the largest ratios; sorted by ratio, largest first."""
    known = [row for row in rows if row.ratio and not row.is_first_call]
    ranked = sorted(known, key=lambda row: (_rank(row), -row.size))
    return sorted(ranked[:most], key=lambda row: -(row.ratio or 0.0))


def drawing(chart: RatioChart) -> Callable[[Canvas], None]:
    """What draws the chart on an empty canvas, when it is wanted."""
    return partial(_draw, chart)


def run_line(run: Run) -> str:
    """Device and versions of one run: "NVIDIA H200, torch 2.10.0, 2026-11-24"."""
    versions = (f"{name} {version}" for name, version in run.versions.items())
    published = ("published",) if run.published else ()
    return ", ".join([run.device, *versions, run.created[:10], *published])


def footer(comparison: Comparison) -> str:
    """Devices, versions, days and the point, each once where both runs have the same."""
    base, new = comparison.base, comparison.new
    names = dict.fromkeys([*base.versions, *new.versions])
    facts = [
        ("", base.device, new.device),
        *(
            (f"{name} ", base.versions.get(name, "?"), new.versions.get(name, "?"))
            for name in names
        ),
        *((f"{d.what} ", d.base, d.new) for d in comparison.differences if _is_apart(d)),
        ("", _day(base), _day(new)),
    ]
    parts = [
        what + (ours if ours == theirs else f"{ours} → {theirs}") for what, ours, theirs in facts
    ]
    return shortened(" | ".join(parts), LONGEST_FOOTER)


def _is_apart(difference: Difference) -> bool:
    """Whether it is the point, and neither device nor version, which are told anyway."""
    return difference.accepted and not difference.follows and difference.name not in TOLD


def _day(run: Run) -> str:
    return f"{run.created[:10]}{' (published)' if run.published else ''}"


def short_name(row: Change, longest: int = LONGEST_NAME) -> str:
    """Stage and series, or the series alone where both are too long."""
    whole = clean(row.name)
    return whole if len(whole) <= longest else shortened(clean(row.series), longest)


def in_percent(share: float) -> str:
    """A share without digits that it was not given with: "3 %"."""
    return f"{100 * share:.3g} %"


def _draw(chart: RatioChart, canvas: Canvas) -> None:
    from qwenprof.report.ratio_plot import draw_ratios

    draw_ratios(canvas, chart)


def _rank(row: Change) -> int:
    if row.judgement in CHANGED:
        return 0
    return 1 if row.stage in FORWARD_STAGES else 2


def _spot(row: Change) -> Spot:
    return Spot(
        label=short_name(row),
        ratio=row.ratio or 1.0,
        interval=row.interval,
        noise=None if row.judgement == "NOT COMPARED" else row.noise,
        judgement=row.judgement,
        note=f"{times_with_interval(row.ratio, row.interval)}, n = {_n(row)}",
    )


def _n(row: Change) -> str:
    both = (side.n if side else None for side in (row.base, row.new))
    return ", ".join("?" if n is None else count(n) for n in both)


def band_name(min_change: float) -> str:
    """What the shaded band means, for the legend."""
    return f"least change that counts, {in_percent(min_change)}"
