"""Numbers of a record that follow from others in it: what each is stated as, and what it should be.

qwenprof computes them so; a record from another hand may not.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from qwenprof.diagnosis.bounds import LARGEST, number, positive
from qwenprof.diagnosis.claims import claims
from qwenprof.diagnosis.recomputing import TOLERANCE, Check, Expected, agrees, quotient, written
from qwenprof.diagnosis.series_names import SERIES_NAMES
from qwenprof.formatting import count, flop_rate, percent, seconds, times
from qwenprof.record.record import Cell, Record, Row

BASELINES = ("Conv3d", "as dispatched")
SAME_CASE = ("module", "dtype", "patches", "direction", "batch")
NAMING = {
    "path": "{}",
    "module": "{}",
    "attention": "{}",
    "variant": "{}",
    "experiment": "{}",
    "dtype": "{}",
    "size": "size {}",
    "patches": "{} patches",
    "direction": "{}",
    "batch": "batch {}",
}


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """A column that is the median of a series; key: the name of a row's series."""

    stage: str
    table: str
    key: Callable[[Row], str]
    median: str = "median_s"
    n: str | None = "n"


SERIES = (
    *(Sampled(stage=stage, table=table, key=name) for (stage, table), name in SERIES_NAMES.items()),
    Sampled(
        stage="per-layer",
        table="summary",
        key=lambda _: "forward, with marks",
        median="with_marks_s",
    ),
    Sampled(
        stage="per-layer", table="summary", key=lambda _: "forward, plain", median="plain_s", n=None
    ),
)


def checks(record: Record) -> list[Check]:
    """Every number of the record that can be recomputed, held against what it should be."""
    return [check for relation in RELATIONS for check in relation(record)]


def _shares(record: Record) -> Iterator[Check]:
    rows = record.rows("per-layer", "modules")
    total_s = _total(record, rows)
    for row in rows:
        whole = quotient(row.get("inclusive_s"), total_s)
        stated = number(row.get("share"))
        if whole is None or stated is None:
            continue
        inclusive_s, all_s = number(row.get("inclusive_s")), number(total_s)
        yield Check(
            kind="shares",
            told=f"{_place('per-layer', row)}: stated as {written(stated * 100)} % of the time, "
            f"but {seconds(inclusive_s)} of {seconds(all_s)} is {percent(whole.value)}.",
            holds=agrees(row.get("share"), whole, TOLERANCE),
        )


def _total(record: Record, rows: Sequence[Row]) -> Cell:
    """What a share is a share of: the total that the stage states, else the root's time."""
    stated = [row.get("total_s") for row in record.rows("per-layer", "summary")]
    root = [row.get("inclusive_s") for row in rows if row.get("path") == ""]
    return next((cell for cell in (*stated, *root) if positive(cell)), None)


def _samples_of_a_batch(record: Record) -> Iterator[Check]:
    for stage, row in _every_row(record):
        whole = quotient(row.get("median_s"), row.get("batch"), exact_bottom=True)
        stated = positive(row.get("per_sample_s"))
        if whole is not None and stated is not None:
            yield Check(
                kind="times of one sample",
                told=f"{_place(stage, row)}: one sample is stated to take {written(stated)} s, "
                f"but {seconds(number(row.get('median_s')))} / {row.get('batch')} is "
                f"{seconds(whole.value)}.",
                holds=agrees(row.get("per_sample_s"), whole),
            )


def _slowdowns(record: Record) -> Iterator[Check]:
    for stage, row in _every_row(record):
        whole = quotient(row.get("inclusive_s"), row.get("bound_s"))
        stated = positive(row.get("slowdown"))
        if whole is not None and stated is not None:
            yield Check(
                kind="slowdowns",
                told=f"{_place(stage, row)}: a slowdown of {written(stated)} x is stated, but "
                f"time over bound is {times(whole.value)}.",
                holds=agrees(row.get("slowdown"), whole),
            )


def _speedups(record: Record) -> Iterator[Check]:
    """Against the convolution as dispatched, measured in the same case."""
    for stage, table in _tables(record):
        rows = record.rows(stage, table)
        for row in rows:
            stated, base = positive(row.get("speedup")), _baseline(rows, row)
            whole = quotient(base.get("median_s"), row.get("median_s")) if base else None
            if whole is not None and stated is not None:
                yield Check(
                    kind="speed-ups",
                    told=f"{_place(stage, row)}: a speed-up of {written(stated)} x is stated, but "
                    f"the times give {times(whole.value)}.",
                    holds=agrees(row.get("speedup"), whole),
                )


