"""The commands that read records and measure nothing: report, findings, compare; without torch."""

from __future__ import annotations

import os

import msgspec

from qwenprof.errors import UsageError
from qwenprof.options import (
    REPORTS,
    AcrossOption,
    AgainstOption,
    BaseArgument,
    FailOnOption,
    FormatOption,
    JsonOption,
    MinChangeOption,
    NewArgument,
    OutOption,
    QuietOption,
    RecordArgument,
    RedactOption,
    RunToRunOption,
    SamplesOption,
    TargetOption,
    why,
)
from qwenprof.record.published import SAMPLES
from qwenprof.terminal import complain, print_comparison, print_diagnosis

DONE, GATE = 0, 1
NO_OTHER = "none"  # the word for no record beside
PAGES = (".md", ".html")


def report_command(
    record: RecordArgument,
    out: OutOption = None,
    formats: FormatOption = "md",
    target: TargetOption = "transformers",
    against: AgainstOption = None,
    samples: SamplesOption = SAMPLES,
    redact: RedactOption = True,
    quiet: QuietOption = False,
) -> int:
    """Tell a record again: report.md and its plots, report.html, or a ticket; without torch.

    They are written beside the record, in place of older ones, unless --out names a folder. The
    published record has no folder of its own: its report goes to qwenprof-reports/writeup.

    Example: qwenprof report qwenprof-reports/20261124-120000-cpu-qwen3-vl-4b --format html,ticket
    """
    from qwenprof.record.published import WRITEUP, is_writeup, load_or_writeup
    from qwenprof.report.writing import write_report

    loaded = load_or_writeup(record)
    other = loaded if against == NO_OTHER else against and load_or_writeup(against)
    beside = record if os.path.isdir(record) else record.parent
    folder = out or (REPORTS / WRITEUP if is_writeup(record) else beside)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # a name with a null byte is a ValueError
        raise UsageError(f"--out {folder}: {why(error)}; give a folder you can write") from error
    paths = write_report(
        loaded,
        folder,
        tuple(each.strip() for each in formats.split(",")),
        against=other or None,
        samples=samples,
        target=target,
        redact=redact,
    )
    for path in paths:
        if not quiet or path.suffix in PAGES:
            print(path)
    return DONE


def findings_command(record: RecordArgument, json: JsonOption = False) -> int:
    """The diagnosis of a record alone: the verdict, then what every rule found.

    Example: qwenprof findings record.json --json
    """
    from qwenprof.diagnosis.verdict import diagnosis
    from qwenprof.record.published import load_or_writeup

    loaded = load_or_writeup(record)
    if json:
        print(msgspec.json.format(msgspec.json.encode(diagnosis(loaded))).decode())
    else:
        print_diagnosis(loaded)
    return DONE


def compare_command(
    base: BaseArgument,
    new: NewArgument,
    fail_on: FailOnOption = None,
    min_change: MinChangeOption = "3%",
    run_to_run: RunToRunOption = None,
    across: AcrossOption = "",
    redact: RedactOption = True,
    out: OutOption = None,
    json: JsonOption = False,
) -> int:
    """What became faster or slower from one record to another, held against noise.

    Nothing is judged where device, workload, versions or settings differ, unless --across names
    that difference. --out gets comparison.md and its picture.

    Example: qwenprof compare before after --fail-on slower
    """
    from qwenprof.diagnosis.comparing import compare
    from qwenprof.diagnosis.comparison_gate import GATES, failure
    from qwenprof.diagnosis.shares import share
    from qwenprof.record.published import load_or_writeup
    from qwenprof.report.comparison import write_comparison
    from qwenprof.report.redact import redacted

    gate = next((each for each in GATES if each == fail_on), None)
    if fail_on is not None and gate is None:
        raise UsageError(f"--fail-on {fail_on}: choose from {', '.join(GATES)}")
    runs = [load_or_writeup(each) for each in (base, new)]
    comparison = compare(
        *(redacted(each) if redact else each for each in runs),
        min_change=share(min_change),
        run_to_run=None if run_to_run is None else share(run_to_run, "--run-to-run"),
        across=across,
    )
    written = write_comparison(comparison, out) if out else []
    if json:
        print(msgspec.json.format(msgspec.json.encode(comparison)).decode())
    else:
        print_comparison(comparison)
        for path in written:
            print(path)
    why_not = failure(comparison, gate) if gate else ""
    return complain(why_not, GATE) if why_not else DONE
