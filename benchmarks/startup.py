"""How long does it take until the command line answers?

Claims
  lean        `qwenprof --help` and `qwenprof report RECORD` do not import torch.
  quick       `qwenprof --help` takes at most 0.3 of the time of `python -c "import torch"`.

How to read it
  Whole processes, from start to exit, in turn and in another order each time, with warm disk
  caches: one untimed run of each comes first. `of import torch` is the median of the ratios
  within each turn. Whether torch was imported is read from `python -X importtime`.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from _common import Claim, checked, conclude, environment_line, not_run, parser, seconds

CLAIMED = 0.3
HELP, REPORT, TORCH = "qwenprof --help", "qwenprof report", "import torch"
REPORTS = Path(__file__).parents[1] / "reports"
MODULE = ["-m", "qwenprof"]

Command = Sequence[str]  # what follows `python`


def newest_record() -> Path | None:
    """The newest committed example, by time of change."""
    records = REPORTS.glob("*/record.json")
    return max(records, key=lambda path: path.stat().st_mtime, default=None)


def commands(record: Path | None, folder: Path) -> dict[str, Command]:
    found: dict[str, Command] = {TORCH: ["-c", "import torch"], HELP: [*MODULE, "--help"]}
    if record is not None:
        found[REPORT] = [*MODULE, "report", str(record), "--out", str(folder)]
    return found


def run(command: Command, *flags: str) -> subprocess.CompletedProcess[str]:
    """One process.

    Raises:
        SystemExit: it failed; its own last words are the message.
    """
    done = subprocess.run(
        [sys.executable, *flags, *command],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "100"},
    )
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise SystemExit(f"python {' '.join(command)}: exit code {done.returncode}: {last}")
    return done


def spent_s(command: Command) -> float:
    started_s = time.perf_counter()
    run(command)
    return time.perf_counter() - started_s


def imports_torch(command: Command) -> bool:
    """Whether the process imports torch, by the interpreter's own account."""
    lines = run(command, "-X", "importtime").stderr.splitlines()
    modules = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    if not modules:
        raise SystemExit("python -X importtime printed nothing")
    return "torch" in modules


def in_turn(found: dict[str, Command], runs: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in found}
    names = list(found)
    for command in found.values():
        run(command)
    for turn in range(runs):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(spent_s(found[name]))
    return times


def ratio(times: dict[str, list[float]], name: str) -> float:
    pairs = zip(times[name], times[TORCH], strict=True)
    return statistics.median(own_s / torch_s for own_s, torch_s in pairs)


def claims(found: dict[str, Command], times: dict[str, list[float]]) -> list[Claim]:
    made = [
        checked(
            f"{name} does not import torch",
            not imported,
            "torch is among its imports" if imported else "torch is not among its imports",
        )
        for name in (HELP, REPORT)
        if name in found
        for imported in [imports_torch(found[name])]
    ]
    if REPORT not in found:
        made.append(not_run(f"{REPORT} does not import torch", "no reports/*/record.json yet"))
    share = ratio(times, HELP)
    text = f"{HELP} takes at most {CLAIMED} of {TORCH}"
    return [*made, checked(text, share <= CLAIMED, f"{share:.2f}")]


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--record", type=Path, help="a record.json; the newest in reports/ if not")
    options.add_argument("--runs", type=int, default=7)
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = commands(arguments.record or newest_record(), Path(folder))
        times = in_turn(found, arguments.runs)
        made = claims(found, times)
    rows = [
        {
            "process": name,
            "median": seconds(statistics.median(values)),
            "fastest": seconds(min(values)),
            "n": str(len(values)),
            f"of {TORCH}": f"{ratio(times, name):.2f}",
        }
        for name, values in times.items()
    ]
    return conclude("startup", environment_line("cpu"), rows, made, arguments.out, times)


if __name__ == "__main__":
    sys.exit(main())
