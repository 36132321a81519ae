"""A dataset's hours before and after the fix, projected from the time of one sample."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from qwenprof.diagnosis.projected import Effect, Time, duration, duration_with_interval
from qwenprof.formatting import NOT_MEASURED, count, plural
from qwenprof.report.beside import Figures, beside
from qwenprof.report.section import Inline, Paragraph, Table, paragraph, strong
from qwenprof.report.telling import Other, Telling

FORWARD_ALONE = (
    "It is a projection of the forward alone, from the time of one sample: no decoding, no "
    "loading and no start of the process, one batch after the other in one process."
)
CLEAR_FACTOR = 1.5  # where before and after differ by more, two digits tell them apart


def dataset_sentence(main: Effect, samples: int) -> Paragraph:
    """What so many samples take before and after."""
    before, after = main.of_samples(samples)
    found = main.speedup
    if before is None or after is None or found is None:
        return paragraph(f"For {count(samples)} samples nothing can be projected.")
    digits = 2 if found.value >= CLEAR_FACTOR else 3
    told = [_projected(each, digits) for each in (before, after)]
    what = f"For {plural(samples, 'sample')} at batch {main.batch} that is "
    if main.gain == "faster":
        return paragraph(
            what, strong(f"{told[0]} before and {told[1]} after"), f". {FORWARD_ALONE}"
        )
    return paragraph(
        f"{what}{told[0]} before and {told[1]} after, a difference that means nothing as long as "
        f"no gain was seen. {FORWARD_ALONE}"
        if main.gain == "none seen"
        else f"{what}{told[0]} before and {told[1]} after. {FORWARD_ALONE}"
    )


def _projected(time: Time, digits: int) -> str:
    """With its interval, or with how few samples it rests on."""
    if time.interval is not None:
        return duration_with_interval(time)
    n = f" (n = {time.n}, no interval)" if time.n is not None else ""
    return duration(time.value_s, digits) + n


def dataset(told: Telling, found: Sequence[Effect], theirs: Sequence[Effect]) -> Table:
    """The same for every batch."""
    table = Table(
        header=("Batch", "Before the fix", "After the fix"),
        align="rrr",
        rows=tuple((count(each.batch), *_hours(each, told.samples)) for each in found),
        caption=f"Projected time of {plural(told.samples, 'sample')}: their number times the "
        "median of a sample, and times the ends of its interval.",
    )
    hours = {each.batch: each.of_samples(told.samples) for each in theirs}
    return with_theirs(
        table,
        found,
        told.against,
        {
            "before": {batch: _hour(pair[0]) for batch, pair in hours.items()},
            "after": {batch: _hour(pair[1]) for batch, pair in hours.items()},
        },
    )


def _hours(effect: Effect, samples: int) -> tuple[str, str]:
    before, after = effect.of_samples(samples)
    return _hour(before) or NOT_MEASURED, _hour(after) or NOT_MEASURED


def _hour(time: Time | None) -> str | None:
    return None if time is None else duration_with_interval(time)


def with_theirs(
    table: Table, found: Sequence[Effect], other: Other | None, columns: Mapping[str, Figures]
) -> Table:
    """A table of effects with another record's figures of the same batches."""
    batches = {batch for figures in columns.values() for batch in figures if isinstance(batch, int)}
    only: dict[Hashable, tuple[Inline, ...]] = {batch: (count(batch),) for batch in sorted(batches)}
    return beside(table, [each.batch for each in found], other, columns, only)
