"""Is it attention? The implementations against each other, and against a plain SDPA."""

from __future__ import annotations

from qwenprof.diagnosis.bounds import LARGEST, number, positive
from qwenprof.diagnosis.disturbance import disturbances
from qwenprof.diagnosis.finding import Finding, Rule, not_assessed, severity_of
from qwenprof.formatting import count, listed, seconds, times
from qwenprof.record.record import Record, Row

NAME, QUESTION = "attention", "Is it attention?"
TOLERANCE, SURE_FROM_ONE_CALL = 1.2, 2.0
EAGER, SWITCHED, REPLACED = "eager", "switched", "replaced by plain SDPA"


def judge(record: Record) -> Finding:
    rows = _rows_at_smallest_batch(record)
    own = _row(rows, str(record.workload.get("attention")), SWITCHED)
    others = [row for row in rows if row is not own]
    alternatives = [row for row in others if _is_alternative(row, own)]
    if own is None or not alternatives:
        why = "The attention in use was not measured beside another one."
        return not_assessed(NAME, QUESTION, why)
    ignored = [row for row in rows if row.get("blocks_using") != row.get("blocks")]
    if ignored:
        return _ignored(ignored[0])
    same = [row for row in rows if not _is_alternative(row, own)]
    fastest, baseline = min(alternatives, key=_seconds), min(same, key=_seconds)
    gain = _seconds(baseline) / _seconds(fastest)
    if gain <= TOLERANCE:
        return Finding(
            rule=NAME,
            verdict="clear",
            severity="info",
            title="Not attention: no other implementation that was measured is more than "
            f"{(TOLERANCE - 1) * 100:.0f} % faster",
            evidence=(*_evidence(rows), *_not_measured(record)),
        )
    disturbed = disturbances(record, "attention-sweep")
    if gain < SURE_FROM_ONE_CALL and disturbed:
        why = (
            f"Inconclusive: {_name(fastest)} came out {times(gain)} as fast, but the run was "
            f"disturbed ({disturbed[0]})."
        )
        return not_assessed(NAME, QUESTION, why)
    if gain < SURE_FROM_ONE_CALL and not (_repeated(fastest) and _repeated(baseline)):
        why = f"Inconclusive: {_name(fastest)} came out {times(gain)} as fast, from one forward."
        return not_assessed(NAME, QUESTION, why)
    return Finding(
        rule=NAME,
        verdict="problem",
        severity=severity_of(1 - 1 / gain),
        title=f"The model is {times(gain)} as fast with {_name(fastest)}",
        culprit=f"attention: {own.get('attention')}",
        cause=_cause(own, fastest),
        cost_share=1 - 1 / gain,
        evidence=_evidence(rows),
        advice=_advice(fastest),
    )


def _cause(own: Row, fastest: Row) -> str:
    """What is known of the implementation in use; "" where only its time is."""
    if own.get("attention") == EAGER and fastest.get("attention") != EAGER:
        return (
            "eager attention writes the score of every pair of patches to memory and reads it "
            f"again, which {_name(fastest)} does not"
        )
    if fastest.get("experiment") == REPLACED:
        return "what the model does around the attention kernel takes the time, not the kernel"
    return ""


def _repeated(row: Row) -> bool:
    return (number(row.get("n")) or 0.0) > 1


def _advice(fastest: Row) -> str:
    if fastest.get("experiment") == REPLACED:
        return (
            "The kernel is not to blame but what the model does around it: compare its attention "
            "with a plain scaled_dot_product_attention."
        )
    return f"Load the model with attn_implementation={fastest.get('attention')!r}."


def _is_alternative(row: Row, own: Row | None) -> bool:
    """Whether this is another implementation, and not the same one switched on another way."""
    other = own is not None and row.get("attention") != own.get("attention")
    return other or row.get("experiment") == REPLACED


def _rows_at_smallest_batch(record: Record) -> list[Row]:
    rows = [
        row
        for row in record.rows("attention-sweep", "backends")
        if row.get("status") == "ok" and positive(row.get("median_s"))
    ]
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
        title=f"Only {row.get('blocks_using')} of {row.get('blocks')} blocks use "
        f"{row.get('attention')} when it is asked for",
        culprit=f"attention: {row.get('attention')}",
        evidence=(f"Experiment: {row.get('experiment')}, watched on a small forward.",),
        advice="The setting does not reach every block; the sweep compares something else.",
    )


def _seconds(row: Row) -> float:
    return positive(row.get("median_s")) or LARGEST


def _name(row: Row) -> str:
    plain = row.get("experiment") == REPLACED
    return (
        "a plain SDPA in place of its attention" if plain else f"{row.get('attention')} attention"
    )


def _evidence(rows: list[Row]) -> tuple[str, ...]:
    listed = ", ".join(
        f"{row.get('attention')} ({row.get('experiment')}) {seconds(_seconds(row))}{_n(row)}"
        for row in sorted(rows, key=_seconds)
    )
    return (f"Forward of batch {rows[0].get('batch')}: {listed}.",)


def _not_measured(record: Record) -> tuple[str, ...]:
    """The implementations that nothing is known of, so that nobody takes them for cleared."""
    rows = record.rows("attention-sweep", "backends")
    known = {row.get("attention") for row in rows if row.get("status") == "ok"}
    absent = dict.fromkeys(
        str(row.get("attention")) for row in rows if row.get("attention") not in known
    )
    return (f"Not measured: {listed(list(absent))}.",) if absent else ()


def _n(row: Row) -> str:
    """How many samples; nothing where a record does not say."""
    n = number(row.get("n"))
    return "" if n is None else f", n = {count(n)}"


RULE = Rule(
    name=NAME,
    order=40,
    question=QUESTION,
    judge=judge,
    reads=("attention-sweep",),
    compares_times=True,
)
