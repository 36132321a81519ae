"""The environment as text for a ticket, with what a maintainer would look for and not find."""

from __future__ import annotations

from qwenprof.formatting import clean, plural
from qwenprof.record.published import is_published
from qwenprof.record.record import COLLECT_ENV, Cell, Facts, Record
from qwenprof.report.reading import cudnn_of, on_gpu
from qwenprof.report.sections.environment import PRIVATE

LONGEST_VALUE, MOST_FACTS = 200, 150
# what a maintainer looks for: where it is missing, that is said
EXPECTED: dict[str, tuple[str, ...]] = {
    "device": ("name",),
    "host": ("cpu", "os", "python"),
    "torch": (
        "version",
        "git_version",
        "cuda",
        "cudnn_runtime",
        "cudnn_compiled",
        "cudnn_wheel",
        "cudnn_enabled",
        "cudnn_benchmark",
        "cudnn_deterministic",
        "cudnn_allow_tf32",
    ),
    "packages": ("transformers",),
    "variables": (),
}
ON_A_GPU = ("compute_capability", "multiprocessors", "driver")
LONGEST_KEY, LONGEST_KEYS = 60, 600


def in_short(record: Record) -> str:
    """Device and versions, on one line."""
    facts = [
        record.fact("device", "name") or record.fact("device", "type"),
        _named("torch", record.fact("torch", "version")),
        _named("cuDNN", cudnn_of(record) if on_gpu(record) else None),
        _named("transformers", record.fact("packages", "transformers")),
        _named("Python", record.fact("host", "python")),
        record.tool.name if is_published(record) else f"qwenprof {record.tool.version}",
        record.created[:10],
    ]
    return ", ".join(str(each) for each in facts if each)


def _named(name: str, cell: Cell) -> str:
    return "" if cell is None else f"{name} {cell}"


def in_full(record: Record) -> str:
    """Every fact on its line, section by section."""
    lines = [
        line
        for name in dict.fromkeys((*EXPECTED, *record.environment))
        if name != COLLECT_ENV
        for line in _facts(record, name)
    ]
    more = len(lines) - MOST_FACTS
    if more > 0:
        lines = [*lines[:MOST_FACTS], f"... {plural(more, 'more line')} in record.json"]
    return "\n".join(lines)


def _facts(record: Record, name: str) -> list[str]:
    """A section of the environment, as lines."""
    facts: Facts = dict.fromkeys(_wanted(record, name))
    facts |= record.environment.get(name, {})
    shown = {key: value for key, value in facts.items() if not PRIVATE.search(key)}
    known = {key: value for key, value in shown.items() if value is not None}
    absent = [key for key in shown if key not in known]
    lines = [
        f"{name}:",
        *(f"  {clean(key, LONGEST_KEY)}: {_value(value)}" for key, value in known.items()),
    ]
    if absent:
        lines.append(
            f"  not set, not found or not recorded: {clean(', '.join(absent), LONGEST_KEYS)}"
        )
    return lines if shown else []


def _wanted(record: Record, name: str) -> tuple[str, ...]:
    gpu = ON_A_GPU if name == "device" and on_gpu(record) else ()
    return (*EXPECTED.get(name, ()), *gpu)


def _value(cell: Cell) -> str:
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return clean(str(cell), LONGEST_VALUE)
