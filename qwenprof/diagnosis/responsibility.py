"""Which layer is at fault for a slow patch projection, which could mend it, and which is clear.

Three layers stand between a model and the device: the model's code chose a convolution, PyTorch's
dispatcher picked who runs it, and a vendor library (cuDNN, oneDNN) may have run it. A library that
was never called is not at fault, however slow the convolution is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from qwenprof.diagnosis.conv_telling import conv_facts, factor_text, why_passed_over
from qwenprof.diagnosis.finding import NOTABLE_SHARE
from qwenprof.diagnosis.gate import Decision, decisions
from qwenprof.diagnosis.projection import (
    CHANNELS_LAST,
    CUDNN_DIRECT,
    UNMISTAKABLE,
    Comparison,
    comparison,
    share_saved,
    speedup,
    variant,
)
from qwenprof.formatting import seconds, times
from qwenprof.record.record import Record

Role = Literal["at fault", "could fix", "clear", "not assessed"]
LOSES = 1.05  # times as fast: the Linear, beside a convolution of the library
ESCAPES = 2.0  # times as fast: the library, reached another way
AT_FAULT = (
    10.0  # a healthy library is beaten 2 to 20 times; ten on top of a notable cost is a fault
)
WHY_THE_GATE = (
    "The gate is there because cuDNN 9.8 to 9.14 computed some bf16 Conv3d wrongly "
    "(pytorch/pytorch#163539); its later releases do not."
)
MODEL, PYTORCH = "model code", "PyTorch"


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer and its part in it.

    fix: what whoever keeps this layer could do; "" where it need not do anything.
    """

    name: str
    role: Role
    evidence: tuple[str, ...]
    fix: str = ""


def responsibility(record: Record) -> list[Layer]:
    """The layers of this record, from the model downwards; none where nothing was compared."""
    found = comparison(record)
    if found is None:
        return []
    library = {"cpu": "oneDNN", "cuda": "cuDNN"}.get(
        str(record.fact("device", "type")), "vendor library"
    )
    if found.ratio.most <= LOSES:
        same = (f"Linear is {factor_text(found)} as fast as the convolution: nothing is lost.",)
        names = (MODEL, PYTORCH, library)
        return [Layer(name=name, role="clear", evidence=same) for name in names]
    made = decisions(record, conv_facts(record, found))
    layers = [_model(found), _pytorch(record, found, made), _library(record, found, made, library)]
    return [*_settings(made), *layers]


def is_passed_over(found: Comparison, made: Sequence[Decision]) -> bool | None:
    """Whether the library was not called: as observed, else as its conditions say."""
    if found.backend is not None:
        return found.is_slow_backend
    if any(each.library_called is False for each in made) and found.ratio.value >= UNMISTAKABLE:
        return True
    return None


def _model(found: Comparison) -> Layer:
    return Layer(
        name=MODEL,
        role="could fix",
        evidence=(
            f"It runs a linear map of disjoint windows as a Conv3d: {seconds(found.conv_s)}, where "
            f"the equal Linear takes {seconds(found.linear_s)}, {factor_text(found)} as fast.",
        ),
        fix="run the projection as a linear layer: qwenprof upstream-diff prints the change",
    )


def _pytorch(record: Record, found: Comparison, made: Sequence[Decision]) -> Layer:
    passed_over = is_passed_over(found, made)
    cause, sentence = why_passed_over(record, found)
    if passed_over is None:
        why = ("Which backend it picked is not recorded.",)
        return Layer(name=PYTORCH, role="not assessed", evidence=why)
    if passed_over and _is_switched_off(made):
        told = (f"It does what the settings say: {cause}.",)
        return Layer(name=PYTORCH, role="clear", evidence=told)
    if passed_over:
        return Layer(
            name=PYTORCH,
            role="at fault",
            evidence=(
                f"It passes the library over and runs its own slow loop"
                f"{f' {found.backend}' if found.backend else ''}"
                f"{f', because {cause}' if cause else ''}.",
                *((sentence,) if sentence else ()),
                *_escapes(record),
            ),
            fix="take the library, or a matrix product where stride equals kernel",
        )
    return Layer(
        name=PYTORCH,
        role="could fix",
        evidence=(f"It calls the library as it should ({found.backend}).",),
        fix="run a convolution whose stride equals its kernel as a matrix product",
    )


def _library(record: Record, found: Comparison, made: Sequence[Decision], library: str) -> Layer:
    passed_over = is_passed_over(found, made)
    if passed_over is None:
        why = ("Whether it was called is not recorded.",)
        return Layer(name=library, role="not assessed", evidence=why)
    if passed_over:
        told = (f"{library} is never called for it.", *_escapes(record))
        if any(each.effect == "passed over" and each.all_hold for each in made):
            return Layer(name=library, role="clear", evidence=(*told, WHY_THE_GATE))
        return Layer(name=library, role="clear", evidence=told)
    share = share_saved(record, found)
    matters = share is None or share >= NOTABLE_SHARE
    role: Role = "at fault" if found.ratio.least >= AT_FAULT and matters else "could fix"
    return Layer(
        name=library,
        role=role,
        evidence=(
            f"It is called, and takes {seconds(found.conv_s)} for what a matrix product does in "
            f"{seconds(found.linear_s)}.",
        ),
        fix="see that no window overlaps another, and multiply",
    )


def _settings(made: Sequence[Decision]) -> list[Layer]:
    """A fourth layer, where somebody switched the library off."""
    if not _is_switched_off(made):
        return []
    off = next(each for each in made if each.library_called is False)
    return [
        Layer(
            name="settings",
            role="at fault",
            evidence=(f"{off.library} is switched off in this process, or for this convolution.",),
            fix="switch it on again",
        )
    ]


def _is_switched_off(made: Sequence[Decision]) -> bool:
    return any(
        "switched on" in condition.text
        for decision in made
        if decision.effect == "called"
        for condition in decision.failing
    )


def _escapes(record: Record) -> tuple[str, ...]:
    """What shows that the library itself is fast: called directly, or reached another way."""
    told = []
    for name in (CUDNN_DIRECT, CHANNELS_LAST):
        row = variant(record, name)
        ratio = speedup(row) if row else None
        if ratio and ratio.least >= ESCAPES and row is not None:
            told.append(f"{name}: {times(ratio.value)} as fast ({row.get('backend')}).")
    return tuple(told)
