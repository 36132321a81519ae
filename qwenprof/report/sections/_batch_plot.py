"""Time of a forward and of one sample over the batch, and the other record's beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from qwenprof.diagnosis.bounds import number, positive
from qwenprof.diagnosis.rules import batching
from qwenprof.formatting import seconds
from qwenprof.harness import statistics
from qwenprof.harness.statistics import Fit
from qwenprof.record.published import is_published
from qwenprof.record.record import Record, Row
from qwenprof.report.beside import outlined
from qwenprof.report.charts import Line, LineChart, Panel, Point, drawing
from qwenprof.report.reading import (
    footer,
    interval,
    measured,
    median_s,
    n_cell,
    sampled,
    samples,
    setting,
)
from qwenprof.report.section import Figure
from qwenprof.report.telling import Other, measured_or_published

STAGE = "batch-sweep"
LOG_BATCHES = "batch, samples, logarithmic"
SPREAD_FROM = 8.0  # batches that differ by more stand too close to each other on a linear axis
NOTE_WIDTH = 0.13  # of a panel
LOG_FROM = 40.0  # two records whose times differ by more cannot be read off one linear axis
FIT_POINTS = 33  # a straight line is a curve on logarithmic axes
DID_NOT_GROW = "did not grow"
ERROR_BARS = (
    "Error bars are the 95 % confidence interval of the median; a point without one has fewer than "
    "six samples."
)
BESIDE = 3  # the kind, which is the marker, of the other record's line


def figure(record: Record, done: Sequence[Row], other: Other | None) -> Figure:
    """Two panels, of at least two batch sizes in order."""
    rows = measured(other.rows(STAGE, "batches")) if other else []
    theirs = sorted(rows, key=batch_of)
    chart = LineChart(
        title=f"Time against the batch, {setting(record)}",
        panels=(_whole(record, done, theirs, other), _each(record, done, theirs, other)),
        footer=footer(record),
        published=is_published(record),
    )
    return Figure(
        stem="batch_sweep",
        alt="Two plots over the batch size: time of a forward, and time of one sample",
        caption=sampled(record, ERROR_BARS) + _left_out(done) + outlined(chart, other),
        draw=drawing(chart),
    )


def batch_of(row: Row) -> float:
    """How many samples a row's forward takes."""
    return number(row.get("batch")) or 1.0


def per_sample_s(row: Row) -> float:
    """Seconds of one sample, of a row that was measured."""
    return median_s(row) / batch_of(row)


def per_sample_interval(row: Row) -> tuple[float, float] | None:
    """The interval of one sample's seconds, None where it has none."""
    ends = interval(row)
    return None if ends is None else (ends[0] / batch_of(row), ends[1] / batch_of(row))


def fit_of(done: Sequence[Row]) -> Fit | None:
    """A line through the times of whole forwards."""
    return statistics.fit_line([batch_of(row) for row in done], [median_s(row) for row in done])


def grown(done: Sequence[Row]) -> Sequence[Row]:
    """Those before the first that most likely did not grow, where patches do not tell.

    The batching rule fits the same ones.
    """
    counted = [row for row in done if positive(row.get("patches"))]
    known = [size for row in done if (size := batching.sized(int(batch_of(row)), row))]
    if len(counted) > 1 or len(known) < len(done):
        return done
    return done[: len(batching.grown(known))]


def _stalled(done: Sequence[Row]) -> Sequence[Row]:
    """The first batch that did not grow, if there is one; what comes after it may have."""
    kept = len(grown(done))
    return done[kept : kept + 1]


def _left_out(done: Sequence[Row]) -> str:
    return "".join(
        f" Batch {batch_of(row):.0f} most likely did not grow: the fitted line ends before it."
        for row in _stalled(done)
    )


def _own_points(done: Sequence[Row], *, each: bool) -> tuple[Point, ...]:
    """With n, where it is known, and the batch marked that did not grow."""
    stalled = _stalled(done)
    return tuple(
        _point(row, each=each, noted=True, more=DID_NOT_GROW if row in stalled else "")
        for row in done
    )


def _whole(
    record: Record, done: Sequence[Row], theirs: Sequence[Row], other: Other | None
) -> Panel:
    kept = grown(done)
    fitted = _fitted(kept) if len(kept) > 2 else ()
    lines = [
        Line(
            label=measured_or_published(record),
            points=_own_points(done, each=False),
            joined=len(kept) <= 2,
        )
    ]
    lines += [Line(label="fitted line", points=fitted, fit_only=True)] if len(kept) > 2 else []
    lines += _beside(tuple(_point(row) for row in theirs), other)
    return _without_crowded_notes(_panel("Whole forward", "time of a forward", lines))


def _each(record: Record, done: Sequence[Row], theirs: Sequence[Row], other: Other | None) -> Panel:
    lines = [
        Line(label=measured_or_published(record), points=_own_points(done, each=True)),
        *_beside(tuple(_point(row, each=True) for row in theirs), other),
    ]
    panel = _panel("Per sample", "time of one sample", lines)
    batches = [point.x for line in lines for point in line.points]
    if panel.log or max(batches) < SPREAD_FROM * min(batches):
        return panel
    return replace(panel, log_x=True, x_axis=LOG_BATCHES)


def _panel(title: str, y_axis: str, lines: Sequence[Line]) -> Panel:
    times = [point.y for line in lines for point in line.points if not line.fit_only]
    log = any(line.beside for line in lines) and max(times) > LOG_FROM * min(times)
    return Panel(
        title=title,
        x_axis=LOG_BATCHES if log else "batch, samples",
        y_axis=y_axis,
        lines=tuple(lines),
        write=seconds,
        log=log,
    )


def _without_crowded_notes(panel: Panel) -> Panel:
    """On a linear axis small batches stand close, and the larger of two keeps its note."""
    xs = [point.x for line in panel.lines for point in line.points]
    least = 0.0 if panel.log else NOTE_WIDTH * (max(xs) - min(xs))
    return replace(panel, lines=tuple(_thinned(line, least) for line in panel.lines))


def _thinned(line: Line, least: float) -> Line:
    kept: list[Point] = []
    for point in reversed(line.points):
        before = next((each.x for each in reversed(kept) if each.note), None)
        crowded = before is not None and before - point.x < least
        kept.append(replace(point, note="") if crowded else point)
    return replace(line, points=tuple(reversed(kept)))


def _fitted(done: Sequence[Row]) -> tuple[Point, ...]:
    """What is not above nought is no time, and has no place on a logarithmic axis."""
    fit = fit_of(done)
    if fit is None:
        return ()
    first, last = batch_of(done[0]), batch_of(done[-1])
    xs = [first + (last - first) * step / (FIT_POINTS - 1) for step in range(FIT_POINTS)]
    points = (Point(x=x, y=fit.intercept + fit.slope * x) for x in xs)
    return tuple(point for point in points if point.y > 0)


def _point(row: Row, *, each: bool = False, noted: bool = False, more: str = "") -> Point:
    n = f"n = {n_cell(row)}" if noted and samples(row) is not None else ""
    return Point(
        x=batch_of(row),
        y=per_sample_s(row) if each else median_s(row),
        interval=per_sample_interval(row) if each else interval(row),
        note=", ".join(filter(None, (n, more))),
    )


def _beside(points: tuple[Point, ...], other: Other | None) -> list[Line]:
    if other is None or not points:
        return []
    return [Line(label=other.label, points=points, kind=BESIDE, beside=True)]
