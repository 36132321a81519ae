"""What disturbed the times of a stage: throttling, neighbours, a forward that does not repeat.

Times are worth little while something else uses the device or holds its clocks down. A rule that
compares times of a stage asks here first.
"""

from __future__ import annotations

from collections.abc import Iterable

from qwenprof.diagnosis.bounds import number, positive
from qwenprof.formatting import count, percent, seconds, significant
from qwenprof.harness import statistics
from qwenprof.record.record import Record, Row, Series

BUSY_CORES = 0.2  # as harness/conditions.py flags them, which may import torch
THROTTLED = 0.05  # of the readings; a moment at a limit is not seen in a median
UNSTEADY = 0.25  # of the median, of the spread or of the drift of the workload's own forward
UNREPEATED = 1.25  # ratio of the forward with marks to the one without, either way
POWER_CAP = "software power cap"
GEMM_STAGE = "matmul"

MEANWHILE = "cores_busy_elsewhere_meanwhile"
# columns of a row of conditions -> when it was looked
LOOKS = {
    "cores_busy_elsewhere": "before it",
    MEANWHILE: "on average while it ran",
    "cores_busy_elsewhere_after": "after it",
}


def disturbances(record: Record, stage: str) -> list[str]:
    """What makes the times of this stage untrustworthy, each with its numbers.

    Nothing for a stage that holds no times, and nothing where nobody looked: see `was_watched`.
    """
    if not holds_times(record, stage):
        return []
    rows = record.rows(stage, "conditions")
    found = [*_throttled(rows, stage), *_shared_gpu(rows), *_unsteady(record, stage)]
    return found + (_busy_cores(rows) if on_cpu(record) else [])


def power_capped(record: Record, stage: str) -> list[str]:
    """That matrix products ran into the device's own power limit, as they do on a healthy one."""
    rows = record.rows(stage, "conditions")
    share = max((_throttled_share(row) for row in rows if _is_expected(row, stage)), default=0.0)
    if not share:
        return []
    return [f"{POWER_CAP} in {percent(share)} of the readings, as usual under matrix products"]


def holds_times(record: Record, stage: str) -> bool:
    """Whether a stage kept any raw sample of a duration."""
    return any(series.unit == "s" and series.values for series in _series(record, stage).values())


def was_watched(record: Record, stage: str) -> bool:
    """Whether a look at the machine is on record that could have told of a disturbance."""
    columns = tuple(LOOKS) if on_cpu(record) else ("throttled_share", "throttle_reasons")
    rows = record.rows(stage, "conditions")
    return any(row.get(column) is not None for row in rows for column in columns)


def own_forward(record: Record, stage: str) -> Series | None:
    """The samples of the workload's own forward in a stage; None where it took none."""
    batch = number(record.workload.get("batch"))
    names = {
        "batch-sweep": ["" if batch is None else f"batch={batch:.0f}"],
        "breakdown": ["forward", "vision"],
        "per-layer": ["forward, plain"],
    }
    held = _series(record, stage)
    found = (held[name] for name in names.get(stage, []) if name in held)
    return next((series for series in found if series.values), None)


def on_cpu(record: Record) -> bool:
    """Whether the model ran on the host's cores, which it then shares with everything else."""
    kind = record.fact("device", "type") or record.workload.get("device")
    return str(kind) == "cpu"


def _series(record: Record, stage: str) -> dict[str, Series]:
    result = record.stages.get(stage)
    return result.series if result else {}


def _throttled(rows: Iterable[Row], stage: str) -> list[str]:
    """That something held the clocks down for more than a moment."""
    return [
        f"clocks held down ({', '.join(_reasons(row)) or 'reason not told'}) in "
        f"{percent(share)} of the readings"
        for row in rows
        if (share := _throttled_share(row)) > THROTTLED and not _is_expected(row, stage)
    ]


def _is_expected(row: Row, stage: str) -> bool:
    return stage == GEMM_STAGE and _reasons(row) == [POWER_CAP]


def _throttled_share(row: Row) -> float:
    return min(positive(row.get("throttled_share")) or 0.0, 1.0)


def _reasons(row: Row) -> list[str]:
    return [each.strip() for each in str(row.get("throttle_reasons") or "").split(",") if each]


def _shared_gpu(rows: Iterable[Row]) -> list[str]:
    counts = (positive(row.get("other_gpu_processes")) for row in rows)
    most = max((each for each in counts if each is not None), default=0.0)
    if most < 1:
        return []
    return [f"{count(most)} other process{'es' if most > 1 else ''} on the GPU"]


def _busy_cores(rows: Iterable[Row]) -> list[str]:
    """Cores that others kept busy: more than a fifth of one, on average while a stage ran.

    The looks before and after count where there is no such average: what has a core while nobody
    else wants it, at idle priority for one, takes no time from the stage.
    """
    looks = [
        f"{significant(cores)} {when}"
        for row in rows
        for column, when in _telling(row).items()
        if (cores := number(row.get(column))) is not None and cores > BUSY_CORES
    ]
    return [f"cores busy with other processes: {', '.join(looks)}"] if looks else []


def _telling(row: Row) -> dict[str, str]:
    if number(row.get(MEANWHILE)) is None:
        return LOOKS
    return {MEANWHILE: LOOKS[MEANWHILE]}


def unrepeated(record: Record) -> str:
    """That a forward with marks in it took another time than one without; "" where it did not."""
    summary = record.rows("per-layer", "summary")
    marked_s, plain_s = (
        positive(summary[0].get(key)) if summary else None for key in ("with_marks_s", "plain_s")
    )
    if not marked_s or not plain_s or 1 / UNREPEATED < marked_s / plain_s < UNREPEATED:
        return ""
    return (
        f"Disturbed: the same forward took {seconds(marked_s)} with marks and {seconds(plain_s)} "
        "without, which the marks cannot explain."
    )


def _unsteady(record: Record, stage: str) -> list[str]:
    """A forward whose samples do not agree; a handful of samples cannot tell that."""
    series = own_forward(record, stage)
    if series is None or len(series.values) < statistics.MIN_SAMPLES_FOR_CI:
        return []
    summary, change = statistics.summarize(series.values), statistics.drift(series.values)
    if summary.median <= 0:
        return []
    found, spread = [], summary.iqr / summary.median
    if spread > UNSTEADY:
        found.append(
            f"the workload's forward spreads by {percent(spread)} of its median "
            f"(interquartile range, n = {summary.n})"
        )
    if change is not None and abs(change) > UNSTEADY:
        word = "slower" if change > 0 else "faster"
        found.append(
            f"the workload's forward becomes {percent(abs(change))} {word} from the first to the "
            f"last third of its {summary.n} samples"
        )
    return found
