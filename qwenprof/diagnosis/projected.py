"""What the fix makes of a whole forward, and of a dataset: measured, else computed, else not known.

Measured is the table after_fix, of forwards that were timed with and without the fix. Where it is
missing, the forward with the fix is the one without it, less what the linear layer saves on the
same patches: that is computed, and said to be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from qwenprof.diagnosis.bounds import number, positive
from qwenprof.diagnosis.forward import forward_s, own_batch
from qwenprof.diagnosis.projection import CONV, LINEAR, Comparison, Ratio, comparison
from qwenprof.formatting import NOT_MEASURED, significant
from qwenprof.formatting import seconds as short
from qwenprof.harness.statistics import median, median_ci
from qwenprof.record.record import Record, Row

STAGE, TABLE = "compare-patch-embed", "after_fix"
CHANCE = 1.3  # single samples of a small machine differ by that much
NOTABLE = 1.02  # times as fast: what is computed to gain less would not be seen
LONGEST_S = 1e15  # beyond it a time is no measurement
_HOUR_S, _DAY_S = 3600.0, 86400.0
# seconds in a unit, the unit, and the least of it that is told in it
_UNITS = (
    (365 * _DAY_S, "years", 1.0),
    (_DAY_S, "days", 2.0),
    (_HOUR_S, "h", 1.0),
    (60.0, "min", 1.0),
    (1.0, "s", 1.0),
)

Basis = Literal["measured", "computed"]
Gain = Literal["faster", "slower", "none seen", "not known"]


@dataclass(frozen=True, kw_only=True)
class Time:
    """Seconds of something: a median, its interval, and of how many samples; None if not known."""

    value_s: float
    interval: tuple[float, float] | None = None
    n: int | None = None

    def scaled(self, factor: float) -> Time:
        """The time of so many of it."""
        ends = self.interval
        return Time(
            value_s=self.value_s * factor,
            interval=None if ends is None else (ends[0] * factor, ends[1] * factor),
            n=self.n,
        )


@dataclass(frozen=True, kw_only=True)
class Effect:
    """One forward at one batch, before and after the fix.

    before, after: None where not known.
    ratio_interval: of the speed-up, from raw samples.
    reasons: why a time is missing, by variant.
    """

    batch: int
    before: Time | None
    after: Time | None
    ratio_interval: tuple[float, float] | None
    basis: Basis
    reasons: Mapping[str, str]

    @property
    def speedup(self) -> Ratio | None:
        """How many times as fast the forward is with the fix."""
        if self.before is None or self.after is None:
            return None
        value = self.before.value_s / self.after.value_s
        ends = self.ratio_interval
        fits = ends is not None and ends[0] <= value * 1.001 and ends[1] >= value * 0.999
        return Ratio(value=value, interval=ends if fits else None)

    @property
    def gain(self) -> Gain:
        """What the speed-up allows to be said.

        An interval decides. A few samples decide what chance does not reach. What was computed
        is as certain as the layer's own times, from which it comes, but has to be notable.
        """
        found = self.speedup
        if found is None:
            return "not known"
        if found.interval is not None:
            return _side(found.interval[0], found.interval[1])
        doubt = NOTABLE if self.basis == "computed" else CHANCE
        return _side(found.value / doubt, found.value * doubt)

    def of_samples(self, samples: int) -> tuple[Time | None, Time | None]:
        """Before and after, for so many samples one batch after the other."""
        times = (self.before, self.after)
        before, after = (each.scaled(samples / self.batch) if each else None for each in times)
        return before, after


def effects(record: Record) -> list[Effect]:
    """What is known of the forward with and without the fix, by batch; empty where nothing is."""
    rows = record.rows(STAGE, TABLE)
    measured = [_measured(batch, rows) for batch in _batches(rows)]
    found = {each.batch: _believed(record, each) for each in measured}
    computed = computed_effect(record)
    if computed is not None:
        own = found.get(computed.batch)
        if own is None or own.speedup is None:
            reasons = own.reasons if own else {}
            found[computed.batch] = replace(computed, reasons=reasons)
    return [found[batch] for batch in sorted(found)]


def main_effect(record: Record) -> Effect | None:
    """The one that counts: at the workload's own batch, else at the smallest; None if not known."""
    complete = [each for each in effects(record) if each.speedup]
    own = number(record.workload.get("batch"))
    return next((each for each in complete if each.batch == own), next(iter(complete), None))


def computed_effect(record: Record) -> Effect | None:
    """The forward of the workload less what the linear layer saves; None where not known."""
    layer, whole_s = own_layer(record), forward_s(record)
    batch = _batch(record.workload)
    if layer is None or whole_s is None or batch is None:
        return None
    after_s = whole_s - layer.saved_s
    if layer.conv_s >= whole_s or not _is_time(after_s) or not _is_time(whole_s):
        return None
    return Effect(
        batch=batch,
        before=_forward_time(record, whole_s),
        after=Time(value_s=after_s),
        ratio_interval=None,
        basis="computed",
        reasons={},
    )


