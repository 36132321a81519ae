"""What the fix gains end to end: the whole forward before and after, and a dataset's hours."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from qwenprof.diagnosis.bounds import positive
from qwenprof.diagnosis.projected import (
    Effect,
    Time,
    computed_effect,
    effects,
    main_effect,
    own_layer,
)
from qwenprof.diagnosis.projection import CONV, LINEAR
from qwenprof.formatting import (
    NOT_MEASURED,
    count,
    listed,
    percent,
    plural,
    seconds,
    seconds_with_interval,
    times,
    times_with_interval,
)
from qwenprof.record.published import is_published
from qwenprof.record.record import Record
from qwenprof.report.beside import NO_FIGURE, Figures, beside
from qwenprof.report.charts import Bar, BarChart, drawing
from qwenprof.report.reading import NO_INTERVAL, footer, sampled, setting
from qwenprof.report.section import (
    Block,
    Bullets,
    Figure,
    Inline,
    Section,
    Table,
    code,
    paragraph,
    strong,
)
from qwenprof.report.sections._dataset import dataset, dataset_sentence, with_theirs
from qwenprof.report.telling import Other, Telling

STAGE = "compare-patch-embed"
BAR_INTERVALS = (
    "Error bars are the 95 % confidence interval of the median; a bar without one has fewer than "
    "six samples, or none."
)
KINDS = ("Conv3d, as dispatched", "Linear, the fix")
APART = (
    " Two factors of one forward: one from whole forwards with and without the fix, one computed "
    "from the time of the layer, which was timed apart from them."
)


def compose(told: Telling) -> list[Block]:
    record = told.record
    found, main = effects(record), main_effect(record)
    theirs = effects(told.against.record) if told.against else []
    if not found:
        return [paragraph(*_nothing(record)), *_layers(told)]
    blocks: list[Block] = [paragraph(*_conclusion(record, main)), _forwards(told, found, theirs)]
    why = _reasons(found)
    blocks += [paragraph(strong("Not measured, or set aside:")), Bullets(items=why)] if why else []
    if main is not None:
        blocks += [_figure(told, found, theirs), dataset_sentence(main, told.samples)]
    blocks.append(dataset(told, found, theirs))
    return blocks + _layers(told)


def _nothing(record: Record) -> list[Inline]:
    """Why there is not one figure."""
    stage = record.stages.get(STAGE)
    if stage is None:
        return [strong("Not measured."), " The record holds no stage ", code(STAGE), "."]
    reason = f": {stage.reason}" if stage.reason else ""
    return [
        strong("Not measured"),
        f"{reason}. The forward was not timed with and without the fix, and the parts from which "
        "it could be computed (the forward, and its convolution beside the equal Linear on the "
        "same patches) are not all in the record.",
    ]


def _conclusion(record: Record, main: Effect | None) -> list[Inline]:
    if main is None or main.before is None or main.after is None:
        return ["At no batch are both the forward as dispatched and the one with the fix known."]
    head = f"One forward of {plural(main.batch, 'sample')} takes {_time(main.before)} with the "
    head += f"convolution as dispatched and {_time(main.after)} with the fix. "
    return [*_origin(record, main), head, *_claim(main), _cross_check(record, main)]


def _cross_check(record: Record, main: Effect) -> str:
    """What the layer's own times say, where the forward was timed too seldom to say it."""
    computed = computed_effect(record)
    too_few = main.before is not None and main.before.n is not None and not main.ratio_interval
    if main.basis == "computed" or not too_few or computed is None or computed.speedup is None:
        return ""
    return (
        f" Computed from the layer's own times, of which there are more, it should be "
        f"{times(computed.speedup.value)} as fast."
    )


def _origin(record: Record, main: Effect) -> list[Inline]:
    if main.basis == "computed":
        return [
            strong("Computed, not measured:"),
            " the forward less the convolution, plus the equal Linear on the same patches. ",
        ]
    if is_published(record):
        return [strong("Published, not measured here."), " "]
    return []


def _claim(main: Effect) -> list[Inline]:
    found = main.speedup
    if found is None:
        return []
    said = times_with_interval(found.value, found.interval)
    doubt = _doubt(main) if found.interval is None and main.basis == "measured" else ""
    if main.gain == "faster":
        return ["With the fix it is ", strong(said), f" as fast{doubt}."]
    if main.gain == "slower":
        return ["With the fix it is ", strong(said), f" as fast{doubt}: the fix makes it slower."]
    why = {
        "computed": "less than anybody would see",
        "measured": "which includes 1" if found.interval else "no more than chance",
    }
    return [strong("No gain was seen:"), f" the ratio is {said}{doubt}, {why[main.basis]}."]


