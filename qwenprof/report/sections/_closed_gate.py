"""What a closed gate means: that it is about versions and not about a GPU, and who saw it too."""

from __future__ import annotations

from qwenprof.diagnosis.conv_telling import conv_facts, is_ordinary, millions
from qwenprof.diagnosis.gate import Decision, decisions
from qwenprof.diagnosis.projection import (
    LAUNCHING_BACKEND,
    Comparison,
    Launches,
    comparison,
    convolutions,
    launches,
)
from qwenprof.diagnosis.published_cases import PublishedCase, published_cases
from qwenprof.formatting import count, listed, seconds
from qwenprof.record.published import is_published
from qwenprof.record.record import Cell, Record, Row
from qwenprof.report.reading import device_name
from qwenprof.report.section import (
    Block,
    Inline,
    Paragraph,
    Table,
    paragraph,
    published,
    strong,
)

STAGE, CONCLUSIONS = "dispatch", "conclusions"
NOT_STATED = "not stated"


def closed_gate(record: Record) -> Decision | None:
    """The gate that keeps the library away from the projection; None where none is known to.

    A backend that was seen and is not the slow loop is believed before the gate's conditions.
    """
    found = comparison(record)
    rows = convolutions(record) or ([conv_facts(record, found)] if found else [])
    slow = [row for row in rows if _backend(row, found) in (None, LAUNCHING_BACKEND)]
    made = (decision for row in slow for decision in decisions(record, row))
    return next((each for each in made if each.effect == "passed over" and each.all_hold), None)


def _backend(row: Row, found: Comparison | None) -> Cell:
    """As the comparison saw it where it is about the same convolution, else as the row has it."""
    same = found is not None and row.get("module") in (None, found.module)
    return (found.backend if found and same else None) or row.get("backend")


def closed_gate_told(record: Record) -> list[Block]:
    """That no GPU escapes it or causes it, what its source took it for, and who else saw it."""
    if closed_gate(record) is None:
        return []
    return [
        paragraph(
            strong("It is about versions, not about a GPU."),
            " No condition of the gate asks for the architecture: every CUDA GPU with these "
            f"versions takes the same slow loop, old or new.{seen_elsewhere(record)}",
        ),
        *_concluded(record),
        published_table(),
    ]


def seen_elsewhere(record: Record) -> str:
    """On which other GPUs the same was published; "" where on none."""
    here = device_name(record)
    others = [each for each in published_cases() if each.slow and each.gpu not in here]
    if not others:
        return ""
    return f" The like was published for {listed([_elsewhere(each) for each in others])}."


def _elsewhere(case: PublishedCase) -> str:
    versions = f"torch {case.torch}" if case.torch else "versions not stated"
    return f"{case.gpu} ({versions}, {_conv(case)})"


def _concluded(record: Record) -> list[Block]:
    """What the source of a published record took for the cause, beside what its figures say."""
    rows = record.rows(STAGE, CONCLUSIONS) if is_published(record) else []
    found = comparison(record)
    made = launches(record, found) if found else None
    if not rows or made is None or not is_ordinary(made):
        return []
    return [_against_the_figures(row, made) for row in rows]


def _against_the_figures(row: Row, made: Launches) -> Paragraph:
    note = f"; {row['note']}" if row.get("note") else ""
    return paragraph(
        strong("What the source concluded, and what its own figures say."),
        f" It concluded: {row.get('concluded')} ({row.get('source')}){note}. But the gate is "
        "closed, so cuDNN is not called, and the slow loop of PyTorch makes "
        f"{millions(made.count)} launches in this call. Its {seconds(made.measured_s)} over as "
        f"many are {seconds(made.each_s)}, no more than an ordinary launch takes on any GPU: the "
        "launches explain the whole time, and no arithmetic is to blame.",
    )


def published_table() -> Table:
    """What others published of the same projection, each with its source."""
    return Table(
        header=(
            "GPU",
            "torch",
            "Timed",
            "dtype",
            "Patches",
            "Conv3d, published",
            "Linear, published",
            "The gate",
            "Source, published",
        ),
        align="llllrrrll",
        rows=tuple(_row(case) for case in published_cases()),
        caption="Published by others, not measured here: the same projection on other GPUs and "
        "with other versions. How it was sampled is not stated.",
    )


def _row(case: PublishedCase) -> tuple[Inline, ...]:
    return (
        case.gpu,
        _torch(case),
        ", ".join(_timed(case)),
        case.dtype or NOT_STATED,
        NOT_STATED if case.patches is None else count(case.patches),
        published(_conv(case)),
        NOT_STATED if case.linear_s is None else published(seconds(case.linear_s)),
        case.shows,
        f"{case.source}: {case.link}",
    )


def _torch(case: PublishedCase) -> str:
    cudnn = f", cuDNN {case.cudnn}" if case.cudnn else ""
    return f"{case.torch or NOT_STATED}{cudnn}"


def _timed(case: PublishedCase) -> list[str]:
    """What the call was: its direction, and what is not as usual."""
    bias = [] if case.bias is None else ["with a bias" if case.bias else "no bias"]
    known = [each for each in (case.memory_format, case.backend) if each]
    return [case.direction, *bias, *known]


def _conv(case: PublishedCase) -> str:
    return f"{'about ' if case.about else ''}{seconds(case.conv_s)}"
