"""Whether a comparison lets the new run pass, for a command that has to fail otherwise."""

from __future__ import annotations

from typing import Literal

from qwenprof.diagnosis.comparing import CHANGED, Comparison, is_known
from qwenprof.errors import UsageError
from qwenprof.formatting import listed

Gate = Literal["slower", "different"]
GATES: tuple[Gate, ...] = ("slower", "different")


def failure(comparison: Comparison, on: Gate) -> str:
    """Why a gate does not let the new run pass; "" where it does.

    "slower": a time became SLOWER. "different": anything became FASTER, SLOWER or DIFFERENT, or
    what went well in BASE did not in NEW. Neither passes runs of which no case is known to have
    stayed within its noise, as where every stage was disturbed.

    Raises:
        UsageError: there is no such gate.
    """
    if on not in GATES:
        raise UsageError(f"--fail-on {on}: choose from {', '.join(GATES)}")
    if comparison.refused:
        return comparison.summary
    counts, wanted = comparison.counts, CHANGED if on == "different" else ("SLOWER",)
    told = [f"{counts[each]} {each}" for each in wanted if counts[each]]
    if on == "different" and comparison.lost:
        told.append(f"{len(comparison.lost)} lost")
    if told:
        return f"--fail-on {on}: {listed(told)}"
    if not any(is_known(row) for row in comparison.rows):
        return f"--fail-on {on}: nothing could be judged, so nothing is known to be as it was"
    return ""
