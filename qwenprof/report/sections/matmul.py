"""Is the device healthy? Matrix products against the datasheet, bandwidth and launch latency."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from qwenprof.diagnosis.bounds import number
from qwenprof.formatting import (
    NOT_MEASURED,
    bandwidth,
    bandwidth_with_interval,
    count,
    flop_rate,
    flop_rate_with_interval,
    percent,
    seconds,
    seconds_with_interval,
    significant,
    size,
)
from qwenprof.harness import statistics
from qwenprof.record.published import is_published
from qwenprof.record.record import Record, Row
from qwenprof.report.beside import beside, by_key, outlined, told_of
from qwenprof.report.charts import Bar, BarChart, drawing
from qwenprof.report.exclusion import excluded
from qwenprof.report.reading import (
    INTERVALS,
    device_name,
    footer,
    interval,
    is_measured,
    measured,
    median_s,
    n_cell,
    on_gpu,
    outcome,
    reasons,
    sampled,
    samples,
    series_values,
    text,
    time_and_n,
    time_cell,
)
from qwenprof.report.section import (
    Block,
    Bullets,
    Figure,
    Inline,
    Section,
    Table,
    paragraph,
    published,
)
from qwenprof.report.telling import Other, Telling

STAGE = "matmul"
TERA = 1e12
MACHINE = ("memory_bytes_per_s", "launch_latency_s")


def compose(told: Telling) -> list[Block]:
    record = told.record
    blocks, rows = outcome(record, STAGE), record.rows(STAGE, "gemm")
    if rows:
        blocks += [paragraph(*_conclusion(record, rows)), _table(record, rows, told.against)]
        why = reasons(rows, "{dtype} {size}")
        blocks += [Bullets(items=tuple(why))] if why else []
        blocks += [_figure(record, rows, told.against)] if measured(rows) else []
    machine = record.rows(STAGE, "machine")
    blocks += [_machine(record, machine[0], told.against)] if machine else []
    return blocks + (excluded(told.findings, STAGE) if rows else [])


def _key(row: Row) -> Hashable:
    return text(row.get("dtype")), number(row.get("size"))


def _theirs(other: Other | None) -> dict[Hashable, Row]:
    """The products that the other record holds a rate of."""
    rows = other.rows(STAGE, "gemm") if other else []
    return by_key([row for row in measured(rows) if _rate(row) > 0], _key)


def _conclusion(record: Record, rows: Sequence[Row]) -> list[Inline]:
    dtype = record.workload.get("dtype")
    row = _largest(rows, dtype)
    if row is None:
        return [f"No matrix product was measured in {dtype}, the workload's dtype."]
    peak, fraction = number(row.get("peak_tflops")), number(row.get("fraction_of_peak"))
    head = (
        f"On {device_name(record)} the {count(number(row.get('size')))} x "
        f"{count(number(row.get('size')))} product in {dtype} runs at {_rate_cell(row)}"
        f"{_n_told(row)}"
    )
    if peak and fraction is not None:
        of_peak = f": {percent(fraction)} of the {peak:g} TFLOPS in the "
        return [head, of_peak, f"{row.get('peak_source')}, {row.get('verdict')}."]
    unknown = (
        ". No datasheet peak is known for this device and dtype, so its health is not assessed."
    )
    return [head, unknown, *_beside(rows, row)]


def _beside(rows: Sequence[Row], row: Row) -> list[str]:
    """How the workload's dtype compares with fp32, which tells whether it is fast here at all."""
    other = _largest(rows, "fp32")
    if other is None or row.get("dtype") == "fp32":
        return []
    ratio = _rate(row) / _rate(other)
    slower = " It is the slower of the two on this device." if ratio < 1 else ""
    return [
        f" That is {significant(ratio)} x the {flop_rate(_rate(other))} of fp32 at "
        f"{count(number(other.get('size')))}.{slower}"
    ]


def _largest(rows: Sequence[Row], dtype: object) -> Row | None:
    own = [row for row in measured(rows) if row.get("dtype") == dtype and number(row.get("tflops"))]
    return max(own, key=lambda row: number(row.get("size")) or 0.0, default=None)


def _rate(row: Row) -> float:
    return (number(row.get("tflops")) or 0.0) * TERA


def _rate_interval(row: Row) -> tuple[float, float] | None:
    """Of the rate, from that of the time: the work is the same."""
    ends = interval(row)
    if ends is None or min(ends) <= 0:
        return None
    work = _rate(row) * median_s(row)
    return work / ends[1], work / ends[0]


def _n_told(row: Row) -> str:
    return "" if samples(row) is None else f", n = {n_cell(row)}"


def _rate_cell(row: Row) -> str:
    return flop_rate_with_interval(_rate(row) or None, _rate_interval(row))


def _table(record: Record, rows: Sequence[Row], other: Other | None) -> Table:
    theirs = _theirs(other)
    return beside(
        _own_table(record, rows),
        [_key(row) for row in rows],
        other,
        {
            "time": told_of(theirs, time_and_n),
            "rate": told_of(theirs, lambda row: flop_rate(_rate(row))),
        },
        {key: _named(row) for key, row in theirs.items()},
    )


def _named(row: Row) -> tuple[Inline, ...]:
    return text(row.get("dtype")), count(number(row.get("size")))


