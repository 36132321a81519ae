"""A record and free text without who ran it, on which machine, with which keys.

What is private, and what stands in its place, is the table in `private`. The names of this machine
and of its user are added when a text is cleaned.
"""

from __future__ import annotations

import getpass
import os
import platform
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeVar

import msgspec

from qwenprof.formatting import count as counted
from qwenprof.formatting import listed, without_homes
from qwenprof.record.record import Cell, Facts, Record, Series, StageResult, Tool
from qwenprof.report.addresses import is_version
from qwenprof.report.private import (
    KEYS,
    ORDINARY_WORDS,
    TABLE,
    kind_of,
    short_path,
    words_of_the_field,
)
from qwenprof.report.rule import Match, Replacement, Rule

NOUNS = {
    "path": ("local path", "local paths"),
    "host": ("host name", "host names"),
    "ip": ("IP address", "IP addresses"),
    "mac": ("MAC address", "MAC addresses"),
    "uuid": ("UUID", "UUIDs"),
    "serial": ("serial number", "serial numbers"),
    "user": ("user name", "user names"),
    "secret": ("secret", "secrets"),
}
MAX_PASSES = 8

_Named = tuple[str, str, tuple[str, ...], Replacement]
_T = TypeVar("_T")


def redacted(record: Record) -> Record:
    """The same record without what tells who ran it and where; numbers are untouched.

    Keys are cleaned too. Where two become equal, the second is called "key (2)".
    """
    return redacted_and_counted(record)[0]


def redacted_text(text: str) -> str:
    """Free text without what tells who ran it and where. Raises nothing."""
    return _cleaned(text, _rules())[0]


def removed(counts: Mapping[str, int]) -> str:
    """Counts as a sentence has them: "3 local paths and 1 host name"; "nothing" for none."""
    parts = [
        f"{counted(counts[kind])} {forms[counts[kind] != 1]}"
        for kind, forms in NOUNS.items()
        if counts.get(kind)
    ]
    return listed(parts) if parts else "nothing"


_DATE = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?")
_MODEL_KEYS = ("model", "checkpoint", "weights")


# What only this machine knows about itself.


def _rules() -> tuple[Rule, ...]:
    """The table, between what this process knows to be secret and the names of its own."""
    users = {os.environ.get(name) for name in ("USER", "LOGNAME", "USERNAME", "SUDO_USER")}
    hosts = {os.environ.get(name) for name in ("HOSTNAME", "COMPUTERNAME", "SLURMD_NODENAME")}
    for names, ask in (
        (users, getpass.getuser),
        (hosts, socket.gethostname),
        (hosts, platform.node),
    ):
        with suppress(OSError, KeyError, ImportError):
            names.add(ask())
    hosts |= {name.partition(".")[0] for name in hosts if name}
    secrets = {value for name, value in os.environ.items() if KEYS[0][1].fullmatch(name)}
    homes = {os.environ.get("HOME"), os.environ.get("USERPROFILE")}
    return _rules_for(
        _own(users), _own(hosts), _longest_first(homes, 6), _longest_first(secrets, 8)
    )


def _own(names: Iterable[str | None]) -> tuple[str, ...]:
    """The names that would betray somebody: not short, and no words that anybody uses."""
    used = words_of_the_field()
    found = _longest_first(names, 3)
    return tuple(n for n in found if n.lower() not in used and re.search("[A-Za-z]", n))


def _longest_first(names: Iterable[str | None], least: int) -> tuple[str, ...]:
    """What has so many characters and is no word of the field, the longest first."""
    found = {name for name in names if name and len(name) >= least}
    return tuple(sorted(found - words_of_the_field(), key=lambda name: (-len(name), name)))


