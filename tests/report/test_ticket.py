"""The ticket: complete, within GitHub's limit, and whole whatever the record holds."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from qwenprof.diagnosis.finding import Finding, diagnose
from qwenprof.errors import UsageError
from qwenprof.record.published import writeup
from qwenprof.record.record import Record, Row, StageResult
from qwenprof.report import attachments as archive
from qwenprof.report.repro import reproduction
from qwenprof.report.telling import telling
from qwenprof.report.ticket import (
    LEAST_IMPORTANT_FIRST,
    LIMIT,
    TARGETS,
    ticket,
    weight,
    write_ticket,
)
from qwenprof.report.ticket_answers import answers
from tests.kept import kept
from tests.report.conftest import HOSTILE

LARGE = HOSTILE + "x" * 10_000
RECORDS = (
    "epyc-2-cores-bf16",
    "epyc-2-cores-slow-conv",
    "simulated_gpu",
    "writeup",
)
HEADINGS = {
    "transformers": [
        "System Info",
        "Who can help?",
        "Information",
        "Tasks",
        "Reproduction",
        "Expected behavior",
    ],
    "pytorch": ["🐛 Describe the bug", "Versions"],
    "vllm": [
        "Your current environment",
        "🐛 Describe the bug",
        "Before submitting a new issue...",
    ],
}
PARSER = MarkdownIt("commonmark").enable("table").enable("strikethrough")


@cache
def record_of(name: str) -> Record:
    return writeup() if name == "writeup" else kept(name)


def written(record: Record, target: str = "pytorch", limit: int = LIMIT) -> str:
    findings = diagnose(record)
    found = reproduction(record, findings)
    packed = archive.Packed(content=b"", names=("record.json", "report.md"))
    return ticket(telling(record, findings), target, found, packed, limit)


def poisoned(record: Record, text: str, skipped: Sequence[str] = ()) -> Record:
    """The record with this text in every cell that holds text, in every fact and every name."""

    def row_of(row: Row) -> Row:
        return {k: text if isinstance(v, str) and k not in skipped else v for k, v in row.items()}

    stages = {
        name: msgspec.structs.replace(
            result,
            reason=text,
            tables={key: [row_of(row) for row in rows] for key, rows in result.tables.items()},
        )
        for name, result in record.stages.items()
    }
    environment = {
        section: {key: text if isinstance(value, str) else value for key, value in facts.items()}
        for section, facts in record.environment.items()
    }
    return msgspec.structs.replace(
        record,
        command=[text, text],
        created=text,
        environment={**environment, text: {text: text}},
        workload={**record.workload, "summary": text, "provoke": text},
        stages=stages,
    )


STRUCTURE = ("variant", "dtype", "direction", "path", "status", "check", "metric", "experiment")


def check(text: str) -> list[Token]:
    """Every table whole, nothing opened that is not closed, no markup from a record."""
    assert weight(text) < LIMIT
    tokens = PARSER.parse(text)
    lines = text.split("\n")
    tables = [token for token in tokens if token.type == "table_open"]
    for table in tables:
        assert table.map is not None
        first, last = table.map
        cells = [len(re.split(r"(?<!\\)\|", line)) for line in lines[first:last]]
        assert len(set(cells)) == 1, lines[first:last]
    fenced = {
        line
        for token in tokens
        if token.type == "fence" and token.map
        for line in range(*token.map)
    }
    rules = [i for i, line in enumerate(lines) if re.match(r"\|:?--", line) and i not in fenced]
    assert len(rules) == len(tables), "a table fell apart"
    markup = [token.content.strip() for token in tokens if token.type == "html_block"]
    assert markup[0].startswith("<!-- Suggested title: ")
    details = markup[1:]
    assert all(re.match(r"<details><summary>[^<>]+</summary>$|</details>$", d) for d in details)
    assert details[::2] == [d for d in details if d != "</details>"], "a fold within a fold"
    inline = [child for token in tokens for child in token.children or []]
    assert {child.content for child in inline if child.type == "html_inline"} <= {"<!-- -->"}
    assert not [child for child in inline if child.type == "image"]
    assert {token.info for token in tokens if token.type == "fence"} <= {
        "text",
        "python",
        "mermaid",
    }
    return tokens


def headings(tokens: Sequence[Token]) -> list[str]:
    return [tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", RECORDS)
def test_every_table_of_every_ticket_is_whole(name: str, target: str) -> None:
    text = written(record_of(name), target)
    assert headings(check(text)) == HEADINGS[target]
    assert "Left out" not in text


@pytest.mark.parametrize("name", ["epyc-2-cores-slow-conv", "writeup"])
def test_the_verdict_comes_first(name: str) -> None:
    record = record_of(name)
    first = written(record).splitlines()[2]
    assert first.startswith("**Conv3d in bf16 ")
    assert "as fast.**" in first


def test_what_a_maintainer_would_ask_has_an_answer() -> None:
    text = written(record_of("epyc-2-cores-slow-conv"))
    for wanted in (
        "git_version: 5c48869",
        "cudnn_runtime: 92400",
        "cudnn_compiled: 9.24.0",
        "nvidia-cudnn-cu13 9.24.0.43",
        "cpu: AMD EPYC",
        "not set, not found or not recorded: CUDA_LAUNCH_BLOCKING",
        "| oneDNN is switched on | no | does not hold |",
        "| Cost of one more patch | 420 us",
        "| Bias off (added after the convolution) | 318 ms",
        "not measured: cuDNN needs a CUDA device, this is cpu",
        "| Backward (gradients of weight and bias) | Conv3d 39.5 ms",
        "| Error of the weight gradient against fp64 | Conv3d 0.00165 relative",
        "| Peak memory | Conv3d 1.83 GiB",
        "Known issues that concern these versions",
        "How it was measured.",
        "Measured with `qwenprof diagnose --provoke slow-conv`",
        "Provoked on purpose: slow-conv.",
        "aten::fill",
        "```mermaid",
        "import contextlib, statistics, sys, time, torch",
    ):
        assert wanted in text, wanted


def test_published_figures_are_called_so() -> None:
    text = written(record_of("writeup"), "transformers")
    assert text.splitlines()[0].endswith(" (published figures) -->")
    assert "- [x] Own scripts: figures from a publication" in text
    assert "Environment, as published" in text
    assert "qwenprof recorded it" not in text
    assert "a forward of the prefill of the whole model" in text
    assert "| not recorded; most likely SlowDilated3d, because the gate of torch" in text


def test_a_measured_record_is_called_so() -> None:
    text = written(record_of("epyc-2-cores-slow-conv"), "transformers")
    assert "published figures" not in text
    assert "Environment, as qwenprof recorded it" in text
    assert "a forward of the vision part" in text
    assert re.search(r"Conv3d \S+ relative, largest absolute error \S+; Linear", text)


@pytest.mark.parametrize("name", RECORDS)
def test_what_was_not_seen_is_counted_apart_and_no_pointer_leads_nowhere(name: str) -> None:
    text = written(record_of(name))
    assert "not measured or not assessed:" not in text
    counted = re.search(
        r"<summary>((?:disturbed|not measured|not assessed): .*)<", text, re.IGNORECASE
    )
    assert counted is not None
    apart = re.findall(r"(?:disturbed|not measured|not assessed): (\d+)", counted[1], re.IGNORECASE)
    after = text[counted.end() :].split("</details>")[0]
    assert sum(map(int, apart)) == sum(line.startswith("- ") for line in after.splitlines())
    assert "Appendix A" not in text
    assert "in the section of" not in text


def test_shares_end_at_a_hundred() -> None:
    for name in RECORDS:
        ends = re.findall(r'y-axis "% of the forward" 0 --> (\S+)', written(record_of(name)))
        assert all(float(end) <= 100 for end in ends)


def test_a_script_of_an_earlier_ticket_does_not_stay(empty_record: Record, tmp_path: Path) -> None:
    """Nor is one of somebody else's removed."""
    record = record_of("epyc-2-cores-slow-conv")
    write_ticket(telling(record, diagnose(record)), tmp_path, "pytorch", [])
    script = tmp_path / "repro.py"
    assert script.is_file()
    write_ticket(telling(empty_record), tmp_path, "pytorch", [])
    assert not script.exists()
    script.write_text("import mine\n")
    write_ticket(telling(empty_record), tmp_path, "pytorch", [])
    assert script.read_text() == "import mine\n"


