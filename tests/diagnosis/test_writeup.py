"""The published figures as a record: traceable, labelled, and diagnosed by the same rules."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qwenprof.cli import run_command_line
from qwenprof.diagnosis.finding import Finding, diagnose
from qwenprof.record import published
from qwenprof.record.record import Cell, Record, Row, load, save
from qwenprof.report.markdown import render
from qwenprof.report.telling import telling
from qwenprof.report.writing import composed, title

LABEL = "published, not measured here"
SOURCE = Path(__file__).parents[3] / "shared" / "seed" / "writeup.md"
SCALES = (1.0, 1e3, 1e-9, 100.0)  # as it stands, in ms, in GB, in per cent
FILE = Path(published.__file__).with_name("writeup.json")


@pytest.fixture(scope="module")
def record() -> Record:
    return published.writeup()


@pytest.fixture(scope="module")
def findings(record: Record) -> dict[str, Finding]:
    return {finding.rule: finding for finding in diagnose(record)}


@pytest.fixture(scope="module")
def source() -> str:
    """The writeup, without the commas in its numbers."""
    if not SOURCE.is_file():
        pytest.skip("the writeup itself is not here, so its figures cannot be looked up")
    return re.sub(r"(?<=\d),(?=\d{3})", "", SOURCE.read_text(encoding="utf-8"))


def rows(record: Record) -> Iterator[tuple[str, Row]]:
    for stage, result in record.stages.items():
        for table, own in result.tables.items():
            yield from ((f"{stage}/{table}", row) for row in own)


def computed(row: Row) -> set[str]:
    """The columns that are not the source's own: "a, b: computed from c; d: not of the source"."""
    parts = str(row.get("computed") or "").split("; ")
    named = (part.partition(":")[0].split(", ") for part in parts if ":" in part)
    return {name for names in named for name in names}


def is_number(cell: Cell) -> bool:
    return isinstance(cell, int | float) and not isinstance(cell, bool)


def is_in(value: Any, text: str) -> bool:
    """Whether a number stands in a text, in one of the units that such texts use."""
    forms = [f"{value * scale:.10g}" for scale in SCALES] + [f"{value:.0e}", f"{value:.2e}"]
    plain = (re.sub(r"e([+-])0+", r"e\1", form) for form in forms)
    return any(re.search(rf"(?<![\d.]){re.escape(f)}(\.0)?(?!\.?\d)", text) for f in plain)


def test_the_file_is_as_save_writes_it(record: Record, tmp_path: Path) -> None:
    save(record, tmp_path / "again.json")

    assert (tmp_path / "again.json").read_bytes() == FILE.read_bytes()
    assert load(FILE) == record


def test_it_says_that_it_was_not_measured(record: Record) -> None:
    assert record.tool.name == "published"
    assert record.workload["origin"] == LABEL
    assert LABEL in str(record.workload["summary"])
    assert all(LABEL in str(result.reason) for result in record.stages.values())
    assert not any(result.series for result in record.stages.values())


def test_every_row_names_its_place_in_the_source(record: Record) -> None:
    for table, row in rows(record):
        place = str(row["source"])
        assert re.match(r"(stage|section|appendix) |title\b|TL;DR\b", place), (table, row)
        assert computed(row) <= set(row), (table, row)


def test_every_figure_stands_in_the_source(record: Record, source: str) -> None:
    missing = [
        (table, column, cell)
        for table, row in rows(record)
        for column, cell in row.items()
        if is_number(cell) and column not in computed(row) and not is_in(cell, source)
    ]
    assert missing == []


def test_the_search_for_figures_can_fail(source: str) -> None:
    for invented in (16.1114, 16.3999, 0.0019, 147, 9.2, 91003, 6081):
        assert not is_in(invented, source), invented


def test_the_environment_stands_in_the_source(record: Record, source: str) -> None:
    lowered = source.lower()
    for section, facts in record.environment.items():
        for key, fact in facts.items():
            pieces = str(fact).lower().split() if isinstance(fact, str) else []
            assert all(piece in lowered for piece in pieces), (section, key, fact)
            assert not is_number(fact) or is_in(fact, source), (section, key, fact)


