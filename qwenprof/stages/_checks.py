"""One check as a row: what was compared with what, how far apart it may be, and why that far."""

from __future__ import annotations

import math

from qwenprof.record.record import Row

UNIT_ROUNDOFF = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8, "TF32": 2.0**-11}
ACCUMULATION = 4.0
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


def rounding_tolerance(dtype: str, terms: int) -> tuple[float, str]:
    """The largest relative error (2-norm) of a healthy sum of `terms` products, and its source.

    The result is rounded once to the dtype, so its error is at most the unit roundoff u of
    that. Sums are carried in fp32; a sum of n terms with independent roundings is off by
    lambda * sqrt(n) * u(fp32), and by more than lambda = 4 hardly ever. With TF32 both factors
    of each product are rounded before, each by up to u(TF32).

    Source: Higham and Mary, A New Approach to Probabilistic Rounding Error Analysis, SIAM J.
    Sci. Comput. 41(5), 2019.
    """
    roundings = 2 if dtype == "TF32" else 1
    unit = UNIT_ROUNDOFF[dtype]
    tolerance = roundings * unit + ACCUMULATION * math.sqrt(terms) * UNIT_ROUNDOFF["fp32"]
    times = "2 " if roundings == 2 else ""
    return tolerance, (
        f"{times}u({dtype}) + {ACCUMULATION:g} sqrt({terms}) u(fp32): one rounding of the result, "
        "sums in fp32 (Higham and Mary 2019)"
    )


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
