"""Conv3d and Linear over the number of patches, by dtype, and the other record's beside them."""

from __future__ import annotations

from collections.abc import Sequence

from qwenprof.diagnosis.bounds import number
from qwenprof.formatting import seconds, times
from qwenprof.record.published import is_published
from qwenprof.record.record import Record, Row
from qwenprof.report.beside import outlined
from qwenprof.report.charts import Gap, Line, LineChart, Panel, Point, drawing
from qwenprof.report.reading import (
    AS_PUBLISHED,
    device_name,
    footer,
    interval,
    measured,
    median_s,
    text,
)
from qwenprof.report.section import Figure
from qwenprof.report.telling import Other

CONV, LINEAR = "Conv3d", "Linear"
BESIDE = {CONV: 3, LINEAR: 4}  # the kinds, which are the markers, of the other record's points


def figure(
    record: Record,
    rows: Sequence[Row],
    marked: Gap | None,
    theirs: Sequence[Row],
    other: Other | None,
) -> Figure:
    """Lines of this record, of at least one measured row, and the other record's points."""
    dtypes = list(dict.fromkeys(text(row.get("dtype")) for row in measured(rows)))
    lines = [
        _line(rows, dtype, variant, kind)
        for kind, dtype in enumerate(dtypes)
        for variant in (CONV, LINEAR)
    ]
    panel = Panel(
        title="",
        x_axis="visual patches, logarithmic",
        y_axis="time of one call",
        lines=(*lines, *_beside(record, theirs, other)),
        write=seconds,
        log=True,
        gap=marked,
    )
    chart = LineChart(
        title=f"Patch projection as Conv3d and as Linear on {device_name(record)}",
        panels=(panel,),
        footer=footer(record),
        published=is_published(record),
    )
    return Figure(
        stem="compare_patch_embed",
        alt="Time of Conv3d and of the equal Linear over the number of patches, by dtype",
        caption=_caption(record) + outlined(chart, other),
        draw=drawing(chart),
    )


def _caption(record: Record) -> str:
    if is_published(record):
        return f"Dashed lines are Conv3d, dotted lines Linear. {AS_PUBLISHED}"
    return (
        "Solid lines are Conv3d, dashed lines Linear. Error bars are the 95 % confidence interval "
        "of the median; a point without one has fewer than six samples."
    )


def gap(conv: Row, linear: Row) -> Gap:
    """What lies between the two on the same patches, both measured."""
    low, high = sorted((median_s(conv), median_s(linear)))
    speedup = times(median_s(conv) / median_s(linear))
    return Gap(x=_patches(conv), low=low, high=high, note=f"{speedup} in {text(conv.get('dtype'))}")


def _patches(row: Row) -> float:
    return number(row.get("patches")) or 1.0


def _line(rows: Sequence[Row], dtype: str, variant: str, kind: int) -> Line:
    own = _of(rows, dtype, variant)
    known = [str(row["backend"]) for row in own if row.get("backend") is not None]
    backends = dict.fromkeys(known) if variant == CONV else {}
    name = f"{variant} {dtype}" + (f" ({', '.join(backends)})" if backends else "")
    return Line(label=name, points=_points(own), kind=kind, dashed=variant == LINEAR)


def _beside(record: Record, theirs: Sequence[Row], other: Other | None) -> list[Line]:
    """In one dtype only, which is enough to see where the other machine is."""
    if other is None:
        return []
    done = {text(row.get("dtype")) for row in measured(theirs)}
    wanted = (text(each.workload.get("dtype")) for each in (record, other.record))
    dtype = next((each for each in wanted if each in done), "")
    return [
        Line(
            label=f"{variant} {dtype}, {other.label}",
            points=points,
            kind=kind,
            joined=False,
            beside=True,
        )
        for variant, kind in BESIDE.items()
        if (points := _points(_of(theirs, dtype, variant)))
    ]


def _of(rows: Sequence[Row], dtype: str, variant: str) -> list[Row]:
    return [r for r in measured(rows) if (r.get("dtype"), r.get("variant")) == (dtype, variant)]


def _points(rows: Sequence[Row]) -> tuple[Point, ...]:
    points = (Point(x=_patches(r), y=median_s(r), interval=interval(r)) for r in rows)
    return tuple(sorted(points, key=lambda point: point.x))
