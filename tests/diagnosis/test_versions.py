"""Versions as records hold them, and whether they lie in a range."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from qwenprof.diagnosis.versions import cudnn_version, version, within
from qwenprof.record.record import Cell


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (91002, "9.10.2"),
        (92400, "9.24.0"),
        (90800, "9.8.0"),
        (8902, "8.9.2"),
        (8005, "8.0.5"),
        (7605, "7.6.5"),
        (91002.0, "9.10.2"),
        ("91002", "9.10.2"),
        ("8902", "8.9.2"),
        ("9.10.2", "9.10.2"),
        ("9.10.2.21", "9.10.2.21"),
    ],
)
def test_both_schemes_of_cudnn_numbers(cell: Cell, expected: str) -> None:
    assert cudnn_version(cell) == Version(expected)


@pytest.mark.parametrize("cell", [None, True, 0, -91002, 10**30, 1e308, 0.5, "", "no", "9" * 5000])
def test_what_is_no_version_is_not_known(cell: Cell) -> None:
    assert cudnn_version(cell) is None
    assert version(cell) is None


@given(st.tuples(st.integers(9, 40), st.integers(0, 99), st.integers(0, 99)))
def test_a_cudnn_number_and_its_text_are_one_version(parts: tuple[int, int, int]) -> None:
    major, minor, patch = parts
    number = major * 10000 + minor * 100 + patch

    assert cudnn_version(number) == cudnn_version(f"{major}.{minor}.{patch}")


@pytest.mark.parametrize(
    ("text", "wanted", "expected"),
    [
        ("2.9.0+cu128", "==2.9.0", True),
        ("2.9.1+cu130", "==2.9.0", False),
        ("2.9.0+cu128", "<2.9", False),
        ("2.8.0+cu128", "<2.9", True),
        ("2.9.0.dev20250901+cu128", "==2.9.0", None),
        ("2.9.0a0+145a3a7bda.nv25.10", "==2.9.0", None),
        ("2.9.0.dev20250901", "==2.9.1", False),
        ("5.0.0.dev0", ">=5", None),
        ("5.0.0.dev0", ">=5.6.0", False),
        ("5.7.0.dev0", ">=5.6.0", True),
    ],
)
def test_local_and_development_versions(text: str, wanted: str, expected: bool | None) -> None:
    assert within(Version(text), SpecifierSet(wanted)) is expected
