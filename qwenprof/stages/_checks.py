"""One check as a row: what was compared with what, how far apart it may be, and why that far."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from qwenprof.record.record import Row

if TYPE_CHECKING:
    import torch

UNIT_ROUNDOFF = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8, "TF32": 2.0**-11}
ACCUMULATION = 4.0
NOTABLE_CANCELLATION = 1.5
PUBLISHED = "the published proof of this fix"
RELATIVE_ERROR, COSINE = "relative error (2-norm)", "cosine"
MAX_DIFFERENCE, DIFFERING = "max abs difference", "differing elements"
COLUMNS: Row = {
    "check": None,
    "module": None,
    "variant": None,
    "dtype": None,
    "patches": None,
    "metric": None,
    "value": None,
    "tolerance": None,
    "tolerance_source": None,
    "reference": None,
    "passed": None,
    "must_fail": False,
    "status": "ok",
    "reason": None,
}


def rounding_tolerance(dtype: str, terms: int, cancellation: float) -> tuple[float, str]:
    """The largest relative error (2-norm) of a healthy sum of `terms` products, and its source.

    The result is rounded once to the dtype, so its error is at most the unit roundoff u of
    that. A sum of n terms that is carried in fp32 with independent roundings is off by
    lambda * sqrt(n) * u(fp32) of what its partial sums reach, and by more than lambda = 4 hardly
    ever. Partial sums of terms whose signs vary reach the root of the sum of their squares:
    `cancellation` says how much more that is than the result, at least 1. With TF32 both factors
    of each product are rounded before, each by up to u(TF32).

    Source: Higham and Mary, A New Approach to Probabilistic Rounding Error Analysis, SIAM J.
    Sci. Comput. 41(5), 2019, whose bound has the sum of the terms' absolute values in that
    place: true of any data, and too wide to find anything out.
    """
    factor = max(1.0, cancellation)
    summing = ACCUMULATION * math.sqrt(terms) * UNIT_ROUNDOFF["fp32"] * factor
    scaled = f" * {factor:.3g}" if factor >= NOTABLE_CANCELLATION else ""
    sums = f"{ACCUMULATION:g} sqrt({terms}) u(fp32){scaled}"
    source = f"sums in fp32{', with cancellation' if scaled else ''} (after Higham and Mary 2019)"
    if dtype == "TF32":
        tolerance = 2 * UNIT_ROUNDOFF[dtype] * factor + summing
        return tolerance, f"2 u(TF32){scaled} + {sums}: factors rounded to TF32, {source}"
    tolerance = UNIT_ROUNDOFF[dtype] + summing
    return tolerance, f"u({dtype}) + {sums}: one rounding of the result, {source}"


def relative_error(found: torch.Tensor, exact: torch.Tensor) -> float:
    """The error in the 2-norm; of what must be zero, 0 if it is and infinite if not."""
    error, size = float((found - exact).norm()), float(exact.norm())
    if size:
        return error / size
    return 0.0 if error == 0 else math.inf


def least_cosine(left: torch.Tensor, right: torch.Tensor) -> float:
    """The cosine of the two rows that agree least: (rows, width) each."""
    import torch

    return float(torch.nn.functional.cosine_similarity(left, right, dim=-1).min())


def at_most(value: float, tolerance: float) -> Row:
    """The cells of a check that wants a small value. A value that is no number fails."""
    return {"value": _finite(value), "tolerance": tolerance, "passed": value <= tolerance}


def at_least(value: float, tolerance: float) -> Row:
    """The cells of a check that wants a large value. A value that is no number fails."""
    return {"value": _finite(value), "tolerance": tolerance, "passed": value >= tolerance}


def not_checked(status: str, reason: str) -> Row:
    """The cells of a check that could not be made: neither passed nor failed."""
    return {"status": status, "reason": reason, "passed": None}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
