"""A record may come from a stranger: no valid one makes a rule or the report fail."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from markdown_it import MarkdownIt

from qwenprof.diagnosis.finding import diagnose
from qwenprof.record.record import Record, load
from qwenprof.report.markdown import render
from qwenprof.report.telling import telling
from qwenprof.report.writing import composed

REAL = sorted((Path(__file__).parents[2] / "reports").glob("*/record.json"))
HOSTILE = "\x1b[31m|`<script>\u202e"
STRANGE = (None, True, 0, -1, 3, 10**30, 1e308, -1e308, 5e-324, 0.0, 0.5, "", "ok", HOSTILE)


@pytest.fixture(scope="module")
def real() -> bytes:
    assert REAL, "there is at least one committed record"
    return msgspec.json.encode(load(REAL[0]))


def mutated(real: bytes, seed: int) -> Record:
    """The record with a few columns of a few tables made strange, taken out, or a table emptied."""
    chance, raw = random.Random(seed), msgspec.json.decode(real)
    tables: list[list[dict[str, Any]]] = [
        rows for stage in raw["stages"].values() for rows in stage["tables"].values()
    ]
    for _ in range(chance.randint(1, 4)):
        rows = chance.choice(tables)
        if not rows or chance.random() < 0.1:
            rows.clear()
            continue
        column = chance.choice(sorted(rows[-1]) or ["nothing"])
        for row in rows:
            if chance.random() < 0.3:
                row.pop(column, None)
            else:
                row[column] = chance.choice(STRANGE)
    return msgspec.convert(raw, Record)


def raw_html(text: str) -> list[str]:
    """What a CommonMark reader would pass on as HTML."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    every = [inner for token in tokens for inner in [token, *(token.children or [])]]
    return [token.content for token in every if token.type.startswith("html")]


@pytest.mark.parametrize("seed", range(150))
def test_no_valid_record_makes_a_rule_or_a_section_fail(real: bytes, seed: int) -> None:
    record = mutated(real, seed)

    findings = diagnose(record)
    text = render("title", composed(telling(record, findings)))

    assert all(finding.evidence for finding in findings)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert not [html for html in raw_html(text) if "script" in html]
