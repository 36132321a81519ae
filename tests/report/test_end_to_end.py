"""What the fix gains end to end and whom it concerns: measured, computed, published, or none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from qwenprof.diagnosis.finding import diagnose
from qwenprof.diagnosis.projected import (
    Time,
    duration,
    duration_with_interval,
    effects,
    main_effect,
)
from qwenprof.record.published import writeup
from qwenprof.record.record import Cell, Record, Row, StageResult
from qwenprof.report import markdown, plots
from qwenprof.report.section import Block, Figure, sections
from qwenprof.report.telling import telling
from tests.kept import kept

STAGE = "compare-patch-embed"
SLOW = kept("epyc-2-cores-slow-conv")


def blocks_of(record: Record, section: str, **options: Any) -> list[Block]:
    return sections()[section].compose(telling(record, diagnose(record), **options))


def told(record: Record, section: str = "end-to-end", **options: Any) -> str:
    pieces = blocks_of(record, section, **options)
    return "\n\n".join(markdown.render_block(block) for block in pieces)


def forward(
    variant: str, median_s: float | None, batch: Cell = 1, width: float | None = 0.01, **cells: Cell
) -> Row:
    """A row of the table; its interval is so wide, relative to the median, None for none."""
    known = median_s is not None and width is not None
    row: Row = {
        "variant": variant,
        "batch": batch,
        "median_s": median_s,
        "ci_low_s": (1 - (width or 0)) * (median_s or 0) if known else None,
        "ci_high_s": (1 + (width or 0)) * (median_s or 0) if known else None,
        "n": (20 if known else 3) if median_s is not None else None,
        "status": "ok" if median_s is not None else "skipped",
        "reason": None if median_s is not None else "no seconds are left",
    }
    return row | cells


def with_forwards(record: Record, rows: Sequence[Row]) -> Record:
    before = record.stages.get(STAGE, StageResult(status="ok", duration_s=1.0))
    tables = {**before.tables, "after_fix": list(rows)}
    return record.with_stage(STAGE, msgspec.structs.replace(before, tables=tables))


def pair(before_s: float, after_s: float, low: float | None, high: float | None) -> list[Row]:
    width = None if low is None else 0.01
    return [
        forward("Conv3d", before_s, width=width),
        forward("Linear", after_s, width=width, speedup_low=low, speedup_high=high),
    ]


@pytest.mark.parametrize(
    ("value_s", "text"),
    [
        (0.0032, "3.20 ms"),
        (41.2, "41 s"),
        (59.99, "1.0 min"),
        (7875.6, "2.2 h"),
        (100_000.0, "28 h"),
        (481_289.0, "5.6 days"),
        (1e7, "116 days"),
        (4e7, "1.3 years"),
        (-1.0, "not measured"),
        (1e300, "not measured"),
        (None, "not measured"),
    ],
)
def test_a_duration_reads_as_people_say_it(value_s: float | None, text: str) -> None:
    assert duration(value_s) == text


def test_a_duration_has_its_interval_in_the_same_unit() -> None:
    time = Time(value_s=32_332.0, interval=(32_100.0, 32_600.0), n=20)

    assert duration_with_interval(time) == "8.98 h [8.92, 9.06]"
    assert duration_with_interval(Time(value_s=481_289.0)) == "5.57 days"
    assert duration_with_interval(None) == "not measured"


def test_what_was_measured_is_told_with_its_intervals_and_projected() -> None:
    record = with_forwards(SLOW, pair(1.6, 1.0, 1.55, 1.65))
    text = told(record, samples=10_000)

    assert text.startswith("One forward of 1 sample takes 1.60 s [1.58, 1.62], n = 20 with the")
    assert "With the fix it is **1.60 x [1.55, 1.65]** as fast." in text
    assert "Computed" not in text
    projected = "**4.44 h [4.40, 4.49] before and 2.78 h [2.75, 2.81] after**"
    assert f"For 10,000 samples at batch 1 that is {projected}." in text
    assert "| 1 | 4.44 h [4.40, 4.49] | 2.78 h [2.75, 2.81] |" in text
    assert "no decoding, no loading" in text


def test_without_it_what_can_be_computed_is_said_to_be_computed() -> None:
    (effect,) = effects(SLOW)
    assert effect.basis == "computed"
    assert effect.speedup is not None
    assert effect.speedup.value == pytest.approx(1.63114 / (1.63114 - 0.31591 + 0.00316), rel=1e-4)
    text = told(SLOW)

    assert text.startswith("**Computed, not measured:** the forward less the convolution")
    assert "| computed |" in text


def test_a_measured_forward_counts_more_than_a_computed_one() -> None:
    effect = main_effect(with_forwards(SLOW, pair(1.6, 1.0, 1.55, 1.65)))

    assert effect is not None
    assert effect.basis == "measured"


def test_what_was_not_measured_at_its_batch_is_computed_and_keeps_its_reason() -> None:
    rows = [forward("Conv3d", None, 4), forward("Linear", None, 4)]
    text = told(with_forwards(SLOW, rows))

    assert "**Conv3d, batch 4; Linear, batch 4**: no seconds are left" in text
    assert "| computed |" in text


@pytest.mark.parametrize(
    ("before_s", "after_s", "ends", "said"),
    [
        (1.00, 0.99, (0.97, 1.05), "**No gain was seen:** the ratio is 1.01 x [0.97, 1.05]"),
        (1.00, 0.90, (None, None), "**No gain was seen:** the ratio is 1.11 x, with too few"),
        (1.00, 1.25, (0.75, 0.85), "the fix makes it slower"),
        (1.60, 1.20, (None, None), "**1.33 x** as fast, with too few samples for an interval."),
    ],
)
def test_a_gain_is_claimed_only_where_there_is_one(
    before_s: float, after_s: float, ends: tuple[float | None, float | None], said: str
) -> None:
    text = told(with_forwards(SLOW, pair(before_s, after_s, *ends)))

    assert said in text
    assert ("it should be 1.24 x as fast" in text) == (ends[0] is None)
    assert ("**No gain" in said) == ("means nothing as long as no gain was seen" in text)


def test_a_forward_that_was_timed_once_and_disturbed_is_set_aside() -> None:
    """2.75 times as fast by two samples, of a layer that could not save so much."""
    text = told(with_forwards(SLOW, pair(4.31, 1.57, None, None)))

    assert text.startswith("**Computed, not measured:**")
    assert "2.75" not in text
    assert (
        "- **Conv3d, batch 1; Linear, batch 1**: set aside: with n = 3 and n = 3 the forwards took "
        "4.31 s and 1.57 s, and a projection that saves 313 ms cannot be the reason"
    ) in text
    assert "4.31" not in told(with_forwards(SLOW, pair(4.31, 1.57, None, None)), "impact")


def test_the_published_case_comes_out_as_it_was_published() -> None:
    text = told(writeup())

    assert text.startswith("**Published, not measured here.**")
    assert "**5.6 days before and 2.2 h after**" in text
    assert "| 8 | 150 s | - | 2.16 s | - | 69.4 x | published |" in text
    assert "**Linear, batch 16**: not published" in text
    assert "53,700 x" in text
    assert "less than that rest" in text


def test_another_record_stands_beside_each_table() -> None:
    text = told(SLOW)
    assert "| *16.5 s* | *270 ms* | *61.1 x* |" in text
    assert "| *5.57 days* | *2.19 h* |" in text
    assert "| 8 | not measured |" not in text
    assert "| 8 | not measured |" in told(SLOW, against=writeup())

    alone = told(SLOW.with_stage("x", StageResult(status="ok", duration_s=0.0)), against=SLOW)
    assert "5090" not in alone
    assert "other run, AMD EPYC: Linear" in alone


def test_the_layer_is_not_taken_for_the_forward() -> None:
    text = told(SLOW)

    assert "| the patch projection alone, 760 patches | 316 ms | 3.16 ms | 100 x |" in text
    assert "not even a projection for nothing gains more than 1.24 x." in text


def test_figures_of_other_patches_are_not_computed_with(
    with_rows: Callable[..., Record],
) -> None:
    record = with_rows(SLOW, STAGE, "variants", lambda row: row if row["patches"] != 760 else None)

    assert not effects(record)
    assert told(record).startswith("**Not measured**")


def test_a_stage_that_did_not_run_or_was_skipped_says_so(empty_record: Record) -> None:
    assert told(empty_record).startswith("**Not measured.** The record holds no stage")
    skipped = StageResult(status="skipped", reason="the fix is applied", duration_s=0.0)
    assert "the fix is applied" in told(empty_record.with_stage(STAGE, skipped))


@pytest.mark.parametrize("record", [SLOW, writeup()], ids=["measured", "published"])
def test_the_plot_can_be_drawn(record: Record) -> None:
    (figure,) = [block for block in blocks_of(record, "end-to-end") if isinstance(block, Figure)]

    assert figure.stem == "end_to_end"
    assert plots.png(figure.draw).startswith(b"\x89PNG")


@pytest.mark.parametrize("cell", [None, True, 0, -1, 10**30, 1e308, 5e-324, "x", "", 0.5])
@pytest.mark.parametrize("column", ["batch", "median_s", "n", "ci_low_s", "speedup_low", "reason"])
def test_no_cell_makes_it_fail(column: str, cell: Cell) -> None:
    rows = [row | {column: cell} for row in pair(1.6, 1.0, 1.55, 1.65)]
    record = with_forwards(SLOW, rows)

    for name in ("end-to-end", "impact", "appendix-batches"):
        assert "nan" not in told(record, name).split()


def test_impact_tells_who_pays_what_for_it() -> None:
    text = told(writeup(), "impact")

    assert "- **Seen here:** PyTorch 2.9.0 never calls cuDNN" in text
    assert "- For 29,169 samples: 5.57 days in place of 2.19 h" in text
    assert "98.4 % of its time is lost" in text
    assert "35 model types of transformers 5.23.0" in text
    assert "- Not attention: " in text
    assert "- **Exactness:** 3 of 3 checks passed" in text


def test_both_factors_of_one_forward_stand_beside_each_other() -> None:
    text = told(writeup())

    assert "| the whole forward, batch 1, published | 16.5 s | 270 ms | 61.1 x |" in text
    assert (
        "| the same, computed: the forward of batch 1 less what the layer saves | 16.5 s | 389 ms "
        "| 42.4 x |"
    ) in text
    assert "Two factors of one forward" in text


def test_a_forward_that_was_computed_has_one_factor() -> None:
    computed = with_forwards(SLOW, [])

    assert "Two factors of one forward" not in told(computed)
    assert ", computed |" in told(computed)


def test_impact_says_where_nothing_is_known(empty_record: Record) -> None:
    text = told(empty_record, "impact")

    assert "the record holds no environment" in text
    assert "Not known: the forward with the fix was neither measured" in text
    assert text.count("Nothing that this record could tell of.") == 2
    assert "35 model types" not in text


def test_impact_oversells_nothing() -> None:
    text = told(with_forwards(SLOW, pair(1.0, 0.99, 0.97, 1.05)), "impact")

    assert "Nothing that was seen: with the fix the forward is 1.01 x [0.97, 1.05]" in text
    assert "is lost" not in text


def test_impact_says_that_a_fault_was_provoked() -> None:
    assert told(SLOW, "impact").startswith("**Provoked on purpose:** slow-conv.")


def test_impact_tells_what_the_fix_takes_of_memory() -> None:
    rows = [
        forward("Conv3d", 1.6, peak_bytes=2 * 1024**3),
        forward("Linear", 1.0, peak_bytes=1024**3, speedup_low=1.5, speedup_high=1.7),
    ]
    text = told(with_forwards(SLOW, rows), "impact")

    assert "50.0 % less: at its peak 2.00 GiB before and 1.00 GiB with the fix (whole fo" in text