def _doubt(main: Effect) -> str:
    known = all(time is not None and time.n is not None for time in (main.before, main.after))
    return f", with {NO_INTERVAL}" if known else ", without an interval"


def _time(time: Time | None) -> str:
    if time is None:
        return NOT_MEASURED
    return seconds_with_interval(time.value_s, time.interval, time.n)


def _forwards(told: Telling, found: Sequence[Effect], theirs: Sequence[Effect]) -> Table:
    computed = any(each.basis == "computed" for each in found)
    table = Table(
        header=("Batch", "Conv3d", "n", "Linear", "n", "Speed-up", "From"),
        align="rrrrrrl",
        rows=tuple(
            (
                count(each.batch),
                _cell(each.before),
                _n(each.before),
                _cell(each.after),
                _n(each.after),
                _ratio(each) or NOT_MEASURED,
                _from(told.record, each),
            )
            for each in found
        ),
        caption=f"The whole forward, {setting(told.record)}: the model with its convolution as "
        f"dispatched, and the same model with the fix. {_in_turn(told.record, computed)}"
        f"{sampled(told.record)}",
    )
    return with_theirs(
        table,
        found,
        told.against,
        {
            "Conv3d": {each.batch: _figure_of(each.before) for each in theirs},
            "Linear": {each.batch: _figure_of(each.after) for each in theirs},
            "speed-up": {each.batch: _ratio(each) for each in theirs},
        },
    )


def _in_turn(record: Record, computed: bool) -> str:
    if computed or is_published(record):
        return ""
    return "Both were timed in turn (A B B A) on the same inputs. "


def _from(record: Record, effect: Effect) -> str:
    if effect.before is None and effect.after is None:
        return NO_FIGURE
    if effect.basis == "computed":
        return "computed"
    return "published" if is_published(record) else "measured"


def _cell(time: Time | None) -> str:
    return NOT_MEASURED if time is None else seconds_with_interval(time.value_s, time.interval)


def _n(time: Time | None) -> str:
    return "-" if time is None or time.n is None else count(time.n)


def _figure_of(time: Time | None) -> str | None:
    return None if time is None else _time(time)


def _ratio(effect: Effect) -> str | None:
    found = effect.speedup
    return None if found is None else times_with_interval(found.value, found.interval)


def _reasons(found: Sequence[Effect]) -> tuple[tuple[Inline, ...], ...]:
    """One bullet for each reason, with the cases that it holds for."""
    cases: dict[str, list[str]] = {}
    for each in found:
        for name, reason in each.reasons.items():
            cases.setdefault(reason, []).append(f"{name}, batch {each.batch}")
    return tuple((strong("; ".join(names)), f": {reason}") for reason, names in cases.items())


def _layers(told: Telling) -> list[Block]:
    """The layer beside the whole, so that nobody takes the factor of one for the other's."""
    layer, main = own_layer(told.record), main_effect(told.record)
    if layer is None:
        return []
    ends = layer.ratio.interval
    rows: list[tuple[str, ...]] = [
        (
            f"the patch projection alone, {count(layer.patches)} patches",
            seconds(layer.conv_s),
            seconds(layer.linear_s),
            times_with_interval(layer.conv_s / layer.linear_s, ends),
        )
    ]
    if main is not None and main.before is not None and main.after is not None:
        whole = (seconds(main.before.value_s), seconds(main.after.value_s))
        basis = _from(told.record, main)
        name = f"the whole forward, batch {main.batch}, {basis}"
        rows.append((name, *whole, _ratio(main) or ""))
    computed = _computed_row(told.record, main)
    table = Table(
        header=("What", "Conv3d", "Linear", "Speed-up"),
        align="lrrr",
        rows=(*rows, *computed),
        caption="The factor of the layer is not that of the forward: the rest of the forward is "
        "no faster." + (APART if computed else ""),
    )
    theirs = _their_layers(told.against)
    keys: list[Hashable] = [*["layer", "forward"][: len(rows)], *(["computed"] if computed else [])]
    return [beside(table, keys, told.against, theirs), *_rest(told.record, main)]


