"""A round: some variants of the projection on the same patches, and a row for each of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qwenprof.errors import reason_of
from qwenprof.record.record import Row
from qwenprof.stages._projection import BACKWARD, ERRORS, FORWARD, Projection
from qwenprof.stages._timed_row import empty_row, timing_columns
from qwenprof.stages._variants import CONV, Layer, Variant
from qwenprof.stages.stage import Bench

if TYPE_CHECKING:
    from qwenprof.harness.plan import Allowance, TimePlan
    from qwenprof.harness.sampler import Case, Timing

TRIAL_PATCHES = 2
COLUMNS: Row = {
    "variant": None,
    "what": None,
    "dtype": None,
    "patches": None,
    "direction": FORWARD,
    "module": None,
    "backend": None,
    "bias": None,
    "speedup": None,
    "speedup_low": None,
    "speedup_high": None,
    **ERRORS,
    "max_abs_difference": None,
}


@dataclass(frozen=True, kw_only=True)
class Round:
    """One dtype, one direction and one set of patches.

    path: of the projection in the model that is run.
    baselines: the samples of the convolution as dispatched, by `key`; shared by all rounds.
    """

    bench: Bench
    path: str
    dtype: str
    direction: str
    projection: Projection
    baselines: dict[str, list[float]]

    @property
    def count(self) -> int:
        return len(self.projection.patches)

    def first(self, count: int) -> Round:
        """The same round with the first patches alone."""
        if count == self.count:
            return self
        return replace(self, projection=self.projection.first(count))

    def key(self, variant: str) -> str:
        """The name of a variant's series in the record."""
        suffix = "" if self.direction == FORWARD else f"/{self.direction}"
        return f"{variant}/{self.dtype}/{self.count}{suffix}"

    def add_row(self, variant: str, what: str, cells: Row) -> None:
        """A row of the stage's table; `what` says how the variant runs, for a reader."""
        common: Row = {
            "variant": variant,
            "what": what,
            "dtype": self.dtype,
            "patches": self.count,
            "direction": self.direction,
            "module": self.path,
        }
        self.bench.add_row("variants", COLUMNS | common | cells)

    def speedup(self, variant: str, samples: Sequence[float]) -> Row:
        """How many times as fast as the convolution as dispatched, with the interval."""
        from qwenprof.harness import statistics

        conv = self.baselines.get(self.key(CONV))
        if conv is None or not samples:
            return {}
        if variant == CONV:
            return {"speedup": 1.0}
        ratio = statistics.ratio_of_medians(conv, samples)
        low, high = ratio.ci or (None, None)
        return {"speedup": ratio.value, "speedup_low": low, "speedup_high": high}


def run_round(round_: Round, chosen: Sequence[Variant], plan: TimePlan) -> None:
    """Time these variants in turn as one case of a plan; every one of them gets its row."""
    from qwenprof.harness.memory import free_cached_memory
    from qwenprof.harness.plan import Refusal

    names = chosen[0].name if len(chosen) == 1 else "variants in turn"
    round_.bench.say(f"{round_.direction}, {round_.count} patches, {round_.dtype}: {names}")
    able = [each for each in chosen if is_able(round_, each)]
    allowance = plan.start(str(round_.count))
    if isinstance(allowance, Refusal):
        row = empty_row("skipped", allowance.reason)
    else:
        able = [each for each in able if len(able) == 1 or _works(round_, each)]
        try:
            _measure(round_, able, plan, allowance)
            return
        except (RuntimeError, MemoryError) as error:
            row = _row_of(error)
        free_cached_memory(round_.bench.device)
    for variant in able:
        round_.add_row(variant.name, variant.what, row)


def is_able(round_: Round, variant: Variant) -> bool:
    """Whether the variant can run here at all; a row with the reason if it cannot."""
    device_type = round_.projection.patches.device.type
    reason = variant.obstacle(device_type, round_.projection.conv)
    if not reason and round_.direction == BACKWARD:
        reason = variant.backward_obstacle
    if reason:
        round_.add_row(variant.name, variant.what, empty_row("skipped", reason))
    return not reason


def _works(round_: Round, variant: Variant) -> bool:
    """Whether two patches go through: of several variants, one must not stop the others."""
    import torch

    layer = variant.build(copy.deepcopy(round_.projection.conv))
    try:
        with torch.no_grad(), variant.around():
            layer.forward(round_.projection.patches[:TRIAL_PATCHES])
    except (RuntimeError, MemoryError) as error:
        round_.add_row(variant.name, variant.what, _row_of(error))
        return False
    return True


def _row_of(error: Exception) -> Row:
    from qwenprof.harness.memory import is_out_of_memory

    status = "out_of_memory" if is_out_of_memory(error) else "failed"
    return empty_row(status, reason_of(error))


def _measure(
    round_: Round, chosen: Sequence[Variant], plan: TimePlan, allowance: Allowance
) -> None:
    layers = {each.name: each.build(copy.deepcopy(round_.projection.conv)) for each in chosen}
    timings = _timed(round_, chosen, layers, allowance)
    plan.learn(str(round_.count), sum(timing.one_call_s for timing in timings.values()))
    for variant in chosen:
        name = variant.name
        cells = _measured_cells(round_, variant, layers[name], timings[name], allowance)
        round_.add_row(name, variant.what, cells)


def _timed(
    round_: Round, chosen: Sequence[Variant], layers: dict[str, Layer], allowance: Allowance
) -> dict[str, Timing]:
    cases = {each.name: _case(round_, each, layers[each.name]) for each in chosen}
    timings = round_.bench.sampler.compare(cases, allowance) if cases else {}
    for name, timing in timings.items():
        round_.bench.add_series(timing.series(round_.key(name)))
        if name == CONV:
            round_.baselines[round_.key(CONV)] = timing.device.values
    return timings


def _case(round_: Round, variant: Variant, layer: Layer) -> Case:
    from qwenprof.harness.sampler import Case

    with variant.around():
        call = round_.projection.call(variant.name, layer, round_.direction)
    return Case(call=call, around=variant.around)


def _measured_cells(
    round_: Round, variant: Variant, layer: Layer, timing: Timing, allowance: Allowance
) -> Row:
    projection, name = round_.projection, variant.name
    errors = projection.errors(name, round_.direction)
    difference = projection.difference(name, CONV, round_.direction)
    cells: Row = {
        "backend": variant.backend or _dispatched(round_, variant, layer),
        "bias": projection.conv.bias is not None,
        "peak_bytes": _peak_bytes(round_, variant, layer, timing, allowance),
        "max_abs_difference": difference,
        "status": "ok",
        "reason": None,
    }
    speedup = round_.speedup(name, timing.device.values)
    return timing_columns(timing) | speedup | errors | cells


def _dispatched(round_: Round, variant: Variant, layer: Layer) -> str | None:
    """The backend that PyTorch picks for the weight and bias that the variant convolves with."""
    from qwenprof.harness.dispatch import convolution_backend

    weight, *bias = layer.parameters()
    with variant.around():
        return convolution_backend(round_.projection.conv, round_.projection.patches, weight, *bias)


def _peak_bytes(
    round_: Round, variant: Variant, layer: Layer, timing: Timing, allowance: Allowance
) -> int | None:
    from qwenprof.harness.memory import affordable_peak_bytes

    with variant.around():
        call = round_.projection.call(variant.name, layer, round_.direction)
        return affordable_peak_bytes(call, round_.bench.device, timing, allowance)
