"""Is a patch embedding on the slow path found out? The fault is provoked, on any version.

Claims
  named       With the vendor's convolution library switched off, the backend of the Conv3d is
              PyTorch's own loop, and the compare-patch-embed stage records it by that name.
  slower      On an accelerator, and on the most patches that were timed, that Conv3d takes at
              least ten times as long as the equal linear layer.
  linear      Its time grows in proportion to the number of patches: R^2 of at least 0.98.

How to read it
  On CUDA, `torch.backends.cudnn.flags(enabled=False)` sends the convolution to SlowDilated3d,
  which launches a kernel per patch and output channel: 760 patches of a 336 x 597 frame are
  about 780,000 launches, some 2 s a call. On a CPU, `torch.backends.mkldnn.flags(enabled=False)`
  sends it to Slow3d; that slows matrix products in bf16 too, so that no ratio is claimed. The
  record of the stage is left in the output folder, where `qwenprof report` reads it.
"""

from __future__ import annotations

import sys
from pathlib import Path

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
)

from qwenprof.harness.dispatch import library_off
from qwenprof.harness.statistics import fit_line
from qwenprof.record.record import Record, Row
from qwenprof.runner import run
from qwenprof.workload.workload import Workload, resolved_device

STAGE = "compare-patch-embed"
LOOPS = ("SlowDilated3d", "Slow3d")
CLAIMED, CLAIMED_FIT = 10.0, 0.98


def recorded(device: str, dtype: str, short_edge: int, budget_s: float, out: Path) -> Record:
    """The stage's record of one frame, with the library off from beginning to end."""
    workload = Workload.default(
        device, size="2b", scope="vision", frames=1, short_edge=short_edge, dtype=dtype
    )
    with library_off(torch.device(device).type)():
        return run(workload, [STAGE], out, budget_s=budget_s)


def timed_rows(record: Record, variant: str, dtype: str) -> list[Row]:
    return [
        row
        for row in record.rows(STAGE, "variants")
        if (row["variant"], row["dtype"], row["status"]) == (variant, dtype, "ok")
    ]


def claims(convs: list[Row], linears: list[Row], device: str) -> list[Claim]:
    slower = f"Conv3d takes at least {CLAIMED:g} times as long as Linear"
    grows = "Conv3d's time is proportional to the patches"
    if not convs or not linears:
        reason = "the stage measured neither; see its reasons in the record"
        return [not_run(text, reason) for text in ("the loop is named", slower, grows)]
    backends = sorted({str(row["backend"]) for row in convs})
    made = [
        checked("the loop is named", set(backends) <= set(LOOPS), ", ".join(backends)),
        not_run(slower, "no accelerator")
        if device == "cpu"
        else _slower(slower, convs[-1], linears),
    ]
    fit = fit_line([_number(r, "patches") for r in convs], [_number(r, "median_s") for r in convs])
    if fit is None or len(convs) < 3:
        return [*made, not_run(grows, f"only {len(convs)} patch counts were timed")]
    detail = f"R^2 {fit.r_squared:.4f}, {seconds(fit.slope)} a patch"
    return [*made, checked(grows, fit.r_squared >= CLAIMED_FIT, detail)]


def _slower(text: str, conv: Row, linears: list[Row]) -> Claim:
    linear = next((row for row in linears if row["patches"] == conv["patches"]), None)
    if linear is None:
        return not_run(text, f"Linear was not timed on {conv['patches']} patches")
    ratio = _number(conv, "median_s") / _number(linear, "median_s")
    return checked(text, ratio >= CLAIMED, f"{ratio:,.0f} times on {conv['patches']} patches")


def _number(row: Row, column: str) -> float:
    value = row[column]
    assert isinstance(value, int | float)
    return float(value)


def main() -> int:
    options = parser(__doc__)
    add_device_options(options)
    options.add_argument("--dtype", default="bf16")
    options.add_argument("--short-edge", type=int, default=336)
    options.add_argument("--seconds", type=float, default=40.0, help="for the stage")
    arguments = options.parse_args()
    device = resolved_device(arguments.device)
    if arguments.quick:
        arguments.short_edge, arguments.seconds = 64, 9.0
    folder = arguments.out / "slow-path"
    folder.mkdir(parents=True, exist_ok=True)
    record = recorded(device, arguments.dtype, arguments.short_edge, arguments.seconds, folder)
    stage = record.stages[STAGE]
    print(f"{STAGE}: {stage.status} {stage.reason or ''}", file=sys.stderr)
    convs, linears = (timed_rows(record, each, arguments.dtype) for each in ("Conv3d", "Linear"))
    rows = [
        {
            "variant": str(row["variant"]),
            "patches": str(row["patches"]),
            "backend": str(row["backend"]),
            "median": seconds(_number(row, "median_s")),
            "n": str(row["n"]),
        }
        for row in [*convs, *linears]
    ]
    return conclude(
        "slow_path", environment_line(device), rows, claims(convs, linears, device), arguments.out
    )


if __name__ == "__main__":
    sys.exit(main())
