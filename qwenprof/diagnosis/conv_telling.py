"""What the rules about the patch projection share: how its times, causes and cure are told."""

from __future__ import annotations

from qwenprof.diagnosis.bounds import number
from qwenprof.diagnosis.disturbance import on_cpu
from qwenprof.diagnosis.gate import Decision, decisions
from qwenprof.diagnosis.projection import (
    LAUNCHING_BACKEND,
    Comparison,
    Launches,
    description,
    launches,
    per_patch,
    saved_s,
    share_saved,
)
from qwenprof.formatting import (
    count,
    listed,
    percent,
    plural,
    seconds,
    significant,
    times,
    times_with_interval,
)
from qwenprof.record.record import Record, Row

ADVICE = (
    "Run the projection as a matrix product over the same weights: start the program with "
    "qwenprof run SCRIPT, or call qwenprof.apply_fix() in it; transformers 5.6 and later can do it "
    'with from_pretrained(..., fusion_config={"patch_embeddings": True}).'
)
FUSION = "https://github.com/huggingface/transformers/pull/45041"
CONV3D_RANK = 5  # of its weight: features, channels, and three of the kernel
CERTAIN_INTERVAL = 0.10  # an interval as wide as this on either side leaves two digits
ORDINARY_LAUNCH_S = (1e-6, 20e-6)  # on a GPU, from a Python program


def factor_text(found: Comparison) -> str:
    """The speed-up with no more digits than its interval leaves: "4.18 x", "about 33 x"."""
    ratio = found.ratio
    if ratio.interval is None:
        return times(ratio.value)
    half = (ratio.most - ratio.least) / 2 / ratio.value
    if half <= CERTAIN_INTERVAL:
        return times(ratio.value)
    return f"about {significant(ratio.value, 2)} x"


def timed(found: Comparison) -> str:
    """Both times with their ratio, as a sentence."""
    conv, linear = found.conv, found.linear
    known = conv.get("n") is not None and linear.get("n") is not None
    missing = "too few samples for an interval" if known else "no interval stated"
    interval = "" if found.ratio.interval else f", {missing}"
    backend = f" on the backend {found.backend}" if found.backend else ""
    ratio = times_with_interval(found.ratio.value, found.ratio.interval)
    return (
        f"{count(found.patches)} patches in {conv.get('dtype')}: Conv3d {seconds(found.conv_s)}"
        f"{_n(conv)}{backend}, Linear {seconds(found.linear_s)}{_n(linear)}: {ratio}{interval}."
    )


def differing(found: Comparison) -> tuple[str, ...]:
    """How far both are from each other and from fp64, where that was looked at."""
    between = number(found.linear.get("max_abs_difference"))
    own = [number(row.get("max_abs_error")) for row in (found.conv, found.linear)]
    if between is None or None in own:
        return ()
    return (
        f"Their outputs differ by at most {between:.3g}; from an fp64 reference Conv3d by "
        f"{own[0]:.3g}, Linear by {own[1]:.3g}.",
    )


def saved(record: Record, found: Comparison) -> tuple[str, ...]:
    """What the linear layer saves of a whole forward, where that was timed."""
    share = share_saved(record, found)
    if share is None:
        return ()
    whole = f", after which it is {times(1 / (1 - share))} as fast" if 0.01 <= share < 1 else ""
    return (
        f"Linear would save {seconds(saved_s(record, found))} of each forward, {percent(share)} "
        f"of it{whole}.",
    )


def why_passed_over(record: Record, found: Comparison) -> tuple[str, str]:
    """(cause in a few words, sentence with the conditions) for a slow backend; "" if not known."""
    conv = conv_facts(record, found)
    for decision in decisions(record, conv):
        if decision.library_called is False:
            return _cause(decision, record), _conditions(decision)
    return "", ""


def conv_facts(record: Record, found: Comparison) -> Row:
    """What the dispatch stage recorded of the convolution, completed from the comparison's row.

    A record without that stage still names the dtype; that it is a Conv3d, its variants tell.
    """
    facts = dict(description(record, found.module))
    facts.setdefault("dtype", found.conv.get("dtype"))
    facts.setdefault("rank", CONV3D_RANK)
    return facts


def launched(record: Record, found: Comparison) -> tuple[str, ...]:
    """What the launches of the slow path explain of the time, where it is such a path."""
    made = launches(record, found)
    if made is None or found.backend not in (None, LAUNCHING_BACKEND):
        return ()
    if found.backend is None and on_cpu(record):
        return ()
    formula = f"{count(found.patches)} patches x ({count(made.features)} + 2)"
    if not made.with_bias:
        formula = f"{count(found.patches)} patches x 2"
    head = f"The slow path makes {formula} = {millions(made.count)} launches in a call"
    if made.predicted_s is not None:
        return (
            f"{head}: at the {seconds(made.latency_s)} that one launch takes here, "
            f"{seconds(made.predicted_s)}; the call takes {seconds(made.measured_s)}.",
        )
    ordinary = " an ordinary launch," if is_ordinary(made) else ""
    return (
        f"{head}: {seconds(made.each_s)} for each,{ordinary} makes {seconds(made.measured_s)}.",
    )


def is_ordinary(made: Launches) -> bool:
    """Whether the time is what so many plain launches take on a GPU."""
    low, high = ORDINARY_LAUNCH_S
    return low <= made.each_s <= high


def slope(record: Record) -> tuple[str, ...]:
    """What one more patch costs, from the sweep over patch counts."""
    fit = per_patch(record)
    if fit is None or fit.slope <= 0:
        return ()
    return (
        f"Over the patch counts the convolution takes {seconds(fit.slope)} for each patch "
        f"(R^2 = {fit.r_squared:.3f}).",
    )


def millions(number_: int) -> str:
    """A count of launches: "6.24 million", or plainly where it is small."""
    return f"{number_ / 1e6:.3g} million" if number_ >= 1e6 else count(number_)


def _cause(decision: Decision, record: Record) -> str:
    library = decision.library
    if decision.effect == "passed over":
        return (
            f"the gate of torch {record.fact('torch', 'version')} keeps {library} "
            f"{decision.conditions[-1].found} away from {decision.conditions[0].found} Conv3d"
        )
    failing = decision.failing[0]
    if "switched on" in failing.text:
        return f"{library} is switched off"
    if "computes in" in failing.text:
        return failing.text.replace("computes in", "does not compute in")
    return f"{library} is not there"


def _conditions(decision: Decision) -> str:
    said = [f"{condition.text} ({condition.found})" for condition in decision.conditions]
    if decision.effect == "passed over":
        return (
            f"{decision.library} is passed over where all of this holds, and it does: "
            f"{listed(said)}."
        )
    failing = [f"{condition.text}: {condition.found}" for condition in decision.failing]
    return (
        f"{decision.library} is called where {plural(len(said), 'condition')} hold; "
        f"this does not: {listed(failing)}."
    )


def _n(row: Row) -> str:
    n = number(row.get("n"))
    return "" if n is None else f" (n = {count(n)})"
