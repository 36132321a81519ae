"""What the user sees: progress on stderr, results on stdout. Besides cli.py nobody prints."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from qwenprof.formatting import clean, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

    from qwenprof.diagnosis.comparing import Comparison
    from qwenprof.diagnosis.finding import Finding
    from qwenprof.diagnosis.known_issues import KnownIssue
    from qwenprof.diagnosis.verdict import Verdict
    from qwenprof.record.record import Record, StageResult
    from qwenprof.stages.stage import Stage
    from qwenprof.workload.workload import Workload

MINOR = "[yellow]![/]"
MARKS = {"problem": "[red]✗[/]", "clear": "[green]✓[/]", "not assessed": "[dim]?[/]"}

JUDGED = {
    "SLOWER": "[red]SLOWER[/]",
    "FASTER": "[green]FASTER[/]",
    "DIFFERENT": "[yellow]DIFFERENT[/]",
}


def complain(message: str, code: int) -> int:
    """Print one line on stderr; what it is worth as an exit code."""
    print("qwenprof: " + visible(" ".join(message.split())), file=sys.stderr)
    return code


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

            print_diagnosis(record)
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


def print_diagnosis(record: Record) -> None:
    """The verdict, then every finding."""
    from rich.console import Console
    from rich.markup import escape

    from qwenprof.diagnosis.finding import diagnose, unasked
    from qwenprof.diagnosis.verdict import verdict

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 80)
    findings = diagnose(record)
    told = verdict(record, findings)
    print_verdict(console, told)
    without = unasked(record)
    asked = [each for each in findings if each.rule not in without]
    print_findings(console, asked, told_before=told.cure)
    silent = [each.rule for each in findings if each.rule in without]
    if silent:
        line = f"Not asked, because their stages did not run: {', '.join(silent)}."
        console.print(escape(textwrap.fill(line, console.width)), style="dim", soft_wrap=True)


def warn_of_issues(issues: Sequence[KnownIssue]) -> None:
    """Known issues that versions alone make possible, on stderr; nothing where there are none."""
    for issue in issues:
        dtypes = sorted({each for affected in issue.affected for each in affected.dtype or ()})
        concerns = f" (in {', '.join(dtypes)})" if dtypes else ""
        print(f"possible: {issue.title}{concerns}. {issue.links[0]}", file=sys.stderr)
    if issues:
        print("possible by version alone: qwenprof diagnose tells which are there", file=sys.stderr)


def print_verdict(console: Console, told: Verdict) -> None:
    """The one answer: what, why, how sure, what to do, what it gains."""
    from rich.markup import escape

    console.print()
    headline = textwrap.fill(clean(told.headline), console.width)
    console.print(f"[bold]{escape(headline)}[/]", soft_wrap=True)
    sure = f"{told.confidence}: {told.confidence_because}" if told.confidence else ""
    answers = (
        ("culprit", told.culprit or ""),
        ("cause", told.cause),
        ("sure?", sure),
        ("cure", told.cure),
        ("gain", told.gain),
    )
    for name, answer in answers:
        if answer:
            first, rest = f"  {name:<8}", " " * 10
            lines = textwrap.fill(
                clean(answer), console.width, initial_indent=first, subsequent_indent=rest
            )
            console.print(escape(lines), soft_wrap=True)


def print_findings(console: Console, findings: Sequence[Finding], told_before: str = "") -> None:
    """The findings, one line each, and what speaks for the problems.

    told_before: the advice that was given already.
    """
    from rich.markup import escape

    console.print()
    for finding in findings:
        minor = finding.verdict == "problem" and finding.severity == "info"
        mark = MINOR if minor else MARKS[finding.verdict]
        style = "bold" if finding.verdict == "problem" and not minor else ""
        title = textwrap.fill(clean(finding.title), console.width - 2).replace("\n", "\n  ")
        console.print(f"{mark} [{style or 'default'}]{escape(title)}[/]", soft_wrap=True)
        if finding.verdict != "clear":
            advice = "" if finding.advice == told_before else finding.advice
            details = [*finding.evidence, advice]
            text = " ".join(detail for detail in details if detail)
            lines = textwrap.fill(
                clean(text), console.width, initial_indent="  ", subsequent_indent="  "
            )
            console.print(escape(lines), style="dim", soft_wrap=True)


def print_comparison(comparison: Comparison) -> None:
    """What changed the most on top, why not all is judged, the summary, what was lost, notes."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from qwenprof.report.comparison import table_notes, table_rows

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 80)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("case", no_wrap=True)
    for name in ("BASE", "NEW", "ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("judgement", no_wrap=True)
    for row in table_rows(comparison):
        judgement = JUDGED.get(row.judgement, row.judgement)
        if row.reason:
            judgement = f"{judgement} {row.reason}"
        table.add_row(escape(row.name), escape(row.base), escape(row.new), row.ratio, judgement)
    console.print(table)
    told = [(f"INCONCLUSIVE {each}", "dim") for each in table_notes(comparison)]
    told.append((comparison.summary, "bold"))
    told += [(f"lost: {each}", "yellow") for each in comparison.lost]
    told += [(each, "dim") for each in comparison.notes]
    for text, style in told:
        lines = textwrap.fill(clean(text), console.width)
        console.print(escape(lines), style=style, soft_wrap=True)
