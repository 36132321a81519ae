"""Is it batching? Time of the forward against the batch, and whether the work grew with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from qwenprof.diagnosis.bounds import number
from qwenprof.diagnosis.finding import Finding, rules
from qwenprof.formatting import (
    count,
    listed,
    seconds,
    seconds_with_interval,
    size,
    times_with_interval,
)
from qwenprof.harness import statistics
from qwenprof.harness.statistics import Ratio
from qwenprof.record.record import Record, Row
from qwenprof.report.beside import beside, by_key, told_of
from qwenprof.report.exclusion import excluded
from qwenprof.report.reading import (
    is_measured,
    measured,
    n_cell,
    no_interval,
    outcome,
    reasons,
    sampled,
    series_values,
    setting,
    time_and_n,
    time_cell,
)
from qwenprof.report.section import (
    Block,
    Bullets,
    Inline,
    Paragraph,
    Section,
    Table,
    paragraph,
    strong,
)
from qwenprof.report.sections._batch_plot import batch_of as _batch
from qwenprof.report.sections._batch_plot import figure, fit_of, per_sample_interval, per_sample_s
from qwenprof.report.telling import Other, Telling

STAGE, STAGE_RULE = "batch-sweep", "batching"
CONSTANT = 0.25  # a sample's time that changes by less is called constant, as by the rule
GROWN = 0.01


def compose(told: Telling) -> list[Block]:
    record, findings = told.record, told.findings
    blocks, rows = outcome(record, STAGE), record.rows(STAGE, "batches")
    if not rows:
        return blocks
    done = sorted(measured(rows), key=_batch)
    blocks += [*_conclusions(record, done, findings), _table(record, rows, told.against)]
    why = reasons(rows, "batch {batch}")
    blocks += [Bullets(items=tuple(why))] if why else []
    blocks += [figure(record, done, told.against)] if len(done) > 1 else []
    return blocks + excluded(findings, STAGE)


def _conclusions(record: Record, done: Sequence[Row], findings: Sequence[Finding]) -> list[Block]:
    """From the times where the patches were counted, else what the rule infers from the rest."""
    counted = all(number(row.get("patches")) is not None for row in done)
    judged = next((each for each in findings if each.rule == STAGE_RULE), None)
    if counted or judged is None:
        return [_conclusion(record, done), *_fit_sentence(done)]
    return [paragraph(f"{judged.title}. ", " ".join(judged.evidence))]


def _conclusion(record: Record, done: Sequence[Row]) -> Paragraph:
    if len(done) < 2:
        which = f"Only batch {_batch(done[0]):.0f} was" if done else "No batch size was"
        return paragraph(f"{which} measured, so nothing can be said about batching.")
    shrunk = _work_that_did_not_grow(done)
    if shrunk:
        return paragraph(
            strong("The work did not grow with the batch:"),
            f" {shrunk}. The times below say nothing about batching.",
        )
    return paragraph(*_trend(record, done))


def _work_that_did_not_grow(done: Sequence[Row]) -> str:
    """Batches whose patches are not in proportion to the smallest batch's, as text; "" if none."""
    counted = [(row, patches) for row in done if (patches := number(row.get("patches")))]
    if len(counted) < 2:
        return ""
    each = counted[0][1] / _batch(counted[0][0])
    wrong = [
        f"batch {_batch(row):.0f} has {count(patches)} patches where {count(each * _batch(row))} "
        "were expected"
        for row, patches in counted
        if abs(patches / _batch(row) - each) > GROWN * each
    ]
    return listed(wrong)


def _trend(record: Record, done: Sequence[Row]) -> list[Inline]:
    first, last = done[0], done[-1]
    change = _change(record, first, last)
    word = _word(change)
    head = (
        f"From batch {_batch(first):.0f} to batch {_batch(last):.0f} the time of one sample "
        f"{word}: {_per_sample_cell(first)} (n = {n_cell(first)}) and {_per_sample_cell(last)} "
        f"(n = {n_cell(last)}), a ratio of {times_with_interval(change.value, change.ci)}"
        f"{'' if change.ci else '; ' + no_interval(first, last)}. "
    )
    return [head, MEANINGS[word], _growth_of_work(done)]


