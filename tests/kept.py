"""Records that tests judge word for word, apart from reports/: a fresh report changes no test."""

from __future__ import annotations

from pathlib import Path

from qwenprof.record.record import Record, load

RECORDS = Path(__file__).parent / "records"


def kept(name: str) -> Record:
    """One of tests/records: real runs, and simulated_gpu with invented values, as it says."""
    return load(RECORDS / f"{name}.json")
