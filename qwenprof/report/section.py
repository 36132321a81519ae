"""A section of the report and the blocks that it is made of: data, drawn by whoever renders it.

No block holds markup. Text that came from a record stands in it as it came, and the renderer
alone knows what must be escaped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from qwenprof.discover import discover

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

    from qwenprof.report.telling import Telling

Style = Literal["strong", "code", "published"]


@dataclass(frozen=True, kw_only=True)
class Styled:
    """Text that a renderer sets apart. "published" is a number that this run did not measure."""

    text: str
    style: Style


Inline = str | Styled


@dataclass(frozen=True, kw_only=True)
class Paragraph:
    """Sentences."""

    spans: tuple[Inline, ...]


@dataclass(frozen=True, kw_only=True)
class Bullets:
    """Sentences that stand beside each other."""

    items: tuple[tuple[Inline, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of cells under a header.

    align: "l" or "r" for each column.
    caption: what the numbers are; with their n and spread where a column does not say so.
    folded: the line under which a long table is folded away, None to show it.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[Inline, ...], ...]
    align: str
    caption: str = ""
    folded: str | None = None


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A picture.

    stem: of its file name.
    alt: what it shows, for whoever cannot see it.
    draw: draws it on an empty canvas.
    """

    stem: str
    alt: str
    caption: str
    draw: Callable[[Canvas], None]


@dataclass(frozen=True, kw_only=True)
class Code:
    """Text in a fixed-width font, kept as it is."""

    text: str
    language: str = "text"


Block = Paragraph | Bullets | Table | Figure | Code


@dataclass(frozen=True, kw_only=True)
class Section:
    """A piece of the report.

    compose: its blocks, whatever the record holds; an empty list leaves the section out.
    """

    name: str
    order: int
    title: str
    compose: Callable[[Telling], list[Block]]


def sections() -> dict[str, Section]:
    """All sections by name, in the order in which a report has them."""
    return discover("qwenprof.report.sections", "SECTION", Section)


def paragraph(*spans: Inline) -> Paragraph:
    """A paragraph of these spans."""
    return Paragraph(spans=spans)


def strong(text: str) -> Styled:
    return Styled(text=text, style="strong")


def code(text: str) -> Styled:
    return Styled(text=text, style="code")


def published(text: str) -> Styled:
    """A number from a publication, set in italics. Its table's header or caption says so too."""
    return Styled(text=text, style="published")
