"""A record becomes files: complete, in one step each, and without torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from qwenprof.diagnosis.finding import Finding
from qwenprof.errors import UsageError
from qwenprof.record.published import writeup
from qwenprof.record.record import Record
from qwenprof.report import markdown, writing
from qwenprof.report.telling import telling
from qwenprof.report.writing import composed, title, write_report
from tests.kept import RECORDS

PUBLISHED = Path(__file__).parents[2] / "reports" / "writeup"
GOLDEN = Path(__file__).parent / "data" / "simulated_gpu.md"


def test_the_whole_report(
    simulated_gpu: Record, findings: list[Finding], request: pytest.FixtureRequest
) -> None:
    """Rewritten with `pytest --update-golden`; read the difference before it is kept."""
    report = markdown.render(title(simulated_gpu), composed(telling(simulated_gpu, findings)))
    if request.config.getoption("--update-golden"):
        GOLDEN.write_text(report, encoding="utf-8")
    assert report == GOLDEN.read_text(encoding="utf-8")


def test_the_report_and_every_picture_in_it_are_written(
    simulated_gpu: Record, tmp_path: Path
) -> None:
    paths = write_report(simulated_gpu, tmp_path / "new")
    report = tmp_path / "new" / "report.md"
    assert paths[-1] == report
    assert {path.name for path in paths[:-1]} == {
        line.rpartition("(")[2].rstrip(")")
        for line in report.read_text(encoding="utf-8").splitlines()
        if line.startswith("![")
    }
    assert all(path.stat().st_size > 10_000 for path in paths[:-1])
    assert sorted(tmp_path.joinpath("new").iterdir()) == sorted(paths)


def test_an_empty_record_still_makes_a_report(empty_record: Record, tmp_path: Path) -> None:
    assert write_report(empty_record, tmp_path) == [tmp_path / "report.md"]
    assert "**Not measured.**" in (tmp_path / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("formats", [("docx",), ("md", "docx"), ()])
def test_an_unknown_format_names_those_that_exist(
    empty_record: Record, tmp_path: Path, formats: tuple[str, ...]
) -> None:
    with pytest.raises(UsageError, match="choose from md"):
        write_report(empty_record, tmp_path, formats)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_named(empty_record: Record, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(UsageError, match=r"cannot write the report to .*taken"):
        write_report(empty_record, tmp_path / "taken")


def test_a_failed_write_leaves_the_old_report_whole(
    empty_record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "report.md").write_text("old")

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "write_atomically", full)
    with pytest.raises(UsageError, match="No space left on device"):
        write_report(empty_record, tmp_path)
    assert (tmp_path / "report.md").read_text() == "old"


def test_hostile_names_reach_neither_markup_nor_paths(
    simulated_gpu: Record, with_rows: Callable[..., Record], hostile: str
) -> None:
    """The modules of somebody else's model may be called anything."""
    record = with_rows(
        simulated_gpu,
        "per-layer",
        "modules",
        lambda row: row | ({"module_type": hostile} if row["path"] else {}),
    )
    report = markdown.render(title(record), composed(telling(record, [])))
    assert "<script" not in report.replace("\\<script", "")
    assert "alice" not in report
    assert "\u202e" not in report


def test_nothing_of_a_report_needs_torch(tmp_path: Path) -> None:
    code = f"""
import sys
from collections.abc import Callable
from pathlib import Path
from qwenprof.record.record import load
from qwenprof.report.section import sections
sections()
assert not {{"matplotlib", "pandas", "torch"}} & set(sys.modules), "discovery is not light"
from qwenprof.report.writing import write_report
given = load(Path({str(RECORDS / "simulated_gpu.json")!r}))
paths = write_report(given, {str(tmp_path)!r}, ("md", "html"))
assert {{path.suffix for path in paths}} == {{".png", ".md", ".html"}}
assert not {{"torch", "transformers", "matplotlib.pyplot"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_ticket_brings_what_is_attached_to_it_and_each_file_once(
    simulated_gpu: Record, tmp_path: Path
) -> None:
    paths = write_report(simulated_gpu, tmp_path, ("ticket",))

    assert len(paths) == len(set(paths))
    assert {"report.md", "report.html", "ticket.md", "attachments.zip"} <= {p.name for p in paths}
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_html_alone_needs_no_picture_beside_it(simulated_gpu: Record, tmp_path: Path) -> None:
    assert write_report(simulated_gpu, tmp_path, ["html"]) == [tmp_path / "report.html"]


def test_an_unknown_target_is_named_before_anything_is_written(
    simulated_gpu: Record, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="choose from transformers, pytorch, vllm"):
        write_report(simulated_gpu, tmp_path, ("ticket",), target="jax")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("redact", "said"), [(True, "as private: 1 local path."), (False, "nothing, as was asked for")]
)
def test_the_report_says_what_was_taken_out(
    empty_record: Record, tmp_path: Path, redact: bool, said: str
) -> None:
    private = msgspec.structs.replace(empty_record, command=["qwenprof", "/data/lab7/secret.py"])

    write_report(private, tmp_path, redact=redact)

    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert said in text
    assert ("/data/lab7" in text) is not redact


def test_the_published_report_as_a_whole(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """The one that reports/ holds. `pytest --update-golden` writes it anew, with its pictures."""
    write_report(writeup(), tmp_path)
    if request.config.getoption("--update-golden"):
        write_report(writeup(), PUBLISHED, ("md", "html", "ticket"))

    kept, fresh = (folder / "report.md" for folder in (PUBLISHED, tmp_path))
    assert fresh.read_text(encoding="utf-8") == kept.read_text(encoding="utf-8")