def test_sizes_of_memory_stand_as_they_are_stated(record: Record) -> None:
    """A GB of a datasheet is nominal: turned into GiB it is a number that nobody published."""
    assert record.fact("device", "memory") == "32 GB"
    assert record.fact("host", "memory") == "62 GB"


def test_what_was_computed_is_right(record: Record) -> None:
    patch_embed = next(
        row
        for row in record.rows("per-layer", "modules")
        if row["path"] == "model.visual.patch_embed"
    )
    parts_s = (16.1113, 0.0228, 0.0207, 0.0564, 0.0005)

    assert patch_embed["flops"] == 2 * 6080 * 1536 * 1024
    assert record.rows("per-layer", "summary")[0]["exclusive_sum_s"] == pytest.approx(sum(parts_s))
    for row in record.rows("matmul", "gemm"):
        tflops, peak = row["tflops"], row["peak_tflops"]
        assert isinstance(tflops, float)
        assert isinstance(peak, float)
        assert row["fraction_of_peak"] == pytest.approx(tflops / peak, rel=1e-5)


def test_the_device_is_cleared_above_its_datasheet(findings: dict[str, Finding]) -> None:
    finding = findings["device-health"]

    assert finding.verdict == "clear"
    assert "107 % of the 209.5" in finding.evidence[0]
    assert "above the datasheet's figure" in finding.evidence[1]
    assert "was not recorded" in finding.evidence[1]


def test_batching_is_cleared_and_the_anomaly_told(findings: dict[str, Finding]) -> None:
    finding = findings["batching"]

    assert (finding.verdict, finding.confidence) == ("clear", "medium")
    assert "batch 16 most likely did not grow" in finding.title


def test_attention_is_cleared(findings: dict[str, Finding]) -> None:
    finding = findings["attention"]

    assert finding.verdict == "clear"
    assert "None" not in " ".join(finding.evidence)


def test_what_does_not_add_up_is_named(findings: dict[str, Finding]) -> None:
    finding = findings["consistency"]

    assert (finding.verdict, finding.severity) == ("problem", "info")
    told = " ".join(finding.evidence)
    for stated, should in (
        ("96 % of the time", "16.2 s is 99.4 %"),
        ("9.3 s", "145 s / 16 is 9.06 s"),
        ("16.7 s", "the same forward in stage 2 is 16.5 s"),
        ("287 x", "of everything else is 160 x"),
        ("1000 x", "the 0.3 ms of Linear is 53,700 x"),
        ("150 s", "the same forward in stage 2 is 148 s"),
        ("about 0.4", "the root of 1536 times 2^-7 is 0.306"),
        ("9.10.0.2", "91002 is 9.10.2"),
    ):
        assert re.search(rf"{re.escape(stated)}[^.]*, but .*{re.escape(should)}", told), stated
    assert "over the 56.4 ms of the blocks alone it is 286." in told
    assert "stage 3 has 145.6 s with sdpa and 147.6 s with flash_attention_2" in told
    assert len(finding.evidence) == 8


def test_the_patch_embedding_is_the_culprit(findings: dict[str, Finding]) -> None:
    finding = findings["culprit"]

    assert (finding.verdict, finding.severity) == ("problem", "critical")
    assert "patch_embed" in str(finding.culprit)
    assert "16.1 s" in finding.evidence[0]


def test_its_report_carries_the_label(record: Record, findings: dict[str, Finding]) -> None:
    text = render(title(record), composed(telling(record, list(findings.values()))))

    assert LABEL in text.splitlines()[0]
    assert "| Same |" not in text  # nothing stands beside it


def test_the_command_line_knows_it_by_its_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    assert run_command_line(["findings", "writeup", "--json"]) == 0
    assert "99.4 %" in json.dumps(json.loads(capsys.readouterr().out))
    assert run_command_line(["report", "writeup", "--out", "told", "-q"]) == 0
    assert LABEL in (tmp_path / "told" / "report.md").read_text(encoding="utf-8")


def test_a_file_of_that_name_wins(
    record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert published.load_or_writeup("writeup") is record

    own = record.with_stage("verify", record.stages["matmul"])
    (tmp_path / "writeup").mkdir()
    save(own, tmp_path / "writeup" / "record.json")

    assert not published.is_writeup("writeup")
    assert published.load_or_writeup("writeup") == own
