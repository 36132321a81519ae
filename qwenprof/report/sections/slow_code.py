"""The slow code: the culprit's class as it is installed, and what its convolution is in numbers."""

from __future__ import annotations

from collections.abc import Collection
from math import prod
from textwrap import dedent

from qwenprof.diagnosis.bounds import number
from qwenprof.diagnosis.components import representative
from qwenprof.diagnosis.verdict import verdict
from qwenprof.formatting import count, flop
from qwenprof.record.published import is_published
from qwenprof.record.record import Record, Row
from qwenprof.report.section import (
    Block,
    Code,
    Inline,
    Section,
    Table,
    code,
    paragraph,
    strong,
)
from qwenprof.report.sections._convolution import Convolution, convolution
from qwenprof.report.telling import Telling

STAGE, TABLE = "per-layer", "sources"
PUBLISHED_TABLE = "published_code"
UNKNOWN, FUNCTION = "not recorded", "function"
PATCH_EMBEDDING = "patch_embed"


def compose(told: Telling) -> list[Block]:
    record = told.record
    said = verdict(record, told.findings)
    conv = convolution(record)
    code_told = _code(record, said.culprit, conv, is_open=said.is_open)
    return [*code_told, *_numbers(record, conv)]


def _code(
    record: Record, culprit: str | None, conv: Convolution | None, *, is_open: bool
) -> list[Block]:
    if not record.rows(STAGE, TABLE):
        stated = _published_code(record, culprit)
        if stated:
            return stated
        named = _class_of(record, culprit or (conv.module if conv else PATCH_EMBEDDING))
        why = f" {_why_no_source(record)}"
        return [paragraph(strong("The code was not recorded."), why, *named)]
    blamed = source_of(record, culprit) if culprit else None
    path = conv.module if conv else PATCH_EMBEDDING
    row = blamed or source_of(record, path)
    if row is None:
        lead = _lead(culprit, None, is_open=is_open)
        return [paragraph(*lead, " The record holds no source of the patch embedding either.")]
    return [paragraph(*_lead(culprit, blamed, is_open=is_open), " ", *_where(row)), *_text(row)]


def _published_code(record: Record, culprit: str | None) -> list[Block]:
    """Where the source of a published record found the code; its text is in no record."""
    rows = record.rows(STAGE, PUBLISHED_TABLE) if is_published(record) else []
    return [
        paragraph(
            *_lead(culprit, row, is_open=False),
            " ",
            strong("Published, not recorded here:"),
            " its code is the class ",
            *_place(row),
            f", as installed{_of_package(row)} ({row.get('source')}). The text itself is not in "
            "the record; what the convolution is, the table below tells.",
        )
        for row in rows
    ]


def _of_package(row: Row) -> str:
    known = [str(row[key]) for key in ("package", "version") if row.get(key) is not None]
    return f" with {' '.join(known)}" if known else ""


def _why_no_source(record: Record) -> str:
    if is_published(record):
        return "The record is made of published figures, and no source is among them."
    if STAGE not in record.stages:
        return "The record holds no source: the stage per-layer did not run."
    if record.stages[STAGE].status != "ok":
        return "The record holds no source: the stage per-layer did not get to it."
    return "The record holds no source: it was measured with an older qwenprof."


def _class_of(record: Record, path: str) -> list[Inline]:
    """The class that holds a path, by its name alone; nothing where it was not timed."""
    rows = record.rows(STAGE, "modules")
    types = {str(row.get("path")): str(row.get("module_type")) for row in rows}
    holders = [each for each in (path, path.rpartition(".")[0]) if each in types]
    if not path or not holders or types[holders[-1]].startswith(FUNCTION):
        return []
    return [" It is in the class ", code(types[holders[-1]]), "."]


def source_of(record: Record, path: str) -> Row | None:
    """The source of the innermost class or function that holds a path, if it was recorded.

    Repeated blocks share a class, whose source stands at the first of them: so the type of the
    timed part is looked up, and not its path alone.
    """
    rows = record.rows(STAGE, TABLE)
    types = {str(row.get("path")): row.get("module_type") for row in record.rows(STAGE, "modules")}
    for holder in _upwards(representative(path), types):
        for known in (each for each in types if f".{each}".endswith(f".{holder}")):
            for row in rows:
                if row.get("module") == known or row.get("name") == types[known]:
                    return row
    return None


def _upwards(path: str, timed: Collection[str]) -> list[str]:
    """A path and all that hold it; the model itself comes last, and holds only what was timed."""
    parts = path.split(".")
    holders = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
    return holders + ([""] if path in timed else [])


