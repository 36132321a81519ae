"""The code of what is timed: found, told where it lies, capped; and why there is none."""

from __future__ import annotations

import importlib
import inspect
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from qwenprof import runner
from qwenprof.harness.probe import Node
from qwenprof.record.record import Row
from qwenprof.stages._sources import MAX_CHARACTERS, MAX_LINES, source_rows, without_folders
from qwenprof.stages.per_layer import nodes
from qwenprof.workload.loading import Subject, foreign_subject, load
from qwenprof.workload.workload import Workload
from tests.conftest import TINY, tiny_size

MODEL_FILE = "transformers/models/qwen3_vl/modeling_qwen3_vl.py"


@pytest.fixture(scope="module")
def subject() -> Subject:
    options: dict[str, Any] = TINY
    with tiny_size():
        return load(Workload.default(**options))


@pytest.fixture(scope="module")
def rows(subject: Subject) -> dict[str, Row]:
    return {str(row["name"]): row for row in source_rows(nodes(subject))}


def test_each_class_and_helper_of_the_model_is_there_once(subject: Subject) -> None:
    found = source_rows(nodes(subject))
    names = [row["name"] for row in found]

    assert len(names) == len(set(names))
    assert {
        "Qwen3VLVisionModel",
        "Qwen3VLVisionPatchEmbed",
        "Qwen3VLVisionBlock",
        "Qwen3VLVisionAttention",
        "Qwen3VLVisionPatchMerger",
        "get_vision_position_ids",
    } <= set(names)
    assert not {"Conv3d", "Linear", "LayerNorm"} & set(names)


def test_a_class_stands_at_the_first_path_that_has_it(rows: dict[str, Row]) -> None:
    assert rows["Qwen3VLVisionModel"]["module"] == ""
    assert rows["Qwen3VLVisionPatchEmbed"]["module"] == "patch_embed"
    assert rows["Qwen3VLVisionAttention"]["module"] == "blocks.0.attn"


def test_the_text_is_what_the_file_holds_on_those_lines(rows: dict[str, Row]) -> None:
    row = rows["Qwen3VLVisionPatchEmbed"]
    file = Path(transformers.__file__).parents[1] / str(row["file"])
    first, last = row["first_line"], row["last_line"]
    assert isinstance(first, int)
    assert isinstance(last, int)

    lines = file.read_text().splitlines(keepends=True)[first - 1 : last]
    assert row["source"] == "".join(lines)
    assert row["file"] == MODEL_FILE
    assert lines[0].startswith("class Qwen3VLVisionPatchEmbed(")
    assert row["reason"] is None


def test_the_code_of_a_helper_is_kept(rows: dict[str, Row]) -> None:
    row = rows["get_vision_position_ids"]

    assert row["module"] == "get_vision_position_ids"
    assert "def get_vision_position_ids(" in str(row["source"])


def test_nothing_is_imported_to_read_it(subject: Subject) -> None:
    before = set(sys.modules)

    source_rows(nodes(subject))

    assert set(sys.modules) == before


class Tower(nn.Module):
    def positions(self) -> int:
        return 1


def test_a_method_that_is_a_helper_is_a_piece_of_its_own() -> None:
    tower = Tower()
    node = Node(path="positions", kind="function: p", owner=tower, attribute="positions")

    (row,) = source_rows([node, node])

    assert (row["name"], row["module"]) == ("positions", "positions")
    assert str(row["source"]).strip().startswith("def positions(self)")


def test_a_decorated_function_is_told_by_its_own_file() -> None:
    owner: Any = ModuleType("owner")
    owner.ask = torch.no_grad()(Tower.positions)

    (row,) = source_rows([Node(path="ask", kind="function", owner=owner, attribute="ask")])

    assert row["file"] == "test_sources.py"


def without_source() -> nn.Module:
    made = type("Made", (nn.Module,), {"__module__": __name__})
    module: nn.Module = made()
    return module


@pytest.mark.parametrize(
    "node",
    [
        Node(path="made", kind="Made", module=without_source()),
        Node(path="sqrt", kind="function", owner=math, attribute="sqrt"),
    ],
    ids=["a class made by hand", "compiled"],
)
def test_where_there_is_no_source_the_row_says_why(node: Node) -> None:
    (row,) = source_rows([node])

    assert (row["module"], row["source"], row["first_line"]) == (node.path, None, None)
    assert row["reason"]


@pytest.fixture
def generated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module outside of any package folder, with pieces too long for a record."""
    body = "".join(f"    x = {number}\n" for number in range(2 * MAX_LINES))
    wide = f"    return '{'x' * MAX_CHARACTERS}'\n"
    (tmp_path / "long_pieces.py").write_text(f"def many():\n{body}\n\ndef wide():\n{wide}")
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("long_pieces")
    del sys.modules["long_pieces"]


def test_what_is_too_long_is_cut_and_says_so(generated: Any) -> None:
    many, wide = source_rows(
        [Node(path=name, kind="f", owner=generated, attribute=name) for name in ("many", "wide")]
    )

    assert str(many["source"]).count("\n") == MAX_LINES
    assert many["last_line"] == 2 * MAX_LINES + 1
    assert str(many["reason"]).startswith("the last 201 of 401 lines are left out")
    assert wide["source"] == "def wide():\n"
    assert str(wide["reason"]).startswith("the last 1 of 2 lines are left out")
    assert many["file"] == "long_pieces.py"


def test_a_file_that_changed_since_is_no_error(generated: Any) -> None:
    Path(generated.__file__).write_text("broken(:\n")

    (row,) = source_rows([Node(path="many", kind="f", owner=generated, attribute="many")])

    assert row["name"] == "many"  # whatever inspect makes of it


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("/home/alice/.venv/lib/python3.11/site-packages/a/b.py", "a/b.py"),
        ("/usr/lib/python3/dist-packages/a.py", "a.py"),
        ("/site-packages/old/site-packages/a/b.py", "a/b.py"),
        ("/home/alice/secret/model.py", "model.py"),
        ("model.py", "model.py"),
    ],
)
def test_a_file_never_tells_whose_machine_it_is(file: str, told: str) -> None:
    assert without_folders(file) == told


def test_the_stage_keeps_the_sources_of_a_foreign_module() -> None:
    subject = foreign_subject(nn.Sequential(Tower(), nn.Linear(2, 2)), (), {})

    (row,) = source_rows(nodes(subject))

    assert (row["module"], row["name"]) == ("0", "Tower")
    assert row["source"] == inspect.getsource(Tower)


def test_a_run_records_them() -> None:
    with tiny_size():
        options: dict[str, Any] = TINY
        record = runner.run(Workload.default(**options), ["per-layer"], budget_s=3.0)

    assert record.stages["per-layer"].status == "ok"
    names = [row["name"] for row in record.rows("per-layer", "sources")]
    assert "Qwen3VLVisionPatchEmbed" in names
