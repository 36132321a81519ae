"""What bounds are made of and leave out, and two pictures of a forward beside its bounds."""

from __future__ import annotations

from collections.abc import Sequence

from qwenprof.diagnosis.bounds import machine, positive
from qwenprof.diagnosis.components import Anatomy, Component, one_launch_only
from qwenprof.formatting import bandwidth, flop_rate, listed, percent, plural, seconds, times
from qwenprof.record.record import Record
from qwenprof.report.charts import Bar, Scatter, Spot, Step, Waterfall, drawing
from qwenprof.report.reading import footer
from qwenprof.report.section import Block, Figure, paragraph, strong

UNCOUNTED = (
    "A bound leaves out elementwise arithmetic, intermediate tensors and every launch but one, so "
    "a healthy part takes a few times its bound, not exactly it."
)
CULPRIT = "culprit"
OVER, UNDER, UNBOUND, SMALLER = range(4)
KINDS = (
    "over its bound",
    "under its bound: bound beaten",
    "no bound known: its whole time",
    "smaller parts together",
)
MOST_STEPS, FEWEST_STEPS = 8, 3
SMALL = 0.001  # of the forward: a step that is no wider than the line about it
DRAWABLE = (1e-12, 1e12)  # seconds; what lies outside is no duration of anything
ROUNDING = 1e-9  # of the forward


def pictures(record: Record, whole: Anatomy, culprit: Component | None, n: str) -> list[Block]:
    """Time against bound and the waterfall of the excess; a sentence where there is no bound."""
    if not any(positive(part.bound_s) for part in whole.components):
        return [paragraph(strong("No bounds."), f" {_why_none(record)}")]
    drawn = scatter(record, whole, culprit, n)
    blocks: list[Block] = [_scatter_figure(drawn, whole)] if drawn.spots else []
    return [*blocks, _waterfall_figure(waterfall(record, whole, culprit, n))]


def rates(record: Record) -> str:
    """The rates that bounds are made from, for a sentence that says "at ..."."""
    known = _rates(record)
    if not known:
        return "rates that this record does not hold"
    return f"the best rates measured on this machine: {listed(known)}"


def _rates(record: Record) -> list[str]:
    measured = machine(record)
    if measured is None:
        return []
    dtype = str(record.workload.get("dtype"))
    rate, moved = measured.flop_per_s.get(dtype), measured.memory_bytes_per_s
    launch_s = measured.launch_latency_s
    return [
        *([f"{flop_rate(rate)} ({dtype} GEMM)"] if rate else []),
        *([f"{bandwidth(moved)} (memory)"] if moved else []),
        *([f"{seconds(launch_s)} a launch"] if launch_s else []),
    ]


def _why_none(record: Record) -> str:
    if machine(record) is None and record.rows("matmul", "gemm"):
        return (
            "What the parts should take is not known: the record holds the rate of matrix "
            "products, but neither bandwidth nor launch latency."
        )
    if machine(record) is None:
        return (
            "What the parts should take is not known, because the rates of this machine were not "
            "measured: that is the stage matmul, which the record does not hold."
        )
    return (
        "What the parts should take is not known: the record lacks their FLOP and bytes, or a rate "
        f"of this machine in {record.workload.get('dtype') or 'their dtype'}."
    )


def scatter(record: Record, whole: Anatomy, culprit: Component | None, n: str) -> Scatter:
    """Every part that has a time and a bound; the culprit first, then by excess."""
    parts = [part for part in whole.components if _drawable(part.time_s, part.bound_s)]
    parts.sort(key=lambda part: (part is not culprit, -(part.excess_s or 0.0)))
    known = _rates(record)
    return Scatter(
        title=f"Time against bound of the parts of one forward, {n}",
        x_axis=f"bound: the least time, at {listed(known)}" if known else "bound: the least time",
        y_axis="time in one forward",
        spots=tuple(_spot(record, part, part is culprit) for part in parts),
        write=seconds,
        diagonal="time = bound: the limit",
        below="faster than its bound: the bound is in doubt",
        filled="part, and its time / bound",
        hollow="bound is one launch only",
        emphasis=CULPRIT,
        footer=footer(record),
    )


def _drawable(*values: float | None) -> bool:
    return all(value is not None and DRAWABLE[0] <= value <= DRAWABLE[1] for value in values)


def _spot(record: Record, part: Component, is_culprit: bool) -> Spot:
    hollow = one_launch_only(record, part)
    return Spot(
        label=part.label,
        x=part.bound_s or 0.0,
        y=part.time_s,
        note=_slowdown(part, is_culprit) if is_culprit or not hollow else "",
        emphasis=is_culprit,
        hollow=hollow,
    )


def _slowdown(part: Component, is_culprit: bool) -> str:
    return f"{times(part.slowdown)} its bound" if is_culprit else times(part.slowdown)


