"""One of repeated blocks that takes longer than its like."""

from __future__ import annotations

import random

import msgspec
import pytest

from qwenprof.diagnosis.finding import Finding
from qwenprof.record.record import Cell, Record, Row, Series
from tests.diagnosis.handmade import judged, record

RULE = "block-unlike-siblings"
WINDOWED, FULL = 1e9, 4e9


def block(index: int, time_s: float, flops: Cell = WINDOWED, **cells: Cell) -> Row:
    own: Row = {"path": f"blocks.{index}", "module_type": "Block", "inclusive_s": time_s}
    return own | {"min_s": time_s, "flops": flops} | cells


def alike(count: int = 8, time_s: float = 0.01, **cells: Cell) -> list[Row]:
    return [block(index, time_s, **cells) for index in range(count)]


def forward(rows: list[Row], passes: int = 10, total_s: float | None = None) -> Record:
    times_s = [float(str(row["inclusive_s"])) for row in rows]
    root: Row = {"path": "", "module_type": "Tower", "inclusive_s": total_s or sum(times_s)}
    return record(per_layer__modules=[root, *rows], per_layer__summary=[{"n": passes}])


def found(rows: list[Row], passes: int = 10, total_s: float | None = None) -> Finding:
    return judged(RULE, forward(rows, passes, total_s))


def test_the_block_that_is_unlike_the_others_is_named() -> None:
    finding = found([*alike(), block(8, 0.04)])

    assert (finding.verdict, finding.severity) == ("problem", "warning")
    assert finding.culprit == "blocks.8"
    assert finding.title == "blocks.8 takes 4.00 x as long as the other blocks"
    assert finding.factor == pytest.approx(4.0)
    assert finding.cost_share == pytest.approx(0.03 / 0.12)
    assert finding.evidence == (
        "blocks.8 takes 40.0 ms in the fastest of 10 passes, the median of the others is 10.0 ms: "
        "4.00 x.",
        "That is 30.0 ms of the forward, 25.0 %, for 1 of 9 blocks that do the same work.",
    )


def test_a_burst_in_the_only_steady_pass_accuses_no_block() -> None:
    """Its first pass was as fast as that of the others, which no fault allows."""
    rows = alike(7, first_call_s=0.0105)

    assert found([*rows, block(7, 0.04, first_call_s=0.0105)], passes=1).verdict == "clear"
    assert found([*rows, block(7, 0.04, first_call_s=0.05)], passes=1).culprit == "blocks.7"


def test_in_a_disturbed_run_only_what_runs_more_operators_is_accused() -> None:
    rows = alike(7, operators=26)
    rows += [block(7, 0.04, operators=26), block(8, 0.03, operators=378)]
    given = forward(rows, passes=1)
    unlike: Row = {"n": 1, "with_marks_s": 0.2, "plain_s": 0.1}
    tables = {"modules": given.rows("per-layer", "modules"), "summary": [unlike]}
    disturbed = record(per_layer__modules=tables["modules"], per_layer__summary=tables["summary"])

    assert judged(RULE, given).culprit == "blocks.7"
    finding = judged(RULE, disturbed)
    assert finding.culprit == "blocks.8"
    assert "blocks.7" not in " ".join((finding.title, *finding.evidence))


def test_a_list_of_blocks_without_a_row_of_its_own_does_not_hide_them() -> None:
    """As in most encoders: `encoder` is called, `encoder.layers` is not."""
    layers = [row | {"path": f"encoder.layers.{i}"} for i, row in enumerate(alike(5, 0.1))]
    layers[2] |= {"inclusive_s": 0.5, "min_s": 0.5}

    assert found(layers).culprit == "encoder.layers.2"


def test_several_blocks_are_named_together() -> None:
    finding = found([*alike(), block(8, 0.02), block(9, 0.03)])

    assert finding.title == "blocks.9 and blocks.8 take up to 3.00 x as long as the other blocks"
    assert finding.culprit == "blocks.9"
    assert "for 2 of 10 blocks" in finding.evidence[-1]


def test_a_block_that_costs_little_of_the_forward_is_a_warning_or_nothing() -> None:
    rows = [*alike(), block(8, 0.02)]

    assert found(rows, total_s=0.2).severity == "warning"
    assert found(rows, total_s=2.0).verdict == "clear"


def test_blocks_that_take_the_same_are_cleared() -> None:
    finding = found(alike())

    assert (finding.verdict, finding.culprit) == ("clear", None)
    assert "The slowest of 8 blocks beside its like" in finding.evidence[0]


def test_fewer_than_four_blocks_of_a_kind_are_not_assessed() -> None:
    other_types = [block(i, 0.01, module_type=f"Block{i}") for i in range(8)]

    assert judged(RULE, record()).verdict == "not assessed"
    for rows in (alike(3), other_types, [row | {"inclusive_s": None} for row in alike()]):
        given = forward([row for row in rows if row["inclusive_s"] is not None], total_s=1.0)
        assert judged(RULE, given).verdict == "not assessed"


