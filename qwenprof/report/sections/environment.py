"""The machine and the software, as tables, and the state of the machine while stages ran.

What is not known, not installed or not set is in the appendix alone, which tells every fact.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from qwenprof.diagnosis.bounds import number
from qwenprof.formatting import NOT_MEASURED, clean, percent, significant, size
from qwenprof.record.record import COLLECT_ENV, Cell, Facts, Record, Row
from qwenprof.report.reading import text
from qwenprof.report.section import Block, Code, Inline, Section, Table, code, paragraph
from qwenprof.report.telling import Telling

TITLES = {
    "device": "Device",
    "host": "Host",
    "torch": "PyTorch and its libraries",
    "packages": "Packages",
    "variables": "Environment variables",
}
MOST_LINES, LONGEST_LINE = 200, 300  # of PyTorch's own account
# Nothing that tells who ran it or where, should a record from elsewhere hold it.
PRIVATE = re.compile(r"host_?name|user|home|path|serial|uuid|address|cwd|folder", re.IGNORECASE)


def compose(told: Telling) -> list[Block]:
    record = told.record
    order = {name: record.environment.get(name, {}) for name in TITLES} | record.environment
    order.pop(COLLECT_ENV, None)  # the appendix tells it
    blocks = [block for name, facts in order.items() for block in _facts(name, facts)]
    if not blocks:
        blocks.append(paragraph("The record holds no environment."))
    return blocks + _conditions(record) + _command(record)


def _facts(section: str, facts: Facts) -> list[Block]:
    """What is known of one section; nothing where that is none."""
    known = {
        key: value for key, value in facts.items() if value is not None and not PRIVATE.search(key)
    }
    if not known:
        return []
    return [
        Table(
            header=(TITLES.get(section, section), ""),
            align="ll",
            rows=tuple((_named(key), _value(key, value)) for key, value in known.items()),
        )
    ]


def account_of(record: Record) -> str:
    """What PyTorch says of the machine, line by line; "" where it was not asked."""
    told = record.fact(COLLECT_ENV, "text")
    lines = str(told).splitlines()[:MOST_LINES] if told is not None else []
    return "\n".join(clean(line, LONGEST_LINE) for line in lines)


def _named(key: str) -> Inline:
    return code(key) if key.isupper() else key.removesuffix("_bytes").replace("_", " ")


def _value(key: str, value: Cell) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key.endswith("_bytes"):
        return size(number(value))
    return text(value)


CONDITIONS: dict[str, Callable[[Row], str | None]] = {
    "SM clock, MHz, median": lambda row: _seen(row, "sm_clock_mhz_median"),
    "SM clock, MHz, least": lambda row: _seen(row, "sm_clock_mhz_min"),
    "Power, W, most": lambda row: _seen(row, "power_w_max"),
    "Temperature, C, most": lambda row: _seen(row, "temperature_c_max"),
    "Throttled": lambda row: _throttled(row.get("throttled_share"), row.get("throttle_reasons")),
    "Other processes on the GPU": lambda row: _seen(row, "other_gpu_processes"),
    "Cores busy elsewhere, before": lambda row: _seen(row, "cores_busy_elsewhere"),
    "Cores busy elsewhere, meanwhile": lambda row: _seen(row, "cores_busy_elsewhere_meanwhile"),
    "Cores busy elsewhere, after": lambda row: _seen(row, "cores_busy_elsewhere_after"),
}


def _conditions(record: Record) -> list[Block]:
    rows = [(name, row) for name in record.stages for row in record.rows(name, "conditions")]
    seen = {
        title: [read(row) for _, row in rows]
        for title, read in CONDITIONS.items()
        if any(read(row) is not None for _, row in rows)
    }
    if not seen:
        return []
    unseen = [title for title in CONDITIONS if title not in seen]
    return [
        Table(
            header=("During", *seen),
            align="l" + "r" * len(seen),
            rows=tuple(
                (name, *(cells[i] or NOT_MEASURED for cells in seen.values()))
                for i, (name, _) in enumerate(rows)
            ),
            caption="State of the machine during each stage."
            + (f" This device does not tell: {'; '.join(unseen)}." if unseen else ""),
        )
    ]


def _seen(row: Row, key: str) -> str | None:
    value = number(row.get(key))
    return None if value is None else significant(value, 4)


def _throttled(share: Cell, reasons: Cell) -> str | None:
    part = number(share)
    if part is None:
        return None
    return f"{percent(part)} ({reasons})" if reasons else percent(part)


def _command(record: Record) -> list[Block]:
    if not record.command:
        return []
    return [paragraph("Asked for with:"), Code(text=" ".join(record.command), language="shell")]


SECTION = Section(name="environment", order=30, title="Environment", compose=compose)
