"""Why PyTorch calls the vendor library for a convolution or passes it over, by its conditions.

On CUDA, torch 2.9 keeps cuDNN away from low-precision Conv3d, to avoid wrong results of some cuDNN
(pytorch/pytorch#163539, added by #163581). That gate knows no architecture, so a slow patch
embedding is not the fault of a new GPU. On a CPU, oneDNN is called where it computes in the dtype.

Source: ConvParams::use_cudnn and use_mkldnn in ATen/native/Convolution.cpp, and the wheels of the
releases named below, taken apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from packaging.specifiers import SpecifierSet

from qwenprof.diagnosis.versions import cudnn_version, version, within
from qwenprof.record.record import Cell, Record, Row

LOW_PRECISION = ("bf16", "fp16")
NOT_RECORDED = "not recorded"
EXAMINED = ((2, 8), (2, 9), (2, 10), (2, 11), (2, 12), (2, 15))  # releases of torch
LONGEST_SIZE = 9  # digits; what is longer is no kernel
LINK = "https://github.com/pytorch/pytorch/issues/163539"


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One condition of the dispatcher.

    holds: None where the record does not tell.
    """

    text: str
    found: str
    holds: bool | None


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the conditions say about one convolution.

    library: "cuDNN" or "oneDNN".
    effect: what follows where all conditions hold.
    """

    library: str
    effect: Literal["called", "passed over"]
    conditions: tuple[Condition, ...]

    @property
    def all_hold(self) -> bool | None:
        """False if one fails, else None if one is not known."""
        answers = [condition.holds for condition in self.conditions]
        if False in answers:
            return False
        return None if None in answers else True

    @property
    def library_called(self) -> bool | None:
        """Whether the library is called, as far as these conditions tell."""
        if self.all_hold is None:
            return None
        return self.all_hold == (self.effect == "called")

    @property
    def failing(self) -> tuple[Condition, ...]:
        return tuple(condition for condition in self.conditions if condition.holds is False)


def decisions(record: Record, conv: Row) -> list[Decision]:
    """The decisions that the dispatcher takes for a row of the dispatch stage's convolutions.

    On CUDA two: the switch, and the gate. Empty for a device of which nothing is known.
    """
    kind = record.fact("device", "type")
    if kind == "cpu":
        return [_onednn(record, conv)]
    if kind == "cuda" and not record.fact("torch", "hip"):
        return [_cudnn_switch(record, conv), cudnn_gate(record, conv)]
    return []


def cudnn_gate(record: Record, conv: Row) -> Decision:
    """The gate of torch 2.9, which is closed where all of its conditions hold."""
    torch_version = _torch_has_gate(record)
    range_condition = _cudnn_in_range(record, has_gate=torch_version.holds)
    kernel = _numbers(conv.get("kernel"))
    memory_format = conv.get("memory_format")
    dtype = conv.get("dtype")
    return Decision(
        library="cuDNN",
        effect="passed over",
        conditions=(
            Condition(
                text="the dtype is bf16 or fp16",
                found=_told(dtype),
                holds=None if dtype is None else dtype in LOW_PRECISION,
            ),
            Condition(
                text="the weight has five dimensions",
                found=_told(conv.get("rank")),
                holds=None if conv.get("rank") is None else conv.get("rank") == 5,
            ),
            Condition(
                text="some kernel dimension is not 1",
                found=_told(conv.get("kernel")),
                holds=any(size != 1 for size in kernel) if kernel else None,
            ),
            Condition(
                text="the memory format is contiguous",
                found=_told(memory_format),
                holds=None if memory_format is None else memory_format == "contiguous",
            ),
            torch_version,
            *_cudnn_not_asked(record, has_gate=torch_version.holds),
            range_condition,
        ),
    )


def _onednn(record: Record, conv: Row) -> Decision:
    return Decision(
        library="oneDNN",
        effect="called",
        conditions=(
            _flag("oneDNN is built in", record.fact("torch", "onednn_available")),
            _flag("oneDNN is switched on", _switched_on(record, conv, "onednn_enabled")),
            _flag(
                f"oneDNN computes in {_told(conv.get('dtype'))} on this CPU",
                conv.get("library_dtype_supported"),
            ),
        ),
    )


def _cudnn_switch(record: Record, conv: Row) -> Decision:
    built_in = record.fact("torch", "cudnn_runtime")
    return Decision(
        library="cuDNN",
        effect="called",
        conditions=(
            Condition(
                text="cuDNN is built in", found=_told(built_in), holds=True if built_in else None
            ),
            _flag("cuDNN is switched on", _switched_on(record, conv, "cudnn_enabled")),
        ),
    )


def _switched_on(record: Record, conv: Row, switch: str) -> Cell:
    """The switch of the process; off for this convolution alone where an experiment said so."""
    return False if conv.get("library_switched_off") is True else record.fact("torch", switch)


def _torch_has_gate(record: Record) -> Condition:
    cell = record.fact("torch", "version")
    release = _release(cell)
    if release not in EXAMINED:
        found = f"{_told(cell)}, not examined" if release else _told(cell)
        return Condition(text="this torch has the gate: 2.9", found=found, holds=None)
    return Condition(
        text="this torch has the gate: 2.9", found=_told(cell), holds=release == (2, 9)
    )


def _cudnn_in_range(record: Record, *, has_gate: bool | None) -> Condition:
    """2.9.0 looks at the cuDNN that it was compiled with, 2.9.1 at the one that it runs with.

    Where the compiled version was not recorded, the running one stands for it: the wheels pin the
    cuDNN that they were compiled with. Of a torch that was not examined nobody knows the range.
    """
    runtime = record.fact("torch", "cudnn_runtime")
    compiled = record.fact("torch", "cudnn_compiled") or runtime
    if _micro(record.fact("torch", "version")) == 0:
        found = _within("cuDNN at compile time is 9.8 or newer", compiled, ">=9.8")
    else:
        text = "cuDNN at run time is at least 9.8 and older than 9.15"
        found = _within(text, runtime, ">=9.8,<9.15")
    return found if has_gate is not None else replace(found, holds=None)


def _cudnn_not_asked(record: Record, *, has_gate: bool | None) -> tuple[Condition, ...]:
    """The version of cuDNN that the gate does not look at: changing it changes nothing."""
    at_compile_time = _micro(record.fact("torch", "version")) == 0
    when, key = ("run", "runtime") if at_compile_time else ("compile", "compiled")
    found = cudnn_version(record.fact("torch", f"cudnn_{key}"))
    if not has_gate or found is None:
        return ()
    text = f"cuDNN at {when} time may be any"
    return (Condition(text=text, found=str(found), holds=True),)


def _within(text: str, cell: Cell, wanted: str) -> Condition:
    found = cudnn_version(cell)
    return Condition(
        text=text,
        found=NOT_RECORDED if found is None else str(found),
        holds=None if found is None else within(found, SpecifierSet(wanted)),
    )


def _flag(text: str, cell: Cell) -> Condition:
    known = cell if isinstance(cell, bool) else None
    found = NOT_RECORDED if known is None else ("yes" if known else "no")
    return Condition(text=text, found=found, holds=known)


def _release(cell: Cell) -> tuple[int, int] | None:
    found = version(cell)
    return None if found is None or found.is_prerelease else (found.major, found.minor)


def _micro(cell: Cell) -> int | None:
    found = version(cell)
    return None if found is None else found.micro


def _numbers(cell: Cell) -> Sequence[int]:
    """ "2x16x16" as numbers; empty for anything else."""
    parts = str(cell).split("x")
    sizes = all(part.isdecimal() and len(part) <= LONGEST_SIZE for part in parts)
    return [int(part) for part in parts] if sizes else []


def _told(cell: Cell) -> str:
    return NOT_RECORDED if cell is None else str(cell)