@lru_cache(maxsize=16)
def _rules_for(
    users: tuple[str, ...], hosts: tuple[str, ...], homes: tuple[str, ...], secrets: tuple[str, ...]
) -> tuple[Rule, ...]:
    alone = r"(?<![A-Za-z0-9])(?:{})(?![A-Za-z0-9])"
    domain = r"(?:(?:\.[A-Za-z0-9-]+){2,})?"
    first: list[_Named] = [("secret", "(?:{})", secrets, "<secret>"), ("path", alone, homes, _home)]
    last: list[_Named] = [
        ("host", f"(?i){alone}{domain}", hosts, "<host>"),
        ("user", f"(?i){alone}", users, _own_user),
    ]
    before, after = (
        tuple(
            Rule(kind, re.compile(pattern.replace("{}", "|".join(map(re.escape, names)))), mark)
            for kind, pattern, names, mark in rules
            if names
        )
        for rules in (first, last)
    )
    return before + TABLE + after


def _home(match: Match) -> str:
    """This user's home folder; the root of the file system and /root are no secret."""
    is_whole = match.string[max(0, match.start() - 1) : match.start()] not in ("~", ".", "-")
    return "<home>" if is_whole and len(re.findall(r"[\\/]\w", match[0])) > 1 else match[0]


def _own_user(match: Match) -> str:
    """This user's name: one that is no other word wherever it stands, else where it is a name."""
    return "<user>" if _is_distinct(match[0]) or _stands_as_a_name(match) else match[0]


def _is_distinct(name: str) -> bool:
    """Whether it is no word of a report: it has four letters, or six signs with a digit."""
    if name.lower() in ORDINARY_WORDS:
        return False
    return len(re.findall("[A-Za-z]", name)) > 3 or bool(re.match(r"(?=.{6}).*\d", name))


def _stands_as_a_name(match: Match) -> bool:
    """Whether it stands in a path, after ~ or before an @."""
    start, end = match.span()
    before = re.split(r"[\s\"'`]", match.string[max(0, start - 256) : start])[-1]
    after = re.split(r"[\s\"'`]", match.string[end : end + 256])[0]
    in_path = any(sign in before + after for sign in "/\\")
    return in_path or before.endswith("~") or after.startswith("@")


# The walk through a text and through a record.


def _cleaned(text: str, rules: Iterable[Rule]) -> tuple[str, Counter[str]]:
    """The text after all rules, again until nothing changes, and what was removed by kind."""
    counts: Counter[str] = Counter()
    for _ in range(MAX_PASSES):
        before = text
        for rule in rules:
            text = _applied(rule, text, counts)
        cut = without_homes(text)
        counts["path"] += cut != text
        text = cut
        if text == before:
            break
    return text, +counts


def _applied(rule: Rule, text: str, counts: Counter[str]) -> str:
    def replaced(match: Match) -> str:
        made = rule.replacement
        new = match.expand(made) if isinstance(made, str) else made(match)
        counts[rule.kind] += new != match[0]
        return new

    return rule.pattern.sub(replaced, text)


@dataclass(frozen=True, kw_only=True)
class _Walk:
    """One record on its way: the rules, what they removed, and the texts already seen."""

    rules: tuple[Rule, ...]
    counts: Counter[str] = field(default_factory=Counter)
    seen: dict[str, tuple[str, Counter[str]]] = field(default_factory=dict)

    def text(self, text: str) -> str:
        if text not in self.seen:
            self.seen[text] = _cleaned(text, self.rules)
        cleaned, counts = self.seen[text]
        self.counts.update(counts)
        return cleaned

    def changed(self, kind: str, old: object, new: str) -> str:
        """`new`, counted where it is not what stood there."""
        self.counts[kind] += new != old
        return new


def redacted_and_counted(record: Record) -> tuple[Record, dict[str, int]]:
    """The same, with how many of each kind were removed; the kinds are those of `NOUNS`."""
    walk = _Walk(rules=_rules())
    environment = _keyed(walk, record.environment, lambda name, facts: _facts(walk, facts, name))
    stages = _keyed(walk, record.stages, lambda _, result: _stage(walk, result))
    is_date = _DATE.fullmatch(record.created)
    cleaned = Record(
        schema_version=record.schema_version,
        tool=Tool(name=walk.text(record.tool.name), version=walk.text(record.tool.version)),
        created=record.created if is_date else walk.text(record.created),
        command=_command(walk, record.command),
        environment=environment,
        workload=_workload(walk, record.workload),
        stages=stages,
    )
    return cleaned, dict(+walk.counts)


