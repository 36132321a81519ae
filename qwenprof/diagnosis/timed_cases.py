"""The cases of which a record holds times, by stage and name, and why one is missing.

A case is a series. A published record has no raw samples: there a case is a row of a table, under
the name that its series would have.
"""

from __future__ import annotations

from dataclasses import dataclass

from qwenprof.diagnosis.bounds import positive
from qwenprof.diagnosis.series_names import SERIES_NAMES
from qwenprof.record.published import is_published
from qwenprof.record.record import Record, Row

FIRST_CALL = "/first_call"
HOST_TIMED = ("/host_enqueue", "/wall")
SUFFIXES = (FIRST_CALL, *HOST_TIMED)

Key = tuple[str, str]  # stage, name of the series


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is known of one case.

    values: the raw samples; empty where only a median was published.
    published: that median, in the same unit.
    """

    unit: str
    values: tuple[float, ...] = ()
    published: float | None = None


def cases(record: Record) -> dict[Key, Case]:
    """Every case with a number, in the order of the record."""
    measured = {
        (stage, name): Case(unit=series.unit, values=tuple(series.values))
        for stage, result in record.stages.items()
        for name, series in result.series.items()
        if series.values
    }
    return {**_tabled(record), **measured} if is_published(record) else measured


def absence(record: Record, key: Key) -> str:
    """Why a record holds no such case, for a reader."""
    stage, name = key
    result = record.stages.get(stage)
    if result is None:
        return f"the stage {stage} did not run"
    row = _row_of(record, stage, _without_suffix(name))
    if row is not None and row.get("status") not in (None, "ok"):
        return _told(str(row["status"]), row.get("reason"))
    if result.status != "ok":
        return f"the stage was not completed: {_told(result.status, result.reason)}"
    return "it holds no sample" if name in result.series else "there is no such series"


def _told(status: str, reason: object) -> str:
    word = status.replace("_", " ")
    return f"{word}: {reason}" if reason else word


def _without_suffix(name: str) -> str:
    return next((name[: -len(end)] for end in SUFFIXES if name.endswith(end)), name)


def _tabled(record: Record) -> dict[Key, Case]:
    found = {
        (stage, name(row)): Case(unit="s", published=median_s)
        for (stage, table), name in SERIES_NAMES.items()
        for row in record.rows(stage, table)
        if (median_s := positive(row.get("median_s"))) is not None
    }
    for row in record.rows("per-layer", "summary")[:1]:
        for name, column in (("plain", "plain_s"), ("with marks", "total_s")):
            whole_s = positive(row.get(column))
            if whole_s is not None:
                found["per-layer", f"forward, {name}"] = Case(unit="s", published=whole_s)
    return found


def _row_of(record: Record, stage: str, name: str) -> Row | None:
    """The row of a table that tells what became of a case."""
    return next(
        (
            row
            for (owner, table), name_of in SERIES_NAMES.items()
            if owner == stage
            for row in record.rows(stage, table)
            if name_of(row) == name
        ),
        None,
    )
