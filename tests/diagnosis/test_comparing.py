"""Two records held together: refused where they may not be, gated, and never failing."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import pytest

from qwenprof.diagnosis.change import WITHIN_NOISE
from qwenprof.diagnosis.comparing import by_size, compare
from qwenprof.diagnosis.comparison_gate import failure
from qwenprof.diagnosis.run_differences import NAMES
from qwenprof.diagnosis.shares import share
from qwenprof.errors import UsageError
from qwenprof.record.published import writeup
from qwenprof.record.record import Record, Row, StageResult, load
from tests.diagnosis.runs import CPU, GPU, SERIES, changed_fact, only, record
from tests.kept import kept

REPORTS = Path(__file__).parents[2] / "reports"

# -- refusing --------------------------------------------------------------------------------

OTHER: dict[str, Record] = {
    "device": record(environment=changed_fact("device", "name", "Other GPU")),
    "driver": record(environment=changed_fact("device", "driver", "580.2")),
    "torch": record(environment=changed_fact("torch", "version", "2.11.0")),
    "cudnn": record(environment=changed_fact("torch", "cudnn_runtime", 91501)),
    "transformers": record(environment=changed_fact("packages", "transformers", "5.1.0")),
    "settings": record(environment=changed_fact("torch", "cudnn_benchmark", True)),
    "dtype": record(dtype="fp16"),
    "frames": record(frames=4, patches=3040),
    "attention": record(attention="eager"),
    "provoke": record(provoke="slow-conv"),
}


@pytest.mark.parametrize("name", OTHER)
def test_a_difference_forbids_judging_unless_it_is_the_point(name: str) -> None:
    refused = compare(record(), OTHER[name])
    allowed = compare(record(), OTHER[name], across={name})

    assert only(refused).judgement == "NOT COMPARED"
    assert only(refused).ratio == 1.0
    assert len(refused.refused) == 1
    assert refused.refused[0].endswith(f"--across {name}")
    assert f"--across {name}" in failure(refused, "slower")
    assert only(allowed).judgement == "SAME"
    assert not allowed.refused
    assert [each.name for each in allowed.differences if not each.follows] == [name]


def test_a_refusal_names_both_values() -> None:
    (told,) = compare(record(), OTHER["cudnn"]).refused
    assert told == "cuDNN: 9.10.2 against 9.15.1; if that is the point: --across cudnn"


def test_seed_python_and_an_unset_variable_are_no_differences() -> None:
    other = {**GPU, "host": {"python": "3.14.0"}}
    found = compare(record(seed=0), record(seed=1, environment=other))
    assert not found.differences
    assert "different seeds" in found.notes[0]


def test_cudnn_is_nothing_to_a_cpu() -> None:
    pair = [
        record(environment={**CPU, "torch": {"cudnn_runtime": version}})
        for version in (91002, 92400)
    ]
    assert not compare(*pair).differences


def test_an_unknown_difference_is_told_with_those_that_are_known() -> None:
    with pytest.raises(UsageError, match="--across pytorch: choose from device, host") as caught:
        compare(record(), record(), across=["torch", "pytorch"])
    assert all(name in str(caught.value) for name in NAMES)


def test_a_text_of_names_is_split_and_unused_names_are_told() -> None:
    found = compare(record(), OTHER["torch"], across="torch, driver")
    assert found.across == ("torch", "driver")
    assert "--across driver: the runs do not differ in that" in found.notes


def test_published_figures_are_told_beside_a_run_and_never_judged() -> None:
    run = kept("epyc-2-cores-bf16")
    refused, allowed = compare(writeup(), run), compare(writeup(), run, across=NAMES)

    assert refused.base.published
    assert refused.refused
    rows = {row.name: row for row in allowed.rows}
    batch = rows["batch-sweep: batch=1"]
    assert (batch.judgement, batch.why) == (
        "INCONCLUSIVE",
        "published: a median without raw samples",
    )
    assert batch.base is not None
    assert (batch.base.n, batch.base.median) == (None, pytest.approx(16.545, rel=0.01))
    assert set(allowed.counts) - {"INCONCLUSIVE", "NOT COMPARED"} == {
        name for name, count in allowed.counts.items() if not count
    }
    assert failure(allowed, "slower")


# -- what only one of them has, and the gates ------------------------------------------------


def test_what_is_missing_is_told_with_the_reason() -> None:
    rows: list[Row] = [{"batch": 8, "status": "out_of_memory", "reason": "tried to allocate"}]
    base = record({"batch=1": [1.0] * 30, "batch=8": [8.0] * 30}, stage="batch-sweep")
    new = record({"batch=1": [1.0] * 30}, stage="batch-sweep", tables={"batches": rows})

    found = compare(base, new)

    missing = found.rows[1]
    assert (missing.judgement, missing.new) == ("NOT COMPARED", None)
    assert missing.why == "not in NEW: out of memory: tried to allocate"
    assert found.lost == ("batch-sweep: batch=8: not in NEW: out of memory: tried to allocate",)
    assert (bool(failure(found, "slower")), bool(failure(found, "different"))) == (False, True)
    assert not failure(compare(new, base), "different")


def test_a_stage_that_did_not_run_or_failed_is_lost_once() -> None:
    base = record().with_stage("verify", StageResult(status="ok", duration_s=1.0))
    broken = StageResult(status="failed", reason="it broke", duration_s=1.0)
    missing = compare(base, record())
    found = compare(base, record().with_stage("verify", broken))
    assert missing.lost == ("the stage verify: it did not run",)
    assert found.lost == ("the stage verify: failed: it broke",)


def test_a_check_that_does_not_pass_any_more_is_lost() -> None:
    def verified(passed: bool) -> Record:
        row: Row = {"check": "output", "dtype": "bf16", "metric": "cosine", "passed": passed}
        result = StageResult(status="ok", duration_s=1.0, tables={"checks": [row]})
        return record().with_stage("verify", result)

    assert len(compare(verified(True), verified(False)).lost) == 1
    assert not compare(verified(False), verified(False)).lost


def test_other_units_are_not_compared() -> None:
    found = only(compare(record(), record(SERIES, unit="bytes")))
    assert (found.judgement, found.why) == (
        "NOT COMPARED",
        "other unit: s in BASE, bytes in NEW",
    )


@pytest.mark.parametrize(
    ("factor", "slower", "different"), [(1.0, False, False), (1.5, True, True), (0.5, False, True)]
)
def test_gates(factor: float, slower: bool, different: bool) -> None:
    found = compare(record(), record({"a": [factor] * 30}))
    assert (bool(failure(found, "slower")), bool(failure(found, "different"))) == (
        slower,
        different,
    )


def test_a_gate_does_not_pass_what_could_not_be_judged() -> None:
    found = compare(record({"a": [1.0]}), record({"a": [1.0]}))
    assert "nothing could be judged" in failure(found, "slower")
    with pytest.raises(UsageError, match="choose from slower, different"):
        failure(found, "faster")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "value"), [("3%", 0.03), (" 3 % ", 0.03), ("0.03", 0.03), ("0", 0)]
)
def test_a_share_from_text(text: str, value: float) -> None:
    assert share(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "x", "-3%", "nan", "inf", "3 percent"])
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(UsageError, match="--min-change"):
        share(text)


def test_a_least_change_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="--min-change -1"):
        compare(record(), record(), min_change=-1)


def test_a_host_whose_runs_differ_within_their_noise_passes_and_is_not_called_the_same() -> None:
    base, new = (record({"a": [value] * 30}, environment=CPU) for value in (1.0, 1.3))
    found = compare(base, new)
    assert found.counts["INCONCLUSIVE"] == 1
    assert "Nothing changed beyond noise" in found.summary
    assert not failure(found, "slower")


# -- the machine itself ----------------------------------------------------------------------


def on_host(copy_s: float, forward_s: float, **options: Any) -> Record:
    """A run on a CPU: how long a memory copy and a forward take."""
    forward = record({"forward, plain": [forward_s] * 30}, environment=CPU, **options)
    copies = record({"memory_copy": [copy_s] * 30}, stage="matmul").stages["matmul"]
    return forward.with_stage("matmul", copies)


def test_nothing_is_judged_beyond_what_the_machine_itself_changed_by() -> None:
    found = compare(on_host(1.0, 1.0), on_host(3.0, 2.5))
    assert {row.judgement for row in found.rows} == {"INCONCLUSIVE"}
    assert {row.noise_from for row in found.rows} == {"the machine itself changed"}
    assert found.notes[0].startswith("the machine itself changed: matmul: memory_copy")
    assert "3.00 x" in found.notes[0]
    assert not failure(found, "slower")
    assert compare(on_host(1.0, 1.0), on_host(3.0, 3.5)).counts["SLOWER"] == 1


def test_a_machine_that_did_not_change_hides_nothing() -> None:
    found = compare(on_host(1.0, 1.0), on_host(1.1, 2.5))
    assert [row.series for row in found.rows if row.judgement == "SLOWER"] == ["forward, plain"]
    assert not any(note.startswith("the machine itself") for note in found.notes)


def test_a_point_that_changes_the_host_or_its_libraries_is_judged() -> None:
    """GIVEN another torch, THEN slower matrix products are its doing, not the machine's."""
    others = [
        msgspec.structs.replace(each, environment=CPU | {"torch": {"version": version}})
        for each, version in ((on_host(1.0, 1.0), "2.10.0"), (on_host(3.0, 1.0), "2.11.0"))
    ]
    found = compare(*others, across=("torch",))
    assert [row.series for row in found.rows if row.judgement == "SLOWER"] == ["memory_copy"]


