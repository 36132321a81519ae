"""Everything that needs a GPU, in one go and in under eight minutes, into one folder.

Claim
  Every step ends with exit code 0: the tests marked `gpu`; a whole diagnosis of the published
  clip, with its report; the provoked slow path of the patch embedding; and the benchmarks of
  every way to run that, of the harness and of its overhead, each of which checks claims of its
  own.

How to read it
  Each step is a process of its own with a limit of its own, its output in a log beside its
  results; one that fails or runs out of time does not stop the next. A step is `failed` also
  where it ran to its end and one of its own claims did not hold: the log says which. Without a
  GPU nothing is run and the exit code is 2. `--device cpu --quick` runs the same steps on a CPU
  within seconds each, to try the script itself; its numbers mean nothing.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from _common import RESULTS, add_device_options, checked, conclude, environment_line, parser

HERE = Path(__file__).parent
LIMIT_S = 480.0
NO_TESTS_RUN = 5  # pytest's exit code


@dataclass(frozen=True, kw_only=True)
class Step:
    """One process: what follows `python`, and the seconds after which it is ended."""

    name: str
    arguments: Sequence[str]
    limit_s: float


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a step."""

    step: Step
    status: str
    spent_s: float


def plan(device: str, out: Path, *, quick: bool) -> list[Step]:
    """The steps in their order; together they may take no longer than LIMIT_S."""
    on = ["--device", device, "--out", str(out)] + (["--quick"] if quick else [])
    clip = ["--size", "4b", "--frames", "8", "--short-edge", "336", "--dtype", "bf16"]
    scope, budget = ("vision", "12") if quick else ("full", "100")
    if quick:
        clip = ["--size", "2b", "--frames", "1", "--short-edge", "64", "--dtype", "fp32"]
    diagnose = ["-m", "qwenprof", "diagnose", "--device", device, "--scope", scope, *clip]
    return [
        Step(
            name="tests",
            arguments=["-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", str(HERE.parent)],
            limit_s=105,
        ),
        Step(
            name="diagnose",
            arguments=[*diagnose, "--budget", budget, "--out", str(out / "diagnose")],
            limit_s=150,
        ),
        Step(name="slow_path", arguments=[str(HERE / "slow_path.py"), *on], limit_s=60),
        Step(name="patch_embed", arguments=[str(HERE / "patch_embed.py"), *on], limit_s=65),
        Step(name="harness", arguments=[str(HERE / "harness.py"), *on], limit_s=60),
        Step(name="overhead", arguments=[str(HERE / "overhead.py"), *on], limit_s=40),
    ]


def done(step: Step, out: Path) -> Outcome:
    """Run one step, its output into its log."""
    started_s = time.perf_counter()
    with (out / f"{step.name}.log").open("wb") as log:
        try:
            code = subprocess.run(
                [sys.executable, *step.arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=step.limit_s,
                cwd=HERE.parent,
                check=False,
            ).returncode
            status = "ok" if code == 0 else f"failed ({code})"
            status = "no tests" if step.name == "tests" and code == NO_TESTS_RUN else status
        except subprocess.TimeoutExpired:
            status = f"out of time ({step.limit_s:g} s)"
    return Outcome(step=step, status=status, spent_s=time.perf_counter() - started_s)


def device_problem(device: str, *, quick: bool) -> str | None:
    """Why the suite cannot run on this device; None if it can."""
    import torch

    if device == "cpu":
        return None if quick else "--device cpu is for trying the script: add --quick"
    if torch.cuda.is_available():
        return None
    return f"no GPU: torch {torch.__version__} finds no CUDA device, and nothing was run"


def folder_name(device: str) -> str:
    """gpu-DEVICE-DATE, in letters, digits and hyphens."""
    import torch

    name = torch.cuda.get_device_name(device) if device != "cpu" else "none-cpu"
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-").removeprefix("nvidia-")
    return f"gpu-{slug}-{time.strftime('%Y%m%d')}"


def run_all(steps: Sequence[Step], out: Path) -> list[Outcome]:
    outcomes = []
    for step in steps:
        print(f"{step.name} (at most {step.limit_s:g} s) ...", flush=True)
        outcomes.append(done(step, out))
        print(f"  {outcomes[-1].status}, {outcomes[-1].spent_s:.1f} s", flush=True)
    return outcomes


def main() -> int:
    options = parser(__doc__)
    add_device_options(options)
    options.set_defaults(device="cuda", out=None)
    arguments = options.parse_args()
    problem = device_problem(arguments.device, quick=arguments.quick)
    if problem:
        print(problem)
        return 2
    out = (arguments.out or RESULTS / folder_name(arguments.device)).resolve()
    out.mkdir(parents=True, exist_ok=True)
    outcomes = run_all(plan(arguments.device, out, quick=arguments.quick), out)
    failed = [each.step.name for each in outcomes if each.status != "ok"]
    rows = [
        {
            "step": each.step.name,
            "status": each.status,
            "seconds": f"{each.spent_s:.1f}",
            "log": f"{each.step.name}.log",
        }
        for each in outcomes
    ]
    claim = checked("every step ends well", not failed, ", ".join(failed) or "all did")
    return conclude("gpu_suite", environment_line(arguments.device), rows, [claim], out)


if __name__ == "__main__":
    sys.exit(main())
