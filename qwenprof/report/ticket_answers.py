"""What a maintainer asks first about a slow convolution, answered in one short table.

Every question has its row, also where the answer is that it was not measured, and why.
"""

from __future__ import annotations

from collections.abc import Sequence

from qwenprof.diagnosis.bounds import number
from qwenprof.diagnosis.components import anatomy
from qwenprof.diagnosis.conv_telling import why_passed_over
from qwenprof.diagnosis.disturbance import on_cpu
from qwenprof.diagnosis.forward import forward_s
from qwenprof.diagnosis.projected import main_effect
from qwenprof.diagnosis.projection import (
    BIAS_APART,
    CONV,
    CPU_BACKEND,
    LAUNCHING_BACKEND,
    LINEAR,
    Comparison,
    comparison,
    launches,
    per_patch,
    share_saved,
    speedup,
)
from qwenprof.diagnosis.verdict import verdict
from qwenprof.formatting import (
    NOT_MEASURED,
    count,
    listed,
    percent,
    seconds,
    seconds_with_interval,
    significant,
    size,
    times,
    times_with_interval,
)
from qwenprof.record.record import Record, Row
from qwenprof.report.reading import is_measured, median_s, text, time_and_n
from qwenprof.report.section import Inline, Table
from qwenprof.report.telling import Telling

STAGE = "compare-patch-embed"
FORWARD, BACKWARD = "forward", "backward"
BENCHMARK = "cudnn.benchmark"
DTYPES = ("bf16", "fp16", "fp32")
SHORTEST_STEP = 1e-9  # seconds for one more patch: less is no slope

Answer = tuple[Inline, ...]


def answers(told: Telling) -> Table:
    """Questions and answers about the forward, and about the convolution if it was compared."""
    record = told.record
    found = comparison(record)
    rows = [*_forward(told)]
    rows += _convolution(record, found) if found else [("Conv3d against Linear", _why(record))]
    return Table(
        header=("Question", "Answer"),
        align="ll",
        rows=tuple(rows),
        caption="Times are medians with their 95 % confidence interval and n, where the record "
        "holds them.",
    )


def _forward(told: Telling) -> list[Answer]:
    record = told.record
    whole = anatomy(record.rows("per-layer", "modules"))
    culprit = verdict(record, told.findings).culprit
    rows: list[Answer] = [("One forward of the workload", seconds(forward_s(record)))]
    part = None
    if whole is not None and culprit:
        part = whole.holding(culprit) or whole.holding(f"{whole.tower}.{culprit}")
    if part is not None:
        over = f", {times(part.slowdown)} the least that its work takes" if part.slowdown else ""
        said = f"{seconds(part.time_s)}, {percent(part.share)} of the timed forward{over}"
        rows.append((f"Of it, {part.label}", said))
    return [*rows, ("The whole forward with the fix", _end_to_end(record))]


def _end_to_end(record: Record) -> str:
    main = main_effect(record)
    if main is None or main.before is None or main.after is None:
        return NOT_MEASURED
    before, after = (
        seconds_with_interval(each.value_s, each.interval, each.n)
        for each in (main.before, main.after)
    )
    ratio = main.speedup
    gain = f": {times_with_interval(ratio.value, ratio.interval)} as fast" if ratio else ""
    basis = {"computed": " (computed: the forward less what Linear saves)"}.get(main.basis, "")
    return f"batch {count(main.batch)}: {before} before, {after} after{gain}{basis}"


def _why(record: Record) -> str:
    """Why there is no comparison."""
    stage = record.stages.get(STAGE)
    if stage is None:
        return f"{NOT_MEASURED}: the stage {STAGE} did not run"
    return f"{NOT_MEASURED}: {stage.reason or 'not both were timed in the dtype of the workload'}"


def _convolution(record: Record, found: Comparison) -> list[Answer]:
    share = share_saved(record, found)
    ratio = times_with_interval(found.ratio.value, found.ratio.interval)
    what = f"{count(found.patches)} patches in {found.conv.get('dtype')}"
    return [
        ("Conv3d as dispatched", f"{what}: {time_and_n(found.conv)}"),
        ("The equal Linear", f"{what}: {time_and_n(found.linear)}, {ratio} as fast"),
        ("Share of the forward that Linear saves", percent(share)),
        ("Backend that the dispatcher picks", _backend(record, found)),
        ("Cost of one more patch", _slope(record)),
        ("Kernel launches in one call", _launches(record, found)),
        ("Bias off (added after the convolution)", _beside(record, BIAS_APART)),
        ("channels_last_3d weight", _beside(record, "channels_last_3d")),
        ("cudnn.benchmark on, after its search", _beside(record, BENCHMARK)),
        ("Other dtypes", _other_dtypes(record, found)),
        ("Backward (gradients of weight and bias)", _backward(record, found)),
        ("Error of the output against fp64", _errors(record, FORWARD)),
        ("Error of the weight gradient against fp64", _errors(record, BACKWARD)),
        ("Peak memory", _peaks(record, found)),
        ("First call", _first_calls(found)),
    ]


