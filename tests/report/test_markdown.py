"""Whatever a record holds, the page shows it and nothing else happens."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenprof.report.markdown import code_span, escaped, render_block
from qwenprof.report.section import (
    Bullets,
    Code,
    Figure,
    Styled,
    Table,
    code,
    paragraph,
    published,
    strong,
)


def table_of(*cells: str | Styled) -> list[str]:
    """The cells of a rendered row, split where GitHub would split them."""
    table = Table(header=("",) * len(cells), rows=(cells,), align="l" * len(cells))
    row = render_block(table).splitlines()[2]
    return re.split(r"(?<!\\)\|", row)[1:-1]


def test_plain_prose_stays_readable() -> None:
    text = "patch_embed takes 55.3 ms [54.1, 56.0], < 0.1 % of it & more than 3 > 2."
    assert escaped(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a|b", r"a\|b"),
        ("`code`", r"\`code\`"),
        ("<script>", r"\<script>"),
        ("[x](http://evil)", r"[x\](http://evil)"),
        ("*bold* ~~no~~", r"\*bold\* \~\~no\~\~"),
        ("_it_", r"\_it\_"),
        ("$e$", r"\$e\$"),
        ("&lt;", r"\&lt;"),
        ("ask @someone", "ask @<!-- -->someone"),
        ("see #123", "see #<!-- -->123"),
        ("one\ntwo\r\n\tthree", "one two three"),
        ("\u202eexe.gnp", "\ufffdexe.gnp"),
        ("/home/alice/x", r"\~/x"),
    ],
)
def test_escaping(text: str, expected: str) -> None:
    assert escaped(text) == expected


@pytest.mark.parametrize("start", ["# h", "- item", "> quote", "+ item", "=", "[ ] task"])
def test_a_paragraph_never_starts_something_else(start: str) -> None:
    assert render_block(paragraph(start)).startswith("\\")


def test_a_number_at_the_start_is_no_list() -> None:
    assert render_block(paragraph("1. first")) == r"1\. first"
    assert render_block(paragraph("1.30 x as fast")) == "1.30 x as fast"


def test_no_link_arises_where_two_spans_meet() -> None:
    assert render_block(paragraph("a [x]", "(http://evil)")) == r"a [x\](http://evil)"


def test_styles() -> None:
    block = paragraph("It is ", strong("slow"), ": ", code("a.b"), ", ", published("16.1 s"), ".")
    assert render_block(block) == "It is **slow**: `a.b`, *16.1 s*."


def test_code_spans_hold_backticks() -> None:
    assert code_span("a`b") == "``a`b``"
    assert code_span("`") == "`` ` ``"


def test_hostile_names_stay_in_their_cell(hostile: str) -> None:
    for cell in (hostile, code(hostile), strong(hostile), published(hostile)):
        cells = table_of("before", cell, "after")
        assert len(cells) == 3
        assert "\n" not in cells[1]
        assert "alice" not in cells[1]
        assert "\u202e" not in cells[1]


def test_hostile_text_outside_a_code_span_opens_no_tag(hostile: str) -> None:
    assert not re.search(r"(?<!\\)<(?!!-- -->)", escaped(hostile))


def test_a_cell_of_ten_thousand_characters_is_shortened() -> None:
    assert len(table_of("x" * 10_000)[0]) < 300


@given(st.text(max_size=80), st.text(max_size=80))
def test_no_text_breaks_a_table(left: str, right: str) -> None:
    table = Table(header=("a", "b"), rows=((left, code(right)),), align="ll")
    assert len(render_block(table).splitlines()) == 3
    assert len(table_of(left, code(right))) == 2


@given(st.text(alphabet="`~ab\n", max_size=60))
def test_no_text_leaves_a_code_block(text: str) -> None:
    rendered = render_block(Code(text=text)).splitlines()
    fence = rendered[-1]
    assert rendered[0] == f"{fence}text"
    assert not any(line.startswith(fence) for line in rendered[1:-1])


def test_a_code_block_keeps_its_indentation() -> None:
    assert render_block(Code(text="if a:\n    b", language="python")) == (
        "```python\nif a:\n    b\n```"
    )


def test_a_folded_table_is_folded_and_captioned() -> None:
    table = Table(header=("a",), rows=(("1",),), align="r", caption="n = 3", folded="More <b>")
    assert render_block(table) == (
        "<details><summary>More &lt;b&gt;</summary>\n\nn = 3\n\n| a |\n|--:|\n| 1 |\n\n</details>"
    )


def test_bullets_and_figures() -> None:
    assert render_block(Bullets(items=(("a",), (strong("b"), " c")))) == "- a\n- **b** c"
    figure = Figure(stem="plot", alt="a plot", caption="n = 1", draw=lambda _: None)
    assert render_block(figure) == "![a plot](plot.png)\n\nn = 1"
