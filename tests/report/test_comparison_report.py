"""A comparison as it is told: terminal rows, markdown that holds, and a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import msgspec
import pytest
from markdown_it import MarkdownIt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas

from qwenprof.diagnosis.change import Change, Judgement, Measured
from qwenprof.diagnosis.comparing import Comparison, compare
from qwenprof.errors import UsageError
from qwenprof.record.published import writeup
from qwenprof.record.record import Record, Series
from qwenprof.report import plots
from qwenprof.report.comparison import (
    comparison_blocks,
    render_comparison,
    table_notes,
    table_rows,
    write_comparison,
)
from qwenprof.report.comparison_chart import MOST, RatioChart, Spot, chosen, drawing, ratio_chart
from qwenprof.report.ratio_plot import LOOKS, ticks
from qwenprof.report.section import Figure, Styled, Table
from qwenprof.terminal import print_comparison
from tests.kept import kept


def with_series(given: Record, stage: str, series: dict[str, Sequence[float]]) -> Record:
    """The record with one stage's series replaced."""
    kept = {
        name: Series(unit="s", values=list(values), stop_reason="budget")
        for name, values in series.items()
    }
    return given.with_stage(stage, msgspec.structs.replace(given.stages[stage], series=kept))


@pytest.fixture(scope="module")
def real() -> Record:
    return kept("epyc-2-cores-bf16")


@pytest.fixture(scope="module")
def provoked(real: Record) -> Comparison:
    return compare(real, kept("epyc-2-cores-slow-conv"), across=("provoke",))


@pytest.fixture(scope="module")
def refused(real: Record) -> Comparison:
    return compare(real, kept("epyc-2-cores-slow-conv"))


@pytest.fixture(scope="module")
def against_writeup(real: Record) -> Comparison:
    return compare(writeup(), real)


@pytest.fixture(scope="module")
def hostile_comparison(real: Record, hostile: str) -> Comparison:
    name = hostile + "x" * 10_000
    base = with_series(real, "matmul", {name: [1.0] * 30, "only in BASE": [1.0]})
    new = with_series(real, "matmul", {name: [9.0] * 30})
    facts = {"device": {"type": "cpu", "name": hostile}}
    new = msgspec.structs.replace(new, environment=new.environment | facts, created=hostile)
    return compare(base, new, across=("device",))


def change(name: str, ratio: float | None, judgement: Judgement, stage: str = "matmul") -> Change:
    side = Measured(n=20, median=1.0, ci=None)
    return Change(
        stage=stage,
        series=name,
        unit="s",
        base=side,
        new=side,
        ratio=ratio,
        interval=None,
        judgement=judgement,
        noise=0.03,
        noise_from="",
    )


# -- the terminal ----------------------------------------------------------------------------


def test_terminal_rows_fit_80_columns_and_start_with_what_changed(provoked: Comparison) -> None:
    rows = table_rows(provoked)
    widths = [
        *(
            max(len(getattr(row, column)) for row in rows)
            for column in ("name", "base", "new", "ratio")
        ),
        max(len(f"{row.judgement} {row.reason or ''}".strip()) for row in rows),
    ]
    assert sum(widths) + 2 * (len(widths) - 1) <= 80
    changed = sum(provoked.counts[each] for each in ("FASTER", "SLOWER"))
    assert changed > 5
    assert all(row.judgement in ("FASTER", "SLOWER") for row in rows[:changed])
    assert rows[0].judgement == "SLOWER"
    assert rows[0].name in ("bias apart/bf16/760", "compare-patch-embed: Conv3d/bf16/760")
    assert not [row for row in rows if "first_call" in row.name]
    assert len(table_rows(provoked, first_calls=True)) == len(provoked.rows)


