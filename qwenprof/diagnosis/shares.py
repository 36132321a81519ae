"""Shares that a user gives: "3%", "3 %" or "0.03"."""

from __future__ import annotations

import math

from qwenprof.errors import UsageError


def share(text: str, option: str = "--min-change") -> float:
    """A share from text: "3%", "3 %" or "0.03".

    Raises:
        UsageError: it is neither, or negative.
    """
    stripped = text.strip()
    is_percent = stripped.endswith("%")
    try:
        value = float(stripped.removesuffix("%")) / (100 if is_percent else 1)
    except ValueError as error:
        raise UsageError(f"{option} {text}: give a share such as 3% or 0.03") from error
    check_share(option, value)
    return value


def check_share(option: str, value: float) -> None:
    """Refuse what is no share.

    Raises:
        UsageError: it is negative or not finite.
    """
    if not (math.isfinite(value) and value >= 0):
        raise UsageError(f"{option} {value:g}: must be a share of at least 0, such as 3% or 0.03")