# -- real records ----------------------------------------------------------------------------


def perturbed(given: Record, factors: dict[str, float], sigma: float = 0.01) -> Record:
    """A run like the given one: its samples with noise, those of some stages times a factor."""
    chance = random.Random(3)
    stages = {}
    for stage, result in given.stages.items():
        series = {
            name: msgspec.structs.replace(
                each,
                values=[
                    value * factors.get(stage, 1.0) * chance.lognormvariate(0, sigma)
                    for value in each.values
                ],
            )
            for name, each in result.series.items()
        }
        stages[stage] = msgspec.structs.replace(result, series=series)
    return msgspec.structs.replace(given, stages=stages)


def test_a_real_run_and_itself_with_noise_and_with_one_slower_stage() -> None:
    base = kept("epyc-2-cores-bf16")
    same = compare(base, perturbed(base, {}), run_to_run=0.05)
    slow = compare(base, perturbed(base, {"compare-patch-embed": 1.8}), run_to_run=0.05)

    assert same.counts["FASTER"] == same.counts["SLOWER"] == 0
    assert same.counts["SAME"] > 20
    assert {row.stage for row in slow.rows if row.judgement == "SLOWER"} == {"compare-patch-embed"}
    assert slow.counts["SLOWER"] > 20
    assert " is SLOWER: it takes 1." in slow.summary
    assert [row.judgement for row in by_size(slow.rows)][:3] == ["SLOWER"] * 3


