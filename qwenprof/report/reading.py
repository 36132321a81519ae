"""What sections ask a record for: rows that were measured, their numbers, and what went wrong.

A record may come from another version or another hand, so a cell is never trusted to have a type.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from qwenprof.diagnosis.bounds import number
from qwenprof.diagnosis.caveats import provoked_fault
from qwenprof.diagnosis.versions import cudnn_version
from qwenprof.formatting import NOT_MEASURED, count, seconds_with_interval
from qwenprof.harness import statistics
from qwenprof.record.published import is_published
from qwenprof.record.record import Cell, Record, Row, StageResult
from qwenprof.report.section import Block, Inline, Paragraph, code, paragraph, strong

READS_AS = {
    "skipped": "Skipped",
    "failed": "Failed",
    "out_of_memory": "Out of memory",
    "interrupted": "Interrupted",
}
INTERVALS = (
    "Times are medians; brackets hold the 95 % confidence interval of the median, "
    "which fewer than six samples do not have."
)
NO_INTERVAL = "too few samples for an interval"
AS_PUBLISHED = "As published; how it was sampled is not stated."
NO_INTERVAL_STATED = "no interval stated"


def text(cell: Cell) -> str:
    """A cell as text; "not measured" where it is empty."""
    return NOT_MEASURED if cell is None else str(cell)


def is_measured(row: Row) -> bool:
    """Whether the row holds a positive median."""
    return (number(row.get("median_s")) or 0.0) > 0


def measured(rows: Iterable[Row]) -> list[Row]:
    """The rows that hold a time."""
    return [row for row in rows if is_measured(row)]


def median_s(row: Row) -> float:
    """The median of a row that was measured."""
    return number(row.get("median_s")) or 0.0


def interval(
    row: Row, low: str = "ci_low_s", high: str = "ci_high_s"
) -> tuple[float, float] | None:
    """The confidence interval of a row, None where it has none."""
    ends = number(row.get(low)), number(row.get(high))
    return None if ends[0] is None or ends[1] is None else (ends[0], ends[1])


def samples(row: Row) -> int | None:
    """How many samples a row's median is of."""
    n = number(row.get("n"))
    return None if n is None else int(n)


def time_cell(row: Row) -> str:
    """The median and its interval, or why there is none."""
    if not is_measured(row):
        return unmeasured(row)
    return seconds_with_interval(median_s(row), interval(row))


def n_cell(row: Row) -> str:
    """The number of samples; a dash where nothing was measured."""
    if not is_measured(row):
        return "-"
    return "not stated" if samples(row) is None else count(samples(row))


def sampled(record: Record, how: str = INTERVALS) -> str:
    """How a record's times were taken, for a caption; of published ones it is not known."""
    return AS_PUBLISHED if is_published(record) else how


def no_interval(*rows: Row) -> str:
    """Why there is no interval: too few samples, or nobody says how many there were."""
    known = all(samples(row) is not None for row in rows)
    return NO_INTERVAL if known else NO_INTERVAL_STATED


def time_and_n(row: Row) -> str:
    """The median, its interval and n, for a sentence."""
    return seconds_with_interval(median_s(row), interval(row), samples(row))


def unmeasured(row: Row) -> str:
    """Why a row holds no time: "not measured (skipped)"."""
    status = row.get("status")
    if status in (None, "ok"):
        return NOT_MEASURED
    return f"{NOT_MEASURED} ({str(status).replace('_', ' ')})"


def reasons(rows: Sequence[Row], label: str) -> list[tuple[Inline, ...]]:
    """One bullet for each reason why cases were not measured, with the cases it holds for."""
    by_reason: dict[str, list[str]] = {}
    for row in rows:
        if row.get("reason") is not None and not is_measured(row):
            by_reason.setdefault(str(row["reason"]), []).append(label.format_map(_Texts(row)))
    return [
        (strong("; ".join(dict.fromkeys(cases))), ": ", reason)
        for reason, cases in by_reason.items()
    ]


def outcome(record: Record, stage: str) -> list[Block]:
    """What a reader must know of a stage before its numbers; nothing where it went well."""
    result = record.stages.get(stage)
    if result is None:
        return [paragraph(strong("Not measured."), " The record holds no stage ", code(stage), ".")]
    if result.status == "ok":
        return [] if _kept_rows(result) else [paragraph("The stage ran and kept no measurement.")]
    return [_trouble(result)]


def setting(record: Record) -> str:
    """Dtype and device, for captions: "bf16 on NVIDIA H100 80GB HBM3"."""
    dtype, device = record.workload.get("dtype"), device_name(record)
    return f"{dtype} on {device}" if dtype else device


def device_name(record: Record) -> str:
    """The device's own name, else its type, else that it is unknown."""
    name = record.fact("device", "name") or record.fact("device", "type")
    return str(name or record.workload.get("device") or "an unknown device")


def footer(record: Record) -> str:
    """Device, versions and workload, for the foot of a plot."""
    fault = provoked_fault(record)
    parts = [
        f"PROVOKED ON PURPOSE: {fault}" if fault else "",
        device_name(record),
        _version("torch", record.fact("torch", "version")),
        _version("cuDNN", cudnn_of(record) if on_gpu(record) else None),
        _version("transformers", record.fact("packages", "transformers")),
        f"{record.tool.name} {record.tool.version}",
        day if (day := record.created[:10]) != record.tool.version else "",
    ]
    return " | ".join(part for part in parts if part)


def cudnn_of(record: Record) -> Cell:
    """The version of cuDNN that ran, as 9.10.2 whichever way the record holds it."""
    cell = record.fact("torch", "cudnn_runtime")
    found = cudnn_version(cell)
    return cell if found is None else str(found)


def on_gpu(record: Record) -> bool:
    """Whether the device is anything but a CPU."""
    return record.fact("device", "type") not in (None, "cpu")


def is_qwen(record: Record) -> bool:
    """Whether what was measured can be held against the published case at all."""
    return str(record.workload.get("family") or "").startswith("qwen")


def series_values(record: Record, stage: str, key: str) -> list[float]:
    """The raw samples of a series; empty where it is missing."""
    result = record.stages.get(stage)
    series = result.series.get(key) if result else None
    return list(series.values) if series else []


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> statistics.Ratio | None:
    """The ratio of two medians; None where either has no samples or no duration."""
    if not numerator or not denominator or statistics.median(denominator) <= 0:
        return None
    return statistics.ratio_of_medians(numerator, denominator)


def _trouble(result: StageResult) -> Paragraph:
    label = READS_AS.get(result.status, result.status)
    reason = f": {result.reason}" if result.reason else ""
    rest = (
        " What was measured until then follows."
        if _kept_rows(result)
        else " Nothing was measured until then."
    )
    stop = "" if reason.endswith((".", "!")) else "."
    return paragraph(strong(label), reason, stop, rest)


def _kept_rows(result: StageResult) -> bool:
    return any(rows for table, rows in result.tables.items() if table != "conditions")


def _version(name: str, cell: Cell) -> str:
    return f"{name} {cell}" if cell is not None else ""


class _Texts(dict[str, str]):
    """Cells for a format string; a missing one reads "?"."""

    def __init__(self, row: Row) -> None:
        super().__init__({key: str(value) for key, value in row.items()})

    def __missing__(self, key: str) -> str:
        return "?"
