"""How a stage shares its seconds among its cases, so that a slow machine still gets an answer.

Cases come in a known order with a known relative amount of work. What the first ones cost
predicts the rest, the seconds for one call of each case to come are set aside, and a case
that cannot fit is refused with its prediction instead of being started.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qwenprof.harness.clock import Clock

GRACE = 1.25  # a prediction may be this much off before a case is refused
LEAST_CASE_S = 0.1


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """What one case may spend.

    case_s: seconds for the case; a first call beyond it makes the operation a slow one.
    limit_s: seconds within which a slow operation's second call must end too.
    """

    case_s: float
    limit_s: float


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a case was not started."""

    reason: str


class TimePlan:
    """Seconds for the cases of a stage.

    Args:
        clock: whose host time counts.
        budget_s: seconds for all cases together.
        work: relative amount of work of each case, in the order in which they will run.
        case_cap_s: no case gets more than this, however much is left.
    """

    def __init__(
        self, clock: Clock, budget_s: float, work: Mapping[str, float], case_cap_s: float = 6.0
    ) -> None:
        self._clock = clock
        self._deadline_s = clock.now_s() + budget_s
        self._waiting = dict(work)
        self._work = dict(work)
        self._case_cap_s = case_cap_s
        self._seen_s, self._seen_work = 0.0, 0.0

    def start(self, case: str) -> Allowance | Refusal:
        """What `case` may spend now, or why it does not fit any more."""
        own_s = self._predicted_s(self._waiting.pop(case))
        left_s = self._deadline_s - self._clock.now_s()
        if own_s > max(left_s, 0.0) * GRACE:
            return Refusal(
                reason=f"one call would take about {own_s:.3g} s and {max(left_s, 0):.3g} s of "
                "this stage's budget are left: raise --budget"
            )
        waiting = sum(self._waiting.values())
        spare_s = max(0.0, left_s - self._predicted_s(waiting))
        share_s = spare_s * self._work[case] / (self._work[case] + waiting)
        case_s = min(self._case_cap_s, max(LEAST_CASE_S, share_s))
        return Allowance(case_s=case_s, limit_s=spare_s)

    def learn(self, case: str, one_call_s: float) -> None:
        """Tell what one call of `case` took; all that were told predict those to come."""
        self._seen_s += one_call_s
        self._seen_work += self._work[case]

    def _predicted_s(self, work: float) -> float:
        return self._seen_s / self._seen_work * work if self._seen_work else 0.0
