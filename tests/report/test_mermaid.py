"""Charts as text: what mermaid's grammar takes, whatever a record's names hold."""

from __future__ import annotations

import math
import re

from hypothesis import given
from hypothesis import strategies as st

from qwenprof.report.markdown import render_block
from qwenprof.report.mermaid import LONGEST_LABEL, MOST_BARS, Bars, label, plain, xychart

STRING = r'"[^"\n]+"'
NUMBER = r"\d+(?:\.\d+)?"
NUMBERS = rf"\[{NUMBER}(?:, {NUMBER})*\]"
GRAMMAR = re.compile(
    rf"xychart-beta(?: horizontal)?\n"
    rf"    title {STRING}\n"
    rf"    x-axis \[{STRING}(?:, {STRING})*\]\n"
    rf"    y-axis {STRING} 0 --> {NUMBER}\n"
    rf"    bar {NUMBERS}"
    rf"(?:\n    line {NUMBERS})?"
)
anything = st.text(max_size=60) | st.text(alphabet='"[]%{};#`-><\n\\a', max_size=60)


def chart(**fields: object) -> str:
    known = {"title": "t", "axis": "ms", "labels": ["a", "b"], "values": [1.0, 2.0]}
    drawn = xychart(Bars(**{**known, **fields}))  # type: ignore[arg-type]
    return drawn.text if drawn else ""


def test_a_chart_reads_as_mermaid_wants_it() -> None:
    assert chart(horizontal=True, line=[0.5, 1e-7]) == (
        "xychart-beta horizontal\n"
        '    title "t"\n'
        '    x-axis ["a", "b"]\n'
        '    y-axis "ms" 0 --> 2.1\n'
        "    bar [1, 2]\n"
        "    line [0.5, 0.0000001]"
    )


@given(anything, anything, st.lists(anything, min_size=1, max_size=5))
def test_no_name_leaves_its_string(title: str, axis: str, names: list[str]) -> None:
    drawn = chart(title=title, axis=axis, labels=names, values=[1.0] * len(names))
    assert GRAMMAR.fullmatch(drawn), drawn
    assert not re.search(r"%%|[{}<`;#\\]|[^ ]-->|-->[^ ]", drawn)


@given(st.lists(st.floats(), min_size=1, max_size=20))
def test_no_value_breaks_a_chart(values: list[float]) -> None:
    drawn = chart(labels=[str(i) for i in range(len(values))], values=values)
    assert not drawn or GRAMMAR.fullmatch(drawn)


def test_hostile_names_are_short_and_plain(hostile: str) -> None:
    assert len(label(hostile * 100)) <= LONGEST_LABEL
    assert re.fullmatch(r"[A-Za-z0-9 ,._+()/:=%-]+", label(hostile))
    assert label("") == label("\u202e") == "_"
    assert label("blocks, all 24") == "blocks, all 24"


def test_an_axis_ends_at_its_limit_and_cuts_off_no_bar() -> None:
    assert "0 --> 100\n" in chart(values=[98.0, 1.0], limit=100.0)
    assert "0 --> 52.5\n" in chart(values=[50.0, 1.0], limit=100.0)
    assert "0 --> 101\n" in chart(values=[101.0, 1.0], limit=100.0)


def test_equal_names_stay_apart() -> None:
    assert 'x-axis ["a", "a (2)", "a (3)"]' in chart(labels=["a", "a", "a"], values=[1.0, 2.0, 3.0])


def test_numbers_have_no_exponent() -> None:
    assert [plain(value) for value in (1e-9, 123456.0, 0.0, math.nan, -1.0)] == [
        "0.000000001",
        "123500",
        "0",
        "0",
        "0",
    ]


def test_what_shows_nothing_is_no_chart() -> None:
    assert not chart(values=[0.0, math.inf])
    assert not chart(labels=[], values=[])


def test_a_chart_has_few_bars() -> None:
    drawn = chart(labels=[str(i) for i in range(40)], values=[1.0] * 40)
    assert drawn.count("1,") >= MOST_BARS - 1
    assert len(drawn.splitlines()[-1].split(",")) == MOST_BARS


def test_github_is_told_the_language() -> None:
    drawn = xychart(Bars(title="t", axis="s", labels=["a"], values=[1.0]))
    assert drawn is not None
    assert render_block(drawn).startswith("```mermaid\nxychart-beta\n")