def test_blocks_without_a_timed_root_are_not_assessed() -> None:
    assert judged(RULE, record(per_layer__modules=alike())).verdict == "not assessed"


def kinds(sick: int | None = None) -> list[Row]:
    """As in Qwen2.5-VL: every fourth block has full attention, and four times the work."""
    rows = [block(i, 0.04, FULL) if i % 4 == 3 else block(i, 0.01, WINDOWED) for i in range(32)]
    if sick is not None:
        rows[sick] |= {"min_s": 0.08, "inclusive_s": 0.08}
    return rows


def test_blocks_of_two_kinds_are_told_apart_by_their_work() -> None:
    assert found(kinds()).verdict == "clear"
    assert found(kinds(sick=7)).culprit == "blocks.7"
    assert found(kinds(sick=8)).culprit == "blocks.8"


def test_a_few_blocks_of_another_kind_are_compared_with_nobody() -> None:
    rows = [*alike(), *(block(index, 0.04, FULL) for index in (8, 9))]

    finding = found(rows)

    assert finding.verdict == "clear"
    assert "8 blocks" in finding.evidence[0]


def test_blocks_whose_work_is_not_known_are_one_kind() -> None:
    assert found([*alike(flops=None), block(8, 0.04, None)]).culprit == "blocks.8"


@pytest.mark.parametrize("passes", [1, 2, 10])
@pytest.mark.parametrize("seed", range(20))
def test_noise_of_a_fifth_accuses_nobody(seed: int, passes: int) -> None:
    chance = random.Random(seed)
    rows = [block(index, 0.01 * chance.uniform(1.0, 1.2)) for index in range(24)]

    assert found(rows, passes).verdict == "clear"


def test_a_block_within_the_spread_of_the_others_is_not_unlike_them() -> None:
    rows = [block(index, 0.01 * (1 + index / 10)) for index in range(8)]

    assert found([*rows, block(8, 0.022)]).verdict == "clear"


@pytest.mark.parametrize(
    ("passes", "factor", "verdict"),
    [
        (1, 3.9, "clear"),
        (1, 4.1, "problem"),
        (2, 1.9, "clear"),
        (4, 1.9, "clear"),
        (5, 1.3, "problem"),
        (5, 1.2, "clear"),
    ],
)
def test_the_fewer_passes_the_more_time_it_takes_to_accuse(
    passes: int, factor: float, verdict: str
) -> None:
    assert found([*alike(), block(8, 0.01 * factor)], passes).verdict == verdict


def test_a_first_call_that_was_the_only_one_is_one_pass() -> None:
    rows = [row | {"first_call_s": row["inclusive_s"]} for row in (*alike(), block(8, 0.025))]
    summary: list[Row] = [{"n": 1, "passes": 1}]
    root: Row = {"path": "", "inclusive_s": 0.105}

    finding = judged(RULE, record(per_layer__modules=[root, *rows], per_layer__summary=summary))

    assert finding.verdict == "clear"
    assert "passes" not in finding.evidence[0]


def test_without_a_fastest_pass_there_was_one() -> None:
    rows = [row | {"min_s": None} for row in (*alike(), block(8, 0.015))]

    assert found(rows).verdict == "clear"
    rows[-1] |= {"inclusive_s": 0.045}
    assert "passes" not in found(rows).evidence[0]
    assert found(rows).verdict == "problem"


def test_the_fastest_pass_decides_and_not_the_mean() -> None:
    slowed_once = block(8, 0.05) | {"min_s": 0.0101}

    assert found([*alike(), slowed_once]).verdict == "clear"


def test_operators_that_the_others_do_not_run_are_told() -> None:
    looping = found([*alike(operators=40), block(8, 0.04, operators=440)])
    same = found([*alike(operators=40), block(8, 0.04, operators=41)])

    assert "and runs 440 operators where they run 40" in looping.evidence[0]
    assert "operators" not in same.evidence[0]


@pytest.mark.parametrize(("passes", "verdict"), [(1, "not assessed"), (10, "problem")])
def test_a_disturbed_run_of_few_passes_is_inconclusive(passes: int, verdict: str) -> None:
    given = forward([*alike(), block(8, 0.04)], passes)
    tables = given.stages["per-layer"].tables | {"conditions": [{"cores_busy_elsewhere": 1.5}]}
    samples = Series(unit="s", values=[1.0], stop_reason="budget")
    result = msgspec.structs.replace(
        given.stages["per-layer"], tables=tables, series={"forward": samples}
    )
    disturbed = msgspec.structs.replace(
        given, environment={"device": {"type": "cpu"}}, stages={"per-layer": result}
    )

    finding = judged(RULE, disturbed)

    assert finding.verdict == verdict
    if verdict == "not assessed":
        assert "cores busy with other processes: 1.5" in finding.evidence[0]
