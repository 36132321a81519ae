"""What the benchmarks share: the machine in one line, tables, claims, and the JSON of a run."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

RESULTS = Path(__file__).parent / "results"

Verdict = Literal["PASS", "FAIL", "UNSETTLED", "NOT RUN"]
Table = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One sentence that a benchmark checks, what came of it, and the numbers or the reason."""

    text: str
    verdict: Verdict
    detail: str


def checked(text: str, holds: bool, detail: str) -> Claim:
    """A claim that could be checked."""
    return Claim(text=text, verdict="PASS" if holds else "FAIL", detail=detail)


def unsettled(text: str, detail: str) -> Claim:
    """A claim that this machine is too noisy to confirm or to refute."""
    return Claim(text=text, verdict="UNSETTLED", detail=detail)


def not_run(text: str, reason: str) -> Claim:
    """A claim that could not be checked here."""
    return Claim(text=text, verdict="NOT RUN", detail=reason)


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON of this run")
    return made


def add_device_options(made: argparse.ArgumentParser) -> None:
    """The options of a benchmark that runs torch."""
    made.add_argument("--device", default=None, help="torch device; the accelerator, else cpu")
    made.add_argument("--quick", action="store_true", help="try the script itself in seconds")


def environment_line(device: str) -> str:
    """Machine and software in one line."""
    import torch

    from qwenprof.record.environment import cpu_name

    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else cpu_name()
    return (
        f"{name}, torch {torch.__version__}, {torch.get_num_threads()} CPU threads, "
        f"Python {platform.python_version()}"
    )


def seconds(value: float | None) -> str:
    """A duration for a reader, with three digits."""
    if value is None:
        return "-"
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "us")):
        if value * factor >= 1 or unit == "us":
            return f"{value * factor:.3g} {unit}"
    raise AssertionError


def percent(value: float) -> str:
    """A relative difference for a reader, with its sign."""
    return f"{value:+.2%}"


def table_text(rows: Table) -> str:
    """Rows as aligned columns: the first to the left, the others to the right."""
    if not rows:
        return "(nothing)"
    header = list(rows[0])
    cells = [header, *([str(row.get(key, "-")) for key in header] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def conclude(
    name: str,
    environment: str,
    rows: Table,
    claims: Sequence[Claim],
    out: Path,
    samples: Mapping[str, Any] | None = None,
) -> int:
    """Print table and claims, write the JSON, and give the exit code: 1 if a claim failed."""
    print(f"\n{name}: {environment}\n")
    print(table_text(rows))
    print()
    for claim in claims:
        print(f"{claim.verdict:<9}  {claim.text}: {claim.detail}")
    out.mkdir(parents=True, exist_ok=True)
    content = {
        "benchmark": name,
        "environment": environment,
        "arguments": sys.argv[1:],
        "rows": list(rows),
        "claims": [asdict(claim) for claim in claims],
        "samples": dict(samples or {}),
    }
    path = out / f"{name}.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"\n{path}")
    return int(any(claim.verdict == "FAIL" for claim in claims))
