"""A forward taken apart: few parts, none missing, whatever the model is."""

from __future__ import annotations

import pytest

from qwenprof.diagnosis.components import anatomy, first_block
from qwenprof.record.record import Row
from tests.kept import kept


def row(path: str, inclusive_s: float, exclusive_s: float, bound_s: float | None = None) -> Row:
    kind = "function: position interpolation" if path.endswith("interpolate") else "Module"
    numbers: Row = {"inclusive_s": inclusive_s, "exclusive_s": exclusive_s, "bound_s": bound_s}
    return {"path": path, "module_type": kind, "calls": 1, "flops": 1, "bytes": 1} | numbers


TOWER = [
    row("", 10.0, 0.5),
    row("fast_pos_embed_interpolate", 0.5, 0.5, 0.1),
    row("patch_embed", 5.0, 1.0, 1.0),
    row("patch_embed.proj", 4.0, 4.0, 1.0),
    row("blocks.0", 2.0, 0.5, 0.5),
    row("blocks.0.attn", 1.5, 1.5, 0.4),
    row("blocks.1", 1.0, 1.0, 0.5),
    row("blocks.2", 1.0, 1.0, 0.5),
]


def test_a_bare_tower() -> None:
    whole = anatomy(TOWER)
    assert whole is not None
    assert [part.label for part in whole.components] == [
        "position interpolation",
        "patch_embed",
        "blocks, all 3",
        "own code of the model",
    ]
    assert sum(part.time_s for part in whole.components) == pytest.approx(whole.total_s)


def test_repeated_blocks_are_one_part_with_the_first_apart() -> None:
    whole = anatomy(TOWER)
    assert whole is not None
    blocks = whole.components[2]
    assert (blocks.count, blocks.time_s, blocks.first_s) == (3, 4.0, 2.0)
    assert blocks.mean_of_others_s == pytest.approx(1.0)
    assert blocks.bound_s == pytest.approx(1.5)
    assert blocks.slowdown == pytest.approx(4.0 / 1.5)
    assert [inner["path"] for inner in first_block(TOWER, blocks)] == ["blocks.0.attn"]


def test_around_a_tower_each_sibling_is_one_part() -> None:
    whole = anatomy(kept("simulated_gpu").rows("per-layer", "modules"))
    assert whole is not None
    assert whole.tower == "model.visual"
    assert [part.label for part in whole.components] == [
        "position interpolation",
        "rotary position",
        "patch_embed",
        "blocks, all 24",
        "deepstack_merger_list, all 3",
        "merger",
        "own code of the tower",
        "language_model.embed_tokens",
        "language_model",
        "lm_head",
        "own code around the tower",
    ]
    total_s = sum(part.time_s for part in whole.components)
    assert total_s == pytest.approx(whole.total_s, rel=1e-4)


def test_a_foreign_module_is_taken_apart_where_it_branches() -> None:
    whole = anatomy(
        [
            row("", 4.0, 0.0),
            row("bert", 4.0, 0.5),
            row("bert.embeddings", 0.5, 0.5),
            row("bert.encoder.layer.0", 1.0, 1.0),
            row("bert.encoder.layer.1", 1.0, 1.0),
            row("bert.pooler", 1.0, 1.0),
        ]
    )
    assert whole is not None
    assert whole.tower == "bert"
    assert [part.label for part in whole.components] == [
        "embeddings",
        "encoder.layer, all 2",
        "pooler",
        "own code of the tower",
    ]


def test_a_part_is_found_by_any_path_within_it() -> None:
    whole = anatomy(TOWER)
    assert whole is not None
    part = whole.holding("patch_embed.proj")
    assert part is not None
    assert part.label == "patch_embed"
    assert whole.holding("patch_embedding") is None


def test_one_unknown_bound_leaves_the_sum_unknown() -> None:
    rows = [*TOWER[:-1], row("blocks.2", 1.0, 1.0)]
    whole = anatomy(rows)
    assert whole is not None
    assert whole.components[2].bound_s is None
    assert whole.components[2].slowdown is None


@pytest.mark.parametrize("rows", [[], TOWER[1:], [row("", 0.0, 0.0)]])
def test_without_a_timed_whole_there_are_no_shares(rows: list[Row]) -> None:
    assert anatomy(rows) is None


def test_what_is_reached_before_its_holder_was_called_from_further_out() -> None:
    whole = anatomy(
        [
            row("", 4.0, 0.5),
            row("language.embed", 0.5, 0.5),
            row("visual", 1.0, 0.0),
            row("visual.patch_embed", 1.0, 1.0),
            row("language", 2.0, 2.0),
        ]
    )
    assert whole is not None
    assert {part.label: part.time_s for part in whole.components} == {
        "patch_embed": 1.0,
        "language.embed": 0.5,
        "language": 2.0,
        "own code around the tower": 0.5,
    }
