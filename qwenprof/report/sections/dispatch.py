"""Whose fault is it? The backend that PyTorch picks, why, and the part of every layer in it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from qwenprof.diagnosis.bounds import number
from qwenprof.diagnosis.conv_telling import conv_facts
from qwenprof.diagnosis.finding import NOTABLE_SHARE
from qwenprof.diagnosis.gate import Decision, decisions
from qwenprof.diagnosis.projection import (
    BIAS_APART,
    CHANNELS_LAST,
    CONV,
    CUDNN_DIRECT,
    LINEAR,
    SLOW_DIRECT,
    Comparison,
    comparison,
    convolutions,
    share_saved,
    speedup,
    variant,
)
from qwenprof.diagnosis.responsibility import Layer, responsibility
from qwenprof.formatting import count, listed, percent, times_with_interval
from qwenprof.record.record import Record, Row
from qwenprof.report.beside import beside, by_key, told_of
from qwenprof.report.reading import (
    n_cell,
    outcome,
    sampled,
    setting,
    text,
    time_and_n,
    time_cell,
)
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
from qwenprof.report.sections._closed_gate import closed_gate_told
from qwenprof.report.sections._launches import launches_told
from qwenprof.report.telling import Other, Telling

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
        table = _layers(layers, told.against)
        blocks += [_conclusion(record, found, layers), table, *_further(layers)]
    blocks += [_backends(record, rows, told.against)] if rows else []
    for row in rows or _assumed(record, found):
        made = decisions(record, row)
        blocks += [_conditions(row, decision, told.against) for decision in made]
    blocks += closed_gate_told(record)
    blocks += _experiments(record, told.against)
    return blocks + (launches_told(record, found, told.against) if found else [])


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


def _layers(layers: Sequence[Layer], other: Other | None) -> Table:
    theirs = responsibility(other.record) if other else []
    roles = {layer.name: READS.get(layer.role, layer.role) for layer in theirs}
    names = [layer.name for layer in layers]
    return beside(_own_layers(layers), names, other, {"part in it": roles})


def _own_layers(layers: Sequence[Layer]) -> Table:
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


def _backends(record: Record, rows: Sequence[Row], other: Other | None) -> Table:
    theirs = by_key(convolutions(other.record) if other else [], _module)
    keys = [_module(row) for row in rows]
    return beside(_own_backends(record, rows), keys, other, {"backend": told_of(theirs, _known)})


def _module(row: Row) -> Hashable:
    """The tail of a module's path, which is the same in a tower alone and in a whole model."""
    return tuple(str(row.get("module")).split(".")[-2:])


def _known(row: Row) -> str | None:
    return None if row.get("backend") is None else str(row.get("backend"))


def _own_backends(record: Record, rows: Sequence[Row]) -> Table:
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


def _conditions(row: Row, decision: Decision, other: Other | None) -> Table:
    theirs = by_key(_all_convolutions(other.record) if other else [], _module).get(_module(row))
    made = decisions(other.record, theirs) if other and theirs else []
    wanted = (decision.library, decision.effect)
    found = {
        condition.text: condition.found
        for each in made
        if (each.library, each.effect) == wanted
        for condition in each.conditions
    }
    keys = [condition.text for condition in decision.conditions]
    return beside(_own_conditions(row, decision), keys, other, {"found": found})


def _all_convolutions(record: Record) -> list[Row]:
    """Of the dispatch stage, else what the comparison alone tells of."""
    return convolutions(record) or _assumed(record, comparison(record))


def _own_conditions(row: Row, decision: Decision) -> Table:
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


def _experiments(record: Record, other: Other | None) -> list[Block]:
    """One thing changed at a time, each telling of one layer."""
    done = _separating(record)
    if len(done) < 2:
        return []
    theirs = by_key(_separating(other.record).values() if other else [], _patched)
    table = beside(
        _own_experiments(record, done),
        [_patched(row) for row in done.values()],
        other,
        {"forward": told_of(theirs, time_and_n), "speed-up": told_of(theirs, _their_speedup)},
    )
    return [paragraph(strong("One thing changed at a time.")), table, *_others(record)]


def _their_speedup(row: Row) -> str | None:
    return None if speedup(row) is None else _speedup(row)


def _separating(record: Record) -> dict[str, Row]:
    """The experiments that were made, by name."""
    rows = {name: variant(record, name) for name in SEPARATES}
    return {name: row for name, row in rows.items() if row is not None}


def _patched(row: Row) -> Hashable:
    return text(row.get("variant")), number(row.get("patches"))


def _own_experiments(record: Record, done: Mapping[str, Row]) -> Table:
    return Table(
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
            for name, row in done.items()
        ),
        caption=f"{sampled(record)} Speed-up is over the convolution as dispatched, on the same "
        "patches. Errors and gradients are in the section of the comparison.",
    )


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
            caption=f"The other convolutions of this kind. {sampled(record)}",
        )
    ]


SECTION = Section(name="dispatch", order=82, title="Whose fault is it?", compose=compose)
