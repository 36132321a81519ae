"""The workload's forward: how long it takes, which every share in a finding is a share of, what
the host does meanwhile, and of how many operators it is made.
"""

from __future__ import annotations

from dataclasses import dataclass

from qwenprof.diagnosis.bounds import number, positive
from qwenprof.record.record import Record, Row

HOST_BOUND = 0.9  # of the device's time, as the sampler flags it too


def forward_s(record: Record) -> float | None:
    """Seconds of one forward of the workload, without marks in it; None where it was not timed.

    The forward that ran in turn with the marked one, else the batch sweep at the workload's own
    batch.
    """
    summary = record.rows("per-layer", "summary")
    plain_s = positive(summary[0].get("plain_s")) if summary else None
    if plain_s is not None:
        return plain_s
    row = own_batch(record)
    return positive(row.get("median_s")) if row else None


def own_batch(record: Record) -> Row | None:
    """The row of the batch sweep for the workload's own batch."""
    wanted = number(record.workload.get("batch"))
    rows = record.rows("batch-sweep", "batches")
    return next((row for row in rows if number(row.get("batch")) == wanted), None)


@dataclass(frozen=True, kw_only=True)
class Enqueueing:
    """What one forward takes the host and the device.

    host_s: the host's own seconds, at most.
    apart: whether waiting for the device is known not to be in them.
    """

    host_s: float
    forward_s: float
    apart: bool

    @property
    def share(self) -> float:
        return self.host_s / self.forward_s

    @property
    def host_bound(self) -> bool:
        """Whether the device waits for the host, and not the other way round."""
        return self.share >= HOST_BOUND


def enqueueing(record: Record) -> Enqueueing | None:
    """The host's share of a forward on a device with a queue; None where it was not measured."""
    row, summary = own_batch(record) or {}, record.rows("per-layer", "summary")
    alone_s = positive(summary[0].get("host_alone_s")) if summary else None
    enqueue_s = positive(row.get("host_enqueue_s"))
    known = [each for each in (enqueue_s, alone_s) if each is not None]
    whole_s = positive(row.get("median_s")) if enqueue_s is not None else forward_s(record)
    if not known or whole_s is None:
        return None
    return Enqueueing(host_s=min(known), forward_s=whole_s, apart=alone_s is not None)


def total_waits(record: Record) -> int | None:
    """How often the host waits for the device in the middle of a forward; None if not measured."""
    cells = [number(row.get("waits")) for row in record.rows("per-layer", "modules")]
    known = [max(0.0, waits) for waits in cells if waits is not None]
    return int(sum(known)) if known else None


def operators(record: Record) -> float | None:
    """Operators of one forward that compute something; None where they were not counted."""
    rows = record.rows("per-layer", "modules")
    return next((positive(row.get("operators")) for row in rows if row.get("path") == ""), None)


def own_operators(record: Record) -> dict[str, float]:
    """Operators of each timed part without those of the parts below it, by path."""
    counts = {
        str(row.get("path")): positive(row.get("operators")) or 0.0
        for row in record.rows("per-layer", "modules")
    }
    own = dict(counts)
    for path, count in counts.items():
        holder = _holder(path, counts)
        if holder is not None:
            own[holder] -= count
    return own


def _holder(path: str, timed: dict[str, float]) -> str | None:
    """The innermost timed part around this one; None for the model itself."""
    above = path
    while above:
        above = above.rpartition(".")[0]
        if above in timed:
            return above
    return None