def test_the_terminal_says_why_a_case_is_inconclusive(
    provoked: Comparison, capsys: pytest.CaptureFixture[str]
) -> None:
    print_comparison(provoked)
    lines = capsys.readouterr().out.splitlines()
    notes = table_notes(provoked)

    assert all(len(line) <= 80 for line in lines)
    assert [line for line in lines if line.startswith("INCONCLUSIVE")] == [
        f"INCONCLUSIVE {note}" for note in notes
    ]
    numbers = {row.reason for row in table_rows(provoked)}
    assert numbers == {None, *range(1, len(notes) + 1)}
    few = next(note for note in notes if "too few samples" in note)
    row = next(line for line in lines if line.startswith("batch-sweep: batch=4"))
    assert row.rstrip().endswith(f"INCONCLUSIVE {few.split()[0]}")


def test_a_name_that_is_too_long_goes_without_its_stage(provoked: Comparison) -> None:
    names = {row.name for row in table_rows(provoked)}
    assert {"channels_last_3d/bf16/760/backward", "per-layer: forward, plain"} <= names


def test_terminal_rows_of_hostile_names_are_clean(hostile_comparison: Comparison) -> None:
    for row in table_rows(hostile_comparison):
        assert len(row.name) <= 36
        assert not set(row.name) & set("\n\r\x1b\u202e")


# -- markdown --------------------------------------------------------------------------------


def tables(text: str) -> list[list[int]]:
    """How many cells each row of each table has, as a reader of GFM sees them."""
    found: list[list[int]] = []
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append(0)
        elif token.type in ("td_open", "th_open"):
            found[-1][-1] += 1
    return found


@pytest.mark.parametrize("name", ["provoked", "refused", "against_writeup", "hostile_comparison"])
def test_every_table_is_whole(name: str, request: pytest.FixtureRequest) -> None:
    comparison: Comparison = request.getfixturevalue(name)
    text = render_comparison(comparison)

    parsed = tables(text)

    composed = [block for block in comparison_blocks(comparison) if isinstance(block, Table)]
    assert [len(each) for each in parsed] == [len(block.rows) + 1 for block in composed]
    assert all(len(set(cells)) == 1 for cells in parsed)
    assert not set(text) & {"\x1b", "\u202e", "\x00"}
    html = [
        token.content
        for token in MarkdownIt("commonmark").enable("table").parse(text)
        if token.type.startswith("html")
    ]
    assert not [each for each in html if "script" in each]
    assert "/home/alice" not in text


def test_what_changed_is_in_sight_and_the_rest_is_folded(provoked: Comparison) -> None:
    runs, changed, rest, first = (
        block for block in comparison_blocks(provoked) if isinstance(block, Table)
    )
    assert ("provoked fault", "nothing", "slow-conv", "the point") in runs.rows
    assert changed.folded is None
    assert rest.folded
    assert first.folded
    assert len(changed.rows) + len(rest.rows) + len(first.rows) == len(provoked.rows)


def test_a_refusal_says_what_forbids_judging_and_how_to_allow_it(refused: Comparison) -> None:
    text = render_comparison(refused)
    assert "**forbids judging**" in text
    assert "--across provoke" in text
    assert "NOT COMPARED" in text
    assert "**SLOWER**" not in text


def test_published_numbers_are_set_apart(against_writeup: Comparison) -> None:
    text = render_comparison(against_writeup)
    assert "published, not measured" in text
    cells = [
        cell
        for block in comparison_blocks(against_writeup)
        if isinstance(block, Table)
        for row in block.rows
        for cell in row
    ]
    told = [cell.text for cell in cells if isinstance(cell, Styled) and cell.style == "published"]
    assert "16.5 s, not stated" in told


def test_files_of_a_comparison(provoked: Comparison, empty_record: Record, tmp_path: Path) -> None:
    written = write_comparison(provoked, tmp_path / "new")
    assert [path.name for path in written] == ["comparison.png", "comparison.md"]
    text = written[1].read_text(encoding="utf-8")
    assert text == render_comparison(provoked)
    assert "](comparison.png)" in text
    nothing = compare(empty_record, empty_record)
    assert [path.name for path in write_comparison(nothing, tmp_path)] == ["comparison.md"]


def test_a_folder_that_is_a_file_is_told(provoked: Comparison, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="give a folder that can be written to"):
        write_comparison(provoked, tmp_path / "file")


