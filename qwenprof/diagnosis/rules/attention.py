"""Is it attention? The implementations against each other, and against a plain SDPA."""

from __future__ import annotations

from qwenprof.diagnosis.bounds import number
from qwenprof.diagnosis.finding import Finding, Rule, not_assessed
from qwenprof.formatting import seconds, times
from qwenprof.record.record import Record, Row

NAME, QUESTION = "attention", "Is it attention?"
TOLERANCE = 1.2
SWITCHED, REPLACED = "switched", "replaced by plain SDPA"


def judge(record: Record) -> Finding:
    rows = _rows_at_smallest_batch(record)
    own = _row(rows, str(record.workload.get("attention")), SWITCHED)
    others = [row for row in rows if row is not own]
    if own is None or not others:
        why = "The attention in use was not measured beside another one."
        return not_assessed(NAME, QUESTION, why)
    ignored = [row for row in rows if row.get("blocks_using") != row.get("blocks")]
    if ignored:
        return _ignored(ignored[0])
    fastest = min(others, key=_seconds)
    gain = _seconds(own) / _seconds(fastest)
    if gain > TOLERANCE:
        return Finding(
            rule=NAME,
            verdict="problem",
            severity="critical" if gain > 2 else "warning",
            title=f"The model is {times(gain)} faster with {_name(fastest)}",
            culprit=f"attention: {own['attention']}",
            evidence=_evidence(rows),
            advice=f"Load the model with attn_implementation={fastest['attention']!r}.",
        )
    return Finding(
        rule=NAME,
        verdict="clear",
        severity="info",
        title=f"Not attention: no other implementation is more than {TOLERANCE - 1:.0%} faster",
        evidence=_evidence(rows),
    )


def _rows_at_smallest_batch(record: Record) -> list[Row]:
    rows = [row for row in record.rows("attention-sweep", "backends") if row["status"] == "ok"]
    smallest = min((number(row.get("batch")) or 0.0 for row in rows), default=None)
    return [row for row in rows if row.get("batch") == smallest]


def _row(rows: list[Row], attention: str, experiment: str) -> Row | None:
    matching = (
        row
        for row in rows
        if row.get("attention") == attention and row.get("experiment") == experiment
    )
    return next(matching, None)


def _ignored(row: Row) -> Finding:
    return Finding(
        rule=NAME,
        verdict="problem",
        severity="warning",
        title=f"Only {row['blocks_using']} of {row['blocks']} blocks use {row['attention']} "
        "when it is asked for",
        culprit=f"attention: {row['attention']}",
        evidence=(f"Experiment: {row['experiment']}, watched on a small forward.",),
        advice="The setting does not reach every block; the sweep compares something else.",
    )


def _seconds(row: Row) -> float:
    return number(row.get("median_s")) or float("inf")


def _name(row: Row) -> str:
    plain = row.get("experiment") == REPLACED
    return "a plain SDPA in place of its attention" if plain else f"{row['attention']} attention"


def _evidence(rows: list[Row]) -> tuple[str, ...]:
    listed = ", ".join(
        f"{row['attention']} ({row['experiment']}) {seconds(_seconds(row))}, n = {row['n']}"
        for row in sorted(rows, key=_seconds)
    )
    return (f"Forward of batch {rows[0]['batch']}: {listed}.",)


RULE = Rule(name=NAME, order=40, question=QUESTION, judge=judge)
