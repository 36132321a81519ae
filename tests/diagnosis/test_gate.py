"""The conditions of PyTorch's dispatcher, release by release, and what a gap in a record leaves."""

from __future__ import annotations

import random

import msgspec
import pytest

from qwenprof.diagnosis.gate import LOW_PRECISION, cudnn_gate, decisions
from qwenprof.record.record import Cell, Facts, Record, Row
from tests.diagnosis.convolutions import GATED
from tests.diagnosis.handmade import record

CONV: Row = {"dtype": "bf16", "rank": 5, "kernel": "2x16x16", "memory_format": "contiguous"}
CPU_CONV: Row = {"dtype": "bf16", "library_dtype_supported": True}
ONEDNN: Facts = {"onednn_available": True, "onednn_enabled": True}


def on(torch: Facts, device_type: str = "cuda") -> Record:
    given = record(device_type)
    return msgspec.structs.replace(given, environment=given.environment | {"torch": torch})


def cuda(version: Cell, runtime: Cell, compiled: Cell = None) -> Record:
    return on({"version": version, "cudnn_runtime": runtime, "cudnn_compiled": compiled})


# torch, cuDNN at run time, cuDNN at compile time -> is the gate closed?
RELEASES = [
    ("2.8.0", 91002, "9.10.2", False),
    ("2.9.0", 91002, "9.10.2", True),
    ("2.9.0", 91500, "9.10.2", True),  # a newer cuDNN, installed afterwards, does not help
    ("2.9.0", 92600, "9.10.2", True),
    ("2.9.0", 90701, "9.10.2", True),  # the running one does not count, either way
    ("2.9.0", 91002, "9.7.1", False),
    ("2.9.0+cu128", 91002, None, True),  # the running cuDNN stands for the compiled one
    ("2.9.1", 91002, "9.10.2", True),
    ("2.9.1+cu130", 91300, "9.13.0", True),
    ("2.9.1", 91400, "9.10.2", True),
    ("2.9.1", 90800, "9.10.2", True),
    ("2.9.1", 90701, "9.10.2", False),
    ("2.9.1", 91500, "9.10.2", False),
    ("2.9.1", 91501, "9.10.2", False),
    ("2.10.0", 91002, "9.10.2", False),
    ("2.10.0+cu130", 91501, "9.15.1", False),
    ("2.11.0", 91900, "9.19.0", False),
    ("2.12.0", 92000, "9.20.0", False),
    ("2.7.1", 90501, "9.5.1", None),
    ("2.13.0", 92000, "9.20.0", None),
    ("2.16.0", 92700, "9.27.0", None),
    ("2.14.1", 92400, "9.24.0", None),
    ("2.15.0", 92600, "9.26.0", False),
]


@pytest.mark.parametrize(
    ("version", "text", "found"),
    [
        ("2.9.0", "cuDNN at run time may be any", "9.16.0"),
        ("2.9.1", "cuDNN at compile time may be any", "9.10.2"),
    ],
)
def test_the_cudnn_that_is_not_asked_is_told_all_the_same(
    version: str, text: str, found: str
) -> None:
    gate = cudnn_gate(cuda(version, 91600, "9.10.2"), CONV)

    assert (text, found, True) in [(each.text, each.found, each.holds) for each in gate.conditions]


@pytest.mark.parametrize(("version", "runtime", "compiled", "closed"), RELEASES)
def test_every_release(version: str, runtime: int, compiled: str | None, closed: bool) -> None:
    gate = cudnn_gate(cuda(version, runtime, compiled), CONV)

    assert gate.all_hold is closed
    assert gate.library_called is (None if closed is None else not closed)
    assert (gate.library, gate.effect) == ("cuDNN", "passed over")


def test_a_release_that_was_not_examined_says_so() -> None:
    gate = cudnn_gate(cuda("2.13.0", 92000), CONV)

    release = next(each for each in gate.conditions if "this torch" in each.text)
    assert (release.found, release.holds) == ("2.13.0, not examined", None)


@pytest.mark.parametrize(
    ("cells", "failing"),
    [
        ({"dtype": "fp32"}, "the dtype is bf16 or fp16"),
        ({"rank": 4}, "the weight has five dimensions"),
        ({"kernel": "1x1x1"}, "some kernel dimension is not 1"),
        ({"memory_format": "channels_last_3d"}, "the memory format is contiguous"),
    ],
)
def test_a_condition_that_fails_opens_the_gate(cells: Row, failing: str) -> None:
    gate = cudnn_gate(on(GATED), CONV | cells)

    assert (gate.all_hold, gate.library_called) == (False, True)
    assert [each.text for each in gate.failing] == [failing]


@pytest.mark.parametrize("dtype", LOW_PRECISION)
def test_both_low_precisions_are_passed_over(dtype: str) -> None:
    assert cudnn_gate(on(GATED), CONV | {"dtype": dtype}).library_called is False


