"""Does something wait for the device in the middle of a forward?

An `.item()`, a `.tolist()` or a mask used as an index makes the host wait until the device has
done all that was launched, and leaves the device with nothing to do until the host has launched
again. The per-layer stage sees it where the host loses as much time as the device lagged behind;
CUDA reports such operators itself. What is found out by timing is inferred.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from qwenprof.diagnosis.bounds import number, positive
from qwenprof.diagnosis.finding import Finding, Rule, not_assessed, severity_of
from qwenprof.diagnosis.forward import enqueueing, forward_s, total_waits
from qwenprof.formatting import count, listed, percent, plural, seconds
from qwenprof.record.record import Record, Row

NAME, QUESTION = "hidden-sync", "Does something wait for the device in the middle of a forward?"
LEAST_BEHIND_S = 50e-6  # with less to wait for no wait is seen
MOST_NAMED = 4
ROOT = "the model itself"
LINKS = ("https://github.com/huggingface/transformers/issues/47649",)


def judge(record: Record) -> Finding:
    rows = record.rows("per-layer", "modules")
    if not rows:
        return not_assessed(NAME, QUESTION, "The parts of a forward were not timed.")
    waits = total_waits(record)
    if waits is None:
        return not_assessed(NAME, QUESTION, _why_unknown(record))
    if waits:
        return _problem(record, [row for row in rows if positive(row.get("waits"))], waits)
    behind_s, enqueued = _summary(record, "most_behind_s") or 0.0, enqueueing(record)
    if behind_s < LEAST_BEHIND_S or (enqueued and enqueued.host_bound):
        why = (
            f"The device lagged at most {seconds(behind_s)} behind the host, which is not ahead of "
            "it: with so little to wait for a wait could not be seen."
        )
        return not_assessed(NAME, QUESTION, why)
    lag = f"The device lags up to {seconds(behind_s)} behind the host, which never waits for it."
    return Finding(
        rule=NAME,
        verdict="clear",
        severity="info",
        title="Nothing waits for the device in the middle of a forward",
        evidence=(lag, *_reported(record)),
    )


def _why_unknown(record: Record) -> str:
    if record.fact("device", "type") == "cpu":
        return "A CPU has no queue: every call returns when its work is done, so nothing waits."
    return "How far the device lags behind the host was not measured, or not in enough passes."


def _problem(record: Record, waiting: Sequence[Row], waits: int) -> Finding:
    reported = _reported(record)
    cost_s, how = _cost(record, waits)
    whole_s = forward_s(record)
    share = cost_s / whole_s if cost_s is not None and whole_s else None
    evidence = [_places(waiting, waits), *reported]
    if cost_s is not None:
        of_it = f", {percent(share)} of the forward" if share is not None else ""
        evidence.append(f"{how} That makes {seconds(cost_s)}{of_it}, at least.")
    return Finding(
        rule=NAME,
        verdict="problem",
        severity=severity_of(share),
        title=f"The host waits for the device {_times(waits)} in the middle of a forward",
        culprit=str(_first(waiting).get("path")) or None,
        cause="a hidden synchronisation",
        cost_share=min(share, 1.0) if share is not None else None,
        confidence="high" if reported else "medium",
        evidence=tuple(evidence),
        advice="Keep on the host what the host needs to know, such as the lengths of segments, and "
        "ask the device for nothing in between: no .item(), .tolist(), .cpu(), nonzero() or mask "
        "as an index.",
        links=LINKS if "attn" in str(_first(waiting).get("path")) else (),
    )


def _first(waiting: Sequence[Row]) -> Row:
    """Where it waits most often; of repeated blocks the first, which is timed in full."""
    return max(waiting, key=lambda row: number(row.get("waits")) or 0.0)


def _times(waits: int) -> str:
    return "once" if waits == 1 else plural(waits, "time")


def _places(waiting: Sequence[Row], waits: int) -> str:
    named = [
        f"{row.get('path') or ROOT} ({row.get('module_type')}) {_times(_whole(row))}"
        for row in waiting[:MOST_NAMED]
    ]
    others = len(waiting) - len(named)
    more = [f"{plural(others, 'other part')} {_times(waits - _sum(waiting))}"] if others else []
    return f"In its own code waits: {listed(named + more)}."


def _whole(row: Row) -> int:
    return int(positive(row.get("waits")) or 0.0)


def _sum(waiting: Sequence[Row]) -> int:
    return sum(map(_whole, waiting[:MOST_NAMED]))


def _cost(record: Record, waits: int) -> tuple[float | None, str]:
    """The least that so many waits cost, and how that is known."""
    matmul = record.stages.get("matmul")
    wall = matmul.series.get("launch/wall") if matmul else None
    round_trip_s = positive(statistics.median(wall.values)) if wall and wall.values else None
    if round_trip_s is None:
        return None, ""
    return waits * round_trip_s, (
        "After each the device has nothing to do until the host knows and has launched again, "
        f"which takes {seconds(round_trip_s)} for one small operator."
    )


def _reported(record: Record) -> tuple[str, ...]:
    """What CUDA itself said, as a sentence; nothing where it was not asked or said nothing."""
    total = _summary(record, "synchronizations")
    if not total:
        return ()
    rows = record.rows("per-layer", "synchronizations")
    most = sorted(rows, key=lambda row: number(row.get("count")) or 0.0, reverse=True)[:MOST_NAMED]
    places = [
        f"{count(number(row.get('count')))} at {row.get('place')} in {row.get('path') or ROOT}"
        for row in most
    ]
    named = f": {listed(places)}" if places else ""
    return (f"CUDA reports {plural(total, 'synchronising operation')} in one forward{named}.",)


def _summary(record: Record, column: str) -> float | None:
    summary = record.rows("per-layer", "summary")
    return number(summary[0].get(column)) if summary else None


RULE = Rule(name=NAME, order=46, question=QUESTION, judge=judge, reads=("per-layer",))