def test_records_without_anything_are_told_too(empty_record: Record) -> None:
    comparison = compare(empty_record, empty_record)
    assert "Nothing to compare" in render_comparison(comparison)
    assert table_rows(comparison) == []
    assert ratio_chart(comparison) is None


# -- the picture -----------------------------------------------------------------------------


def drawn(chart: RatioChart) -> Canvas:
    with mpl.rc_context(plots.STYLE):
        canvas = Canvas(dpi=plots.DPI, layout="constrained")
        FigureCanvasAgg(canvas)
        drawing(chart)(canvas)
        canvas.draw_without_rendering()
    return canvas


@pytest.mark.parametrize("name", ["provoked", "refused", "against_writeup", "hostile_comparison"])
def test_the_picture_is_drawn_and_nothing_leaves_it(
    name: str, request: pytest.FixtureRequest
) -> None:
    comparison: Comparison = request.getfixturevalue(name)
    (figure,) = (block for block in comparison_blocks(comparison) if isinstance(block, Figure))
    assert plots.png(figure.draw).startswith(b"\x89PNG")

    chart = ratio_chart(comparison)
    assert chart is not None
    canvas = drawn(chart)
    (axes,) = canvas.axes
    texts = [*axes.texts, *axes.get_yticklabels(), *canvas.texts]
    for text in texts:
        box = text.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= canvas.bbox.width + 1
    low, high = axes.get_xlim()
    assert low < 1 < high


def test_what_changed_comes_before_forwards_and_forwards_before_the_rest() -> None:
    rows = [
        *(change(f"rest {n}", 1.5, "INCONCLUSIVE") for n in range(MOST)),
        change("forward", 1.0, "SAME", "per-layer"),
        change("slower", 1.1, "SLOWER"),
        change("a/first_call", 50.0, "INCONCLUSIVE"),
        change("nothing", None, "NOT COMPARED"),
    ]
    found = [row.series for row in chosen(rows)]
    assert len(found) == MOST
    assert {"forward", "slower"} <= set(found)
    assert not {"a/first_call", "nothing"} & set(found)
    assert found[-1] == "forward"


def test_judgements_are_told_apart_without_colour() -> None:
    assert len({(marker, filled) for marker, _, filled in LOOKS.values()}) == len(LOOKS)


def test_the_footer_names_both_runs_once_where_they_agree(
    provoked: Comparison, against_writeup: Comparison
) -> None:
    one, two = ratio_chart(provoked), ratio_chart(against_writeup)
    assert one is not None
    assert two is not None
    assert one.footer.startswith("AMD EPYC | torch 2.14.1")
    assert "provoked fault nothing → slow-conv" in one.footer
    assert two.footer.startswith("NVIDIA GeForce RTX 5090 → AMD EPYC | torch 2.9.0")
    assert "(published)" in two.footer


@pytest.mark.parametrize(
    ("low", "high"), [(0.8, 1.25), (0.9, 1.3), (0.05, 1.3), (0.7, 30.0), (1e-12, 1e12), (0.5, 1e5)]
)
def test_ticks_are_few_and_one_is_among_them(low: float, high: float) -> None:
    found = ticks(low, high)
    assert any(math.isclose(each, 1.0) for each in found)
    assert 2 <= len(found) <= 13
    assert found == sorted(found)


@pytest.mark.parametrize("ratio", [1e-300, 1e-9, 1.0, 1e9, 1e300])
def test_ratios_of_any_size_are_drawn(ratio: float) -> None:
    spot = Spot(
        label="x",
        ratio=ratio,
        interval=(ratio / 2, 2 * ratio),
        noise=1e300,
        judgement="SLOWER",
        note="n",
    )
    chart = RatioChart(title="t", axis="r", spots=(spot,), min_change=0.03, footer="f")
    assert drawn(chart).axes


def test_drawing_leaves_the_global_state_of_matplotlib_alone(provoked: Comparison) -> None:
    before = dict(mpl.rcParams)
    chart = ratio_chart(provoked)
    assert chart is not None
    plots.png(drawing(chart))
    assert dict(mpl.rcParams) == before
