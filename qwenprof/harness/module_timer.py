"""Times a call tree of modules and helper functions, from inside one forward.

Every node gets a mark on the device's timeline before and after it, kept on a call stack,
and nothing is synchronised until all is done. Inclusive time is the span of a node;
exclusive time is what its timed children leave of it, so that functional code in a parent's
forward is not lost and exclusive times add up to the total by construction.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qwenprof.harness.probe import ROOT, Node, attached

if TYPE_CHECKING:
    from qwenprof.harness.clock import Clock, Mark


@dataclass(frozen=True, kw_only=True)
class NodeTime:
    """Seconds of one node in one pass, all its calls together."""

    calls: int
    inclusive_s: float
    exclusive_s: float


Pass = Mapping[str, NodeTime]

ABSENT = NodeTime(calls=0, inclusive_s=0.0, exclusive_s=0.0)


@dataclass
class _Span:
    path: str
    parent: int
    start: Mark
    end: Mark = None


@dataclass
class _OpenPass:
    """handling: the error that was being handled already when the pass began, if any."""

    handling: BaseException | None
    spans: list[_Span] = field(default_factory=list)
    stack: list[int] = field(default_factory=list)


class ModuleTimer:
    """Records a pass for every forward of the root node while attached."""

    def __init__(self, clock: Clock, nodes: Sequence[Node]) -> None:
        self._clock = clock
        self._nodes = nodes
        self._passes: list[_OpenPass] = []
        self._resolved_passes: list[Pass] = []

    @contextmanager
    def attached(self) -> Iterator[None]:
        """The context in which forwards are recorded.

        Its end waits for the device and reads the marks, so that they can be used again: making
        an event costs more than recording one.
        """
        with attached(self._nodes, self._enter, self._leave):
            yield
        self._resolved_passes += self._finished()

    def collect(self) -> list[Pass]:
        """The finished passes so far, oldest first; forgets them."""
        passes = self._resolved_passes + self._finished()
        self._resolved_passes = []
        return passes

    def _finished(self) -> list[Pass]:
        self._clock.synchronize()
        finished = [each for each in self._passes if each.spans and not each.stack]
        self._passes = []
        return [self._resolved(each) for each in finished]

    def _enter(self, node: Node, _: tuple[Any, ...], __: dict[str, Any]) -> None:
        if node.path == ROOT:
            self._passes.append(_OpenPass(handling=sys.exc_info()[1]))
        elif not self._passes or not self._passes[-1].stack:
            return  # called from outside the model's own forward
        current = self._passes[-1]
        parent = current.stack[-1] if current.stack else -1
        current.stack.append(len(current.spans))
        current.spans.append(_Span(node.path, parent, self._clock.mark()))

    def _leave(self, node: Node, _: Any) -> None:
        if not self._passes or not self._passes[-1].stack:
            return
        current = self._passes[-1]
        current.spans[current.stack.pop()].end = self._clock.mark()
        if node.path == ROOT and sys.exc_info()[1] is not current.handling:
            self._passes.pop()  # the forward did not get to its end

    def _resolved(self, each: _OpenPass) -> Pass:
        inclusive = [self._clock.elapsed_s(span.start, span.end) for span in each.spans]
        exclusive = list(inclusive)
        times: dict[str, NodeTime] = {}
        for span, span_s in zip(each.spans, inclusive, strict=True):
            self._clock.release(span.start, span.end)
            if span.parent >= 0:
                exclusive[span.parent] -= span_s
        for span, inclusive_s, exclusive_s in zip(each.spans, inclusive, exclusive, strict=True):
            times[span.path] = _added(times.get(span.path), inclusive_s, exclusive_s)
        return times


def typical(passes: Sequence[Pass]) -> Pass:
    """The mean over the middle half of the passes, by their total: robust, and still additive.

    A median per node would not add up to the total; one pass alone would waste the others.
    This is the interquartile mean, taken over whole passes. A node that some passes did not
    reach took no time in those.

    Raises:
        ValueError: `passes` is empty.
    """
    if not passes:
        raise ValueError("no pass was timed")
    ordered = sorted(passes, key=lambda each: each[ROOT].inclusive_s)
    quarter = len(ordered) // 4
    middle = ordered[quarter : len(ordered) - quarter]
    paths = dict.fromkeys(path for each in middle for path in each)
    return {path: _mean([each.get(path, ABSENT) for each in middle]) for path in paths}


def _added(so_far: NodeTime | None, inclusive_s: float, exclusive_s: float) -> NodeTime:
    if so_far is None:
        return NodeTime(calls=1, inclusive_s=inclusive_s, exclusive_s=exclusive_s)
    return NodeTime(
        calls=so_far.calls + 1,
        inclusive_s=so_far.inclusive_s + inclusive_s,
        exclusive_s=so_far.exclusive_s + exclusive_s,
    )


def _mean(times: Sequence[NodeTime]) -> NodeTime:
    return NodeTime(
        calls=max(time.calls for time in times),
        inclusive_s=sum(time.inclusive_s for time in times) / len(times),
        exclusive_s=sum(time.exclusive_s for time in times) / len(times),
    )
