"""Versions as records hold them, and whether one lies in a range.

A range is written as pip writes it (">=9.8,<9.15", PEP 440) and read by `packaging`.
"""

from __future__ import annotations

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from qwenprof.diagnosis.bounds import number
from qwenprof.record.record import Cell

LONGEST_VERSION = 100  # characters; what is longer is no version
FIRST_OF_FIVE_DIGITS, FIRST_OF_FOUR_DIGITS, TOO_LARGE = 10_000, 1_000, 1_000_000


def version(cell: Cell) -> Version | None:
    """A version, None where the cell holds none. A local part such as +cu128 is kept."""
    if not isinstance(cell, str) or len(cell) > LONGEST_VERSION:
        return None
    try:
        return Version(cell)
    except (InvalidVersion, ValueError):
        return None


def cudnn_version(cell: Cell) -> Version | None:
    """A cuDNN version from text (9.10.2) or from either scheme of its integers.

    From 9.0 on an integer is major * 10000 + minor * 100 + patch (91002 is 9.10.2), before it was
    major * 1000 + minor * 100 + patch (8902 is 8.9.2). Source: CUDNN_VERSION in cudnn_version.h.
    """
    if isinstance(cell, str) and cell.isascii() and cell.isdigit() and len(cell) <= len("999999"):
        cell = int(cell)
    if isinstance(cell, str):
        return version(cell)
    whole = number(cell)
    if whole is None or not whole.is_integer() or not FIRST_OF_FOUR_DIGITS <= whole < TOO_LARGE:
        return None
    major = FIRST_OF_FIVE_DIGITS if whole >= FIRST_OF_FIVE_DIGITS else FIRST_OF_FOUR_DIGITS
    value = int(whole)
    return Version(f"{value // major}.{value % major // 100}.{value % 100}")


def within(found: Version, wanted: SpecifierSet) -> bool | None:
    """Whether a version lies in a range; None where a development version leaves that open.

    2.9.0.dev20250901 and 2.9.0a0 may have what 2.9.0 has or not yet: where the two are told apart
    by the range, nobody knows. A local part does not count: 2.9.0+cu128 is 2.9.0.
    """
    public = wanted.contains(found.public, prereleases=True)
    if not found.is_prerelease:
        return public
    return public if public == wanted.contains(found.base_version) else None