def _own_table(record: Record, rows: Sequence[Row]) -> Table:
    return Table(
        header=(
            "dtype",
            "Size",
            "Time of one product",
            "n",
            "Rate",
            "Datasheet peak",
            "Of peak",
            "Best published",
            "Verdict",
        ),
        align="lrrrrrrrl",
        rows=tuple(_row(row) for row in rows),
        caption=sampled(record, f"Square matrix products of random data. {INTERVALS}"),
    )


def _row(row: Row) -> tuple[Inline, ...]:
    peak, best = number(row.get("peak_tflops")), number(row.get("published_tflops"))
    is_done = is_measured(row)
    fraction = number(row.get("fraction_of_peak"))
    return (
        *_named(row),
        time_cell(row),
        n_cell(row),
        _rate_cell(row) if is_done else "-",
        f"{peak:g} TFLOPS" if peak else "unknown",
        percent(fraction) if fraction is not None else "-",
        published(f"{best:g} TFLOPS") if best else "none known",
        text(row.get("verdict")) if is_done else "-",
    )


def _machine(record: Record, row: Row, other: Other | None) -> Table:
    theirs = next(iter(other.rows(STAGE, "machine")), {}) if other else {}
    rate, latency = (number(theirs.get(key)) for key in MACHINE)
    figures = {
        MACHINE[0]: None if rate is None else bandwidth(rate),
        MACHINE[1]: None if latency is None else seconds(latency),
    }
    return beside(_own_machine(record, row), MACHINE, other, {"": figures})


def _own_machine(record: Record, row: Row) -> Table:
    copy, launch = (series_values(record, STAGE, key) for key in ("memory_copy", "launch"))
    rate, latency = (number(row.get(key)) for key in MACHINE)
    copied = number(row.get("copied_bytes"))
    launch_name = "Latency of one launch" if on_gpu(record) else "Cost of one operator call"
    return Table(
        header=("What the machine does", "Measured", "n"),
        align="lrr",
        rows=(
            (
                f"Memory bandwidth, copying {size(copied)}",
                bandwidth_with_interval(rate, _bandwidth_interval(copy, copied)),
                _n(rate, copy),
            ),
            (
                launch_name,
                seconds_with_interval(latency, statistics.median_ci(launch) if launch else None),
                _n(latency, launch),
            ),
        ),
        caption="A copy reads and writes every byte once. The bounds of the per-layer section are "
        "made of the fastest copy, of the launch, and of the best rate of a matrix product.",
    )


def _bandwidth_interval(
    copy_s: Sequence[float], copied: float | None
) -> tuple[float, float] | None:
    ends = statistics.median_ci(copy_s)
    if ends is None or not copied or min(ends) <= 0:
        return None
    return 2 * copied / ends[1], 2 * copied / ends[0]


def _n(value: float | None, samples: Sequence[float]) -> str:
    return count(len(samples)) if value is not None and samples else "-"


def _figure(record: Record, rows: Sequence[Row], other: Other | None) -> Figure:
    chart = BarChart(
        title=f"Matrix products on {device_name(record)}",
        axis="rate of a product" if is_published(record) else "rate of the median product",
        bars=_bars(rows, other),
        write=flop_rate,
        beside=other.label if other else "",
        footer=footer(record),
        published=is_published(record),
    )
    return Figure(
        stem="matmul",
        alt="Bar chart of the rate of matrix products by dtype and size, against the peak",
        caption=sampled(record, "Error bars are the 95 % confidence interval of the median.")
        + outlined(chart, other),
        draw=drawing(chart),
    )


def _bars(rows: Sequence[Row], other: Other | None) -> tuple[Bar, ...]:
    """One for each product, then one for each that only the other record has."""
    theirs, own = _theirs(other), {_key(row) for row in rows}
    kinds = tuple(dict.fromkeys(text(row.get("dtype")) for row in rows))
    return (
        *(_bar(row, kinds, theirs) for row in rows),
        *(
            Bar(label=_label(row), value=None, note=NOT_MEASURED, beside=_rate(row))
            for key, row in theirs.items()
            if key not in own and other is not None and other.asked
        ),
    )


def _label(row: Row) -> str:
    return f"{text(row.get('dtype'))}  {count(number(row.get('size')))}"


def _bar(row: Row, kinds: Sequence[str], theirs: Mapping[Hashable, Row]) -> Bar:
    peak, best = number(row.get("peak_tflops")), number(row.get("published_tflops"))
    marks = {"datasheet peak": peak * TERA} if peak else {}
    marks |= {"best published": best * TERA} if best else {}
    is_done = is_measured(row)
    note = f"{flop_rate(_rate(row))}{_n_told(row)}" if is_done else time_cell(row)
    return Bar(
        label=_label(row),
        value=_rate(row) if is_done else None,
        interval=_rate_interval(row) if is_done else None,
        note=f"{note}, {seconds(median_s(row))}" if is_done else note,
        kind=kinds.index(text(row.get("dtype"))),
        marks=marks,
        beside=_rate(theirs[_key(row)]) if _key(row) in theirs else None,
    )


SECTION = Section(name="matmul", order=40, title="Is the device healthy?", compose=compose)
