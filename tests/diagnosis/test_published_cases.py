"""What others published: each case is readable, sourced, and no more than its source has."""

from __future__ import annotations

from urllib.parse import urlparse

import msgspec
import pytest

from qwenprof.diagnosis.published_cases import PublishedCase, published_cases, read_cases

ONE = """
[[case]]
gpu = "X1"
conv_s = 1.0
slow = true
shows = "it is slow"
source = "somebody"
link = "https://example.org/1"
"""


@pytest.mark.parametrize("case", published_cases(), ids=lambda case: f"{case.gpu}-{case.conv_s}")
def test_a_case_says_where_it_is_from(case: PublishedCase) -> None:
    assert urlparse(case.link).netloc == "github.com"
    assert case.source
    assert case.shows


def test_more_than_one_generation_is_slow() -> None:
    assert {case.gpu for case in published_cases() if case.slow} == {"RTX 5090", "H200", "H100"}


def test_a_linear_is_faster_wherever_it_is_stated() -> None:
    stated = [case for case in published_cases() if case.linear_s is not None]

    assert stated
    assert all(case.conv_s > (case.linear_s or 0.0) for case in stated)


def test_what_a_case_leaves_out_is_not_known() -> None:
    (case,) = read_cases(ONE)

    assert (case.torch, case.dtype, case.patches, case.linear_s) == (None, None, None, None)


@pytest.mark.parametrize(
    "broken",
    [
        ONE.replace("conv_s = 1.0", "conv_s = 0.0"),
        ONE + "linear_s = -1.0\n",
        ONE.replace("https:", "http:"),
        ONE + 'colour = "red"\n',
        ONE + 'direction = "sideways"\n',
    ],
)
def test_an_entry_that_breaks_its_form_is_refused(broken: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        read_cases(broken)
