"""Is it only the first call?

A library that tunes itself, a kernel that is compiled, a file that is loaded late: all that is
paid once, and whoever times a single call takes it for the model. Every machine needs a little
longer the first time, so only a first call that takes both many times as long and a second more
is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qwenprof.diagnosis.bounds import number, positive
from qwenprof.diagnosis.disturbance import disturbances
from qwenprof.diagnosis.finding import Finding, Rule, not_assessed
from qwenprof.formatting import listed, percent, seconds, times
from qwenprof.record.record import Record, Row

NAME, QUESTION = "first-call", "Is it only the first call?"
SLOWER, LONGER_S = 5.0, 1.0
MOST_OF = 0.5  # of what the first call takes longer: the part that has it is named


@dataclass(frozen=True, kw_only=True)
class Start:
    """A first call and those after it. n: how many those were, None if not known."""

    what: str
    first_s: float
    steady_s: float
    n: float | None

    @property
    def extra_s(self) -> float:
        return self.first_s - self.steady_s

    @property
    def is_slow(self) -> bool:
        return self.first_s >= SLOWER * self.steady_s and self.extra_s >= LONGER_S

    def __str__(self) -> str:
        after = "" if self.n is None else f" (n = {self.n:g})"
        return f"{self.what} {seconds(self.first_s)}, then {seconds(self.steady_s)}{after}"


def judge(record: Record) -> Finding:
    batches, whole = _batches(record), _per_layer(record)
    starts = [*batches, *whole]
    if not starts:
        why = "No call was made twice, so that the first one could be told from the others."
        return not_assessed(NAME, QUESTION, why)
    slow = [start for start in starts if start.is_slow]
    evidence = (f"First call and the later ones: {listed([str(start) for start in starts])}.",)
    if not slow:
        return Finding(
            rule=NAME,
            verdict="clear",
            severity="info",
            title="Not the first call: it does not take much longer than the others",
            evidence=evidence,
        )
    worst = max(slow, key=lambda start: start.extra_s)
    disturbed = disturbances(record, "per-layer" if worst in whole else "batch-sweep")
    if disturbed:
        why = f"Inconclusive: {worst}. But the run was disturbed ({disturbed[0]})."
        return not_assessed(NAME, QUESTION, why)
    path, share = _part(record) if any(start.is_slow for start in whole) else (None, 0.0)
    return Finding(
        rule=NAME,
        verdict="problem",
        severity="warning",
        title=f"The first call is slow: {seconds(worst.first_s)}, "
        f"{times(worst.first_s / worst.steady_s)} what it takes from then on",
        culprit=path,
        cause="paid in the first call alone",
        evidence=(*evidence, *_again(batches), *_named(path, share)),
        advice="The steady state is not affected: call the model once with each shape before "
        "timing or serving it. If new shapes come all the time, pad to a few of them, and look at "
        "what tunes or compiles itself: torch.backends.cudnn.benchmark, torch.compile.",
    )


def _batches(record: Record) -> list[Start]:
    rows = record.rows("batch-sweep", "batches")
    return _starts((f"batch {row.get('batch')}", row, "median_s") for row in rows)


def _per_layer(record: Record) -> list[Start]:
    rows = record.rows("per-layer", "modules")
    return _starts(("per-layer", row, "inclusive_s") for row in rows if row.get("path") == "")


def _starts(named: Iterable[tuple[str, Row, str]]) -> list[Start]:
    """Those rows whose first call is not the only one."""
    found = []
    for what, row, column in named:
        first_s, steady_s = positive(row.get("first_call_s")), positive(row.get(column))
        if first_s is None or steady_s is None or first_s == steady_s:
            continue
        found.append(Start(what=what, first_s=first_s, steady_s=steady_s, n=positive(row.get("n"))))
    return found


def _again(batches: Sequence[Start]) -> tuple[str, ...]:
    """Whether every new shape pays, as far as the batch sizes tell."""
    slow = sum(1 for start in batches if start.is_slow)
    if len(batches) < 2 or not slow:
        return ()
    if slow == len(batches):
        return ("Every batch size pays for it anew.",)
    return (f"{slow} of {len(batches)} batch sizes pay for it.",)


def _part(record: Record) -> tuple[str | None, float]:
    """The innermost part with most of what the first call takes longer, and its share of that."""
    extra_s = {
        str(row.get("path")): (number(row.get("first_call_s")) or 0.0)
        - (number(row.get("inclusive_s")) or 0.0)
        for row in record.rows("per-layer", "modules")
    }
    whole_s = extra_s.pop("", 0.0)
    having = [path for path, each_s in extra_s.items() if each_s >= MOST_OF * whole_s > 0]
    if not having:
        return None, 0.0
    path = max(having, key=lambda each: each.count("."))
    return path, extra_s[path] / whole_s


def _named(path: str | None, share: float) -> tuple[str, ...]:
    return (f"{path} has {percent(share)} of what it takes longer.",) if path else ()


RULE = Rule(
    name=NAME,
    order=42,
    question=QUESTION,
    judge=judge,
    reads=("batch-sweep", "per-layer"),
    compares_times=True,
)
