"""Is it attention? Implementations beside each other, and the two experiments that exclude it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

from qwenprof.diagnosis.bounds import number
from qwenprof.diagnosis.components import anatomy
from qwenprof.diagnosis.series_names import attention_series
from qwenprof.formatting import (
    NOT_MEASURED,
    count,
    percent,
    seconds,
    seconds_with_interval,
    significant,
    size,
    times_with_interval,
)
from qwenprof.harness.statistics import Ratio
from qwenprof.record.published import is_published
from qwenprof.record.record import Record, Row
from qwenprof.report.beside import beside, by_key, outlined, told_of
from qwenprof.report.charts import Bar, BarChart, drawing
from qwenprof.report.exclusion import excluded
from qwenprof.report.reading import (
    footer,
    interval,
    is_measured,
    measured,
    median_s,
    n_cell,
    no_interval,
    outcome,
    ratio,
    reasons,
    sampled,
    samples,
    series_values,
    setting,
    text,
    time_and_n,
    time_cell,
    unmeasured,
)
from qwenprof.report.section import (
    Block,
    Bullets,
    Figure,
    Inline,
    Section,
    Table,
    paragraph,
)
from qwenprof.report.telling import Other, Telling

STAGE = "attention-sweep"
SWITCHED, REPLACED = "switched", "replaced by plain SDPA"
SURE_WITHOUT_INTERVAL = 2.0  # a ratio that no noise of a few samples explains
NOTABLE = 0.10  # what an implementation must save before it can explain anything
CASE = "{attention}, {experiment}, batch {batch}"

ERROR_BARS = (
    "Error bars are the 95 % confidence interval of the median; cases that did not run have no bar."
)


def compose(told: Telling) -> list[Block]:
    record = told.record
    blocks, rows = outcome(record, STAGE), record.rows(STAGE, "backends")
    if not rows:
        return blocks
    blocks.append(paragraph(*_conclusion(record, rows)))
    experiments = _experiments(record, rows)
    blocks += [Bullets(items=tuple(experiments))] if experiments else []
    blocks.append(_table(record, rows, told.against))
    why = reasons(rows, CASE)
    blocks += [Bullets(items=tuple(why))] if why else []
    blocks += [_figure(record, rows, told.against)] if measured(rows) else []
    return blocks + excluded(told.findings, STAGE)


def _case(row: Row) -> tuple[str, str, str]:
    """Implementation, experiment and batch, as they are told."""
    experiment = row.get("experiment") or SWITCHED
    return text(row.get("attention")), text(experiment), text(row.get("batch"))


def _theirs(other: Other | None) -> dict[Hashable, Row]:
    return by_key(measured(other.rows(STAGE, "backends") if other else []), _case)


def _conclusion(record: Record, rows: Sequence[Row]) -> list[Inline]:
    sentences = [
        spread
        for batch in _batches(rows)
        if (
            spread := _spread(record, [row for row in _switched(rows) if row.get("batch") == batch])
        )
    ]
    if not sentences:
        return [
            "Fewer than two implementations were measured at the same batch size, so attention "
            "is not excluded by comparison.",
            _inside_blocks(record),
        ]
    return [" ".join(sentences), " ", _what_it_explains(record, rows), _inside_blocks(record)]


def _spread(record: Record, rows: Sequence[Row]) -> str:
    """How far apart the fastest and the slowest implementation at one batch size are."""
    if len(rows) < 2:
        return ""
    fastest, slowest = min(rows, key=median_s), max(rows, key=median_s)
    between = _ratio(record, slowest, fastest)
    return (
        f"At batch {text(fastest.get('batch'))} the slowest implementation, "
        f"{slowest.get('attention')} at {time_and_n(slowest)}, takes "
        f"{times_with_interval(between.value, between.ci)} as long as the fastest, "
        f"{fastest.get('attention')} at {time_and_n(fastest)}{_caveat(between, fastest, slowest)}."
    )


def _what_it_explains(record: Record, rows: Sequence[Row]) -> str:
    """Whether any measured case saves enough of the time of the implementation in use."""
    own = next(
        (
            row
            for row in _switched(rows)
            if row.get("attention") == record.workload.get("attention")
        ),
        None,
    )
    if own is None:
        return "The workload's own implementation was not measured."
    others = [
        row for row in measured(rows) if row is not own and row.get("batch") == own.get("batch")
    ]
    if not others:
        return "Nothing else was measured at its batch size."
    best = min(others, key=median_s)
    saved = 1 - median_s(best) / median_s(own)
    gain = _ratio(record, own, best)
    name = f"{best.get('attention')} ({best.get('experiment')})"
    if saved < NOTABLE:
        how = f"saves {percent(saved)}" if saved > 0 else "saves nothing"
        said = f"The best alternative, {name}, {how} beside {own.get('attention')}"
        return f"{said}{_so(gain, own, best)}"
    if gain.ci is not None and gain.ci[0] <= 1:
        return (
            f"{name} is {times_with_interval(gain.value, gain.ci)} as fast as "
            f"{own.get('attention')}, an interval that includes no difference."
        )
    if gain.ci is None and gain.value < SURE_WITHOUT_INTERVAL:
        return (
            f"{name} came out {percent(saved)} below {own.get('attention')}"
            f"{_caveat(gain, own, best)}, which "
            "may be noise."
        )
    return (
        f"{name} saves {percent(saved)} of the time of {own.get('attention')}"
        f"{_caveat(gain, own, best)}: "
        "attention explains that much of it."
    )


def _so(gain: Ratio, *rows: Row) -> str:
    """What follows from an alternative that saves little, as far as its interval allows."""
    excluded = "which attention is used does not explain the time."
    if gain.ci is None:
        return f" ({no_interval(*rows)}): as far as that tells, {excluded}"
    if gain.ci[1] * (1 - NOTABLE) > 1:
        said = times_with_interval(gain.value, gain.ci)
        return f", but the interval of the ratio, {said}, does not exclude that it saves more."
    return f": {excluded}"


def _inside_blocks(record: Record) -> str:
    """What the per-layer stage saw of attention in the first block, as a share of the forward."""
    rows = record.rows("per-layer", "modules")
    whole = anatomy(rows)
    parts = whole.components if whole else ()
    repeated = (part for part in parts if part.count > 1 and _attention_s(rows, part.paths[0]))
    blocks = next(repeated, None)
    if whole is None or blocks is None:
        return ""
    share = (_attention_s(rows, blocks.paths[0]) or 0.0) * blocks.count / whole.total_s
    return (
        f" In the per-layer section, the attention of the first block times {blocks.count} blocks "
        f"comes to {percent(share)} of the forward, an estimate of all that attention can explain."
    )


def _attention_s(rows: Sequence[Row], block: str) -> float | None:
    own = (row for row in rows if str(row.get("path")) in (f"{block}.attn", f"{block}.self_attn"))
    return next((number(row.get("inclusive_s")) for row in own), None)


def _experiments(record: Record, rows: Sequence[Row]) -> list[tuple[Inline, ...]]:
    items: list[tuple[Inline, ...]] = []
    for row in rows:
        if row.get("experiment") == SWITCHED:
            continue
        base = _counterpart(rows, row)
        beside = ""
        if base is not None and is_measured(row):
            change = _ratio(record, row, base)
            beside = (
                f", {times_with_interval(change.value, change.ci)} the time of switching to it"
                f"{_caveat(change, row, base)}"
            )
        items.append(
            (
                f"{row.get('attention')} {row.get('experiment')}, batch {row.get('batch')}: "
                f"{time_and_n(row) if is_measured(row) else unmeasured(row)}{beside}.{_proof(row)}",
            )
        )
    return items


def _proof(row: Row) -> str:
    """The check that an experiment is what it says."""
    if row.get("experiment") == REPLACED:
        difference = number(row.get("max_relative_difference"))
        if difference is None:
            return " That the output stays the same was not checked."
        return f" The output differs by at most {significant(difference)} of the largest feature."
    return f" Seen in {_seen(row)} blocks." if row.get("blocks") is not None else ""


def _seen(row: Row) -> str:
    using, blocks = number(row.get("blocks_using")), number(row.get("blocks"))
    return "-" if blocks is None else f"{count(using)} of {count(blocks)}"


def _counterpart(rows: Sequence[Row], row: Row) -> Row | None:
    """The same implementation at the same batch, merely switched to."""
    same = (
        r
        for r in _switched(rows)
        if (r.get("attention"), r.get("batch")) == (row.get("attention"), row.get("batch"))
    )
    return next(same, None)


def _switched(rows: Sequence[Row]) -> list[Row]:
    return [row for row in measured(rows) if row.get("experiment", SWITCHED) == SWITCHED]


def _batches(rows: Sequence[Row]) -> list[object]:
    return list(dict.fromkeys(row.get("batch") for row in rows))


def _ratio(record: Record, numerator: Row, denominator: Row) -> Ratio:
    names = (attention_series(row) for row in (numerator, denominator))
    found = ratio(*(series_values(record, STAGE, name) for name in names))
    value = median_s(numerator) / median_s(denominator)
    return Ratio(value=value, ci=found.ci if found else None)


def _caveat(change: Ratio, *rows: Row) -> str:
    return "" if change.ci else f" ({no_interval(*rows)})"


def _table(record: Record, rows: Sequence[Row], other: Other | None) -> Table:
    theirs = _theirs(other)
    return beside(
        _own_table(record, rows),
        [_case(row) for row in rows],
        other,
        {"forward": told_of(theirs, time_and_n), "peak memory": told_of(theirs, _peak)},
        {key: _case(row) for key, row in theirs.items()},
    )


def _peak(row: Row) -> str | None:
    peak = number(row.get("peak_bytes"))
    return None if peak is None else size(peak)


def _own_table(record: Record, rows: Sequence[Row]) -> Table:
    return Table(
        header=(
            "Attention",
            "Experiment",
            "Batch",
            "Forward",
            "n",
            "Blocks that use it",
            "Peak memory",
        ),
        align="llrrrrr",
        rows=tuple(
            (
                *_case(row),
                time_cell(row),
                n_cell(row),
                _seen(row),
                size(number(row.get("peak_bytes"))),
            )
            for row in rows
        ),
        caption=f"One forward, {setting(record)}. {sampled(record)}",
    )


def _figure(record: Record, rows: Sequence[Row], other: Other | None) -> Figure:
    chart = BarChart(
        title=f"Forward by attention implementation, {setting(record)}",
        axis="time of a forward",
        bars=_bars(rows, record.workload.get("attention"), other),
        write=seconds,
        beside=other.label if other else "",
        footer=footer(record),
        published=is_published(record),
    )
    return Figure(
        stem="attention_sweep",
        alt="Bar chart of the time of a forward by attention implementation, experiment and batch",
        caption="Forced is forced on every block, replaced is replaced by plain SDPA. "
        f"{sampled(record, ERROR_BARS)}" + outlined(chart, other),
        draw=drawing(chart),
    )


def _bars(rows: Sequence[Row], own: object, other: Other | None) -> tuple[Bar, ...]:
    """One for each case, then one for each that only the other record has."""
    theirs, cases = _theirs(other), [_case(row) for row in rows]
    batches = _batches(rows)
    return (
        *(
            replace(_bar(row, batches, own), beside=_time(theirs.get(case)))
            for row, case in zip(rows, cases, strict=True)
        ),
        *(
            Bar(label=_label(row), value=None, note=NOT_MEASURED, beside=median_s(row))
            for case, row in theirs.items()
            if case not in cases and other is not None and other.asked
        ),
    )


def _time(row: Row | None) -> float | None:
    return None if row is None else median_s(row)


def _label(row: Row) -> str:
    attention, experiment, batch = _case(row)
    how = "" if experiment == SWITCHED else f" {experiment.partition(' ')[0]}"
    return f"{attention}{how}, batch {batch}"


def _bar(row: Row, batches: Sequence[object], own: object) -> Bar:
    is_switched = _case(row)[1] == SWITCHED
    in_use = ", in use" if is_switched and row.get("attention") == own else ""
    return Bar(
        label=_label(row),
        value=median_s(row) if is_measured(row) else None,
        interval=interval(row) if is_measured(row) else None,
        note=f"{seconds_with_interval(median_s(row), None, samples(row))}{in_use}"
        if is_measured(row)
        else unmeasured(row),
        kind=batches.index(row.get("batch")),
    )


SECTION = Section(name="attention-sweep", order=60, title="Is it attention?", compose=compose)
