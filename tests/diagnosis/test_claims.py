"""What a text states beside its tables is computed anew from the figures that it names."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenprof.diagnosis.claims import claims
from qwenprof.diagnosis.recomputing import Check, Expected, agrees, product, quotient, rounded
from qwenprof.record.published import writeup
from qwenprof.record.record import Cell, Record, Row, StageResult, Tool

FIGURES = st.floats(min_value=1e-6, max_value=1e6)


def record(*rows: Row) -> Record:
    return Record(
        tool=Tool(name="somebody", version="0"),
        created="2026-01-01T00:00:00+00:00",
        command=[],
        environment={},
        workload={},
        stages={"x": StageResult(status="ok", duration_s=1.0, tables={"claims": list(rows)})},
    )


def checked(**row: Cell) -> Check:
    (check,) = claims(record({"claim": "the gain"} | row))
    return check


def test_a_ratio_is_held_against_its_figures() -> None:
    ratio: Row = {"unit": "x", "relation": "a / b", "a": 16.1113, "b": 0.0003}

    assert checked(stated=53_704, **ratio).holds
    wrong = checked(stated=1000, a_is="the time before", source="title", **ratio)
    assert not wrong.holds
    assert wrong.told == (
        "x, the gain (title): 1000 x is stated, but the time before over 0.0003 is 53,700 x."
    )


@pytest.mark.parametrize(
    ("stated", "stated_is", "holds"),
    [
        (50_000, "at least", True),
        (70_000, "at least", False),
        (50_000, "about", True),
        (30_000, "about", False),
        (50_000, None, True),
    ],
)
def test_how_a_number_is_stated_decides(stated: float, stated_is: str | None, holds: bool) -> None:
    figures: Row = {"unit": "x", "relation": "a / b", "a": 16.1113, "b": 0.0003}

    assert checked(stated=stated, stated_is=stated_is, **figures).holds == holds


def test_times_are_seconds_whatever_the_unit() -> None:
    samples: Row = {"relation": "a x b", "b": 29_169}

    assert checked(stated=5.57, unit="days", a=16.5, **samples).holds
    assert checked(stated=2.2, unit="h", a=0.27, **samples).holds
    assert not checked(stated=2.2, unit="days", a=0.27, **samples).holds


def test_a_root() -> None:
    terms: Row = {"relation": "sqrt(a) x b", "a": 1536, "b": 2**-7, "b_is": "2^-7"}

    assert checked(stated=0.306, **terms).holds
    assert checked(stated=0.4, **terms).told.endswith("the root of 1536 times 2^-7 is 0.306.")


def test_the_same_figure_twice_has_to_be_the_same() -> None:
    assert checked(stated=150, unit="s", relation="a", a=150).holds
    assert checked(stated=16, unit="s", relation="a", a=16.3).holds
    assert not checked(stated=150, unit="s", relation="a", a=148).holds


@pytest.mark.parametrize(("low", "high", "holds"), [(5, 6, True), (1, 2, False), (6, 7, False)])
def test_a_range_has_to_hold_what_it_is_a_range_of(low: int, high: int, holds: bool) -> None:
    days: Row = {"unit": "days", "relation": "a x b", "a": 138, "b": 29_169 / 8}
    found = checked(stated=low, stated_to=high, **days)

    assert found.holds == holds
    assert f": {low} to {high} days is stated, but 138 times 3646.125 is 5.82 days." in found.told


@pytest.mark.parametrize(
    ("stated", "number", "holds"),
    [
        ("cuDNN 9.10.2", 91002, True),
        ("9.10.2", 91002, True),
        ("cuDNN 8.9.2", 8902, True),
        ("cuDNN 9.10.0.2", 91002, False),
    ],
)
def test_a_version_in_words_is_held_against_its_number(
    stated: str, number: int, holds: bool
) -> None:
    assert checked(stated=stated, relation="version of cuDNN", a=number).holds == holds


def test_a_version_that_is_none_is_not_judged() -> None:
    for stated, number in (("newest", 91002), ("9.10.2", None), (None, 91002), ("9.10.2", 5)):
        assert not list(
            claims(record({"relation": "version of cuDNN", "stated": stated, "a": number}))
        )


def test_the_note_of_a_claim_is_told_with_it() -> None:
    found = checked(stated=287, unit="x", relation="a / b", a=16.1, b=0.1, note="over c it is 286")

    assert (
        found.told == "x, the gain: 287 x is stated, but 16.1 over 0.1 is 161 x; over c it is 286."
    )


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"stated": 2, "relation": "a ** b", "a": 1, "b": 2},
        {"stated": 2, "relation": "a / b", "a": 1},
        {"stated": 2, "relation": "a / b", "a": 1, "b": 0},
        {"stated": 2, "relation": "a x b", "a": 1e29, "b": 1e29},
        {"stated": 2, "relation": "a", "a": 1, "unit": "fortnights"},
        {"stated": True, "relation": "a", "a": "2"},
        {"stated": math.nan, "relation": "a", "a": 2},
    ],
)
def test_what_cannot_be_computed_is_not_judged(row: Row) -> None:
    assert not list(claims(record(row)))


def test_the_published_text() -> None:
    """What agrees in it, and what does not add up."""
    found = list(claims(writeup()))

    wrong = [check.told for check in found if not check.holds]
    assert [text.partition(" is stated")[0].rpartition(": ")[2] for text in wrong] == [
        "16.7 s",
        "287 x",
        "1000 x",
        "150 s",
        "cuDNN 9.10.0.2",
        "about 0.4",
    ]
    assert len(found) - len(wrong) == 6


@given(FIGURES, FIGURES)
def test_the_figure_itself_always_agrees(a: float, b: float) -> None:
    for expected in (quotient(a, b), product(a, b), rounded(a)):
        assert expected is not None
        assert expected.low <= expected.value <= expected.high
        assert agrees(expected.value, expected, 0.0)


@given(st.integers(1, 9999), st.integers(1, 9999))
def test_figures_rounded_for_publication_still_agree(top: int, bottom: int) -> None:
    """Whatever was rounded to these two, their quotient is within the range."""
    expected = quotient(top / 10, bottom / 10)

    assert isinstance(expected, Expected)
    for nudge in (-0.049, 0.049):
        if bottom / 10 - nudge > 0:
            assert expected.low <= (top / 10 + nudge) / (bottom / 10 - nudge) <= expected.high
