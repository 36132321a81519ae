"""Records: round trips, writing that never leaves half a file, and files that are no records."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qwenprof.errors import RecordError
from qwenprof.record import record as module
from qwenprof.record.record import (
    Record,
    Series,
    StageResult,
    Tool,
    load,
    save,
    write_atomically,
)

text = st.text(st.characters(codec="utf-8"), max_size=12)
number = st.floats(allow_nan=False, allow_infinity=False)
cells = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), number, text)
rows = st.dictionaries(text, cells, max_size=4)
series = st.builds(
    Series,
    unit=text,
    values=st.lists(number, max_size=5),
    stop_reason=text,
    flags=st.lists(text, max_size=3),
)
results = st.builds(
    StageResult,
    status=st.sampled_from(["ok", "skipped", "failed", "out_of_memory", "interrupted"]),
    reason=st.none() | text,
    duration_s=number,
    series=st.dictionaries(text, series, max_size=3),
    tables=st.dictionaries(text, st.lists(rows, max_size=3), max_size=3),
)
records = st.builds(
    Record,
    tool=st.builds(Tool, name=text, version=text),
    created=text,
    command=st.lists(text, max_size=4),
    environment=st.dictionaries(text, rows, max_size=3),
    workload=rows,
    stages=st.dictionaries(text, results, max_size=3),
)


def as_json(record: Record) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(module.msgspec.json.encode(record))
    return parsed


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


class TestRoundTrip:
    @settings(
        max_examples=40,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(record=records)
    def test_what_was_saved_is_what_is_loaded(self, record: Record, tmp_path: Path) -> None:
        save(record, tmp_path / "record.json")
        assert load(tmp_path / "record.json") == record

    def test_the_folder_will_do(self, record: Record, tmp_path: Path) -> None:
        save(record, tmp_path / "record.json")
        assert load(tmp_path) == record

    def test_the_file_has_the_documented_shape(self, record: Record, tmp_path: Path) -> None:
        # GIVEN a saved record WHEN anybody's JSON reader opens it
        save(record, tmp_path / "record.json")
        parsed = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
        # THEN it has the keys that the documentation promises, and null where nothing is known
        assert list(parsed) == [
            "schema_version",
            "tool",
            "created",
            "command",
            "environment",
            "workload",
            "stages",
        ]
        assert list(parsed["stages"]["matmul"]) == [
            "status",
            "reason",
            "duration_s",
            "series",
            "tables",
        ]
        assert parsed["stages"]["matmul"]["tables"]["gemm"][0]["verdict"] is None

    def test_keys_of_a_later_version_of_the_same_schema_are_ignored(
        self, record: Record, tmp_path: Path
    ) -> None:
        file = tmp_path / "record.json"
        file.write_text(json.dumps(as_json(record) | {"mood": "good"}))
        assert load(file) == record

    def test_reading_one_needs_no_torch(self, record: Record, tmp_path: Path) -> None:
        # GIVEN a saved record WHEN a fresh process loads it THEN it has not imported torch
        save(record, tmp_path / "record.json")
        program = (
            "import sys, pathlib; from qwenprof.record.record import load; "
            f"load(pathlib.Path({str(tmp_path)!r})); print('torch' in sys.modules)"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == "False"


class TestQuestions:
    def test_a_stage_is_added_or_replaced(self, record: Record) -> None:
        failed = StageResult(status="failed", reason="broken", duration_s=1.0)
        assert list(record.with_stage("verify", failed).stages) == ["matmul", "verify"]
        assert record.with_stage("matmul", failed).stages == {"matmul": failed}
        assert record.stages["matmul"].status == "ok"

    def test_rows_and_facts_that_are_not_there_are_empty(self, record: Record) -> None:
        assert record.rows("matmul", "gemm") == [
            {"size": 4096, "median_s": 1.5e-3, "verdict": None}
        ]
        assert record.rows("matmul", "nothing") == record.rows("nothing", "gemm") == []
        assert record.fact("device", "name") == "NVIDIA H100"
        assert record.fact("device", "x") is record.fact("x", "name") is None

    def test_rows_make_a_data_frame(self, record: Record) -> None:
        frame = record.frame("matmul", "gemm")
        assert frame["size"].tolist() == [4096]
        assert record.frame("nothing", "gemm").empty


def full_disk(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


class TestSaving:
    @pytest.mark.parametrize("target", ["os.fsync", "pathlib.Path.replace", "os.fdopen"])
    def test_a_full_disk_leaves_the_older_file_whole(
        self, target: str, record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # GIVEN a saved record and a disk that fills up at some point of writing the next
        file = tmp_path / "record.json"
        save(record, file)
        older = file.read_bytes()
        monkeypatch.setattr(target, full_disk)
        # WHEN it is saved again THEN the error says so, and the folder is as it was
        with pytest.raises(RecordError, match="No space left") as caught:
            save(record.with_stage("verify", StageResult(status="ok", duration_s=1.0)), file)
        assert str(file) in str(caught.value)
        assert file.read_bytes() == older
        assert names(tmp_path) == ["record.json"]

    def test_an_interrupt_leaves_the_older_file_whole(
        self, record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = tmp_path / "record.json"
        save(record, file)
        monkeypatch.setattr("os.fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_atomically(file, b"half")
        assert load(file) == record
        assert names(tmp_path) == ["record.json"]

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
    def test_a_disk_that_is_really_full(self, tmp_path: Path, monkeypatch: Any) -> None:
        # GIVEN a temporary file on a device that accepts nothing
        def on_a_full_device(**options: Any) -> tuple[int, str]:
            temporary = Path(options["dir"]) / f"{options['prefix']}x"
            temporary.touch()
            return os.open("/dev/full", os.O_WRONLY), str(temporary)

        monkeypatch.setattr("tempfile.mkstemp", on_a_full_device)
        # WHEN something is written THEN nothing is left behind
        with pytest.raises(OSError, match="No space left"):
            write_atomically(tmp_path / "record.json", b"x" * 100_000)
        assert names(tmp_path) == []

    def test_a_folder_that_is_not_there_is_named(self, record: Record, tmp_path: Path) -> None:
        with pytest.raises(RecordError, match="No such file or directory") as caught:
            save(record, tmp_path / "missing" / "record.json")
        assert "missing" in str(caught.value)

    def test_others_may_read_the_file(self, record: Record, tmp_path: Path) -> None:
        save(record, tmp_path / "record.json")
        assert (tmp_path / "record.json").stat().st_mode & 0o777 == 0o644
