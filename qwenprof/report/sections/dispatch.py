"""Whose fault is it? The backend that PyTorch picks, why, and the part of every layer in it."""

from __future__ import annotations

from collections.abc import Sequence

from qwenprof.diagnosis.bounds import number
from qwenprof.diagnosis.conv_telling import NOTABLE_SHARE, conv_facts, millions
from qwenprof.diagnosis.gate import Decision, decisions
from qwenprof.diagnosis.projection import (
    BIAS_APART,
    CHANNELS_LAST,
    CONV,
    CUDNN_DIRECT,
    LAUNCHING_BACKEND,
    LINEAR,
    SLOW_DIRECT,
    Comparison,
    comparison,
    convolutions,
    launches,
    per_patch,
    share_saved,
    speedup,
    variant,
)
from qwenprof.diagnosis.responsibility import Layer, responsibility
from qwenprof.formatting import NOT_MEASURED, count, listed, percent, seconds, times_with_interval
from qwenprof.harness.statistics import Fit
from qwenprof.record.record import Record, Row
from qwenprof.report.reading import INTERVALS, n_cell, outcome, setting, text, time_cell
from qwenprof.report.section import (
    Block,
    Bullets,
    Inline,
    Section,
    Table,
    code,
    paragraph,
    strong,
)
from qwenprof.report.telling import Telling

STAGE = "dispatch"
EFFECTS = {"called": "can be called", "passed over": "is passed over"}
FOLLOWS = {
    ("called", True): "They do: nothing here keeps it away.",
    ("called", False): "They do not: it is not called.",
    ("called", None): "Whether they do is not known.",
    ("passed over", True): "They do: it is passed over.",
    ("passed over", False): "They do not: this gate is open.",
    ("passed over", None): "Whether they do is not known.",
}
READS = {"at fault": "AT FAULT", "could fix": "could fix", "clear": "clear"}
# what each variant of the comparison changes, and so which layer its time tells of
SEPARATES = {
    CONV: "nothing: as the model runs it",
    LINEAR: "the model's code",
    BIAS_APART: "the bias alone",
    CHANNELS_LAST: "the memory format: past the gate of torch 2.9",
    "cuDNN off": "PyTorch's own loop in place of the library",
    "oneDNN off": "PyTorch's own loop in place of the library",
    "cudnn.benchmark": "which of cuDNN's engines is taken",
    CUDNN_DIRECT: "the library, past PyTorch's dispatcher",
    SLOW_DIRECT: "PyTorch's slowest loop, called by hand",
}


def compose(told: Telling) -> list[Block]:
    record = told.record
    blocks, found = outcome(record, STAGE), comparison(record)
    rows = convolutions(record)
    if not rows and found is None:
        return blocks
    if STAGE not in record.stages:
        blocks = [paragraph("The stage did not run: this is derived from the comparison above.")]
    layers = responsibility(record)
    if found is not None and layers:
        blocks += [_conclusion(record, found, layers), _layers(layers), *_further(layers)]
    blocks += [_backends(record, rows)] if rows else []
    for row in rows or _assumed(record, found):
        blocks += [_conditions(row, decision) for decision in decisions(record, row)]
    blocks += _experiments(record)
    return blocks + (_launches(record, found) if found else [])


def _assumed(record: Record, found: Comparison | None) -> list[Row]:
    """What the comparison alone tells of the convolution."""
    return [conv_facts(record, found) | {"module": found.module}] if found else []


def _conclusion(record: Record, found: Comparison, layers: Sequence[Layer]) -> Block:
    guilty = [layer.name for layer in layers if layer.role == "at fault"]
    if not guilty:
        cleared = all(layer.role == "clear" for layer in layers)
        said = "No layer is at fault." if cleared else "No layer is known to be at fault."
        return paragraph(strong(said))
    share = share_saved(record, found)
    cost = ""
    if share is not None:
        minor = ", which is not what makes the model slow" if share < NOTABLE_SHARE else ""
        cost = f" It costs {percent(share)} of the forward{minor}."
    return paragraph(strong(f"At fault for the projection: {', '.join(guilty)}."), cost)


