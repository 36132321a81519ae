"""Blocks as GitHub markdown. The one place that escapes what came from a record.

Nothing in a module's name, an error message or a version string can end a table cell, open a
tag, start a formula or turn the line around. Home folders are cut from every text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from qwenprof.formatting import clean, visible, without_homes
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

LONGEST_CELL = 240
LONGEST_CODE = 60_000

_ALWAYS = re.compile(r"([\\`*|$~])")
_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_ENTITY = re.compile(r"&(?=#?\w+;)")
_LINK = re.compile(r"\](?=[(\[:])")
_EDGE_UNDERSCORE = re.compile(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_LINE_START = re.compile(r"^([#+=>\[-])")
_MENTION = re.compile(r"(?<![\w/.`])(@(?=\w)|#(?=\d))")
_ALIGNMENT = {"l": ":--", "r": "--:"}


def render(title: str, pieces: Sequence[tuple[Section, Sequence[Block]]]) -> str:
    """A whole document: the title, then each section under its own heading."""
    parts = [f"# {escaped(title)}"]
    for section, blocks in pieces:
        parts.append(f"## {escaped(section.title)}")
        parts.extend(render_block(block) for block in blocks)
    return "\n\n".join(parts) + "\n"


def render_block(block: Block) -> str:
    """One block, without a line break at its end."""
    match block:
        case Paragraph():
            return _at_line_start(_inlines(block.spans))
        case Bullets():
            return "\n".join(f"- {_at_line_start(_inlines(item))}" for item in block.items)
        case Table():
            return _table(block)
        case Figure():
            return _figure(block)
        case Code():
            return _code_block(block)


def escaped(text: str, longest: int | None = None) -> str:
    """Text from anywhere as markdown that shows exactly this text, on one line."""
    cleaned = _cleaned(text, longest)
    marked = _ALWAYS.sub(r"\\\1", cleaned)
    for pattern, replacement in (
        (_EDGE_UNDERSCORE, r"\\_"),
        (_TAG, r"\\<"),
        (_ENTITY, r"\\&"),
        (_LINK, r"\\]"),
        (_MENTION, r"\1<!-- -->"),
    ):
        marked = pattern.sub(replacement, marked)
    return marked


def code_span(text: str, longest: int | None = None) -> str:
    """Text from anywhere in a fixed-width font, on one line, in a table cell or out of it."""
    content = _cleaned(text, longest)
    fence = "`" * (_longest_run(content) + 1)
    pad = " " if content.startswith("`") or content.endswith("`") or not content else ""
    return f"{fence}{pad}{content}{pad}{fence}"


def _cleaned(text: str, longest: int | None) -> str:
    homeless = without_homes(text)
    return clean(homeless) if longest is None else clean(homeless, longest)


def _inlines(spans: Sequence[Inline]) -> str:
    """Spans next to each other; white space at the seams is kept, and no link spans a seam."""
    joined = ""
    for span in spans:
        piece = _inline(span, None)
        seam = joined.endswith("]") and piece[:1] in ("(", "[", ":")
        joined = f"{joined[:-1]}\\]{piece}" if seam else joined + piece
    return joined.strip()


def _inline(span: Inline, longest: int | None) -> str:
    if isinstance(span, str):
        lead = " " if span[:1].isspace() else ""
        tail = " " if span[-1:].isspace() and span.strip() else ""
        return f"{lead}{escaped(span, longest)}{tail}"
    return _styled(span, longest)


def _styled(span: Styled, longest: int | None) -> str:
    match span.style:
        case "code":
            return code_span(span.text, longest)
        case "strong":
            return f"**{escaped(span.text, longest)}**" if span.text.strip() else ""
        case "published":
            return f"*{escaped(span.text, longest)}*" if span.text.strip() else ""


def _at_line_start(line: str) -> str:
    """What would make a heading, a list or a rule of the line, escaped."""
    if line[:1].isdigit():
        return re.sub(r"^(\d+)([.)])(?=\s)", r"\1\\\2", line)
    return _LINE_START.sub(r"\\\1", line)


def _table(table: Table) -> str:
    lines = [
        _row(table.header),
        "|" + "|".join(_ALIGNMENT[letter] for letter in table.align) + "|",
        *(_row(row) for row in table.rows),
    ]
    text = "\n".join(lines)
    if table.caption:
        text = f"{_at_line_start(escaped(table.caption))}\n\n{text}"
    if table.folded is None:
        return text
    return f"<details><summary>{_html(table.folded)}</summary>\n\n{text}\n\n</details>"


def _row(cells: Sequence[Inline]) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(cell: Inline) -> str:
    """A cell; a pipe ends it even within a code span, so there it is escaped too."""
    text = _inline(cell, LONGEST_CELL).strip()
    is_code = isinstance(cell, Styled) and cell.style == "code"
    return text.replace("|", r"\|") if is_code else text


def _figure(figure: Figure) -> str:
    picture = f"![{escaped(figure.alt)}]({figure.stem}.png)"
    return f"{picture}\n\n{escaped(figure.caption)}" if figure.caption else picture


def _code_block(block: Code) -> str:
    lines = [visible(line.expandtabs(4)) for line in without_homes(block.text).splitlines()]
    content = "\n".join(lines)[:LONGEST_CODE]
    fence = "`" * max(3, _longest_run(content) + 1)
    return f"{fence}{block.language}\n{content}\n{fence}"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)


def _html(text: str) -> str:
    cleaned = clean(without_homes(text))
    return cleaned.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