@pytest.mark.parametrize("column", CONV)
def test_a_cell_that_is_missing_leaves_the_gate_unknown(column: str) -> None:
    gate = cudnn_gate(on(GATED), {key: cell for key, cell in CONV.items() if key != column})

    assert gate.all_hold is None
    assert gate.library_called is None
    assert any(each.found == "not recorded" for each in gate.conditions)


@pytest.mark.parametrize(
    ("version", "runtime"),
    [
        (None, 91002),
        (None, 91501),  # of 2.9.1 it would be open, of 2.9.0 closed
        (None, None),
        ("2.9.0", None),
        ("2.9.1", None),
        ("2.14.1", 92400),
        ("2.14.1", 90701),
        ("2.9.1.dev20251001", 91501),
        ("2.9.0a0", 91002),
        ("a checkout of mine", 91501),
    ],
)
def test_a_fact_that_is_missing_neither_opens_nor_closes_the_gate(
    version: str | None, runtime: int | None
) -> None:
    assert cudnn_gate(cuda(version, runtime), CONV).library_called is None


def test_one_known_condition_is_enough_to_open_it() -> None:
    assert cudnn_gate(on({}), CONV | {"dtype": "fp32"}).library_called is True


def test_cuda_has_a_switch_before_the_gate() -> None:
    switch, gate = decisions(on(GATED), CONV)

    assert (switch.effect, switch.library_called) == ("called", True)
    assert (gate.effect, gate.library_called) == ("passed over", False)
    off, _ = decisions(on(GATED | {"cudnn_enabled": False}), CONV)
    assert off.library_called is False
    assert [each.text for each in off.failing] == ["cuDNN is switched on"]


def test_a_cudnn_that_was_not_recorded_is_not_taken_to_be_missing() -> None:
    switch, _ = decisions(on({"cudnn_enabled": True}), CONV)

    assert switch.library_called is None


@pytest.mark.parametrize(
    ("facts", "cells", "called"),
    [
        ({}, {}, True),
        ({"onednn_enabled": False}, {}, False),
        ({"onednn_available": False}, {}, False),
        ({}, {"library_dtype_supported": False, "dtype": "fp16"}, False),
        ({}, {"library_switched_off": True}, False),
        ({"onednn_enabled": None}, {}, None),
        ({"onednn_available": None}, {}, None),
        ({}, {"library_dtype_supported": None}, None),
    ],
)
def test_a_cpu_asks_three_things(facts: Facts, cells: Row, called: bool | None) -> None:
    (decision,) = decisions(on(ONEDNN | facts, "cpu"), CPU_CONV | cells)

    assert (decision.library, decision.effect) == ("oneDNN", "called")
    assert decision.library_called is called


def test_a_dtype_that_the_cpu_cannot_is_named() -> None:
    (decision,) = decisions(on(ONEDNN, "cpu"), {"dtype": "fp16", "library_dtype_supported": False})

    assert [each.text for each in decision.failing] == ["oneDNN computes in fp16 on this CPU"]


def test_an_experiment_switches_the_library_off_for_one_convolution_alone() -> None:
    off = CONV | {"library_switched_off": True}

    switch, _ = decisions(on(GATED), off)
    (onednn,) = decisions(on(ONEDNN, "cpu"), CPU_CONV | off)

    assert switch.library_called is onednn.library_called is False


def test_nothing_is_said_of_a_device_that_nobody_looked_into() -> None:
    assert decisions(on(GATED | {"hip": "7.0"}), CONV) == []
    assert decisions(on(GATED, "mps"), CONV) == []


CELLS: tuple[Cell, ...] = (
    None,
    True,
    False,
    0,
    5,
    -1,
    91002,
    10**30,
    0.5,
    1e308,
    "",
    "x",
    "2.9.0",
    "2.9.1",
    "2.14.1",
    "9.10.2",
    "1x1x1",
    "2x16x16",
    "\u0662x\u00b2",
    "9" * 5000,
    "9x" * 5000,
    "bf16",
    "fp16",
    "contiguous",
    "9.8.0.dev1",
    "\x1b[31m",
)


@pytest.mark.parametrize("seed", range(200))
def test_whatever_the_facts_are(seed: int) -> None:
    """It never raises; it is False if and only if some condition is, and open facts stay open."""
    chance = random.Random(seed)
    keys = ("version", "cudnn_runtime", "cudnn_compiled", "cudnn_enabled", *ONEDNN)
    columns = (*CONV, "library_dtype_supported", "library_switched_off")
    facts: Facts = {key: chance.choice(CELLS) for key in keys}
    conv: Row = {column: chance.choice(CELLS) for column in columns}

    for device_type in ("cpu", "cuda"):
        for decision in decisions(on(facts, device_type), conv):
            answers = [each.holds for each in decision.conditions]
            assert (decision.all_hold is False) == (False in answers) == bool(decision.failing)
            assert (decision.all_hold is True) == all(each is True for each in answers)
            assert (decision.library_called is None) == (decision.all_hold is None)
            assert all(each.text and isinstance(each.found, str) for each in decision.conditions)
