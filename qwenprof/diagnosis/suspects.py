"""What of a forward can be held against what it should take: its parts, and what blocks hold.

Repeated blocks are one part, held together against the others. That would hide a part that is slow
in every block, so what a block is made of is looked at too: the parts of the first block, which
alone are timed one by one, taken for those of all blocks.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from qwenprof.diagnosis.bounds import number, positive
from qwenprof.diagnosis.components import Anatomy, Component, first_block
from qwenprof.diagnosis.projection import Comparison
from qwenprof.record.record import Row

FEWEST_BLOCKS = 4
PASSES = ("inclusive_s", "min_s", "first_call_s")


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A part, and what its work should take.

    fastest_s: its time if every call had been as fast as the fastest, the first one included.
    should: how `least_s` is known, for a sentence.
    products: whether it is hardly more than its linear layers.
    loose: whether it holds norms, activations and softmax, which its bound leaves out.
    each_of: how many blocks hold it, where it is a part of every block; else 0.
    """

    part: Component
    least_s: float
    fastest_s: float
    should: str
    products: bool = False
    loose: bool = False
    each_of: int = 0

    @property
    def excess_s(self) -> float:
        return self.part.time_s - self.least_s

    @property
    def slowdown(self) -> float:
        return self.part.time_s / self.least_s


def suspects(whole: Anatomy, found: Comparison | None, rows: Sequence[Row]) -> list[Suspect]:
    """The parts of which is known what they should take, the largest excess first.

    That is the bound or, for the patch embedding where it has none, the time of the equal Linear.
    """
    stacks = _stacks(rows)
    suspected = []
    for part in whole.components:
        if part.bound_s:
            should = "its work should take {} on this machine"
            suspect = Suspect(
                part=part,
                least_s=part.bound_s,
                fastest_s=_fastest_s(part.paths, rows),
                should=should,
                products=_is_products(part.paths[0], rows),
                loose=part.count >= FEWEST_BLOCKS or _holds_a_stack(part, stacks),
            )
            suspected.append(suspect)
        elif found and found.linear_s and part.holds(found.module):
            should = "the equal Linear takes {}"
            fastest_s = _fastest_s(part.paths, rows)
            suspected.append(
                Suspect(part=part, least_s=found.linear_s, fastest_s=fastest_s, should=should)
            )
    return sorted(suspected, key=lambda each: each.excess_s, reverse=True)


def suspects_in_blocks(whole: Anatomy, rows: Sequence[Row]) -> list[Suspect]:
    """What every block holds, over all blocks, the largest excess first."""
    suspected = [
        suspect
        for stack in whole.components
        if stack.count >= FEWEST_BLOCKS
        for suspect in _inside(stack, rows)
    ]
    return sorted(suspected, key=lambda each: each.excess_s, reverse=True)


def usual_slowdown(suspected: Sequence[Suspect]) -> float | None:
    """The slowdown that half of the time is spent below: what is normal for this model here."""
    bounded = [each for each in suspected if each.part.bound_s]
    ordered = sorted(bounded, key=lambda each: each.slowdown)
    half, passed = sum(each.part.time_s for each in ordered) / 2, 0.0
    for each in ordered:
        passed += each.part.time_s
        if passed >= half:
            return each.slowdown
    return None


def _inside(stack: Component, rows: Sequence[Row]) -> list[Suspect]:
    found = []
    for row in first_block(rows, stack):
        time_s, bound_s = positive(row.get("inclusive_s")), positive(row.get("bound_s"))
        if time_s is None or bound_s is None:
            continue
        time_s = max(bound_s, time_s - _of_the_first(stack, rows))
        products = _is_products(str(row.get("path")), rows)
        name = str(row.get("path")).rpartition(".")[2]
        path = f"{stack.path}.*.{name}"
        part = Component(
            label=path,
            paths=(path,),
            module_type=str(row.get("module_type") or ""),
            time_s=time_s * stack.count,
            share=None,
            bound_s=bound_s * stack.count,
        )
        suspect = Suspect(
            part=part,
            least_s=bound_s * stack.count,
            fastest_s=min(part.time_s, _fastest_s([str(row.get("path"))], rows) * stack.count),
            should="its work should take {} on this machine",
            products=products,
            loose=not products,
            each_of=stack.count,
        )
        found.append(suspect)
    return found


def _fastest_s(paths: Sequence[str], rows: Sequence[Row]) -> float:
    """Seconds of these, each in its fastest pass: what is slow is slow in every one."""
    passes = {
        str(row.get("path")): [positive(row.get(column)) for column in PASSES] for row in rows
    }
    known = ([each for each in passes.get(path, []) if each is not None] for path in paths)
    return sum(min(each) for each in known if each)


def _of_the_first(stack: Component, rows: Sequence[Row]) -> float:
    """Seconds that the first block takes beyond the others: not what every block takes."""
    times_s = {str(row.get("path")): positive(row.get("inclusive_s")) for row in rows}
    first_s, *others = (times_s.get(path) or 0.0 for path in stack.paths)
    return max(0.0, first_s - statistics.median(others))


def _is_products(path: str, rows: Sequence[Row]) -> bool:
    """Whether linear layers are all of the arithmetic that was counted in a part."""
    own = next((positive(row.get("flops")) for row in rows if row.get("path") == path), None)
    layers = [
        number(row.get("flops")) or 0.0
        for row in rows
        if str(row.get("path")).startswith(f"{path}.") and row.get("module_type") == "Linear"
    ]
    return own is not None and sum(layers) >= own


def _stacks(rows: Sequence[Row]) -> set[str]:
    """The containers of repeated blocks: of enough that are of one type."""
    members: Counter[tuple[str, str]] = Counter()
    for row in rows:
        container, _, last = str(row.get("path")).rpartition(".")
        if container and last.isdecimal():
            members[container, str(row.get("module_type"))] += 1
    return {container for (container, _), count in members.items() if count >= FEWEST_BLOCKS}


def _holds_a_stack(part: Component, stacks: Collection[str]) -> bool:
    return any(part.holds(stack) for stack in stacks)


def without(suspected: Sequence[Suspect], suspect: Suspect) -> list[Suspect]:
    """The others."""
    return [each for each in suspected if each is not suspect]
