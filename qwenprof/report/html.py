"""Blocks as one HTML file that needs nothing else: no network, no font, and no script to be read.

Text from a record passes `clean` and `without_homes` here, and jinja2 escapes whatever it prints.
The page's content security policy lets in its own style, script and pictures, and nothing more.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from qwenprof.formatting import clean, count, visible, without_homes
from qwenprof.report.markdown import LONGEST_CELL, LONGEST_CODE
from qwenprof.report.section import (
    Block,
    Bullets,
    Code,
    Figure,
    Inline,
    Paragraph,
    Section,
    Styled,
    Table,
)

Pieces = Sequence[tuple[Section, Sequence[Block]]]

PACKAGE = "qwenprof.report"
MAIN = "main"  # the anchor of the text itself
SUMMARY = "summary"
LONGEST_WORD = 40  # in a cell: a longer one may be broken anywhere
TALL = 25  # rows: a longer table scrolls under its header
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_PREFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_SCALES = {
    **{"": 1.0, "x": 1.0, "%": 0.01, "W": 1.0, "C": 1.0},
    **{"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0},
    **{"KiB": 1024.0, "MiB": 1024.0**2, "GiB": 1024.0**3, "TiB": 1024.0**4},
    **{
        prefix + unit: scale
        for unit in ("B", "B/s", "FLOP", "FLOPS", "Hz")
        for prefix, scale in _PREFIXES.items()
    },
}
_QUANTITY = re.compile(
    r"(?P<bound>[<>])? ?(?P<number>[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e[+-]?\d+)?)"
    r" ?(?P<unit>[A-Za-z%/]*)"
    r"(?: \[[^\[\]]*\])?(?: \([^()]*\))?(?:, n = [\d,]+)?",
    re.ASCII,
)
_BEYOND = {"<": -1e-9, ">": 1e-9}  # so that "< 0.1 %" comes before "0.1 %"


def render(
    title: str,
    pieces: Pieces,
    pictures: Mapping[str, bytes],
    *,
    subtitle: str = "",
    footer: str = "",
) -> str:
    """A whole report as one file.

    Args:
        title: what the report is about.
        pieces: the sections with their blocks.
        pictures: a PNG file for the stem of every figure.
        subtitle: device and versions, in one line under the title.
        footer: what stands at the very end.

    Raises:
        KeyError: a figure has no picture.
    """
    shown = [(section, [cleaned(block) for block in blocks]) for section, blocks in pieces]
    style, script = (_own_file(name) for name in ("report.css", "report.js"))
    return _template().render(
        title=_shown(title),
        subtitle=_shown(subtitle),
        footer=_shown(footer),
        policy=_policy(style, script),
        style=Markup(style),
        script=Markup(script),
        sections=[
            (anchor, _shown(section.title), *_verdict(section, blocks))
            for anchor, (section, blocks) in zip(_anchors(shown), shown, strict=True)
        ],
        pictures={stem: _picture(pictures[stem]) for stem in _stems(shown)},
        has_published=any(_is_published(span) for _, blocks in shown for span in _spans(blocks)),
        main=MAIN,
        tall=TALL,
    )


def cleaned(block: Block) -> Block:
    """The same block, its texts fit to be shown: without home folders and deceiving characters."""
    match block:
        case Paragraph():
            return Paragraph(spans=_inlines(block.spans))
        case Bullets():
            return Bullets(items=tuple(_inlines(item) for item in block.items))
        case Table():
            return _cleaned_table(block)
        case Figure():
            return replace(block, alt=_shown(block.alt), caption=_shown(block.caption))
        case Code():
            return Code(text=_lines(block.text), language=_shown(block.language))


def magnitude(cell: Inline) -> str | None:
    """What a cell is sorted by: its number in the base unit, for "55.3 ms [54.1, 56.0]" 0.0553.

    None where the cell is no number with a known unit, or is set as code, hence a name.
    """
    if isinstance(cell, Styled) and cell.style == "code":
        return None
    found = _QUANTITY.fullmatch(_plain(cell))
    scale = _SCALES.get(found["unit"]) if found else None
    if found is None or scale is None:
        return None
    value = float(found["number"].replace(",", "")) * scale
    value += abs(value) * _BEYOND.get(found["bound"] or "", 0.0)
    return f"{value:.12g}" if math.isfinite(value) else None


def _cleaned_table(table: Table) -> Table:
    rows = tuple(tuple(_cell(cell) for cell in row) for row in table.rows)
    return replace(
        table,
        header=tuple(_shown(name, LONGEST_CELL) for name in table.header),
        rows=rows,
        align=table.align.ljust(max(map(len, (table.header, *rows))), "l"),
        caption=_shown(table.caption),
        folded=None if table.folded is None else _shown(table.folded),
    )


def _cell(cell: Inline) -> Inline:
    span = _inline(cell, LONGEST_CELL)
    return span if isinstance(span, Styled) else span.strip()


def _shown(text: str, longest: int | None = None) -> str:
    homeless = without_homes(text)
    return clean(homeless) if longest is None else clean(homeless, longest)


def _inlines(spans: Sequence[Inline]) -> tuple[Inline, ...]:
    return tuple(_inline(span) for span in spans)


def _inline(span: Inline, longest: int | None = None) -> Inline:
    """A span; white space at its ends stays, as one space, since another span may follow."""
    if isinstance(span, Styled):
        return replace(span, text=_shown(span.text, longest))
    lead = " " if span[:1].isspace() else ""
    tail = " " if span[-1:].isspace() and span.strip() else ""
    return f"{lead}{_shown(span, longest)}{tail}"


def _lines(text: str) -> str:
    """Code as it is, line by line; says so where it is too long to be shown whole."""
    lines = [visible(line.expandtabs(4)) for line in without_homes(text).splitlines()]
    whole = "\n".join(lines)
    if len(whole) <= LONGEST_CODE:
        return whole
    cut = f"[{count(len(whole) - LONGEST_CODE)} more characters are not shown]"
    return f"{whole[:LONGEST_CODE]}\n{cut}"


def _verdict(
    section: Section, blocks: Sequence[Block]
) -> tuple[Sequence[Block], bool, Sequence[Block]]:
    """The blocks that the summary opens with, whether its bullets are pairs, and the rest.

    They are its first paragraphs, and the bullets that follow them.
    """
    if section.name != SUMMARY:
        return [], False, blocks
    end = next((i for i, block in enumerate(blocks) if not isinstance(block, Paragraph)), None)
    if end is None:
        return blocks, False, []
    answers = blocks[end]
    if not isinstance(answers, Bullets):
        return blocks[:end], False, blocks[end:]
    return blocks[: end + 1], all(map(_is_pair, answers.items)), blocks[end + 1 :]


def _is_pair(item: Sequence[Inline]) -> bool:
    """Whether an item is a name and what it is: **Culprit:** patch_embed."""
    name = item[0] if item else ""
    return isinstance(name, Styled) and name.style == "strong" and name.text.endswith(":")


def _anchors(pieces: Pieces) -> list[str]:
    """An id for each section, made of its name alone, so that links survive a re-rendering."""
    anchors = [MAIN]
    for section, _ in pieces:
        slug = re.sub(r"[^a-z0-9]+", "-", section.name.lower()).strip("-") or "section"
        again = sum(anchor.rstrip("0123456789").rstrip("-") == slug for anchor in anchors)
        anchors.append(f"{slug}-{again + 1}" if slug in anchors else slug)
    return anchors[1:]


def _spans(blocks: Iterable[Block]) -> Iterable[Inline]:
    for block in blocks:
        match block:
            case Paragraph():
                yield from block.spans
            case Bullets(items=groups) | Table(rows=groups):
                yield from (span for group in groups for span in group)
            case _:
                pass


def _is_published(span: Inline) -> bool:
    return isinstance(span, Styled) and span.style == "published"


def _plain(span: Inline) -> str:
    return span.text if isinstance(span, Styled) else span


def _shape(cell: Inline, letter: str) -> str | None:
    """The classes of a cell."""
    is_long = any(len(word) > LONGEST_WORD for word in _plain(cell).split())
    return " ".join(("number",) * (letter == "r") + ("long",) * is_long) or None


def _stems(pieces: Pieces) -> Iterable[str]:
    return (block.stem for _, blocks in pieces for block in blocks if isinstance(block, Figure))


def _picture(png: bytes) -> dict[str, str | int]:
    """An image's source, and the size that the PNG's header gives: so the page does not jump."""
    source = {"src": f"data:image/png;base64,{base64.b64encode(png).decode()}"}
    if len(png) < 24 or not png.startswith(PNG_SIGNATURE):
        return {**source}
    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
    return {**source, "width": width, "height": height}


def _policy(style: str, script: str) -> str:
    """Own pictures, this style and this script, told by their hashes; nothing else."""
    style_hash, script_hash = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in (style, script)
    )
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{style_hash}'; "
        f"script-src 'sha256-{script_hash}'; base-uri 'none'; form-action 'none'"
    )


def _own_file(name: str) -> str:
    """A file of this package as the browser hashes it, within its tag: lines end in line feeds."""
    text = (resources.files(PACKAGE) / "templates" / name).read_text(encoding="utf-8")
    return f"\n{text}"


def _kind(block: Block) -> str:
    return type(block).__name__.lower()


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader(PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(kind=_kind, magnitude=magnitude, shape=_shape)
    return environment.get_template("report.html.j2")