def _baseline(rows: Sequence[Row], row: Row) -> Row | None:
    same = (
        each
        for each in rows
        if (each.get("variant") or each.get("experiment")) in BASELINES
        and all(each.get(key) == row.get(key) for key in SAME_CASE)
    )
    return next(same, None)


def _rates(record: Record) -> Iterator[Check]:
    """A square matrix product is 2 * size^3 FLOP."""
    for row in record.rows("matmul", "gemm"):
        edge, stated = positive(row.get("size")), positive(row.get("tflops"))
        if edge is None or stated is None or edge > 1e9:
            continue
        whole = quotient(2 * edge**3, row.get("median_s"), exact_top=True)
        if whole is not None:
            yield Check(
                kind="rates of matrix products",
                told=f"{_place('matmul', row)}: {written(stated)} TFLOPS are stated, but 2 x "
                f"{row.get('size')}^3 FLOP in {seconds(number(row.get('median_s')))} are "
                f"{flop_rate(whole.value)}.",
                holds=agrees(row.get("tflops"), whole.over(1e12)),
            )


def _exclusive_times(record: Record) -> Iterator[Check]:
    """The time of a forward is the sum of what each part takes without what it calls."""
    rows = record.rows("per-layer", "modules")
    total_s = positive(_total(record, rows))
    cells = [number(row.get("exclusive_s")) for row in rows]
    sums = [number(row.get("exclusive_sum_s")) for row in record.rows("per-layer", "summary")[:1]]
    if rows and None not in cells:
        sums.append(sum(cell for cell in cells if cell is not None))
    for sum_s in sums:
        if total_s is not None and sum_s is not None:
            yield Check(
                kind="sums of exclusive times",
                told=f"per-layer: exclusive times add up to {seconds(sum_s)}, but the forward is "
                f"stated to take {seconds(total_s)}.",
                holds=abs(sum_s - total_s) <= TOLERANCE * total_s,
            )


def _samples(record: Record) -> Iterator[Check]:
    for sampled in SERIES:
        result = record.stages.get(sampled.stage)
        for row in record.rows(sampled.stage, sampled.table):
            series = result.series.get(sampled.key(row)) if result else None
            if series is not None and series.values:
                yield from _sampled(sampled, row, series.values)


def _sampled(sampled: Sampled, row: Row, values: Sequence[float]) -> Iterator[Check]:
    place = _place(sampled.stage, row)
    n = number(row.get(sampled.n)) if sampled.n else None
    if n is not None:
        yield Check(
            kind="sample counts",
            told=f"{place}: n = {written(n)} is stated, but it has {count(len(values))} samples.",
            holds=n == len(values),
            from_samples=True,
        )
    stated = positive(row.get(sampled.median))
    if stated is not None and max(map(abs, values)) < LARGEST:
        median = statistics.median(values)
        yield Check(
            kind="medians",
            told=f"{place}: a median of {written(stated)} s is stated, but that of its "
            f"{count(len(values))} samples is {seconds(median)}.",
            holds=agrees(row.get(sampled.median), Expected(value=median, low=median, high=median)),
            from_samples=True,
        )


def _tables(record: Record) -> Iterator[tuple[str, str]]:
    return ((stage, table) for stage, result in record.stages.items() for table in result.tables)


def _every_row(record: Record) -> Iterator[tuple[str, Row]]:
    return chain.from_iterable(
        ((stage, row) for row in record.rows(stage, table)) for stage, table in _tables(record)
    )


def _place(stage: str, row: Row) -> str:
    """Stage and row, and the place in the source where the row names one."""
    names = [
        form.format(row[key]) for key, form in NAMING.items() if row.get(key) not in (None, "")
    ]
    source = f" ({row['source']})" if row.get("source") else ""
    return ", ".join([stage, *names]) + source


RELATIONS: tuple[Callable[[Record], Iterable[Check]], ...] = (
    _shares,
    _samples_of_a_batch,
    _slowdowns,
    _speedups,
    _rates,
    _exclusive_times,
    _samples,
    claims,
)