def test_the_provoked_slow_path_is_refused_and_seen_where_it_is_the_point() -> None:
    base, new = (kept(name) for name in ("epyc-2-cores-bf16", "epyc-2-cores-slow-conv"))
    refused, found = compare(base, new), compare(base, new, across=("provoke",))

    assert refused.refused == (
        "provoked fault: nothing against slow-conv; if that is the point: --across provoke",
    )
    slower = {row.series for row in found.rows if row.judgement == "SLOWER"}
    assert {"Conv3d/bf16/64", "Conv3d/bf16/256", "Conv3d/bf16/760"} <= slower
    assert not any(name.startswith(("Linear", "gemm")) for name in slower)


def test_two_real_runs_of_the_same_thing_pass_both_ways() -> None:
    """GIVEN one command, twice on one shared machine, hours apart."""
    name = "epyc-2-cores-bf16"
    runs = kept(name), load(REPORTS / name / "record.json")
    for pair in (runs, runs[::-1]):
        found = compare(*pair)
        if found.refused:
            pytest.skip(f"the report is of something else by now: {found.refused[0]}")
        assert found.counts["SLOWER"] == found.counts["FASTER"] == 0
        assert not failure(found, "slower")


def test_what_a_real_fault_cannot_touch_is_not_accused_and_its_cost_is_not_denied() -> None:
    """GIVEN reports in which Conv3d alone was slowed."""
    base, new = (
        load(REPORTS / name / "record.json")
        for name in ("epyc-2-cores-bf16", "epyc-2-cores-slow-conv")
    )
    found = compare(base, new, across=("provoke",))
    if found.refused:
        pytest.skip(f"the reports differ in more by now: {found.refused[0]}")

    slower = {row.series for row in found.rows if row.judgement == "SLOWER"}
    assert {"Conv3d/bf16/64", "Conv3d/bf16/256"} <= slower
    assert all(name.startswith(("Conv3d", "bias apart", "channels_last_3d")) for name in slower)
    assert not found.counts["FASTER"]
    assert failure(found, "slower")
    whole = next(row for row in found.rows if row.series == "whole forward/Conv3d/batch=1")
    assert whole.judgement in ("SLOWER", "INCONCLUSIVE")
    assert whole.why in ("", WITHIN_NOISE)


STRANGE = (None, True, 0, -1, 10**30, 1e308, -1e308, 5e-324, 0.5, "", "ok", "\x1b[31m|\u202e")


@pytest.mark.parametrize("seed", range(8))
def test_no_valid_record_makes_a_comparison_fail(seed: int) -> None:
    chance = random.Random(seed)
    real = kept("epyc-2-cores-bf16")
    raw = msgspec.json.decode(msgspec.json.encode(perturbed(real, {})))
    for _ in range(6):
        facts = chance.choice([raw["workload"], *raw["environment"].values()])
        facts[chance.choice(sorted(facts))] = chance.choice(STRANGE)
        stage = raw["stages"][chance.choice(sorted(raw["stages"]))]
        for rows in stage["tables"].values():
            for row in rows:
                row[chance.choice(sorted(row) or ["x"])] = chance.choice(STRANGE)
        for series in stage["series"].values():
            series["values"] = series["values"][: chance.choice([0, 1, 3, 7])]
            series["values"] += chance.choice([[], [0.0], [1e308], [5e-324], [-1.0]])
            series["unit"] = chance.choice(["s", "bytes", "", "\x1b"])
    strange = msgspec.convert(raw, Record)

    for pair in ((real, strange), (strange, real), (strange, strange)):
        for across in ((), NAMES):
            found = compare(*pair, across=across)
            assert json.dumps(asdict(found), allow_nan=False)
            assert sum(found.counts.values()) == len(found.rows)
            assert failure(found, "slower") or found.counts["SLOWER"] == 0
