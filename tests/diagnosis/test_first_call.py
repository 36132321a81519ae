"""A first call that is many times as long as the others."""

from __future__ import annotations

import pytest

from qwenprof.diagnosis.finding import Finding
from qwenprof.record.record import Record, Row
from tests.diagnosis.handmade import disturbed, judged, record


def batch(size: int, first_s: float | None, median_s: float | None, n: int = 20) -> Row:
    return {"batch": size, "first_call_s": first_s, "median_s": median_s, "n": n}


def module(path: str, first_s: float, time_s: float) -> Row:
    return {"path": path, "first_call_s": first_s, "inclusive_s": time_s}


def judge(*batches: Row, modules: tuple[Row, ...] = ()) -> Finding:
    given: Record = record(batch_sweep__batches=list(batches), per_layer__modules=list(modules))
    return judged("first-call", given)


def test_a_first_call_that_tunes_itself_is_told_apart_from_the_steady_state() -> None:
    finding = judge(batch(1, 4.0, 0.01), batch(4, 4.5, 0.04))

    assert (finding.verdict, finding.severity, finding.culprit) == ("problem", "warning", None)
    assert "4.50 s" in finding.title
    assert "batch 1 4.00 s, then 10.0 ms (n = 20)" in finding.evidence[0]
    assert "anew" in finding.evidence[1]
    assert "not affected" in finding.advice


def test_a_first_call_in_a_disturbed_sweep_accuses_nobody() -> None:
    given = record(batch_sweep__batches=[batch(1, 4.0, 0.01), batch(4, 4.5, 0.04)])

    finding = judged("first-call", disturbed(given, "batch-sweep"))

    assert finding.verdict == "not assessed"
    assert "batch 4 4.50 s, then 40.0 ms (n = 20). But the run was disturbed" in finding.evidence[0]
    assert judged("first-call", given).verdict == "problem"


def test_a_library_that_is_loaded_once_is_paid_for_by_one_batch_size() -> None:
    assert "1 of 2" in judge(batch(1, 4.0, 0.01), batch(4, 0.05, 0.04)).evidence[1]


def test_the_part_that_has_most_of_it_is_named() -> None:
    modules = (
        module("", 3.01, 0.01),
        module("patch_embed", 2.9, 0.002),
        module("patch_embed.proj", 2.9, 0.002),
        module("blocks.0", 0.1, 0.001),
    )
    finding = judge(modules=modules)

    assert (finding.verdict, finding.culprit) == ("problem", "patch_embed.proj")
    assert "96.6 %" in finding.evidence[-1]


@pytest.mark.parametrize(
    ("first_s", "steady_s"),
    [(0.9, 0.01), (12.0, 4.0), (0.05, 0.04), (0.03, 0.04)],
    ids=["below a second", "not many times", "ordinary", "noise"],
)
def test_ordinary_lazy_loading_is_clear(first_s: float, steady_s: float) -> None:
    assert judge(batch(1, first_s, steady_s)).verdict == "clear"


def test_an_operation_that_was_called_once_tells_nothing() -> None:
    assert judge(batch(1, 16.5, 16.5, n=1)).verdict == "not assessed"
    assert judge(batch(1, None, None)).verdict == "not assessed"
    assert judge().verdict == "not assessed"
