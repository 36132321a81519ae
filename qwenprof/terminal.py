"""What the user sees: progress on stderr, results on stdout. Besides cli.py nobody prints."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from qwenprof.formatting import clean

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

    from qwenprof.diagnosis.finding import Finding
    from qwenprof.record.record import Record, StageResult
    from qwenprof.stages.stage import Stage
    from qwenprof.workload.workload import Workload

MINOR = "[yellow]![/]"
MARKS = {"problem": "[red]✗[/]", "clear": "[green]✓[/]", "not assessed": "[dim]?[/]"}


class Screen:
    """What the user sees: progress on stderr, the result on stdout."""

    def __init__(self, *, json: bool, verbose: bool, quiet: bool) -> None:
        self._json, self._verbose, self._quiet = json, verbose, quiet
        self._stage = ""
        self._console: Console | None = None
        self._status: Status | None = None

    @property
    def _talks(self) -> bool:
        return not (self._json or self._quiet)

    @property
    def console(self) -> Console:
        if self._console is None:
            from rich.console import Console

            self._console = Console(stderr=True, highlight=False)
        return self._console

    def announce(self, workload: Workload, folder: Path) -> None:
        if self._talks:
            self._print(str(workload), style="bold")
            self._print(f"results go to {folder}/", style="dim")

    def started(self, stage: Stage) -> None:
        self._stage = f"{stage.name}: {stage.question}"
        self.said("")

    def said(self, text: str) -> None:
        if not self._talks:
            return
        line = "  ".join(part for part in (self._stage, text) if part)
        if self._verbose and text:
            self._print(f"  {text}", style="dim")
        if self._status is None:
            self._status = self.console.status(line)
            self._status.start()
        self._status.update(line)

    def finished(self, stage: Stage, result: StageResult) -> None:
        if not self._talks:
            return
        mark = "[green]✓[/]" if result.status == "ok" else "[yellow]![/]"
        self.console.print(f"{mark} {stage.name:<20} [dim]{result.duration_s:6.1f} s[/]", end="")
        self._print("  " + clean(f"{result.status}: {result.reason}") if result.reason else "")

    def conclude(self, record: Record, report: Path) -> None:
        """The end of a run: the record, or the path, or a summary and the path."""
        self.stop()
        if self._json:
            print(msgspec.json.encode(record).decode())
        elif self._quiet:
            print(report)
        else:
            from qwenprof.diagnosis.caveats import caveats
            from qwenprof.diagnosis.finding import diagnose

            print_findings(diagnose(record))
            for line in caveats(record):
                self._print(clean(line), style="yellow")
            print(f"\nreport: {report}")

    def _print(self, text: str, style: str = "") -> None:
        self.console.print(text, style=style, markup=False, soft_wrap=True)

    def stop(self) -> None:
        """Take the progress line away."""
        if self._status is not None:
            self._status.stop()
            self._status = None


def print_findings(findings: Sequence[Finding]) -> None:
    """The verdicts, one line each, and what speaks for the problems."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 80)
    console.print()
    for finding in findings:
        minor = finding.verdict == "problem" and finding.severity == "info"
        mark = MINOR if minor else MARKS[finding.verdict]
        style = "bold" if finding.verdict == "problem" and not minor else ""
        title = textwrap.fill(clean(finding.title), console.width - 2).replace("\n", "\n  ")
        console.print(f"{mark} [{style or 'default'}]{escape(title)}[/]", soft_wrap=True)
        if finding.verdict != "clear":
            details = [*finding.evidence, finding.advice]
            text = " ".join(detail for detail in details if detail)
            lines = textwrap.fill(
                clean(text), console.width, initial_indent="  ", subsequent_indent="  "
            )
            console.print(escape(lines), style="dim", soft_wrap=True)
