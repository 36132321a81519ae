"""How a slow projection was found, and why it was not found before: from the record's figures."""

from __future__ import annotations

from qwenprof.diagnosis.bounds import positive
from qwenprof.diagnosis.conv_telling import millions
from qwenprof.diagnosis.gate import EXAMINED
from qwenprof.diagnosis.projected import Effect, duration, main_effect
from qwenprof.diagnosis.projection import Launches, comparison, launches
from qwenprof.formatting import count, listed, plural, seconds, times
from qwenprof.record.published import is_published
from qwenprof.record.record import Record, Row
from qwenprof.report.section import Block, Bullets, Inline, paragraph, strong
from qwenprof.report.sections._closed_gate import closed_gate

GATED = (2, 9)
# samples of two data sets that the published case went through before it looked (its section 4)
SMALL = (466, 1001)
CONV2D_TYPES = "about 146 model types of transformers 5.23.0"

Item = tuple[Inline, ...]


def unnoticed(record: Record) -> list[Block]:
    """How it was found, as published, and why not before; nothing where no gate is closed."""
    if closed_gate(record) is None:
        return []
    items = [*_bias(record), _versions(), *_small(main_effect(record)), _images()]
    return [
        *_found(record),
        paragraph(strong("Why it was not noticed before.")),
        Bullets(items=tuple(items)),
    ]


def _found(record: Record) -> list[Block]:
    rows = record.rows("batch-sweep", "found") if is_published(record) else []
    return [block for row in rows for block in _iterations(row)]


def _iterations(row: Row) -> list[Block]:
    """One iteration of the data loader, and what that makes for all samples."""
    names = ("iteration_s", "batch", "samples")
    each_s, batch, samples = (positive(row.get(name)) for name in names)
    if each_s is None or batch is None or samples is None:
        return []
    low, high = (positive(row.get(f"projected_{end}_days")) for end in ("low", "high"))
    stated = f", and {count(low)} to {count(high)} are stated" if low and high else ""
    return [
        paragraph(
            strong("How it was found, as published."),
            f" {row.get('what')} took {seconds(each_s)} an iteration of "
            f"{plural(batch, 'sample')} ({row.get('source')}). For {plural(samples, 'sample')} "
            f"that makes {duration(each_s * samples / batch)}{stated}.",
        )
    ]


def _bias(record: Record) -> list[Item]:
    found = comparison(record)
    made = launches(record, found) if found else None
    return [_with_and_without(made, found.patches)] if made and found else []


def _with_and_without(made: Launches, patches: int) -> Item:
    with_bias, without = patches * (made.features + 2), patches * 2
    other = without if made.with_bias else with_bias
    said = (
        f" with one the slow loop makes N x (D + 2) = {millions(with_bias)} launches for these "
        f"patches, without one N x 2 = {millions(without)}, {times(with_bias / without)} fewer. "
        f"This model has {'one' if made.with_bias else 'none'}: {seconds(made.measured_s)} a "
        f"call. At the same cost of a launch the other kind would take "
        f"{seconds(other * made.each_s)}. Qwen2-VL and Qwen2.5-VL have no bias, so the same gate "
        "costs them far less, and is easily overlooked there."
    )
    return (strong("The bias decides:"), said)


def _versions() -> Item:
    others = [".".join(map(str, each)) for each in EXAMINED if each != GATED]
    return (
        strong("Only torch 2.9 has the gate:"),
        " 2.9.0 where it was compiled with cuDNN 9.8 or later, whichever it runs with, and 2.9.1 "
        f"where it runs with cuDNN 9.8 to 9.14. torch {listed(others)} have none; other releases "
        "were not examined. The same model on the same GPU is slow or not with its versions.",
    )


def _small(effect: Effect | None) -> list[Item]:
    """What small data sets cost: few hours, which nobody looks into."""
    if effect is None or effect.before is None or effect.after is None:
        return []
    if effect.gain != "faster":
        return []
    before, after = (
        listed([duration(each.value_s / effect.batch * samples) for samples in SMALL])
        for each in (effect.before, effect.after)
    )
    return [
        (
            strong("Small data sets hide it:"),
            f" at this record's time of a forward {listed([count(each) for each in SMALL])} "
            f"samples take {before}, a wait that nobody looks into; with the fix they take "
            f"{after}. The two sizes are those of data sets that the published case went through "
            "before it looked.",
        )
    ]


def _images() -> Item:
    return (
        strong("Image benchmarks do not meet it:"),
        f" image models cut their patches with a Conv2d ({CONV2D_TYPES}), whose weight has four "
        "dimensions, and the gate asks for five.",
    )
