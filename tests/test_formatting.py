"""Numbers as people read them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenprof import formatting as f

POSITIVE = st.floats(min_value=1e-9, max_value=1e9, allow_nan=False, allow_infinity=False)
UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0553, "55.3 ms"),
        (16.1113, "16.1 s"),
        (0.0003, "300 us"),
        (2.6e-6, "2.60 us"),
        (0.9996, "1.00 s"),
        (0.00099951, "1.00 ms"),
        (145.0, "145 s"),
        (1645.0, "1,640 s"),
        (0.0, "0 s"),
        (None, "not measured"),
        (math.nan, "not measured"),
        (math.inf, "not measured"),
    ],
)
def test_seconds(value: float | None, text: str) -> None:
    assert f.seconds(value) == text


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (f.size(9.7 * 1024**3), "9.70 GiB"),
        (f.size(512), "512 B"),
        (f.size(None), "not measured"),
        (f.flop(103_809_024), "104 MFLOP"),
        (f.flop(0), "0 FLOP"),
        (f.flop_rate(223.7e12), "224 TFLOPS"),
        (f.flop_rate(37.8e9), "37.8 GFLOPS"),
        (f.bandwidth(11.2e9), "11.2 GB/s"),
        (f.percent(0.9938), "99.4 %"),
        (f.percent(0.00578), "0.58 %"),
        (f.percent(1.0), "100 %"),
        (f.percent(0.0001), "< 0.1 %"),
        (f.percent(0.0), "0 %"),
        (f.times(53704.3), "53,700 x"),
        (f.times(1.3267), "1.33 x"),
        (f.count(6080), "6,080"),
        (f.count(None), "not measured"),
        (f.significant(2.2e-6), "2.20e-06"),
        (f.plural(1, "image"), "1 image"),
        (f.plural(8, "image"), "8 images"),
        (f.listed([]), ""),
        (f.listed(["a"]), "a"),
        (f.listed(["a", "b", "c"]), "a, b and c"),
    ],
)
def test_units(got: str, expected: str) -> None:
    assert got == expected


def test_an_interval_has_the_unit_and_the_decimals_of_its_median() -> None:
    assert f.seconds_with_interval(0.0553, (0.0541, 0.05604), 40) == "55.3 ms [54.1, 56.0], n = 40"
    assert f.seconds_with_interval(16.1, None, 1) == "16.1 s, n = 1"
    assert f.seconds_with_interval(None, (1.0, 2.0), 3) == "not measured"
    assert f.times_with_interval(1.33, (1.3, 1.361)) == "1.33 x [1.30, 1.36]"
    assert f.times_with_interval(11400.0, (11288.0, 11424.0)) == "11,400 x [11,300, 11,400]"
    assert f.flop_rate_with_interval(204e12, (203.1e12, 204.9e12)) == "204 TFLOPS [203, 205]"
    assert f.bandwidth_with_interval(11.2e9, (9.9e9, 12e9)) == "11.2 GB/s [9.9, 12.0]"


def test_an_interval_far_below_its_median_is_not_rounded_to_zero() -> None:
    assert f.seconds_with_interval(5.0, (0.0001, 5.0)) == "5.00 s [0.000100, 5.00]"


@given(POSITIVE)
def test_what_is_written_can_be_read_back(value: float) -> None:
    number, unit = f.seconds(value).split(" ")
    assert float(number.replace(",", "")) * UNITS[unit] == pytest.approx(value, rel=0.006)


@given(POSITIVE)
def test_three_digits_and_never_a_thousand_of_a_smaller_unit(value: float) -> None:
    number, unit = f.seconds(value).split(" ")
    digits = number.replace(",", "").replace(".", "").lstrip("0")
    assert 1 <= len(digits.rstrip("0")) <= 3
    assert unit == "s" or float(number.replace(",", "")) < 1000


@given(st.text(max_size=300), st.integers(min_value=3, max_value=80))
def test_clean_text_is_short_and_on_one_line(text: str, longest: int) -> None:
    cleaned = f.clean(text, longest)
    assert len(cleaned) <= longest
    assert cleaned.isprintable() or "\ufffd" in cleaned or not cleaned.isascii()
    assert not set(cleaned) & set("\n\r\t\x00\u202e\u2066\u200b")


def test_a_long_path_keeps_both_ends() -> None:
    assert f.shortened("model.visual.blocks.0.attn.proj", 15) == "model.v…tn.proj"


def test_a_long_sentence_keeps_its_words_and_numbers_whole() -> None:
    text = "a rate of 1.12 GiB per second was seen here"
    cut = f.shortened(text, 22)
    assert len(cut) <= 22
    assert " … " in cut
    assert set(cut.replace("…", "").split()) <= set(text.split())


def test_the_first_sentences_end_where_a_sentence_ends() -> None:
    text = "It took 1.5 s. It was slow. Nobody knows why."
    assert f.first_sentences(text, 30) == "It took 1.5 s. It was slow."
    assert f.first_sentences(text, 5) == "It took 1.5 s."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/alice/models/x.py", "~/models/x.py"),
        ("see /Users/bob/x", "see ~/x"),
        (r"C:\Users\carol\x", r"~\x"),
        ("/root/.cache/hub", "~/.cache/hub"),
        ("/root", "~"),
        ("model/root/x", "model/root/x"),
        ("Qwen/Qwen3-VL-4B-Instruct", "Qwen/Qwen3-VL-4B-Instruct"),
    ],
)
def test_no_home_folder_tells_whose_machine_it_was(text: str, expected: str) -> None:
    assert f.without_homes(text) == expected