MEANINGS = {
    "stays the same": "What takes the time takes it for every sample alike: batching, padding and "
    "collation do not explain it.",
    "falls": "A part of the time does not depend on the batch, and a larger batch shares it: "
    "batching does not make samples slower.",
    "rises": "Something grows faster than the number of samples, so batching is not excluded.",
    "may change": "The interval is too wide to tell whether it changes.",
}


def _change(record: Record, first: Row, last: Row) -> Ratio:
    """Time of a sample in the last batch over that in the first, with its interval if any."""
    value = per_sample_s(last) / per_sample_s(first)
    numerator, denominator = (
        series_values(record, STAGE, f"batch={_batch(row):.0f}") for row in (last, first)
    )
    if not numerator or not denominator or statistics.median(denominator) <= 0:
        return Ratio(value=value, ci=None)
    whole = statistics.ratio_of_medians(numerator, denominator)
    scale = _batch(first) / _batch(last)
    return Ratio(value=value, ci=(whole.ci[0] * scale, whole.ci[1] * scale) if whole.ci else None)


def _word(change: Ratio) -> str:
    if change.ci is not None:
        words = {
            "FASTER": "falls",
            "SLOWER": "rises",
            "SAME": "stays the same",
            "INCONCLUSIVE": "may change",
        }
        return words[statistics.judge(change, CONSTANT)]
    if abs(change.value - 1) <= CONSTANT:
        return "stays the same"
    return "falls" if change.value < 1 else "rises"


def _growth_of_work(done: Sequence[Row]) -> str:
    if any(number(row.get("patches")) is None for row in done):
        return " Whether the work grew with the batch was not measured."
    return " The number of patches grew in proportion to the batch."


def _fit_sentence(done: Sequence[Row]) -> list[Block]:
    fit = fit_of(done)
    if fit is None or _work_that_did_not_grow(done):
        return []
    sign = "-" if fit.intercept < 0 else ""
    quality = (
        f"R2 = {fit.r_squared:.3f} over {len(done)} batch sizes"
        if len(done) > 2
        else "through two points, so it fits exactly and proves nothing"
    )
    return [
        paragraph(
            f"Fitted: time of a forward = {sign}{seconds(abs(fit.intercept))} + "
            f"{seconds(fit.slope)} x batch ({quality})."
        )
    ]


def _per_sample_cell(row: Row) -> str:
    if not is_measured(row):
        return "-"
    return seconds_with_interval(per_sample_s(row), per_sample_interval(row))


def _table(record: Record, rows: Sequence[Row], other: Other | None) -> Table:
    theirs = by_key(measured(other.rows(STAGE, "batches") if other else []), _batch)
    table = beside(
        _own_table(record, rows),
        [_batch(row) for row in rows],
        other,
        {
            "forward": told_of(theirs, time_and_n),
            "per sample, computed": told_of(theirs, lambda row: seconds(per_sample_s(row))),
            "peak memory": told_of(theirs, _peak),
        },
        {batch: (f"{batch:.0f}",) for batch in map(_batch, theirs.values())},
    )
    return replace(table, caption=f"{table.caption}{_doubt(other)}") if theirs else table


def _peak(row: Row) -> str | None:
    peak = number(row.get("peak_bytes"))
    return None if peak is None else size(peak)


def _doubt(other: Other | None) -> str:
    """What the rule says of the other record's sweep: nobody is to trust it further than that."""
    if other is None:
        return ""
    judged = rules()[STAGE_RULE].judge(other.record)
    return "" if judged.verdict == "not assessed" else f" What it shows: {judged.title}."


def _own_table(record: Record, rows: Sequence[Row]) -> Table:
    return Table(
        header=("Batch", "Forward", "n", "Per sample", "Patches", "Sequence length", "Peak memory"),
        align="rrrrrrr",
        rows=tuple(
            (
                f"{_batch(row):.0f}",
                time_cell(row),
                n_cell(row),
                _per_sample_cell(row),
                count(number(row.get("patches"))),
                count(number(row.get("sequence_length"))),
                size(number(row.get("peak_bytes"))),
            )
            for row in rows
        ),
        caption=f"One forward at growing batch sizes, {setting(record)}. {sampled(record)}",
    )


SECTION = Section(name="batch-sweep", order=50, title="Is it batching?", compose=compose)