def _layers(layers: Sequence[Layer]) -> Table:
    return Table(
        header=("Layer", "Part in it", "Evidence", "What it could do"),
        align="llll",
        rows=tuple(_layer(layer) for layer in layers),
        caption="A layer that was never called is clear, however slow the convolution is.",
    )


def _layer(layer: Layer) -> tuple[Inline, ...]:
    role: Inline = READS.get(layer.role, layer.role)
    if layer.role == "at fault":
        role = strong(READS[layer.role])
    return layer.name, role, layer.evidence[0] if layer.evidence else "-", layer.fix or "-"


def _further(layers: Sequence[Layer]) -> list[Block]:
    """The rest of what is known of the layers: too long for a cell, and told once."""
    said: dict[str, list[str]] = {}
    for layer in layers:
        for sentence in layer.evidence[1:]:
            said.setdefault(sentence, []).append(layer.name)
    items = tuple((strong(listed(names)), ": ", each) for each, names in said.items())
    return [Bullets(items=items)] if items else []


def _backends(record: Record, rows: Sequence[Row]) -> Table:
    return Table(
        header=(
            "Convolution",
            "Type",
            "dtype",
            "Kernel",
            "Patches",
            "Backend",
            "library off",
            "no bias",
            "channels last",
            "bf16",
            "fp16",
            "fp32",
        ),
        align="llllrlllllll",
        rows=tuple(
            (
                code(text(row.get("module"))),
                text(row.get("module_type")),
                text(row.get("dtype")),
                text(row.get("kernel")),
                count(number(row.get("patches"))),
                strong(_backend(row.get("backend"))),
                *(
                    _backend(row.get(f"backend_{key}"))
                    for key in ("library_off", "without_bias", "channels_last", *DTYPES)
                ),
            )
            for row in rows
        ),
        caption="Convolutions whose windows do not overlap, and the backend that PyTorch's "
        f"dispatcher picks for the input that each really gets, {setting(record)}. The columns to "
        "the right of it: what it would pick with one thing changed.",
    )


DTYPES = ("bf16", "fp16", "fp32")


def _backend(cell: object) -> str:
    return "not recorded" if cell is None else str(cell)


def _conditions(row: Row, decision: Decision) -> Table:
    verdicts = {True: "holds", False: "does not hold", None: "not known"}
    return Table(
        header=("Condition", "Found", "Holds"),
        align="lll",
        rows=tuple(
            (condition.text, condition.found, verdicts[condition.holds])
            for condition in decision.conditions
        ),
        caption=f"{decision.library} {EFFECTS[decision.effect]} for {text(row.get('module'))} "
        f"where all of these hold. {FOLLOWS[decision.effect, decision.all_hold]}",
    )


def _experiments(record: Record) -> list[Block]:
    """One thing changed at a time, each telling of one layer."""
    rows = [(name, variant(record, name)) for name in SEPARATES]
    done = [(name, row) for name, row in rows if row is not None]
    if len(done) < 2:
        return []
    table = Table(
        header=("Experiment", "What it changes", "Backend", "Patches", "Forward", "n", "Speed-up"),
        align="lllrrrr",
        rows=tuple(
            (
                name,
                SEPARATES[name],
                _backend(row.get("backend")),
                count(number(row.get("patches"))),
                time_cell(row),
                n_cell(row),
                _speedup(row),
            )
            for name, row in done
        ),
        caption=f"{INTERVALS} Speed-up is over the convolution as dispatched, on the same patches. "
        "Errors and gradients are in the section of the comparison.",
    )
    return [paragraph(strong("One thing changed at a time.")), table, *_others(record)]


def _speedup(row: Row) -> str:
    ratio = speedup(row)
    return "-" if ratio is None else times_with_interval(ratio.value, ratio.interval)


def _others(record: Record) -> list[Block]:
    """Convolutions beside the patch projection, which the stage times by itself."""
    rows = record.rows(STAGE, "experiments")
    if not rows:
        return []
    return [
        Table(
            header=("Convolution", "Experiment", "Forward", "n", "Speed-up"),
            align="llrrr",
            rows=tuple(
                (
                    code(text(row.get("module"))),
                    text(row.get("experiment")),
                    time_cell(row),
                    n_cell(row),
                    _speedup(row),
                )
                for row in rows
            ),
            caption=f"The other convolutions of this kind. {INTERVALS}",
        )
    ]