def _believed(record: Record, effect: Effect) -> Effect:
    """The effect, without its times if a few samples differ by what no projection could save.

    A forward that was timed once may have been disturbed for as long as it ran. An interval comes
    from samples in turn, of which a disturbance spoils both forwards.
    """
    layer, own = own_layer(record), _batch(record.workload)
    before, after = effect.before, effect.after
    if layer is None or own is None or before is None or after is None:
        return effect
    if before.n is None or after.n is None or effect.ratio_interval is not None:
        return effect
    seen_s, saved_s = before.value_s - after.value_s, layer.saved_s * effect.batch / own
    if abs(seen_s - saved_s) <= (CHANCE - 1) * before.value_s:
        return effect
    why = (
        f"set aside: with n = {before.n} and n = {after.n} the forwards took "
        f"{short(before.value_s)} and {short(after.value_s)}, and a projection that saves "
        f"{short(saved_s) if saved_s > 0 else 'nothing'} cannot be the reason"
    )
    return replace(effect, before=None, after=None, reasons={CONV: why, LINEAR: why})


def own_layer(record: Record) -> Comparison | None:
    """Convolution and Linear on the workload's own patches; None where they were not compared."""
    found, patches = comparison(record), positive(record.workload.get("patches"))
    if found is None or (patches is not None and found.patches != patches):
        return None
    return found


def duration(value_s: float | None, digits: int = 2) -> str:
    """A long time as people say it: "41 s", "2.2 h", "5.6 days"; a short one as ever: "3.20 ms".

    digits: significant ones.
    """
    if value_s is None or not math.isfinite(value_s) or not 0 <= value_s < LONGEST_S:
        return NOT_MEASURED
    scale, unit = _unit(value_s, digits)
    return f"{_scaled(value_s / scale, digits)} {unit}" if unit else short(value_s)


def duration_with_interval(time: Time | None) -> str:
    """The same to three digits, with its interval in the same unit: "8.98 h [8.93, 9.05]"."""
    if time is None or time.interval is None:
        return duration(time.value_s if time else None, 3)
    scale, unit = _unit(time.value_s, 3)
    if not unit or not all(0 <= end < LONGEST_S for end in time.interval):
        return duration(time.value_s, 3)
    low, high = (_scaled(end / scale, 3) for end in time.interval)
    return f"{duration(time.value_s, 3)} [{low}, {high}]"


def _measured(batch: int, rows: Sequence[Row]) -> Effect:
    own = [row for row in rows if _batch(row) == batch]
    conv, linear = (
        next((row for row in own if row.get("variant") == name), {}) for name in (CONV, LINEAR)
    )
    ends = [positive(linear.get(f"speedup_{end}")) for end in ("low", "high")]
    reasons = {CONV: conv.get("reason"), LINEAR: linear.get("reason")}
    return Effect(
        batch=batch,
        before=_time(conv),
        after=_time(linear),
        ratio_interval=_ordered(*ends),
        basis="measured",
        reasons={name: str(reason) for name, reason in reasons.items() if reason is not None},
    )


def _batches(rows: Sequence[Row]) -> set[int]:
    return {batch for row in rows if (batch := _batch(row)) is not None}


def _batch(row: Mapping[str, object]) -> int | None:
    cell = row.get("batch")
    value = positive(cell) if isinstance(cell, int | float) else None
    return int(value) if value is not None and value == int(value) else None


def _time(row: Row) -> Time | None:
    """The time in a row, None where it holds none."""
    value_s, n = positive(row.get("median_s")), positive(row.get("n"))
    if value_s is None or not _is_time(value_s):
        return None
    ends = _ordered(positive(row.get("ci_low_s")), positive(row.get("ci_high_s")))
    return Time(value_s=value_s, interval=ends, n=None if n is None else int(n))


def _forward_time(record: Record, whole_s: float) -> Time:
    """With n and interval, where it is known which samples it is the median of."""
    row, stage = own_batch(record), record.stages.get("per-layer")
    time = _time(row) if row else None
    if time is not None and time.value_s == whole_s:
        return time
    plain = stage.series.get("forward, plain") if stage else None
    if plain is None or not plain.values or median(plain.values) != whole_s:
        return Time(value_s=whole_s)
    return Time(value_s=whole_s, interval=median_ci(plain.values), n=len(plain.values))


def _ordered(low: float | None, high: float | None) -> tuple[float, float] | None:
    return (low, high) if low is not None and high is not None and low <= high else None


def _is_time(value_s: float) -> bool:
    return 1e-12 < value_s < LONGEST_S


def _side(low: float, high: float) -> Gain:
    if low > 1:
        return "faster"
    return "slower" if high < 1 else "none seen"


def _unit(value_s: float, digits: int) -> tuple[float, str]:
    """The largest unit in which the rounded value is told; "" for less than a second."""
    fitting = (
        (scale, unit)
        for scale, unit, least in _UNITS
        if float(f"{value_s / scale:.{digits - 1}e}") >= least
    )
    return next(fitting, (1.0, ""))


def _scaled(value: float, digits: int) -> str:
    """With so many digits, and none of a whole number's made nought: 347, not 350."""
    return f"{value:,.0f}" if value >= 10**digits else significant(value, digits)
