"""The command line: options -> one call -> exit code. Nothing else exits, and
besides terminal.py nothing else prints.

Exit codes: 0 done, 1 a gate asked for by a flag failed, 2 usage, 3 a stage failed,
130 interrupted (what was measured is saved).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from qwenprof._version import __version__
from qwenprof.errors import QwenprofError, RecordError, UsageError
from qwenprof.options import (
    AttentionOption,
    BatchOption,
    BudgetOption,
    DeviceOption,
    DtypeOption,
    FamilyOption,
    FramesOption,
    JsonOption,
    OutOption,
    ProvokeOption,
    QuietOption,
    Request,
    ScopeOption,
    SeedOption,
    ShortEdgeOption,
    SizeOption,
    StagesOption,
    VerboseOption,
    check_out,
    output_folder,
)
from qwenprof.record_commands import compare_command, findings_command, report_command
from qwenprof.stages.stage import stages
from qwenprof.terminal import Screen, complain, warn_of_issues

if TYPE_CHECKING:
    from qwenprof.record.record import Record
    from qwenprof.workload.workload import Workload

DONE, USAGE, FAILED, INTERRUPTED = 0, 2, 3, 130
ISSUE_KEYS = ("id", "title", "cause", "remedy", "fixed_in", "links")

# typer may bring its own click or use the installed one: their errors have one ancestor
ClickException: type[Exception] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Find out why a Qwen-VL style vision tower is slow, and prove it.\n\n"
    "[dim]Start with:[/]  qwenprof diagnose",
    epilog="Results go to a fresh folder under qwenprof-reports/ unless --out says otherwise.",
)


def run_command_line(arguments: list[str]) -> int:
    """Run one command; every error that is meant for the user becomes one line."""
    command = typer.main.get_command(app)
    try:
        code = command.main(args=arguments, prog_name="qwenprof", standalone_mode=False)
        return code if isinstance(code, int) else DONE
    except (UsageError, RecordError) as error:
        return complain(str(error), USAGE)
    except QwenprofError as error:
        return complain(str(error), FAILED)
    except ClickException as error:
        return _complain_of_usage(error, arguments)
    except (KeyboardInterrupt, typer.Abort):
        return complain("interrupted before anything was measured", INTERRUPTED)


def _complain_of_usage(error: Any, arguments: list[str]) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error.format_message())
        return USAGE
    names = {command.name for command in app.registered_commands}
    known = arguments[0] if arguments and not arguments[0].startswith("-") else ""
    hint = f"see qwenprof {known} --help" if known in names else "see qwenprof --help"
    return complain(f"{error.format_message().rstrip('.')}; {hint}", USAGE)


def _version(asked: bool) -> None:
    if asked:
        print(f"qwenprof {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """The options that stand before a command."""


def _measuring_command(name: str, own_stages: Sequence[str] | None) -> Callable[..., int]:
    """The command that runs these stages; all of them have the same options."""

    def command(
        family: FamilyOption = None,
        size: SizeOption = None,
        scope: ScopeOption = None,
        device: DeviceOption = None,
        dtype: DtypeOption = None,
        frames: FramesOption = None,
        short_edge: ShortEdgeOption = None,
        batch: BatchOption = None,
        attention: AttentionOption = None,
        seed: SeedOption = None,
        provoke: ProvokeOption = None,
        stages: StagesOption = None,
        budget: BudgetOption = None,
        out: OutOption = None,
        json: JsonOption = False,
        verbose: VerboseOption = False,
        quiet: QuietOption = False,
    ) -> int:
        options = {
            "family": family,
            "size": size,
            "scope": scope,
            "dtype": dtype,
            "frames": frames,
            "short_edge": short_edge,
            "batch": batch,
            "attention": attention,
            "seed": seed,
            "provoke": provoke,
        }
        wanted = [each.strip() for each in stages.split(",")] if stages else own_stages
        if budget is not None and not budget >= 1:
            raise UsageError(f"--budget {budget:g}: must be at least 1 second")
        request = Request(
            name=name, device=device, options=options, stages=wanted, budget_s=budget, out=out
        )
        return _measure_and_tell(request, Screen(json=json, verbose=verbose, quiet=quiet))

    return command


def _measure_and_tell(request: Request, screen: Screen) -> int:
    from qwenprof.runner import chosen, run

    chosen(request.stages)
    check_out(request.out)
    screen.said("importing torch")
    folder: Path | None = None
    try:
        workload = _workload(request.device, request.options)
        folder = output_folder(request.out, workload)
        screen.announce(workload, folder)
        record = run(
            workload,
            request.stages,
            folder,
            budget_s=request.budget_s,
            command=request.command(),
            observer=screen,
        )
        screen.conclude(record, _write_report(record, folder))
        return _exit_code(record)
    except KeyboardInterrupt:
        return _rescued(folder, screen)
    finally:
        screen.stop()


def _rescued(folder: Path | None, screen: Screen) -> int:
    """The end of a run that was interrupted between two stages or while its report was drawn."""
    from qwenprof.record.record import load

    if folder is None or not (folder / "record.json").exists():
        raise KeyboardInterrupt
    record = load(folder)
    screen.conclude(record, _write_report(record, folder))
    return INTERRUPTED


def _workload(device: str | None, options: dict[str, Any]) -> Workload:
    """Checked before torch is imported, which takes seconds, and again with the device known."""
    from qwenprof.workload.workload import Workload

    Workload(**{key: value for key, value in options.items() if value is not None})
    return Workload.default(device, **options)


def _write_report(record: Record, folder: Path) -> Path:
    from qwenprof.report.writing import write_report

    return next(path for path in write_report(record, folder) if path.suffix == ".md")


def _exit_code(record: Record) -> int:
    statuses = {result.status for result in record.stages.values()}
    if "interrupted" in statuses:
        return INTERRUPTED
    return FAILED if statuses & {"failed", "out_of_memory"} else DONE


def _register_measuring_commands() -> None:
    """`diagnose`, and one command for each stage, named and described by its STAGE."""
    every = "All stages, then the report: the main job.\n\nExample: qwenprof diagnose --size 2b"
    app.command("diagnose", help=every)(_measuring_command("diagnose", None))
    for stage in stages().values():
        text = f"{stage.question} Excludes or convicts {stage.suspect}.\n\nExample: {stage.example}"
        app.command(stage.name, help=text)(_measuring_command(stage.name, [stage.name]))


_register_measuring_commands()


@app.command("run", context_settings={"allow_interspersed_args": False})
def run_command(
    target: Annotated[
        str, typer.Argument(metavar="SCRIPT", help="A script, a command on PATH, or a module.")
    ],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="ARGS...", help="What belongs to the program.")
    ] = None,
    module: Annotated[
        bool, typer.Option("-m", help="SCRIPT is a module, as for python -m.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", help="Leave out the line at the end.")
    ] = False,
) -> int:
    """Run any program with the fix applied; it behaves as it does without qwenprof.

    Example: qwenprof run train.py --epochs 3
    """
    from qwenprof.fix.launcher import launch

    return launch(target, arguments or [], module=module, quiet=quiet)


@app.command("upstream-diff")
def upstream_diff_command(
    family: Annotated[
        str | None,
        typer.Option("--family", help="A model folder of transformers: qwen3-vl. Default: all."),
    ] = None,
    style: Annotated[
        str,
        typer.Option("--style", help="view: over the conv's own weight. linear: an nn.Linear."),
    ] = "view",
) -> int:
    """The fix as a patch for the installed transformers.

    Example: qwenprof upstream-diff --family qwen3-vl > fix.patch
    """
    from qwenprof.fix.upstream import checked_style, upstream_diff

    diff = upstream_diff(family, checked_style(style))
    for file, reason in diff.skipped:
        complain(f"left as it is: {file}: {reason}", DONE)
    print(diff.text, end="")
    return DONE


app.command("report")(report_command)
app.command("findings")(findings_command)
app.command("compare")(compare_command)


@app.command("env")
def env_command(device: DeviceOption = None, json: JsonOption = False) -> int:
    """The environment block of a ticket: machine and software, nothing personal.

    Known issues that these versions may have are named on stderr, before anything is run.

    Example: qwenprof env --json
    """
    from qwenprof.diagnosis.known_issues import possible
    from qwenprof.record.environment import environment
    from qwenprof.workload.workload import resolved_device

    facts = environment(resolved_device(device))
    issues = possible(facts)
    if json:
        known = [{key: getattr(issue, key) for key in ISSUE_KEYS} for issue in issues]
        whole = {**facts, "known_issues": known}
        print(msgspec.json.format(msgspec.json.encode(whole)).decode())
        return DONE
    for section, values in facts.items():
        print(f"[{section}]")
        for key, value in values.items():
            print(f"{key}: {'not known' if value is None else value}")
        print()
    warn_of_issues(issues)
    return DONE
