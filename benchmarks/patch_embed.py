"""How fast is one patch projection, however it is run? All variants, patch counts and dtypes.

Claims
  bare        The fix takes no more than 3 % longer than a bare `F.linear` on the same numbers, at
              every patch count of 256 and more, in every dtype that was measured.
  best        In bf16 no variant is more than 3 % faster than the fix on the most patches.
  dispatched  On a CPU that multiplies matrices in bf16 (AMX), on the most patches: the fix takes a
              twentieth of the convolution as dispatched, and a three-hundredth of it with oneDNN
              switched off.

How to read it
  The projection is Qwen3-VL's: 3 x 2 x 16 x 16 numbers a patch to 1,024 features, with bias and
  random weights. Everything that is fast is timed in turn (A B B A); what may be slow is timed
  alone, and on all the patches only if few of them let hope. `of the fix` is the time over the
  fix's in the same round, a ratio of medians with its bootstrap 95 % interval; where that reaches
  across a claim, this run has not settled it. Below 256 patches the fix's ten microseconds of
  Python count, and the table shows them.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _common import (
    Claim,
    add_device_options,
    checked,
    conclude,
    environment_line,
    not_run,
    parser,
    seconds,
    unsettled,
)
from torch import nn

from qwenprof.harness.clock import clock_for
from qwenprof.harness.plan import Refusal, TimePlan
from qwenprof.harness.sampler import Case, Sampler, Timing
from qwenprof.harness.statistics import Ratio, ratio_of_medians
from qwenprof.stages._projection import FORWARD, Projection
from qwenprof.stages._variants import CONV, FIX, Layer, Variant, variants
from qwenprof.workload.loading import TORCH_DTYPES
from qwenprof.workload.workload import resolved_device

KERNEL, CHANNELS, FEATURES = (2, 16, 16), 3, 1024
BARE = "bare F.linear"
CLOSE, FROM_PATCHES = 0.03, 256
DISPATCHED, WITHOUT_LIBRARY = 20.0, 300.0
COUNTS = {"cpu": (64, 256, 760, 6080), "gpu": (64, 256, 1024, 6080, 34480)}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One variant at one patch count in one dtype; `of_fix` only where both ran in turn."""

    variant: str
    dtype: str
    patches: int
    timing: Timing
    of_fix: Ratio | None


