"""Run any program with the fix applied before it imports anything.

The process becomes the Python (or the command) that was asked for, by exec, so arguments,
standard streams, signals, tracebacks and the exit code are those of a run without qwenprof.
What is added is two environment variables, and the folder startup/ in front of PYTHONPATH,
whose sitecustomize.py applies the fix when torch is imported. Child processes inherit both, so
they are reached too: torchrun, subprocess, multiprocessing, the workers of a DataLoader.

Out of reach is whatever does not read PYTHONPATH: `python -I`, `-E` or `-S`, a child whose
environment was made anew, a program that is not Python. Options of the interpreter itself are
given with it: `qwenprof run python -u train.py`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from qwenprof.errors import UsageError, reason_of

STARTUP_FOLDER = str(Path(__file__).absolute().parent / "startup")
PID, QUIET = "QWENPROF_RUN_PID", "QWENPROF_RUN_QUIET"
IGNORED_BY_PYTHON = ("SIGPIPE", "SIGXFSZ")  # exec would hand this on to other programs
_IS_WINDOWS = os.name == "nt"


def launch(target: str, arguments: Sequence[str], *, module: bool, quiet: bool) -> int:
    """Run `python TARGET ARGUMENTS...` with the fix, in place of this process.

    Args:
        target: a script, or anything else that Python can run by its path; the name of a
            command on PATH; with `module`, the name of a module, as for `python -m`.
        arguments: what the program finds in sys.argv[1:].
        module: whether `target` is a module.
        quiet: whether to leave out the line at the end that says what ran as Linear.

    Returns:
        The exit code, on Windows, which has no exec. Elsewhere this function never returns.

    Raises:
        UsageError: there is no such script or command, or the system cannot start it.
    """
    program, command = _command(target, arguments, module)
    try:
        return _become(program, command, _environment(quiet))
    except OSError as error:
        remedy = "see that it starts without qwenprof"
        raise UsageError(f"cannot start {target}: {reason_of(error)}; {remedy}") from error


def _command(target: str, arguments: Sequence[str], module: bool) -> tuple[str, list[str]]:
    """The program to execute, and its argv."""
    if module:
        return sys.executable, [sys.executable, "-m", target, *arguments]
    if _python_can_run(target):
        return sys.executable, [sys.executable, target, *arguments]
    program = shutil.which(target)
    if program is None:
        raise UsageError(
            f"{target}: there is no such file, and no such command on PATH; "
            "give a script, a command, or -m and a module"
        )
    return program, [target, *arguments]


def _python_can_run(target: str) -> bool:
    """Whether it is a script, a folder or archive with __main__.py, a pipe, or "-" for stdin.

    Any other folder may have the name of a command, as a checkout of vllm has.
    """
    if os.path.isdir(target):
        return Path(target, "__main__.py").exists()
    return target == "-" or os.path.exists(target)


def _environment(quiet: bool) -> dict[str, str]:
    environment = {**os.environ, "PYTHONPATH": _python_path(os.environ.get("PYTHONPATH"))}
    for name in (PID, QUIET):
        environment.pop(name, None)
    if quiet:
        environment[QUIET] = "1"
    if not _IS_WINDOWS:
        environment[PID] = str(os.getpid())
    return environment


def _python_path(present: str | None) -> str:
    """The start-up folder, once, before what is there; an empty entry means the present folder."""
    entries = present.split(os.pathsep) if present else []
    return os.pathsep.join([STARTUP_FOLDER, *(it for it in entries if it != STARTUP_FOLDER)])


def _become(program: str, command: list[str], environment: dict[str, str]) -> int:
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()
    if _IS_WINDOWS:
        return _wait_for(program, command, environment)
    for name in IGNORED_BY_PYTHON:
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    return os.execve(program, command, environment)


def _wait_for(program: str, command: list[str], environment: dict[str, str]) -> int:
    with subprocess.Popen(command, executable=program, env=environment) as child:
        # Ctrl-C reaches the child as well, which decides what to do
        signal.signal(signal.SIGINT, lambda *_: None)
        return child.wait()