def _backend(record: Record, found: Comparison) -> str:
    cause, _ = why_passed_over(record, found)
    because = f", because {cause}" if cause else ""
    if found.backend:
        return f"{found.backend}{because}"
    loop = CPU_BACKEND if on_cpu(record) else LAUNCHING_BACKEND
    return f"not recorded; most likely {loop}{because}" if cause else "not recorded"


def _slope(record: Record) -> str:
    fit = per_patch(record)
    if fit is None:
        return f"{NOT_MEASURED} at three patch counts"
    if fit.slope < SHORTEST_STEP:
        return f"none seen (R2 = {fit.r_squared:.3f})"
    return f"{seconds(fit.slope)} (R2 = {fit.r_squared:.3f})"


def _launches(record: Record, found: Comparison) -> str:
    if found.backend not in (None, LAUNCHING_BACKEND):
        return f"not those of the slow path, since it takes {found.backend}"
    made = launches(record, found)
    if made is None:
        return NOT_MEASURED
    formula = f"({count(made.features)} + 2)" if made.with_bias else "2"
    each = f", {seconds(made.each_s)} each if they were all of the time"
    on_slow_path = "" if found.backend else "on the slow path "
    return f"{on_slow_path}{count(found.patches)} x {formula} = {count(made.count)}{each}"


def _rows(record: Record, **cells: object) -> list[Row]:
    """The rows of the comparison that hold these cells, the most patches first."""
    rows = [
        row
        for row in record.rows(STAGE, "variants")
        if all((row.get(key) or None) == value for key, value in cells.items())
    ]
    return sorted(rows, key=lambda row: -(number(row.get("patches")) or 0.0))


def _best(record: Record, **cells: object) -> Row | None:
    """Of them the one with a time and the most patches; else any, which tells why it has none."""
    rows = _rows(record, **cells)
    return next((row for row in rows if is_measured(row)), rows[0] if rows else None)


def _beside(record: Record, name: str) -> str:
    """A variant of the convolution, and how it compares."""
    dtype = record.workload.get("dtype")
    row = _best(record, variant=name, dtype=dtype, direction=FORWARD)
    if row is None:
        return NOT_MEASURED
    if not is_measured(row):
        return f"{NOT_MEASURED}: {row.get('reason')}" if row.get("reason") else NOT_MEASURED
    ratio, most = speedup(row), number((_rows(record, dtype=dtype) or [row])[0].get("patches"))
    fewer = "" if number(row.get("patches")) == most else f" ({text(row.get('patches'))} patches)"
    gain = f", {times_with_interval(ratio.value, ratio.interval)} as fast" if ratio else ""
    backend = f", backend {row.get('backend')}" if row.get("backend") else ""
    return f"{time_and_n(row)}{fewer}{gain}{backend}"


def _other_dtypes(record: Record, found: Comparison) -> str:
    others = [dtype for dtype in DTYPES if dtype != found.conv.get("dtype")]
    return "; ".join(f"{dtype}: {_pair(record, dtype, FORWARD)}" for dtype in others)


def _backward(record: Record, found: Comparison) -> str:
    return _pair(record, str(found.conv.get("dtype")), BACKWARD)


def _pair(record: Record, dtype: str, direction: str) -> str:
    """Convolution and Linear on the most patches that both were timed on."""
    sides = [
        {number(row.get("patches")): row for row in rows if is_measured(row)}
        for rows in (
            _rows(record, variant=name, dtype=dtype, direction=direction) for name in (CONV, LINEAR)
        )
    ]
    shared = [each for each in sides[0] if each is not None and each in sides[1]]
    if not shared:
        return NOT_MEASURED
    conv, linear = (side[max(shared)] for side in sides)
    ratio = speedup(linear)
    said = times_with_interval(ratio.value, ratio.interval) if ratio else "no ratio"
    return (
        f"Conv3d {seconds(median_s(conv))}, Linear {seconds(median_s(linear))} on "
        f"{count(max(shared))} patches, {said}"
    )


def _errors(record: Record, direction: str) -> str:
    """Relative (2-norm) and largest, of both."""
    dtype = record.workload.get("dtype")
    told = []
    for name in (CONV, LINEAR):
        row = _best(record, variant=name, dtype=dtype, direction=direction) or {}
        relative, largest = (number(row.get(key)) for key in ("relative_error", "max_abs_error"))
        parts = [
            *([f"{significant(relative)} relative"] if relative is not None else []),
            *([f"largest absolute error {significant(largest)}"] if largest is not None else []),
        ]
        if parts:
            told.append(f"{name} {', '.join(parts)}")
    return "; ".join(told) or NOT_MEASURED


def _peaks(record: Record, found: Comparison) -> str:
    told = [
        f"{name} {size(peak)}"
        for name, row in ((CONV, found.conv), (LINEAR, found.linear))
        if (peak := number(row.get("peak_bytes"))) is not None
    ]
    if not told:
        return NOT_MEASURED
    whose = ", of the whole process" if record.fact("device", "type") == "cpu" else ""
    return f"{listed(told)}{whose}"


def _first_calls(found: Comparison) -> str:
    told: Sequence[str] = [
        f"{name} {seconds(first)}"
        for name, row in ((CONV, found.conv), (LINEAR, found.linear))
        if (first := number(row.get("first_call_s"))) is not None
    ]
    return listed(told) if told else NOT_MEASURED
