"""Appendix C: everything that the record knows of machine, software, workload and run, as text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from qwenprof.formatting import clean, seconds, without_homes
from qwenprof.record.published import is_published
from qwenprof.record.record import COLLECT_ENV, Cell, Facts, Record
from qwenprof.report.section import Block, Code, Section, code, paragraph
from qwenprof.report.sections.environment import PRIVATE, TITLES, account_of
from qwenprof.report.telling import AS_ASKED, Telling

UNKNOWN = "not known"
ABSENT = {"variables": "not set", "packages": "not installed"}
LONGEST_NAME, LONGEST_VALUE = 60, 600

_Shown = Callable[[Facts], Facts]


def compose(told: Telling) -> list[Block]:
    record = told.record
    if not record.environment and not record.workload and not record.stages:
        return [paragraph("The record holds neither environment nor workload nor stages.")]
    shown = _all if told.taken_out == AS_ASKED else _public
    blocks: list[Block] = [
        paragraph(_lead(record, shown)),
        Code(text=raw_environment(record, shown)),
    ]
    account = account_of(record)
    if account:
        blocks += [
            paragraph(code("python -m torch.utils.collect_env"), " printed, after all stages:"),
            Code(text=account),
        ]
    if told.against is not None:
        blocks += [
            paragraph(f"The same of the record beside. {told.against.source}"),
            Code(text=_joined(_facts(told.against.record, shown))),
        ]
    return blocks


def _public(facts: Facts) -> Facts:
    """Facts without those whose key announces something private."""
    return {key: value for key, value in facts.items() if not PRIVATE.search(key)}


def _all(facts: Facts) -> Facts:
    """Every fact, for who asked that nothing be taken out."""
    return facts


def _lead(record: Record, shown: _Shown) -> str:
    whose = "As published" if is_published(record) else "As recorded"
    private = (
        "Host names, user names, paths and serial numbers are left out."
        if shown is _public
        else "Host names, user names, paths and serial numbers stay, as was asked for; a home is ~."
    )
    return f'{whose}, as text for a ticket. "{UNKNOWN}" is what could not be found out. {private}'


def raw_environment(record: Record, shown: _Shown = _public) -> str:
    """Environment, workload and stages, a line for each fact, in the order of a ticket."""
    run = [
        _part("Stages", shown(_stages(record))),
        _part("Record", shown(_origin(record))),
    ]
    return _joined([*_facts(record, shown), *run])


def _facts(record: Record, shown: _Shown) -> list[str]:
    """What was found of machine, software and workload, the usual sections first."""
    order = [name for name in TITLES if name in record.environment]
    order += [name for name in record.environment if name not in (*TITLES, COLLECT_ENV)]
    parts = [
        _part(TITLES.get(name, name), shown(record.environment[name]), ABSENT.get(name, UNKNOWN))
        for name in order
    ]
    return [*parts, _part("Workload", shown(record.workload))]


def _joined(parts: Sequence[str]) -> str:
    return "\n\n".join(part for part in parts if part)


def _part(title: str, facts: Mapping[str, Cell], absent: str = UNKNOWN) -> str:
    """A heading and its facts, keys aligned; "" where there are none."""
    named = {_line(key): value for key, value in facts.items()}
    if not named:
        return ""
    width = max(map(len, named))
    lines = [f"{key.ljust(width)} : {_value(value, absent)}" for key, value in named.items()]
    return "\n".join([_line(title), "-" * len(_line(title)), *lines])


def _value(value: Cell, absent: str) -> str:
    if value is None:
        return absent
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _line(str(value), LONGEST_VALUE)


def _line(text: str, longest: int = LONGEST_NAME) -> str:
    """Homes go first: of a path that was cut nobody could tell where one begins."""
    return clean(without_homes(text), longest)


def _stages(record: Record) -> Facts:
    return {
        name: f"{result.status.replace('_', ' ')}, {seconds(result.duration_s)}"
        + (f": {result.reason}" if result.reason else "")
        for name, result in record.stages.items()
    }


def _origin(record: Record) -> Facts:
    return {
        "tool": f"{record.tool.name} {record.tool.version}",
        "created": record.created,
        "schema": record.schema_version,
        "command": " ".join(record.command) or None,
    }


SECTION = Section(
    name="appendix-environment",
    order=98,
    title="Appendix C: raw environment",
    compose=compose,
)
