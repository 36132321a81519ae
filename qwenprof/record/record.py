"""The record: everything that one run measured. What it means is derived anew each time.

A record is plain data. It is written after every stage, atomically, and read back with
full validation; neither torch nor transformers is needed to read one. Its JSON form is

    {"schema_version", "tool", "created", "command", "environment", "workload",
     "stages": {NAME: {"status", "reason", "duration_s", "series", "tables"}}}

Durations are seconds, sizes bytes, work FLOP; what was not measured is null, never 0.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from qwenprof.errors import RecordError

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1
MAX_RECORD_BYTES = 256 * 1024**2

Cell = str | int | float | bool | None
Row = dict[str, Cell]
Facts = dict[str, Cell]
COLLECT_ENV = "collect_env"  # section of the environment: one fact, a text of many lines
Status = Literal["ok", "skipped", "failed", "out_of_memory", "interrupted"]


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """Raw samples of one quantity, why sampling stopped, and what to beware of.

    `flags` read "code: sentence with its numbers"; nothing is ever dropped from `values`.

    Raises:
        ValueError: a sample is infinite or not a number, which a clock never gives.
    """

    unit: str
    values: list[float]
    stop_reason: str
    flags: list[str] = []

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, self.values)):
            raise ValueError("a sample is not a finite number")


class StageResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one stage measured, even where it did not get to its end."""

    status: Status
    reason: str | None = None
    duration_s: float
    series: dict[str, Series] = {}
    tables: dict[str, list[Row]] = {}


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """Name and version of the program that wrote a record."""

    name: str
    version: str


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One run: the machine, the workload and the result of every stage that ran."""

    schema_version: int = SCHEMA_VERSION
    tool: Tool
    created: str
    command: list[str]
    environment: dict[str, Facts]
    workload: Facts
    stages: dict[str, StageResult] = {}

    def with_stage(self, name: str, result: StageResult) -> Record:
        """The same record with one more stage in it, or with that stage replaced."""
        return msgspec.structs.replace(self, stages={**self.stages, name: result})

    def rows(self, stage: str, table: str) -> list[Row]:
        """The rows of one table; empty where the stage or the table is missing."""
        result = self.stages.get(stage)
        return list(result.tables.get(table, [])) if result else []

    def fact(self, section: str, key: str) -> Cell:
        """One fact of the environment, or None where it was not recorded."""
        return self.environment.get(section, {}).get(key)

    def frame(self, stage: str, table: str) -> pd.DataFrame:
        """The same rows as a pandas DataFrame, for a notebook."""
        import pandas as pd

        return pd.DataFrame(self.rows(stage, table))


def load(path: Path | str) -> Record:
    """Read and validate a record.

    Args:
        path: a `record.json`, or the output folder that holds one.

    Raises:
        RecordError: the file is missing, too large, not JSON, of a newer schema, or does
            not have the shape of a record. The message names the file and the place in it.
    """
    file = Path(path, "record.json") if os.path.isdir(path) else Path(path)
    content = _read(file)
    try:
        raw = msgspec.json.decode(content)
        return msgspec.convert(_upgraded(raw, file), Record)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RecordError(f"{file} is not a qwenprof record: {error}") from error


def save(record: Record, path: Path) -> None:
    """Write a record so that a crash, a full disk or a reader never meets half a file.

    Raises:
        RecordError: the folder is missing, not writable or full. An older file stays whole.
    """
    content = msgspec.json.format(msgspec.json.encode(record), indent=1)
    try:
        write_atomically(path, content)
    except OSError as error:
        raise RecordError(f"cannot write {path}: {error.strerror or error}") from error


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` with `content` in one step, or leave it as it was.

    Raises:
        OSError: as the operating system gave it.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _read(file: Path) -> bytes:
    try:
        size = file.stat().st_size
        if size > MAX_RECORD_BYTES:
            raise RecordError(
                f"{file} holds {size:,} bytes; a record has at most {MAX_RECORD_BYTES:,}"
            )
        return file.read_bytes()
    except (OSError, ValueError) as error:
        raise RecordError(
            f"cannot read {file}: {getattr(error, 'strerror', None) or error}; "
            "give a record.json or the folder that holds one"
        ) from error


def _upgraded(raw: Any, file: Path) -> Mapping[str, Any]:
    """Bring the raw JSON of an older schema up to today's, one version at a time."""
    if not isinstance(raw, dict) or type(raw.get("schema_version")) is not int:
        raise RecordError(f"{file} is not a qwenprof record: it has no schema_version")
    version: int = raw["schema_version"]
    if version > SCHEMA_VERSION:
        raise RecordError(
            f"{file} has schema version {version}, this qwenprof reads up to {SCHEMA_VERSION}: "
            "upgrade with `pip install -U qwenprof`"
        )
    while version < SCHEMA_VERSION:
        upgrade = _UPGRADES.get(version)
        if upgrade is None:
            raise RecordError(f"{file} has schema version {version}, which never existed")
        raw, version = upgrade(raw), version + 1
    return {**raw, "schema_version": version}


_UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
