"""Times a call tree of modules and helper functions, from inside one forward.

Every node gets a mark on the device's timeline before and after it, kept on a call stack,
and nothing is synchronised until all is done. Inclusive time is the span of a node;
exclusive time is what its timed children leave of it, so that functional code in a parent's
forward is not lost and exclusive times add up to the total by construction.

On a device with a queue the host's time is kept at every mark too. So for each stretch of a
node's own code it is known how long the host was in it and how far the device lagged behind
when it began, which `waits` makes use of.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from qwenprof.harness.probe import ROOT, Node, attached

if TYPE_CHECKING:
    from qwenprof.harness.clock import Clock, Mark


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Code of a node between two marks: from its start or a child's end to the next of either.

    host_s: seconds that the host was in it.
    behind_s: seconds of work that the device had still to do when it began.
    own_behind_s: those of them that are this forward's own, and not of one before it.
    """

    host_s: float
    behind_s: float
    own_behind_s: float


@dataclass(frozen=True, kw_only=True)
class NodeTime:
    """Seconds of one node in one pass, all its calls together.

    host_s: the host's, everything below the node included; None on a device without a queue.
    stretches: the node's own code in the order in which it ran; empty without a queue.
    """

    calls: int
    inclusive_s: float
    exclusive_s: float
    host_s: float | None = None
    stretches: tuple[Stretch, ...] = ()


Pass = Mapping[str, NodeTime]

ABSENT = NodeTime(calls=0, inclusive_s=0.0, exclusive_s=0.0)


class _Stamp(NamedTuple):
    """A mark on a device with a queue, and the host's time when it came there and went on."""

    mark: Mark
    came_s: float
    went_s: float


@dataclass(slots=True)
class _Span:
    """host_s: how long the host was in it, with a queue; the time of its start while it is open."""

    path: str
    parent: int
    start: Mark
    end: Mark = None
    host_s: float = 0.0


@dataclass
class _OpenPass:
    """handling: the error that was being handled already when the pass began, if any.

    trail: with a queue, every stamp in order and the span whose own code goes on after it; -1 for
        none.
    """

    handling: BaseException | None
    spans: list[_Span] = field(default_factory=list)
    stack: list[int] = field(default_factory=list)
    trail: list[tuple[_Stamp, int]] = field(default_factory=list)


class ModuleTimer:
    """Records a pass for every forward of the root node while attached.

    Args:
        clock: of the device that does the work.
        nodes: what to time; the root, "", among them.
        drained: wait for the device at every mark, so that it never lags behind the host there.
            Such passes tell the host's own time; their device times are not what a user gets.
    """

    def __init__(self, clock: Clock, nodes: Sequence[Node], *, drained: bool = False) -> None:
        self._clock = clock
        self._nodes = nodes
        self._drained = drained
        self._queued = clock.asynchronous
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
        clock = self._clock
        clock.synchronize()
        finished = [each for each in self._passes if each.spans and not each.stack]
        self._passes = []
        if not self._queued:
            return [self._resolved(each, None) for each in finished]
        idle = self._stamp()
        clock.synchronize()
        resolved = [self._resolved(each, idle) for each in finished]
        clock.release(idle.mark)
        return resolved

    def _stamp(self) -> _Stamp:
        came_s = went_s = self._clock.now_s()
        if self._drained:
            self._clock.synchronize()
            went_s = self._clock.now_s()
        return _Stamp(self._clock.mark(), came_s, went_s)

    def _enter(self, node: Node, _: tuple[Any, ...], __: dict[str, Any]) -> None:
        if node.path == ROOT:
            self._passes.append(_OpenPass(handling=sys.exc_info()[1]))
        elif not self._passes or not self._passes[-1].stack:
            return  # called from outside the model's own forward
        current = self._passes[-1]
        parent = current.stack[-1] if current.stack else -1
        current.stack.append(len(current.spans))
        if not self._queued:
            current.spans.append(_Span(node.path, parent, self._clock.mark()))
            return
        stamp = self._stamp()
        current.trail.append((stamp, len(current.spans)))
        current.spans.append(_Span(node.path, parent, stamp.mark, host_s=stamp.went_s))

    def _leave(self, node: Node, _: Any) -> None:
        if not self._passes or not self._passes[-1].stack:
            return
        current = self._passes[-1]
        span = current.spans[current.stack.pop()]
        if self._queued:
            stamp = self._stamp()
            current.trail.append((stamp, span.parent))
            span.end, span.host_s = stamp.mark, stamp.came_s - span.host_s
        else:
            span.end = self._clock.mark()
        if node.path == ROOT and sys.exc_info()[1] is not current.handling:
            self._passes.pop()  # the forward did not get to its end

    def _resolved(self, each: _OpenPass, idle: _Stamp | None) -> Pass:
        """What a pass took. `idle` is a later stamp at which the device had nothing to do."""
        clock = self._clock
        inclusive = [clock.elapsed_s(span.start, span.end) for span in each.spans]
        exclusive = list(inclusive)
        for span, span_s in zip(each.spans, inclusive, strict=True):
            if span.parent >= 0:
                exclusive[span.parent] -= span_s
        own_code = self._stretches(each, idle) if idle else {}
        times: dict[str, NodeTime] = {}
        for index, span in enumerate(each.spans):
            one_call = NodeTime(
                calls=1,
                inclusive_s=inclusive[index],
                exclusive_s=exclusive[index],
                host_s=span.host_s if idle else None,
                stretches=tuple(own_code.get(index, ())),
            )
            so_far = times.get(span.path)
            times[span.path] = _added(so_far, one_call) if so_far else one_call
        clock.release(*(mark for span in each.spans for mark in (span.start, span.end)))
        return times

    def _stretches(self, each: _OpenPass, idle: _Stamp) -> dict[int, list[Stretch]]:
        """The stretches of each span's own code, by the span's index."""
        first, found = each.trail[0][0], dict[int, list[Stretch]]()
        host_s, device_s = idle.went_s - first.went_s, self._clock.elapsed_s(first.mark, idle.mark)
        behind_at_first_s = host_s - device_s
        for (stamp, owner), (following, _) in pairwise(each.trail):
            done_s = self._clock.elapsed_s(first.mark, stamp.mark)
            behind_s = behind_at_first_s + done_s - (stamp.went_s - first.went_s)
            stretch = Stretch(
                host_s=following.came_s - stamp.went_s,
                behind_s=max(0.0, behind_s),
                own_behind_s=max(0.0, min(behind_s, done_s)),
            )
            found.setdefault(owner, []).append(stretch)
        return found


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


def _added(so_far: NodeTime, more: NodeTime) -> NodeTime:
    return NodeTime(
        calls=so_far.calls + more.calls,
        inclusive_s=so_far.inclusive_s + more.inclusive_s,
        exclusive_s=so_far.exclusive_s + more.exclusive_s,
        host_s=_sum(so_far.host_s, more.host_s),
        stretches=so_far.stretches + more.stretches,
    )


def _sum(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left + right


def _mean(times: Sequence[NodeTime]) -> NodeTime:
    host = [time.host_s for time in times if time.host_s is not None]
    return NodeTime(
        calls=max(time.calls for time in times),
        inclusive_s=sum(time.inclusive_s for time in times) / len(times),
        exclusive_s=sum(time.exclusive_s for time in times) / len(times),
        host_s=sum(host) / len(times) if host else None,
    )
