"""The parts of a forward, from the rows of the per-layer stage: few enough to read, none missing.

The parts of a vision tower are its children, repeated blocks taken together; what the tower's own
code takes is a part too. Around a tower, each sibling of it or of what holds it is one part, so a
language model is one. Parts are disjoint, so their times add up to the whole forward. A model
without a tower that can be told is taken apart in the same way from its root.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from qwenprof.diagnosis.bounds import machine, number, positive
from qwenprof.record.record import Cell, Record, Row

ROOT = ""
PATCH_EMBED = "patch_embed"
TOWERS = ("visual", "vision_tower", "vision_model", "vision_encoder")
FUNCTION = "function: "


@dataclass(frozen=True, kw_only=True)
class Component:
    """A part of the forward.

    paths: the rows that it stands for; empty for the code of a parent itself.
    share: of the whole forward.
    """

    label: str
    paths: tuple[str, ...]
    module_type: str
    time_s: float
    share: float | None
    flops: float | None = None
    bytes: float | None = None
    bound_s: float | None = None
    first_s: float | None = None

    @property
    def count(self) -> int:
        return max(1, len(self.paths))

    @property
    def path(self) -> str:
        """Of the module or function, of the container for repeated blocks; "" for own code."""
        if self.count > 1:
            return self.paths[0].rpartition(".")[0]
        return self.paths[0] if self.paths else ROOT

    @property
    def excess_s(self) -> float | None:
        return None if self.bound_s is None else self.time_s - self.bound_s

    @property
    def slowdown(self) -> float | None:
        return self.time_s / self.bound_s if self.bound_s else None

    @property
    def mean_of_others_s(self) -> float | None:
        """Of repeated blocks, the mean of all but the first."""
        if self.first_s is None or self.count < 2:
            return None
        return (self.time_s - self.first_s) / (self.count - 1)

    def holds(self, path: str) -> bool:
        """Whether `path` is this part or lies within it."""
        return any(path == own or path.startswith(f"{own}.") for own in self.paths if own)


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """A forward taken apart.

    tower: path of what was taken apart; the root where there is no vision tower around it.
    """

    total_s: float
    tower: str
    components: tuple[Component, ...]

    def holding(self, path: str) -> Component | None:
        """The part that a module belongs to."""
        first = representative(path)
        return next((part for part in self.components if part.holds(first)), None)


def anatomy(rows: Sequence[Row]) -> Anatomy | None:
    """The parts of a forward in the order in which it reaches them; None without a timed root."""
    by_path = {str(row.get("path")): row for row in rows if number(row.get("inclusive_s"))}
    total_s = number(by_path[ROOT]["inclusive_s"]) if ROOT in by_path else None
    if not total_s:
        return None
    parents = _parents(by_path)
    tower = _tower(parents)
    ancestors = _ancestors(tower, parents)
    inner, *outer = [
        _parts(by_path, _outside(parents, parent, tower), parent, total_s)
        for parent in (tower, *ancestors)
    ]
    components = (
        *inner,
        *_own_code([tower], by_path, total_s, _own_name(tower)),
        *(part for parts in outer for part in parts),
        *_own_code(ancestors, by_path, total_s, "own code around the tower"),
    )
    return Anatomy(total_s=total_s, tower=tower, components=components)


def _own_name(tower: str) -> str:
    return "own code of the tower" if tower else "own code of the model"


def first_block(rows: Sequence[Row], part: Component) -> list[Row]:
    """The children of the first of repeated blocks, which are timed one by one."""
    first = part.paths[0]
    return [row for row in rows if str(row.get("path")).rpartition(".")[0] == first]


def one_launch_only(record: Record, part: Component) -> bool:
    """Whether the bound is a launch for each call, so that it says nothing of the work."""
    measured = machine(record)
    launch_s = measured.launch_latency_s if measured else None
    if not launch_s or not part.bound_s:
        return False
    paths = frozenset(part.paths)
    rows = [row for row in record.rows("per-layer", "modules") if str(row.get("path")) in paths]
    calls = sum(positive(row.get("calls")) or 1.0 for row in rows)
    return part.bound_s <= 1.001 * calls * launch_s


def representative(path: str) -> str:
    """Of a path that stands for all repeated blocks, such as blocks.*.mlp, that of the first."""
    return path.replace(".*.", ".0.")


def _parents(paths: Iterable[str]) -> dict[str, str]:
    """What each path but the root was called from, as far as the paths and their order tell.

    A caller is reached before what it calls, so a path that comes before the one that holds it
    was called from further out: an embedding of a language model, for one.
    """
    parents: dict[str, str] = {}
    reached: set[str] = set()
    for path in paths:
        if path != ROOT:
            parents[path] = _holder(path, reached)
        reached.add(path)
    return parents


def _holder(path: str, reached: set[str]) -> str:
    while path:
        path = path.rpartition(".")[0]
        if path in reached:
            return path
    return ROOT


def _tower(parents: Mapping[str, str]) -> str:
    """What holds a patch embedding, else what is called a tower, else the first to branch."""
    for path, parent in parents.items():
        if path.rpartition(".")[2] == PATCH_EMBED:
            return parent
    for path in parents.values():
        if path.rpartition(".")[2] in TOWERS:
            return path
    found = ROOT
    while len(only := _called_by(parents, found)) == 1 and _called_by(parents, only[0]):
        found = only[0]
    return found


def _called_by(parents: Mapping[str, str], parent: str) -> list[str]:
    return [path for path, own in parents.items() if own == parent]


def _outside(parents: Mapping[str, str], parent: str, tower: str) -> list[str]:
    """What `parent` calls, but for what leads to the tower."""
    return [path for path in _called_by(parents, parent) if not _within(tower, path)]


def _ancestors(path: str, parents: Mapping[str, str]) -> list[str]:
    found = []
    while path != ROOT:
        path = parents[path]
        found.append(path)
    return found


def _within(path: str, outer: str) -> bool:
    return path == outer or path.startswith(f"{outer}.")


def _parts(
    rows: Mapping[str, Row], paths: Sequence[str], parent: str, total_s: float
) -> list[Component]:
    groups: dict[str, list[str]] = {}
    for path in paths:
        repeated = re.fullmatch(r"(.+)\.\d+", path)
        groups.setdefault(repeated[1] if repeated else path, []).append(path)
    return [_part(rows, name, members, parent, total_s) for name, members in groups.items()]


def _part(
    rows: Mapping[str, Row], name: str, paths: Sequence[str], parent: str, total_s: float
) -> Component:
    own = [rows[path] for path in paths]
    time_s = _sum(row.get("inclusive_s") for row in own) or 0.0
    kind = str(own[0].get("module_type") or "")
    label = kind.removeprefix(FUNCTION) if kind.startswith(FUNCTION) else _relative(name, parent)
    return Component(
        label=f"{label}, all {len(paths)}" if len(paths) > 1 else label,
        paths=tuple(paths),
        module_type="function" if kind.startswith(FUNCTION) else kind,
        time_s=time_s,
        share=time_s / total_s,
        flops=_sum(row.get("flops") for row in own),
        bytes=_sum(row.get("bytes") for row in own),
        bound_s=_sum(row.get("bound_s") for row in own),
        first_s=number(own[0].get("inclusive_s")) if len(paths) > 1 else None,
    )


def _own_code(
    paths: Sequence[str], rows: Mapping[str, Row], total_s: float, label: str
) -> list[Component]:
    time_s = _sum(rows[path].get("exclusive_s") for path in paths) if paths else None
    if not time_s:
        return []
    part = Component(label=label, paths=(), module_type="", time_s=time_s, share=time_s / total_s)
    return [part]


def _relative(path: str, parent: str) -> str:
    return path.removeprefix(f"{parent}.") if parent else path


def _sum(cells: Iterable[Cell]) -> float | None:
    """The sum; None where any of them is unknown."""
    values = [number(cell) for cell in cells]
    known = [value for value in values if value is not None]
    return sum(known) if values and len(known) == len(values) else None
