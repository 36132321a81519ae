"""The appendices: the whole dump, every batch before and after, and the environment as text."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from qwenprof.record.published import writeup
from qwenprof.record.record import Record, Row
from qwenprof.report import markdown
from qwenprof.report.section import Block, Code, Table, sections
from qwenprof.report.sections import appendix_environment, appendix_modules
from qwenprof.report.telling import telling
from tests.kept import kept

SLOW = kept("epyc-2-cores-slow-conv")
APPENDICES = ("appendix-modules", "appendix-batches", "appendix-environment")


def blocks_of(record: Record, section: str) -> list[Block]:
    return sections()[section].compose(telling(record, []))


def told(record: Record, section: str) -> str:
    return "\n\n".join(markdown.render_block(block) for block in blocks_of(record, section))


def test_they_are_the_last_sections() -> None:
    assert tuple(sections())[-3:] == APPENDICES


@pytest.mark.parametrize("section", APPENDICES)
def test_they_say_that_there_is_nothing(empty_record: Record, section: str) -> None:
    text = told(empty_record, section)

    assert text.startswith(("**Not measured.** The record holds no stage", "The record holds"))


def test_every_timed_module_is_dumped_beside_the_other_records() -> None:
    (table,) = (block for block in blocks_of(SLOW, "appendix-modules") if isinstance(block, Table))

    assert len(table.rows) == len(SLOW.rows("per-layer", "modules"))
    assert table.folded == "All 53 timed modules and functions"
    text = told(SLOW, "appendix-modules")
    assert "| `blocks.23` | Qwen3VLVisionBlock | 1 | 51.7 ms | 51.7 ms | 3.17 % | 50.8 ms |" in text
    assert "| *23.4 ms* |" in text


def test_a_dump_that_is_too_long_says_what_it_leaves_out(changed: Callable[..., Record]) -> None:
    rows: list[Row] = [{"path": f"layer.{i}", "inclusive_s": 1.0} for i in range(1000)]
    record = changed(SLOW, "per-layer", tables={"modules": rows})
    blocks = blocks_of(record, "appendix-modules")

    own = next(block for block in blocks if isinstance(block, Table))
    assert len(own.rows) == appendix_modules.MOST_ROWS
    assert "The first 400 are shown; 600 more are in record.json." in told(
        record, "appendix-modules"
    )


def test_batches_are_told_before_and_after() -> None:
    text = told(writeup(), "appendix-batches")

    assert (
        "| 8 | - | 2,133 | 148 s | - | 150 s | - | 2.16 s | - | 18.8 s | 270 ms | 69.4 x |" in text
    )
    assert "| 4 | - | 2,133 | 65.3 s | - | - | - | - | - | 16.3 s | - | - |" in text
    assert "**Linear, batch 16**: not published" in text


def test_a_forward_that_was_only_computed_is_marked() -> None:
    text = told(SLOW, "appendix-batches")

    assert "No forward was timed with the fix" in text
    assert "1.32 s (computed)" in text
    assert "*150 s*" not in text, "what the published case alone has is told to who asks"


def test_a_batch_that_was_not_timed_keeps_its_reason(with_rows: Callable[..., Record]) -> None:
    def refused(row: Row) -> Row:
        gone = {"median_s": None, "status": "skipped", "reason": "too long"}
        return row | gone if row["batch"] == 4 else row

    text = told(with_rows(SLOW, "batch-sweep", "batches", refused), "appendix-batches")

    assert "**sweep, batch 4**: too long" in text
    assert "not measured (skipped)" in text


def test_the_raw_environment_holds_every_section_and_key() -> None:
    text = appendix_environment.raw_environment(SLOW)

    for facts in SLOW.environment.values():
        assert all(f"\n{key} " in text for key in facts)
    assert all(f"\n{key} " in text for key in SLOW.workload)
    assert "\nhip                      : not known\n" in text
    assert "\nflash-attn   : not installed\n" in text
    assert "\nOMP_NUM_THREADS                  : not set\n" in text
    assert "\nbatch-sweep         : ok, 39.8 s\n" in text


def test_what_is_not_known_is_told_in_the_appendix_alone() -> None:
    assert "OMP_NUM_THREADS" in told(SLOW, "appendix-environment")
    assert "OMP_NUM_THREADS" not in told(SLOW, "environment")


def test_the_published_environment_is_labelled() -> None:
    assert told(writeup(), "appendix-environment").startswith("As published, as text")
    own, theirs = (b for b in blocks_of(SLOW, "appendix-environment") if isinstance(b, Code))
    assert "AMD EPYC" in own.text
    assert "RTX 5090" in theirs.text
    assert "Stages" not in theirs.text


def test_nothing_private_and_nothing_that_breaks_the_page(hostile: str) -> None:
    facts = {"hostname": "secret-box", "user": "alice", "name": hostile, hostile: "x"}
    record = msgspec.structs.replace(
        SLOW,
        environment={"device": facts, hostile: {"a": hostile}},
        command=["--out", "/home/eve/x"],
    )
    text = told(record, "appendix-environment")

    assert "secret-box" not in text
    assert "alice" not in text
    assert "eve" not in text
    assert "\u202e" not in text
    assert "\x1b" not in text


def test_hostile_paths_and_types_stay_in_their_cells(
    hostile: str, with_rows: Callable[..., Record]
) -> None:
    record = with_rows(
        SLOW, "per-layer", "modules", lambda row: row | {"path": hostile, "module_type": hostile}
    )
    text = told(record, "appendix-modules")

    widths = {line.replace(r"\|", "").count("|") for line in text.splitlines() if line[:2] == "| "}
    assert len(widths) == 1
