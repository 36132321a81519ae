"""What a number should be that follows from others, given how far all of them were rounded.

A number that was rounded for publication counts as anything that rounds to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from qwenprof.diagnosis.bounds import LARGEST, number, positive
from qwenprof.formatting import significant
from qwenprof.record.record import Cell

TOLERANCE = 0.01  # of the number; of a share, one percentage point


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a number should be, and how far off it may be as the others were rounded."""

    value: float
    low: float
    high: float

    def over(self, unit: float) -> Expected:
        """The same in another unit."""
        return Expected(value=self.value / unit, low=self.low / unit, high=self.high / unit)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One number that follows from others.

    kind: what such numbers are called, in the plural.
    told: the number and what it should be, as a sentence.
    from_samples: whether raw samples tell what it should be.
    """

    kind: str
    told: str
    holds: bool
    from_samples: bool = False


def quotient(
    top: Cell, bottom: Cell, *, exact_top: bool = False, exact_bottom: bool = False
) -> Expected | None:
    """What a quotient can be, given how far both were rounded; None without two numbers."""
    above, below = positive(top), positive(bottom)
    if above is None or below is None:
        return None
    over = 0.0 if exact_top else rounding(top)
    under = 0.0 if exact_bottom else rounding(bottom)
    if below <= under:
        return None
    found = Expected(
        value=above / below,
        low=(above - over) / (below + under),
        high=(above + over) / (below - under),
    )
    return found if found.high < LARGEST else None


def product(one: Cell, other: Cell) -> Expected | None:
    """What a product can be, given how far both were rounded; None without two numbers."""
    a, b = positive(one), positive(other)
    if a is None or b is None:
        return None
    less, more = (max(0.0, a - rounding(one)), a + rounding(one))
    found = Expected(
        value=a * b,
        low=less * max(0.0, b - rounding(other)),
        high=more * (b + rounding(other)),
    )
    return found if found.high < LARGEST else None


def rounded(cell: Cell) -> Expected | None:
    """What a number can have been before it was rounded; None where there is none."""
    value = positive(cell)
    if value is None:
        return None
    half = rounding(cell)
    return Expected(value=value, low=value - half, high=value + half)


def agrees(stated: Cell, expected: Expected, slack: float | None = None) -> bool:
    """Whether a stated number is what was expected; `slack` is absolute, and 1 % by default."""
    value = number(stated)
    if value is None:
        return False
    allowed = rounding(stated) + (TOLERANCE * abs(expected.high) if slack is None else slack)
    return expected.low - allowed <= value <= expected.high + allowed


def rounding(cell: Cell) -> float:
    """Half a unit of the last digit that a number is written with: 0.05 for 9.3."""
    exponent = Decimal(repr(cell)).as_tuple().exponent
    return 0.5 * 10.0**exponent if isinstance(exponent, int) else 0.0


def written(value: float) -> str:
    """As it stands in the record, so that a reader finds it there."""
    return f"{value:.4g}" if value < 1e4 else significant(value)
