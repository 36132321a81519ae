"""What the rules about the proof share: the checks of the verify stage, and how they are told."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qwenprof.diagnosis.bounds import number, positive
from qwenprof.diagnosis.finding import Severity
from qwenprof.formatting import listed, plural, significant, times
from qwenprof.record.record import Record, Row

CONV, FIX = "Conv3d", "fix (view)"
FIXED = (FIX, "apply_fix()", "undo_fix()", "linearize_model()")
REFERENCE, CONTROL = "fp64", "control: "
WRONG = 3.0  # times the tolerance: no longer a matter of rounding
MOST_NAMED = 4


@dataclass(frozen=True, kw_only=True)
class Proof:
    """The checks of a record.

    checks: those that passed or failed, of the convolution and of the fix.
    controls: those that have to fail.
    unchecked: those that were not made.
    """

    dtype: object
    checks: tuple[Row, ...]
    controls: tuple[Row, ...]
    unchecked: tuple[Row, ...]

    def of(self, variants: Iterable[str]) -> list[Row]:
        """The checks of these variants."""
        wanted = set(variants)
        return [row for row in self.checks if row.get("variant") in wanted]

    @property
    def is_void(self) -> bool:
        """Whether a control passed, so that no check means anything."""
        return any(row.get("passed") for row in self.controls)

    def obstacle(self, variant: str) -> str:
        """Why nothing may be called clear of a variant, though no check failed; "" if nothing."""
        if self.is_void:
            return (
                "The control did not fail: a gradient that is known to be wrong here passed "
                f"({listed([said(row) for row in self.controls])}), so the other checks prove "
                "nothing."
            )
        if not self.controls:
            return "No control was run: whether a wrong gradient would be found out is not known."
        own = (row for row in self.of([variant]) if row.get("reference") == REFERENCE)
        if not any(row.get("dtype") == self.dtype for row in own):
            return f"Nothing failed, but {variant} was not held against fp64 in {self.dtype}."
        return ""

    def control_failed(self) -> tuple[str, ...]:
        """A sentence that the control failed as it must; nothing where there was none."""
        if not self.controls or self.is_void:
            return ()
        return (f"The control fails, as it must: {listed([said(row) for row in self.controls])}.",)

    def left_out(self) -> tuple[str, ...]:
        """A sentence that names what was not checked; nothing where all was."""
        names = [str(row.get("check")) for row in self.unchecked[:MOST_NAMED]]
        return (f"Not checked: {listed(names)}.",) if names else ()


def proof(record: Record) -> Proof:
    """The checks of a record, whoever wrote it."""
    rows = record.rows("verify", "checks")
    judged = [row for row in rows if isinstance(row.get("passed"), bool)]
    return Proof(
        dtype=record.workload.get("dtype"),
        checks=tuple(row for row in judged if not row.get("must_fail")),
        controls=tuple(row for row in judged if row.get("must_fail")),
        unchecked=tuple(row for row in rows if not isinstance(row.get("passed"), bool)),
    )


def is_same_check(row: Row, other: Row) -> bool:
    """Whether two variants were asked the same."""
    return all(row.get(key) == other.get(key) for key in ("check", "dtype", "reference"))


def factor(row: Row) -> float:
    """How many times its tolerance a check is off; beyond all if it gave no number."""
    value, tolerance = number(row.get("value")), positive(row.get("tolerance"))
    return math.inf if value is None or tolerance is None else value / tolerance


def severity(failed: Sequence[Row], dtype: object) -> Severity:
    """Worse in the workload's own dtype, and where it is no longer a matter of rounding."""
    own = [row for row in failed if row.get("dtype") in (None, dtype)]
    wrong = max(map(factor, own or failed)) >= WRONG
    if own:
        return "critical" if wrong else "warning"
    return "warning" if wrong else "info"


def passed(rows: Sequence[Row]) -> str:
    """ "30 of 32 checks passed"."""
    count = sum(1 for row in rows if row.get("passed"))
    return f"{count} of {plural(len(rows), 'check')} passed"


def named(failed: Sequence[Row]) -> str:
    """The failed checks with their numbers, as a sentence."""
    first = listed([said(row) for row in failed[:MOST_NAMED]])
    more = f", and {len(failed) - MOST_NAMED} more" if len(failed) > MOST_NAMED else ""
    return f"Failed: {first}{more}."


def worst(failed: Sequence[Row]) -> str:
    """The check that is furthest off, and how far."""
    row = max(failed, key=factor)
    off = f"{times(factor(row))} its tolerance" if math.isfinite(factor(row)) else "no number"
    return f"{row.get('check')} in {row.get('dtype')}, {off}"


def said(row: Row) -> str:
    """A check with its numbers."""
    value, tolerance = (significant(number(row.get(key))) for key in ("value", "tolerance"))
    dtype = f" in {row.get('dtype')}" if row.get("dtype") else ""
    patches = f" on {row.get('patches')} patches" if row.get("patches") else ""
    check = str(row.get("check")).removeprefix(CONTROL)
    return (
        f"{check} of {row.get('variant')}{dtype}{patches}, {row.get('metric')} {value} "
        f"where {tolerance} is allowed"
    )