def waterfall(record: Record, whole: Anatomy, culprit: Component | None, n: str) -> Waterfall:
    """From the sum of all bounds to the forward: what each part takes beyond its bound."""
    bounds_s = sum(positive(part.bound_s) or 0.0 for part in whole.components)
    total_s = whole.total_s
    return Waterfall(
        title=f"From bounds of {seconds(bounds_s)} to a forward of {seconds(total_s)}, {n}",
        axis="time in one forward",
        start=Bar(
            label="sum of bounds", value=bounds_s, note=_of_forward(bounds_s, total_s, sign="")
        ),
        steps=_steps(whole, culprit),
        end=Bar(
            label="the whole forward",
            value=total_s,
            note=f"{seconds(total_s)}, {times(total_s / bounds_s)} the sum of bounds",
        ),
        write=seconds,
        kinds=KINDS,
        emphasis=CULPRIT,
        footer=footer(record),
    )


def _steps(whole: Anatomy, culprit: Component | None) -> tuple[Step, ...]:
    """The steps worth a bar from the largest down, then the small ones in one."""
    every = sorted(
        [_step(part, whole.total_s, part is culprit) for part in whole.components],
        key=lambda step: -abs(step.change),
    )
    keeps = [_is_kept(step, rank, whole.total_s) for rank, step in enumerate(every)]
    if keeps.count(False) == 1:
        keeps = [True] * len(every)
    kept = [step for step, keep in zip(every, keeps, strict=True) if keep]
    small = [step for step, keep in zip(every, keeps, strict=True) if not keep]
    kept.sort(key=lambda step: -step.change)
    return (*kept, *_together(small, whole))


def _is_kept(step: Step, rank: int, total_s: float) -> bool:
    large = rank < MOST_STEPS and abs(step.change) >= SMALL * total_s
    return step.emphasis or large or rank < FEWEST_STEPS


def _step(part: Component, total_s: float, is_culprit: bool) -> Step:
    bound_s = positive(part.bound_s)
    change = part.time_s - (bound_s or 0.0)
    kind = UNBOUND if bound_s is None else OVER if change >= 0 else UNDER
    note = _of_forward(change, total_s)
    return Step(label=part.label, change=change, note=note, emphasis=is_culprit, kind=kind)


def _together(small: Sequence[Step], whole: Anatomy) -> list[Step]:
    """The small steps as one; what no part accounts for is a step of its own where it is large."""
    rest_s = whole.total_s - sum(part.time_s for part in whole.components)
    found = []
    if small and abs(rest_s) < SMALL * whole.total_s:
        change, rest_s = sum(step.change for step in small) + rest_s, 0.0
    else:
        change = sum(step.change for step in small)
    if small:
        label = plural(len(small), "smaller part")
        note = _of_forward(change, whole.total_s)
        found.append(Step(label=label, change=change, note=note, kind=SMALLER))
    if abs(rest_s) > ROUNDING * abs(whole.total_s):
        note = _of_forward(rest_s, whole.total_s)
        found.append(Step(label="in no part", change=rest_s, note=note, kind=UNBOUND))
    return found


def _of_forward(change: float, total_s: float, sign: str = "+") -> str:
    signed = f"{sign if change >= 0 else ''}{seconds(change)}"
    return f"{signed}, {percent(abs(change) / total_s)} of the forward"


def _scatter_figure(chart: Scatter, whole: Anatomy) -> Figure:
    missing = [part.label for part in whole.components if not _drawable(part.time_s, part.bound_s)]
    absent = f" Not shown, for want of a bound: {'; '.join(missing)}." if missing else ""
    hollow = (
        " The bound of a hollow point is a launch for each call and no more, so how far it is from "
        "the diagonal says little."
        if any(spot.hollow for spot in chart.spots)
        else ""
    )
    return Figure(
        stem="time_against_bound",
        alt="Scatter plot of the time of each part of the forward against the bound of its work",
        caption="A point is a part of the forward; repeated blocks are one point, as in the table. "
        "The further above the diagonal, the more times its bound a part takes; a few times are "
        "usual, for what a bound leaves out. Names that would overlap are not shown."
        + hollow
        + absent,
        draw=drawing(chart),
    )


def _waterfall_figure(chart: Waterfall) -> Figure:
    beaten = (
        " A bar that goes back is a part that was faster than its bound, so its bound is in doubt."
        if any(step.change < 0 for step in chart.steps)
        else ""
    )
    return Figure(
        stem="excess",
        alt="Waterfall chart from the sum of all bounds to the time of the forward, part by part",
        caption="All bounds added up, then what each part takes beyond its bound, the largest "
        "first, up to the time of the forward. Not all of an excess could be saved: the caption of "
        "the table says what a bound leaves out." + beaten,
        draw=drawing(chart),
    )