def _lead(culprit: str | None, blamed: Row | None, *, is_open: bool) -> list[Inline]:
    if culprit is None:
        return [
            strong("Which code is to blame is not known." if is_open else "No code is to blame."),
            " What follows is the patch embedding, which the proof below is about.",
        ]
    if blamed is None:
        return [
            strong("The culprit is no part of the model's code:"),
            " ",
            code(culprit),
            ". What follows is the patch embedding, which the proof below is about.",
        ]
    return ["The culprit is ", code(culprit), "."]


def _where(row: Row) -> list[Inline]:
    place = _place(row)
    return ["Its code is ", *place, "." if len(place) == 1 else ", as installed:"]


def _place(row: Row) -> list[Inline]:
    """Name, file and lines; the name alone where the rest is not known."""
    name = code(str(row.get("name") or "?"))
    first, last = (number(row.get(end)) for end in ("first_line", "last_line"))
    if row.get("file") is None or first is None or last is None:
        return [name]
    lines = f", lines {count(first)} to {count(last)}"
    return [name, " in ", code(str(row["file"])), lines]


def _text(row: Row) -> list[Block]:
    source, reason = row.get("source"), row.get("reason")
    if not isinstance(source, str) or not source.strip():
        why = str(reason or "no reason was recorded").rstrip(".")
        return [paragraph(f"Its source could not be read: {why}.")]
    text: list[Block] = [Code(text=dedent(source).rstrip("\n"), language="python")]
    return text + ([paragraph(f"Here {reason}.")] if reason else [])


def _numbers(record: Record, conv: Convolution | None) -> list[Block]:
    if conv is None:
        return [
            paragraph(
                "No convolution whose windows do not overlap was recorded: the stages dispatch "
                "and compare-patch-embed would have."
            )
        ]
    return [
        paragraph(strong("What the convolution is.")),
        _facts(record, conv),
        paragraph(_matrix_product(conv)),
    ]


def _facts(record: Record, conv: Convolution) -> Table:
    others = len(record.rows("dispatch", "convolutions")) - 1
    more = f" There are {others} more of this kind, told of where it is asked whose fault it is."
    return Table(
        header=("Property", "Value"),
        align="ll",
        rows=(
            ("Module", code(conv.module)),
            ("Type", f"nn.{conv.kind}"),
            ("Input", _dimensions(conv.input)),
            ("Weight", _weight(conv)),
            ("Kernel", _dimensions(conv.kernel)),
            ("Stride", f"{_dimensions(conv.kernel)}, the kernel" if conv.kernel else "the kernel"),
            ("Padding, dilation, groups", "0, 1, 1"),
            ("Bias", {True: "yes", False: "no", None: UNKNOWN}[conv.bias]),
            ("dtype", conv.dtype or UNKNOWN),
            ("Backend that PyTorch picks", conv.backend or UNKNOWN),
            ("Windows", count(conv.windows) if conv.windows else UNKNOWN),
            ("Numbers in a window", count(conv.terms) if conv.terms else UNKNOWN),
        ),
        caption="Stride, padding, dilation and groups are what makes its windows disjoint."
        + (more if others > 0 else ""),
    )


def _dimensions(sizes: tuple[int, ...]) -> str:
    return " x ".join(str(size) for size in sizes) or UNKNOWN


def _weight(conv: Convolution) -> str:
    if conv.features is None or conv.channels is None or not conv.kernel:
        return UNKNOWN
    sizes = (conv.features, conv.channels, *conv.kernel)
    return f"{_dimensions(sizes)} = {count(prod(sizes))} parameters"


def _matrix_product(conv: Convolution) -> str:
    """Why no convolution is needed, with the sizes of the product."""
    why = (
        "The stride equals the kernel and nothing is padded, so the windows lie side by side: no "
        "number of the input is read by two outputs, and there is nothing that a convolution "
        "could reuse. "
    )
    if conv.terms is None or conv.features is None or conv.windows is None:
        return f"{why}Each window times the weights is a matrix product."
    cut = (
        "The input comes cut into windows already, one for each sample"
        if conv.is_cut
        else f"Each sample holds a grid of {_dimensions(conv.grid)} windows"
        if conv.is_cut is False
        else "Each window is one row"
    )
    work = flop(2.0 * conv.windows * conv.terms * conv.features)
    return (
        f"{why}{cut}. So all of it is one matrix product, ({count(conv.windows)} x "
        f"{count(conv.terms)}) times ({count(conv.terms)} x {count(conv.features)}): {work}."
    )


SECTION = Section(name="slow-code", order=35, title="The slow code", compose=compose)
