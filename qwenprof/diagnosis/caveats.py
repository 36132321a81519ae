"""What a reader must know before believing a run: what disturbed it, and what it left out."""

from __future__ import annotations

from qwenprof.formatting import clean, plural, without_homes
from qwenprof.record.record import Record

PROVOKED = "This record is of an experiment: nobody's model was slow by itself."


def provoked_fault(record: Record) -> str:
    """The fault that a run made on purpose; "" without."""
    return clean(without_homes(str(record.workload.get("provoke") or "")), 60)


def provoked(record: Record) -> tuple[str, str] | None:
    """The fault that a run made on purpose, and what that means for its figures; None without."""
    fault = provoked_fault(record)
    return (f"Provoked on purpose: {fault}.", PROVOKED) if fault else None


def caveats(record: Record) -> list[str]:
    """One line for each stage that was disturbed or has cases that were not measured."""
    lines: list[str] = []
    for name, result in record.stages.items():
        flags = [row.get("flags") for row in result.tables.get("conditions", [])]
        lines += [f"disturbed: {name}: {flag}" for flag in flags if flag]
        rows = [row for table in result.tables.values() for row in table]
        missing = sum(1 for row in rows if row.get("status") not in (None, "ok"))
        if missing:
            lines.append(f"not measured: {plural(missing, 'case')} of {name}; the report says why")
    return lines