def _computed_row(record: Record, main: Effect | None) -> list[tuple[str, ...]]:
    """The forward as the layer's own time has it, where whole forwards say something of their own.

    The verdict's gain names both factors, so both have to stand where they can be compared.
    """
    computed = computed_effect(record)
    if main is None or main.basis == "computed" or computed is None:
        return []
    if computed.batch != main.batch or computed.before is None or computed.after is None:
        return []
    times_s = (computed.before.value_s, computed.after.value_s)
    name = f"the same, computed: the forward of batch {computed.batch} less what the layer saves"
    return [(name, *map(seconds, times_s), _ratio(computed) or "")]


def _their_layers(other: Other | None) -> Mapping[str, Figures]:
    if other is None:
        return {}
    layer, main = own_layer(other.record), main_effect(other.record)
    known: dict[Hashable, tuple[str | None, ...]] = {}
    if layer is not None:
        ratio = times_with_interval(layer.conv_s / layer.linear_s, layer.ratio.interval)
        known["layer"] = (seconds(layer.conv_s), seconds(layer.linear_s), ratio)
    if main is not None:
        known["forward"] = (_figure_of(main.before), _figure_of(main.after), _ratio(main))
    names = ("Conv3d", "Linear", "speed-up")
    return {name: {key: each[i] for key, each in known.items()} for i, name in enumerate(names)}


def _rest(record: Record, main: Effect | None) -> list[Block]:
    """How much of the forward is not the projection, and whether the two measurements agree."""
    layer = own_layer(record)
    own = positive(record.workload.get("batch"))
    if layer is None or main is None or main.before is None or main.after is None:
        return []
    rest_s = main.before.value_s - layer.conv_s
    if main.batch != own or rest_s <= 0:
        return []
    told = (
        f"The convolution is {percent(layer.conv_s / main.before.value_s)} of the forward as "
        f"dispatched; {seconds(rest_s)} of it are something else"
    )
    if main.after.value_s >= rest_s:
        most = times(main.before.value_s / rest_s)
        return [paragraph(f"{told}, so not even a projection for nothing gains more than {most}.")]
    return [
        paragraph(
            f"{told}. With the fix the whole took {seconds(main.after.value_s)}, less than that "
            "rest: forward and layer were timed apart, and the difference of two times holds the "
            "noise of both."
        )
    ]


def _figure(told: Telling, found: Sequence[Effect], theirs: Sequence[Effect]) -> Figure:
    record, other = told.record, told.against
    by_batch = {each.batch: each for each in theirs}
    chart = BarChart(
        title=f"The whole forward before and after the fix, {setting(record)}",
        axis="time of a forward",
        bars=tuple(bar for each in found for bar in _bars(each, by_batch.get(each.batch))),
        write=seconds,
        kinds=KINDS,
        beside=other.label if other else "",
        footer=footer(record),
        published=is_published(record),
    )
    known = dict.fromkeys(_from(record, each) for each in found if each.before or each.after)
    return Figure(
        stem="end_to_end",
        alt="Bar chart of the time of the whole forward at each batch, before and after the fix",
        caption=sampled(record, BAR_INTERVALS) + f" The bars are {listed(list(known))}.",
        draw=drawing(chart),
    )


def _bars(effect: Effect, their: Effect | None) -> list[Bar]:
    pairs = (
        (CONV, effect.before, their.before if their else None),
        (LINEAR, effect.after, their.after if their else None),
    )
    return [
        Bar(
            label=f"batch {effect.batch}, {name}",
            value=time.value_s if time else None,
            interval=time.interval if time else None,
            note=_note(effect, name, time),
            kind=kind,
            beside=theirs.value_s if theirs else None,
        )
        for kind, (name, time, theirs) in enumerate(pairs)
    ]


def _note(effect: Effect, name: str, time: Time | None) -> str:
    if time is None:
        return NOT_MEASURED
    told = seconds(time.value_s) + (f", n = {time.n}" if time.n is not None else "")
    ratio = effect.speedup
    if name == CONV or ratio is None:
        return told
    computed = ", computed" if effect.basis == "computed" else ""
    return f"{told}{computed}, {times(ratio.value)} as fast"


SECTION = Section(
    name="end-to-end", order=86, title="What the fix gains end to end", compose=compose
)