def test_what_was_not_measured_says_so() -> None:
    table = dict(answers(telling(writeup(), diagnose(writeup()))).rows)
    assert table["Peak memory"] == "not measured"
    assert table["Other dtypes"] == "fp16: not measured; fp32: not measured"
    backend = str(table["Backend that the dispatcher picks"])
    assert backend.startswith("not recorded; most likely SlowDilated3d, because the gate of torch")
    assert str(table["The whole forward with the fix"]).startswith("batch 1: 16.5 s before")


def test_a_layer_that_is_clear_is_not_accused() -> None:
    """The slow path was switched on by hand: PyTorch did as it was told."""
    text = written(record_of("epyc-2-cores-slow-conv"), "pytorch")
    assert "**PyTorch: clear.** It does what the settings say" in text


def test_vllm_is_told_what_was_not_measured() -> None:
    text = written(record_of("writeup"), "vllm")
    assert text.startswith("<!-- Suggested title: [Bug]: ")
    assert "outside vLLM" in text


def test_an_empty_record_still_makes_a_ticket(empty_record: Record) -> None:
    text = written(empty_record)
    check(text)
    assert "not measured" in text


@pytest.mark.parametrize("text", [HOSTILE, LARGE, "</details>\n\n| a |", "```\n~~~\n", "-->"])
@pytest.mark.parametrize("name", ["epyc-2-cores-slow-conv", "simulated_gpu", "writeup"])
def test_no_text_of_a_record_breaks_the_ticket(name: str, text: str) -> None:
    for skipped in ((), STRUCTURE):
        whole = written(poisoned(record_of(name), text, skipped), "transformers")
        assert headings(check(whole)) == HEADINGS["transformers"]
        assert "\u202e" not in whole
        assert "alice" not in whole


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.text(max_size=300) | st.text(alphabet="|`<>!-\\\n~*_[]()#@&;$ a", max_size=300),
    st.integers(0, 2),
    st.sampled_from(sorted(TARGETS)),
)
def test_it_always_fits(text: str, size: int, target: str) -> None:
    """Tables of thousands of rows, each cell of them anything."""
    record = poisoned(record_of("epyc-2-cores-slow-conv"), text * 10**size, STRUCTURE)
    check(written(grown(record, 30 * 5**size), target))