def _stage(walk: _Walk, result: StageResult) -> StageResult:
    return msgspec.structs.replace(
        result,
        reason=None if result.reason is None else walk.text(result.reason),
        series=_keyed(walk, result.series, lambda _, series: _series(walk, series)),
        tables=_keyed(walk, result.tables, lambda _, rows: [_facts(walk, row) for row in rows]),
    )


def _series(walk: _Walk, series: Series) -> Series:
    return msgspec.structs.replace(
        series,
        unit=walk.text(series.unit),
        stop_reason=walk.text(series.stop_reason),
        flags=[walk.text(flag) for flag in series.flags],
    )


def _keyed(walk: _Walk, items: Mapping[str, _T], clean: Callable[[str, _T], _T]) -> dict[str, _T]:
    """The same mapping with clean keys and values; no value is lost where keys become equal."""
    result: dict[str, _T] = {}
    repeated: Counter[str] = Counter()
    for key, value in items.items():
        base = name = walk.text(key)
        while name in result:
            repeated[base] += 1
            name = f"{base} ({repeated[base] + 1})"
        result[name] = clean(key, value)
    return result


def _facts(walk: _Walk, facts: Facts, section: str = "") -> Facts:
    of_packages = section == "packages"
    return _keyed(walk, facts, lambda key, cell: _cell(walk, key, cell, of_packages))


def _workload(walk: _Walk, facts: Facts) -> Facts:
    """As other facts; a checkpoint in a folder is told by the folder's name alone."""
    local = {
        key: _local_model(walk, cell) if key in _MODEL_KEYS and isinstance(cell, str) else cell
        for key, cell in facts.items()
    }
    return _facts(walk, local)


def _cell(walk: _Walk, key: str, cell: Cell, of_package: bool) -> Cell:
    if cell is None or isinstance(cell, bool | float):
        return cell
    kind = kind_of(key, str(cell))
    if kind is not None and (isinstance(cell, str) or kind in ("secret", "serial", "uuid")):
        return walk.changed(kind, cell, f"<{kind}>")
    if not isinstance(cell, str):
        return cell
    return cell if is_version(cell, key, of_package=of_package) else walk.text(cell)


def _command(walk: _Walk, words: Iterable[str]) -> list[str]:
    """The words of a command line, where an option tells what the next word is."""
    result, before = [], ""
    for word in words:
        is_option = before.startswith("-") and "=" not in before and not word.startswith("-")
        result.append(_argument(walk, before.lstrip("-") if is_option else "", word))
        before = word
    return result


def _argument(walk: _Walk, option: str, word: str) -> str:
    head, is_, value = word.partition("=") if word.startswith("-") else ("", "", word)
    if not is_:
        head, value = "", word
    name = head.lstrip("-") or option
    kind = kind_of(name, value)
    if kind is not None:
        return walk.text(head) + is_ + walk.changed(kind, value, f"<{kind}>")
    if name in _MODEL_KEYS:
        return walk.text(head) + is_ + walk.text(_local_model(walk, value))
    if re.match(r"(?:~?/|~?\\|[A-Za-z]:\\)[^\\/]+[\\/]", value):
        return walk.text(head) + is_ + walk.text(walk.changed("path", value, short_path(value)))
    return walk.text(word)


def _local_model(walk: _Walk, source: str) -> str:
    """`<path>/name` for a checkpoint in a folder; a hub id (owner/name) and a link stay."""
    is_link = re.search(r"[a-z]://(?!/)", source)
    is_local = re.match(r"[/~.\\]|[A-Za-z]:[\\/]|(?:[^/]*/){2}", source) and not is_link
    return walk.changed("path", source, short_path(source)) if is_local else source
