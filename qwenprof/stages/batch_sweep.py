"""Is it batching? The same forward at growing batch sizes.

If the time of one sample stays the same, whatever is slow is slow for every sample, and no
collate function, padding or data loader is to blame. A sweep is worth nothing if the work did
not grow with the batch, so patches and tokens are kept beside the times.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qwenprof.diagnosis.bounds import number
from qwenprof.record.record import Row
from qwenprof.stages._timed_row import Prepared, timed_row
from qwenprof.stages.stage import Bench, Stage

if TYPE_CHECKING:
    from qwenprof.workload.loading import Subject


def measure(bench: Bench) -> None:
    subject = bench.subject()
    batches = subject.require_vision().workload.sweep_batches()
    plan = bench.plan({f"batch={batch}": float(batch) for batch in batches})
    for batch in batches:
        bench.say(f"batch {batch}")
        row = timed_row(bench, plan, f"batch={batch}", lambda: _prepared(subject, batch))  # noqa: B023
        bench.add_row("batches", _completed(row, batch))


def _prepared(subject: Subject, batch: int) -> Prepared:
    inputs = subject.inputs(batch)
    patches = inputs.pixels.patches if inputs.pixels else None
    columns: Row = {"patches": patches, "sequence_length": inputs.sequence_length}
    return Prepared(call=subject.call(inputs), columns=columns)


def _completed(row: Row, batch: int) -> Row:
    median_s = number(row["median_s"])
    per_sample_s = None if median_s is None else median_s / batch
    return {
        "batch": batch,
        "patches": None,
        "sequence_length": None,
        **row,
        "per_sample_s": per_sample_s,
    }


STAGE = Stage(
    name="batch-sweep",
    order=20,
    question="Is it batching?",
    suspect="batching, padding and collation",
    measure=measure,
    budget_s=78.0,
    example="qwenprof batch-sweep --size 2b --batch 8",
)