def grown(record: Record, times: int) -> Record:
    """The record with the tables that a hostile or a very long run could make large."""
    stages = dict(record.stages)
    for stage, table in (
        ("verify", "checks"),
        ("dispatch", "convolutions"),
        ("dispatch", "launches"),
        ("attention-sweep", "backends"),
        ("matmul", "gemm"),
    ):
        result: StageResult = stages[stage]
        rows = result.tables[table][:1] * times + result.tables[table]
        stages[stage] = msgspec.structs.replace(result, tables={**result.tables, table: rows})
    facts = {f"fact {i}": "🐛" * 300 for i in range(times)}
    return msgspec.structs.replace(
        record, stages=stages, environment={**record.environment, "more": facts}
    )


def test_what_is_left_out_is_said_and_the_least_important_goes_first() -> None:
    record = record_of("epyc-2-cores-slow-conv")
    whole, previous = written(record), 0
    for limit in range(weight(whole), 8_000, -4_000):
        text = written(record, limit=limit)
        assert weight(text) < limit
        check(text)
        said = re.search(r"\*\*Left out\.\*\* To stay under the 65,536 characters[^:]*: (.*)", text)
        assert said is not None
        names = len(re.split(r", | and ", said[1].split(". ")[0]))
        assert names >= previous
        previous = names
    assert "the section attention-sweep" in said[1]
    assert previous <= len(LEAST_IMPORTANT_FIRST)


def test_characters_are_counted_as_github_may_count_them() -> None:
    assert weight("a\nb") == 4
    assert weight("🐛") == 2


