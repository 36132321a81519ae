"""What a rule of redaction is, and what the patterns of such rules are made of."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

Match = re.Match[str]
Replacement = str | Callable[[Match], str]


class Rule(NamedTuple):
    kind: str
    pattern: re.Pattern[str]
    replacement: Replacement


def table(rows: Iterable[tuple[str, str, Replacement]]) -> tuple[Rule, ...]:
    """Rules of a kind, a pattern and what stands in the place of a match."""
    return tuple(Rule(kind, re.compile(pattern), mark) for kind, pattern, mark in rows)


QUOTE = r"(?:\\{0,3}[\"'`])?"
IS = rf"{QUOTE}\s{{0,48}}(?::=|=>|[:=])\s{{0,4}}"
IS_OR_BLANK = rf"(?:{IS}|\s{{1,4}})"
