"""Finds where the host waits for the device in the middle of a forward.

A stretch of code that waits keeps the host the longer the further the device lags behind when
it begins. Any other keeps it as long as its own work takes. So the same forward is timed as it
is, with the device lagging behind, and drained, with the device never behind at a mark: a
stretch in which the host spends about as much more time as the device lagged behind waits. A
queue that is full holds the host up too, but only for a small part of what is in it.

What is found is a stretch that waits, however often it does: after the first wait there is
nothing left to wait for. A wait for work of which there is next to none is not found. Nor does
it cost anything but a launch.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from qwenprof.harness.module_timer import ABSENT, NodeTime, Pass

LEAST_BEHIND_S = 50e-6  # the host's own time scatters as much
LEAST_RATIO = 0.2  # of the host's own time: with less behind, noise could be a wait
WAITED = 0.5  # of what the device was behind


def waits(queued: Sequence[Pass], drained: Sequence[Pass]) -> dict[str, int] | None:
    """Waits in the own code of each node in one pass, in the median over the passes.

    Args:
        queued: passes as a user gets them.
        drained: passes of a drained timer.

    Returns:
        None where there is no pass of either kind. A node whose code did not run alike in all
        passes is left out, because its stretches cannot be compared.
    """
    if not queued or not drained:
        return None
    found = {}
    for path in dict.fromkeys(path for each in queued for path in each):
        times = [each.get(path, ABSENT) for each in queued]
        own_s = _own_s([each.get(path, ABSENT) for each in drained])
        if all(len(time.stretches) == len(own_s) for time in times):
            found[path] = statistics.median_low(_count(time, own_s) for time in times)
    return found


def host_alone_s(drained: Sequence[Pass]) -> float | None:
    """The host's seconds in one pass with nothing to wait for; None without such a pass.

    A wait for work that the same stretch has launched is still in it, so it is the most that
    the host's own work can take.
    """
    if not drained:
        return None
    return statistics.median(
        sum(stretch.host_s for time in each.values() for stretch in time.stretches)
        for each in drained
    )


def most_behind_s(queued: Sequence[Pass]) -> float | None:
    """How far the device lagged behind with a forward's own work at most, in the median pass.

    Where it never lags behind, no wait can be found.
    """
    if not queued:
        return None
    return statistics.median(
        max((each.own_behind_s for time in one.values() for each in time.stretches), default=0.0)
        for one in queued
    )


def _own_s(times: Sequence[NodeTime]) -> list[float]:
    """The host's own seconds in each stretch; empty where the passes do not agree on them."""
    columns = [[stretch.host_s for stretch in time.stretches] for time in times]
    if len({len(column) for column in columns}) != 1:
        return []
    return [statistics.median(values) for values in zip(*columns, strict=True)]


def _count(time: NodeTime, own_s: Sequence[float]) -> int:
    return sum(
        stretch.own_behind_s >= max(LEAST_BEHIND_S, LEAST_RATIO * alone_s)
        and stretch.host_s - alone_s >= WAITED * stretch.behind_s
        for stretch, alone_s in zip(time.stretches, own_s, strict=True)
    )