def _launches(record: Record, found: Comparison) -> list[Block]:
    """What the launches of the slow path, and a cost for each patch, explain of the time."""
    made, fit = launches(record, found), per_patch(record)
    rows: list[tuple[Inline, ...]] = []
    if made is not None:
        bias = " + 2" if made.with_bias else ""
        formula = f"{count(found.patches)} x ({count(made.features)}{bias})"
        if not made.with_bias:
            formula = f"{count(found.patches)} x 2"
        rows += [
            ("Launches that the slow path makes", f"{formula} = {millions(made.count)}"),
            ("One launch, as measured", seconds(made.latency_s)),
            ("The launches at that cost", seconds(made.predicted_s)),
        ]
    rows.append(("The convolution as dispatched, measured", _measured(found)))
    if made is not None and found.backend in (None, LAUNCHING_BACKEND):
        rows.append(("Each launch, if they were all of it", seconds(made.each_s)))
    rows.append(("One more patch, from the sweep", _slope(fit)))
    table = Table(header=("What", "How much"), align="lr", rows=tuple(rows))
    counted = record.rows(STAGE, "launches") or record.rows("compare-patch-embed", "launches")
    return [
        paragraph(strong("Launches and patches."), " ", _reading(found), _agreement(counted)),
        table,
        *_counts(counted),
    ]


def _measured(found: Comparison) -> str:
    return f"{seconds(found.conv_s)} on {found.backend or 'a backend that was not recorded'}"


def _slope(fit: Fit | None) -> str:
    if fit is None:
        return f"{NOT_MEASURED} at three patch counts"
    return f"{seconds(fit.slope)} (R2 = {fit.r_squared:.3f})"


def _reading(found: Comparison) -> str:
    if found.backend in (None, LAUNCHING_BACKEND):
        return (
            "For N patches and D features the slow path launches N x (D + 2) kernels with a bias "
            "and N x 2 without, so its time grows with both and no arithmetic is to blame."
        )
    return (
        f"The convolution does not take the slow path that launches for every patch, but "
        f"{found.backend}: what the launches would cost is for comparison."
    )


def _agreement(rows: Sequence[Row]) -> str:
    """Whether the counts bear the formula out; where nothing was counted they do not."""
    if not rows:
        return ""
    slow = [row for row in rows if row.get("variant") in (None, SLOW_DIRECT)]
    pairs = [(number(row.get("counted")), number(row.get("predicted"))) for row in slow]
    if None in [each for pair in pairs for each in pair] or not any(pair[0] for pair in pairs):
        return " Nothing was counted here that could bear the formula out."
    if any(counted != expected for counted, expected in pairs):
        return " The slow path's count does not agree with the formula: here it is done otherwise."
    on_gpu = any(row.get("counted_event") == "kernel launch" for row in slow)
    what = "launches" if on_gpu else "fills"
    return f" The slow path's {what}, counted on a few patches, agree with the formula."


def _expected(row: Row) -> str:
    predicted = number(row.get("predicted"))
    return "-" if predicted is None else count(predicted)


def _counts(rows: Sequence[Row]) -> list[Block]:
    if not rows:
        return []
    return [
        Table(
            header=("What runs", "Patches", "Features", "Bias", "Counted", "How many", "Expected"),
            align="lrrllrr",
            rows=tuple(
                (
                    str(row.get("variant") or SLOW_DIRECT),
                    count(number(row.get("patches"))),
                    count(number(row.get("features"))),
                    "yes" if row.get("bias") else "no",
                    text(row.get("counted_event")),
                    count(number(row.get("counted"))),
                    _expected(row),
                )
                for row in rows
            ),
            caption="Counted by torch.profiler in one call. On a GPU every launch is counted; "
            "elsewhere only the fills are operators that can be counted.",
            folded="Launches of one call, counted",
        )
    ]


SECTION = Section(name="dispatch", order=82, title="Whose fault is it?", compose=compose)
