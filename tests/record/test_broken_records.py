"""Files that are no records: refused by name, and never run."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qwenprof.errors import RecordError
from qwenprof.record import record as module
from qwenprof.record.record import SCHEMA_VERSION, Record, load


def as_json(record: Record) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(module.msgspec.json.encode(record))
    return parsed


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def refusal(path: Path) -> str:
    """The message with which a file is refused; it names the file."""
    with pytest.raises(RecordError) as caught:
        load(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def without(key: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda raw: {k: v for k, v in raw.items() if k != key}


def with_values(**values: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda raw: raw | values


def with_stage(**values: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda raw: raw | {"stages": {"matmul": raw["stages"]["matmul"] | values}}


BROKEN = {
    "no schema version": without("schema_version"),
    "no tool": without("tool"),
    "no environment": without("environment"),
    "no workload": without("workload"),
    "the version is text": with_values(schema_version="1"),
    "the version is a truth value": with_values(schema_version=True),
    "the version is a fraction": with_values(schema_version=1.0),
    "the version is null": with_values(schema_version=None),
    "the version never existed": with_values(schema_version=0),
    "the version is negative": with_values(schema_version=-5),
    "the tool is text": with_values(tool="qwenprof"),
    "stages are a list": with_values(stages=[]),
    "a stage is null": with_values(stages={"matmul": None}),
    "a stage has no status": with_values(stages={"matmul": {"duration_s": 1.0}}),
    "a status is unknown": with_stage(status="splendid"),
    "a duration is text": with_stage(duration_s="1"),
    "a duration is null": with_stage(duration_s=None),
    "a value is text": with_stage(
        series={"a": {"unit": "s", "values": ["1"], "stop_reason": "budget"}}
    ),
    "a value is null": with_stage(
        series={"a": {"unit": "s", "values": [None], "stop_reason": "budget"}}
    ),
    "a series has no unit": with_stage(series={"a": {"values": [], "stop_reason": "budget"}}),
    "a table is no list": with_stage(tables={"gemm": {"size": 1}}),
    "a row is a list": with_stage(tables={"gemm": [[1, 2]]}),
    "a cell is an object": with_stage(tables={"gemm": [{"size": {"$ref": "/etc/passwd"}}]}),
    "a cell is a list": with_stage(tables={"gemm": [{"size": [1]}]}),
    "the environment is flat": with_values(environment={"device": "cuda"}),
}

CONTENTS = {
    "empty": b"",
    "blank": b"  \n",
    "not JSON": b"schema_version: 1",
    "cut off": b'{"schema_version": 1, "tool": {"name": "qwenp',
    "two documents": b'{"schema_version": 1}{"schema_version": 1}',
    "a list": b"[1, 2, 3]",
    "a number": b"1",
    "null": b"null",
    "binary": bytes(range(256)) * 64,
    "a picture": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
    "UTF-16": '{"schema_version": 1}'.encode("utf-16"),
    "broken UTF-8": b'{"schema_version": 1, "created": "\xff\xfe"}',
    "a lone surrogate": b'{"schema_version": 1, "created": "\\ud800"}',
    "deeply nested lists": b"[" * 100_000 + b"]" * 100_000,
    "deeply nested objects": b'{"schema_version":' * 100_000,
    "a huge version": b'{"schema_version": ' + b"9" * 400 + b"}",
    "a huge exponent": b'{"schema_version": 1e999}',
    "not a number": b'{"schema_version": NaN}',
    "a pickle": b"cos\nsystem\n(S'touch hacked'\ntR.",
}


class TestFilesThatAreNoRecords:
    @pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
    def test_a_broken_record_is_refused(
        self, change: Callable[[dict[str, Any]], dict[str, Any]], record: Record, tmp_path: Path
    ) -> None:
        file = tmp_path / "broken.json"
        file.write_text(json.dumps(change(as_json(record))))
        assert "is not a qwenprof record" in refusal(file) or "schema version" in refusal(file)

    @pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
    def test_hostile_content_is_refused_and_nothing_is_run(
        self, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        file = tmp_path / "hostile.json"
        file.write_bytes(content)
        refusal(file)
        assert names(tmp_path) == ["hostile.json"]

    @pytest.mark.parametrize("digits", ["9" * 30, "9" * 400, "1e400", "-1e999"])
    @pytest.mark.parametrize("place", ["value", "cell", "duration"])
    def test_numbers_beyond_measure_are_refused_or_read_as_numbers(
        self, place: str, digits: str, record: Record, tmp_path: Path
    ) -> None:
        # GIVEN a record with a number that no measurement gives
        stage = {
            "value": with_stage(
                series={"a": {"unit": "s", "values": ["HUGE"], "stop_reason": "budget"}}
            ),
            "cell": with_stage(tables={"gemm": [{"size": "HUGE"}]}),
            "duration": with_stage(duration_s="HUGE"),
        }[place]
        file = tmp_path / "huge.json"
        file.write_text(json.dumps(stage(as_json(record))).replace('"HUGE"', digits))
        # WHEN it is loaded THEN that is an error of ours, or it worked
        try:
            assert isinstance(load(file), Record)
        except RecordError as error:
            assert str(file) in str(error)  # noqa: PT017 - either outcome is right

    @settings(
        max_examples=150,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(data=st.data())
    def test_a_damaged_file_is_a_record_or_refused(
        self, data: st.DataObject, record: Record, tmp_path: Path
    ) -> None:
        # GIVEN a record of which some bytes have been changed
        file = tmp_path / "damaged.json"
        content = bytearray(module.msgspec.json.encode(record))
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        file.write_bytes(content)
        # WHEN it is loaded THEN there is a record or an error of ours, and nothing else
        try:
            assert isinstance(load(file), Record)
        except RecordError as error:
            assert str(file) in str(error)  # noqa: PT017 - either outcome is right

    def test_a_newer_schema_says_what_to_do(self, record: Record, tmp_path: Path) -> None:
        file = tmp_path / "newer.json"
        file.write_text(json.dumps(as_json(record) | {"schema_version": SCHEMA_VERSION + 1}))
        message = refusal(file)
        assert f"schema version {SCHEMA_VERSION + 1}" in message
        assert "pip install -U qwenprof" in message

    def test_an_older_schema_is_upgraded(
        self, record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # GIVEN a schema of version 0 in which the tool was plain text
        monkeypatch.setitem(
            module._UPGRADES, 0, lambda raw: raw | {"tool": {"name": raw["tool"], "version": "0"}}
        )
        file = tmp_path / "older.json"
        file.write_text(json.dumps(as_json(record) | {"schema_version": 0, "tool": "qwenprof"}))
        # WHEN it is loaded THEN it is as if it had been written today
        assert load(file) == record

    def test_a_missing_file_says_what_to_give(self, tmp_path: Path) -> None:
        assert "give a record.json" in refusal(tmp_path / "missing.json")

    def test_a_folder_without_a_record(self, tmp_path: Path) -> None:
        assert str(tmp_path / "record.json") in refusal(tmp_path)

    def test_a_folder_in_place_of_the_record(self, tmp_path: Path) -> None:
        (tmp_path / "record.json").mkdir()
        refusal(tmp_path / "record.json")

    def test_a_file_that_may_not_be_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def forbidden(*_: Any) -> bytes:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        file = tmp_path / "secret.json"
        file.touch()
        monkeypatch.setattr(Path, "read_bytes", forbidden)
        assert "Permission denied" in refusal(file)

    def test_a_file_that_is_far_too_large_is_not_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # GIVEN a sparse file of a terabyte WHEN it is loaded THEN its size is enough to refuse it
        file = tmp_path / "large.json"
        with file.open("wb") as handle:
            handle.truncate(1024**4)
        monkeypatch.setattr(Path, "read_bytes", interrupt)
        assert "1,099,511,627,776 bytes" in refusal(file)
