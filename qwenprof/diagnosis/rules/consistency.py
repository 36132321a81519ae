"""Do the numbers of a record add up?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from qwenprof.diagnosis.arithmetic import checks
from qwenprof.diagnosis.finding import Finding, Rule, not_assessed
from qwenprof.diagnosis.recomputing import Check
from qwenprof.formatting import count, listed
from qwenprof.record.record import Record

NAME, QUESTION = "consistency", "Do the numbers add up?"
MOST_NAMED = 8


def judge(record: Record) -> Finding:
    found = checks(record)
    if not found:
        why = "The record holds no number that follows from others in it."
        return not_assessed(NAME, QUESTION, why)
    wrong = [check for check in found if not check.holds]
    if wrong:
        return _problem(wrong, len(found))
    kinds = Counter(check.kind for check in found)
    return Finding(
        rule=NAME,
        verdict="clear",
        severity="info",
        title=f"The numbers add up: {count(len(found))} of them were recomputed",
        evidence=(f"Recomputed: {listed([f'{count(n)} {kind}' for kind, n in kinds.items()])}.",),
    )


def _problem(wrong: Sequence[Check], total: int) -> Finding:
    """Raw samples that say something else put a measurement in doubt, the rest a statement."""
    contradicted = any(check.from_samples for check in wrong)
    more = len(wrong) - MOST_NAMED
    return Finding(
        rule=NAME,
        verdict="problem",
        severity="warning" if contradicted else "info",
        title=f"{count(len(wrong))} of the {count(total)} numbers that can be recomputed do not "
        "add up",
        evidence=(
            *(check.told for check in wrong[:MOST_NAMED]),
            *((f"And {count(more)} more.",) if more > 0 else ()),
        ),
        advice="The record was changed or damaged: measure again."
        if contradicted
        else "Rely on the times themselves, and compute anew what follows from them.",
    )


RULE = Rule(
    name=NAME,
    order=88,
    question=QUESTION,
    judge=judge,
    reads=(
        "matmul",
        "batch-sweep",
        "attention-sweep",
        "per-layer",
        "compare-patch-embed",
        "dispatch",
        "verify",
    ),
)