def bare(conv: nn.Conv3d) -> Layer:
    weight, bias = conv.weight.detach().flatten(1).contiguous(), conv.bias

    def forward(patches: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(patches.view(len(patches), -1), weight, bias)

    return Layer(forward=forward, parameters=list)


def in_turn_variants(device_type: str) -> tuple[list[Variant], list[Variant]]:
    """Two rounds: every variant; and the fix with its rival alone, between equal neighbours."""
    known = [each for each in variants(device_type) if each.in_turn]
    rival = Variant(name=BARE, what="", build=bare, backend="GEMM", in_turn=True)
    return known, [rival, next(each for each in known if each.name == FIX)]


def _alone(device_type: str) -> list[Variant]:
    return [each for each in variants(device_type) if not each.in_turn]


def run_all(
    device: str, counts: Sequence[int], dtypes: Sequence[str], case_s: float, *, compiled: bool
) -> Iterator[Measured | tuple[str, str]]:
    """Every measurement; a pair of a case and its reason for what was not measured."""
    torch.manual_seed(0)
    conv = nn.Conv3d(CHANNELS, FEATURES, KERNEL, stride=KERNEL).to(device)
    patches = torch.rand(max(counts), CHANNELS, *KERNEL, device=device) * 2 - 1
    sampler, ends = Sampler(clock_for(torch.device(device))), sorted({counts[0], counts[-1]})
    for dtype in dtypes:
        whole = Projection.of(conv, patches, TORCH_DTYPES[dtype])
        everything, pair = in_turn_variants(whole.patches.device.type)
        yield from _rounds(sampler, whole, dtype, counts, everything, case_s)
        for each in _rounds(sampler, whole, dtype, counts, pair, case_s):
            if not (isinstance(each, Measured) and each.variant == FIX):
                yield each
        for variant in _alone(whole.patches.device.type):
            reason = variant.obstacle(whole.patches.device.type, whole.conv)
            if variant.start_s and not compiled:
                reason = reason or "left out: add --compiled"
            if reason:
                yield f"{variant.name}, {dtype}", reason
            else:
                yield from _rounds(sampler, whole, dtype, ends, [variant], 2 * case_s)


def _rounds(
    sampler: Sampler,
    whole: Projection,
    dtype: str,
    counts: Sequence[int],
    chosen: Sequence[Variant],
    case_s: float,
) -> Iterator[Measured | tuple[str, str]]:
    """These variants in turn at every patch count, as far as the seconds of all counts go."""
    most_s, names = case_s * len(chosen), ", ".join(each.name for each in chosen)
    work = {str(each): float(each) for each in counts}
    plan = TimePlan(sampler.clock, most_s * len(counts), work, most_s)
    for count in counts:
        allowance = plan.start(str(count))
        if isinstance(allowance, Refusal):
            yield f"{names}, {dtype}, {count} patches", allowance.reason
            continue
        print(f"{dtype}, {count} patches: {names}", file=sys.stderr)
        projection = whole.first(count)
        timings = sampler.compare(
            {each.name: _case(projection, each) for each in chosen}, allowance
        )
        plan.learn(str(count), sum(timing.one_call_s for timing in timings.values()))
        fix = timings.get(FIX)
        for variant, timing in timings.items():
            ratio = ratio_of_medians(timing.device.values, fix.device.values) if fix else None
            yield Measured(variant=variant, dtype=dtype, patches=count, timing=timing, of_fix=ratio)


def _case(projection: Projection, variant: Variant) -> Case:
    layer = variant.build(copy.deepcopy(projection.conv))
    call: Callable[[], Any] = projection.call(variant.name, layer, FORWARD)
    return Case(call=call, around=variant.around)


def claims(found: Sequence[Measured], device: str) -> list[Claim]:
    return [*_bare(found), _best(found), *_dispatched(found, device)]


def _bare(found: Sequence[Measured]) -> Iterator[Claim]:
    for each in found:
        if each.variant == BARE and each.patches >= FROM_PATCHES and each.of_fix:
            text = f"the fix is within 3 % of F.linear, {each.dtype}, {each.patches} patches"
            yield _no_slower(text, each.of_fix, "F.linear over the fix")


def _no_slower(text: str, rival_over_fix: Ratio, what: str) -> Claim:
    """Whether the rival is at most 3 % faster: its time over the fix's is at least 1 / 1.03."""
    least = 1 / (1 + CLOSE)
    if rival_over_fix.ci is None:
        return not_run(text, "too few samples for an interval")
    low, high = rival_over_fix.ci
    detail = f"{what}: {rival_over_fix.value:.3f}, interval {low:.3f} .. {high:.3f}"
    if low < least <= high:
        return unsettled(text, detail)
    return checked(text, low >= least, detail)


def _best(found: Sequence[Measured]) -> Claim:
    text = "no variant beats the fix by more than 3 % in bf16"
    most = max((each.patches for each in found if each.dtype == "bf16"), default=0)
    here = [each for each in found if (each.dtype, each.patches) == ("bf16", most)]
    fix = next((each for each in here if each.variant == FIX), None)
    if fix is None:
        return not_run(text, "bf16 was not measured")
    rivals = [each for each in here if each.variant != FIX]
    best = min(rivals, key=lambda each: each.timing.median_s)
    ratio = best.of_fix or ratio_of_medians(best.timing.device.values, fix.timing.device.values)
    return _no_slower(text, ratio, f"{best.variant} over the fix on {most} patches")


def _dispatched(found: Sequence[Measured], device: str) -> Iterator[Claim]:
    most = max((each.patches for each in found), default=0)
    times_s = {
        each.variant: each.timing.median_s
        for each in found
        if (each.dtype, each.patches) == ("bf16", most)
    }
    for variant, least in ((CONV, DISPATCHED), ("oneDNN off", WITHOUT_LIBRARY)):
        text = f"in bf16 the fix is at least {least:g} times as fast as {variant}"
        if variant not in times_s or FIX not in times_s:
            yield not_run(text, f"{variant} was not measured on {most} patches in bf16")
            continue
        ratio = times_s[variant] / times_s[FIX]
        detail = f"{ratio:.3g} times on {most} patches"
        if device != "cpu" or not multiplies_bf16():
            yield not_run(text, f"{detail}; claimed only for a CPU with AMX, which this is not")
        else:
            yield checked(text, ratio >= least, detail)


def multiplies_bf16() -> bool:
    """Whether this is a CPU with AMX tiles for bf16."""
    flags = Path("/proc/cpuinfo")
    return flags.exists() and "amx_bf16" in flags.read_text(encoding="utf-8").split()


def row(each: Measured) -> dict[str, str]:
    ratio = each.of_fix if each.variant != FIX else None
    interval = f" [{ratio.ci[0]:.3f}, {ratio.ci[1]:.3f}]" if ratio and ratio.ci else ""
    return {
        "variant": each.variant,
        "dtype": each.dtype,
        "patches": f"{each.patches:,}",
        "median": seconds(each.timing.median_s),
        "n": str(each.timing.n),
        "of the fix": f"{ratio.value:.3f}{interval}" if ratio else "-",
    }


def main() -> int:
    options = parser(__doc__)
    add_device_options(options)
    options.add_argument("--patches", type=int, nargs="+", help="patch counts, the least first")
    options.add_argument("--dtypes", nargs="+", default=["bf16", "fp16", "fp32"])
    options.add_argument("--seconds", type=float, default=2.0, help="for one variant at one count")
    options.add_argument("--compiled", action="store_true", help="torch.compile too; takes long")
    arguments = options.parse_args()
    device = resolved_device(arguments.device)
    counts = arguments.patches or COUNTS["cpu" if device == "cpu" else "gpu"]
    if arguments.quick:
        counts, arguments.dtypes, arguments.seconds = (16, 256), ["bf16"], 0.1
    results = list(
        run_all(
            device, sorted(counts), arguments.dtypes, arguments.seconds, compiled=arguments.compiled
        )
    )
    found = [each for each in results if isinstance(each, Measured)]
    for each in results:
        if not isinstance(each, Measured):
            print(f"not measured: {each[0]}: {each[1]}", file=sys.stderr)
    return conclude(
        "patch_embed",
        environment_line(device),
        [row(each) for each in found],
        claims(found, device),
        arguments.out,
        samples={
            f"{each.variant}/{each.dtype}/{each.patches}": each.timing.device.values
            for each in found
        },
    )


if __name__ == "__main__":
    sys.exit(main())