def test_the_files_of_a_ticket(tmp_path: Path) -> None:
    record = record_of("epyc-2-cores-slow-conv")
    report = tmp_path / "in" / "report.md"
    report.parent.mkdir()
    report.write_text("# report")
    picture = report.with_name("excess.png")
    picture.write_bytes(b"\x89PNG")
    told = telling(record, diagnose(record))

    paths = write_ticket(told, tmp_path, "pytorch", [report, picture])

    assert [path.name for path in paths] == ["repro.py", "attachments.zip", "ticket.md"]
    with zipfile.ZipFile(tmp_path / "attachments.zip") as packed:
        names = packed.namelist()
        assert names == ["excess.png", "record.json", "report.md", "repro.py"]
        assert msgspec.json.decode(packed.read("record.json"), type=Record) == record
        assert packed.read("repro.py") == (tmp_path / "repro.py").read_bytes()
    text = (tmp_path / "ticket.md").read_text(encoding="utf-8")
    assert "`excess.png`, `record.json`, `report.md`, `repro.py`" in text
    before = (tmp_path / "attachments.zip").read_bytes()
    write_ticket(told, tmp_path, "pytorch", [picture, report])
    assert (tmp_path / "attachments.zip").read_bytes() == before


def test_an_unknown_project_names_those_that_are_known(
    empty_record: Record, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"--for tensorflow: .*transformers, pytorch, vllm"):
        write_ticket(telling(empty_record), tmp_path, "tensorflow", [])
    assert not list(tmp_path.iterdir())


def test_without_a_script_the_ticket_says_why(
    simulated_gpu: Record, findings: list[Finding], tmp_path: Path
) -> None:
    paths = write_ticket(telling(simulated_gpu, findings), tmp_path, "transformers", [])
    assert [path.name for path in paths] == ["attachments.zip", "ticket.md"]
    assert "does not hold the shapes" in paths[-1].read_text(encoding="utf-8")


def test_too_large_an_archive_drops_page_then_pictures(
    empty_record: Record, tmp_path: Path, noise: Callable[[str, int], Path]
) -> None:
    files = [noise("report.html", 4000), noise("a.png", 3000), noise("report.md", 2000)]
    script = ("repro.py", "pass\n")

    def packed(limit: int) -> archive.Packed:
        return archive.pack(empty_record, files, script, limit)

    assert packed(50_000).dropped == ()
    assert packed(9_000).dropped == ("report.html",)
    assert packed(5_000).dropped == ("a.png", "report.html")
    assert packed(1_000).names == ("repro.py",)
    assert len(packed(5_000).content) <= 5_000
    assert str(tmp_path).encode() not in packed(50_000).content


@pytest.fixture
def noise(tmp_path: Path) -> Callable[[str, int], Path]:
    """A file that does not shrink."""

    def make(name: str, size: int) -> Path:
        import random

        path = tmp_path / name
        path.write_bytes(random.Random(0).randbytes(size))
        return path

    return make


def test_what_was_too_large_is_said() -> None:
    record = record_of("writeup")
    packed = archive.Packed(content=b"", names=("record.json",), dropped=("report.html",))
    findings = diagnose(record)
    text = ticket(telling(record, findings), "pytorch", reproduction(record, findings), packed)
    assert "Too large to go with them: report.html." in text


def test_a_ticket_needs_no_torch(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from qwenprof.diagnosis.finding import diagnose
from qwenprof.record.published import writeup
from qwenprof.report.telling import telling
from qwenprof.report.ticket import write_ticket
write_ticket(telling(writeup(), diagnose(writeup())), Path({str(tmp_path)!r}), "pytorch", [])
assert not {{"torch", "transformers", "matplotlib"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_archive_is_a_zip_that_opens(empty_record: Record) -> None:
    packed = archive.pack(empty_record, [])
    with zipfile.ZipFile(io.BytesIO(packed.content)) as opened:
        assert opened.testzip() is None
        entry: Any = opened.getinfo("record.json")
        assert entry.date_time == archive.EARLIEST
