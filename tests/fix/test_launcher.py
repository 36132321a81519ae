"""`qwenprof run` behaves as plain Python does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from launching import NOTHING, PYTHON, RUN, execute, outcome, write

from qwenprof.errors import UsageError
from qwenprof.fix.launcher import STARTUP_FOLDER, launch

# programs whose output, errors and end must be those of plain Python
PROGRAMS = {
    "names": """
        import os, sys
        print(sys.argv, __name__, __file__, sys.path, os.getcwd(), sys.executable)
        print(sys.modules.get("sitecustomize"), sys.orig_argv, sys.flags)
    """,
    "standard input": "import sys; print(sys.stdin.read()[::-1], input.__name__)",
    "an error": """
        def divide(a):
            return 1 / a
        try:
            divide(0)
        except ZeroDivisionError as error:
            raise ValueError("wrong") from error
    """,
    "no such import": "import a_module_that_does_not_exist",
    "no such import below torch": "import torchless.a_module",
    "a wrong syntax": "print('never'",
    "an exit code": "import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)",
    "an exit message": "import sys; sys.exit('the reason')",
    "a signal": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "an interrupt": "import os, signal; os.kill(os.getpid(), signal.SIGINT); input()",
    "no clean-up": "import os; os._exit(3)",
    "a closed error stream": "import sys; sys.stderr.close(); sys.exit(4)",
    "no end of line": "import sys; sys.stderr.write('half a line')",
    "signal handlers": """
        import signal
        print([(it.name, signal.getsignal(it)) for it in signal.valid_signals() if it in
               (signal.SIGINT, signal.SIGPIPE, signal.SIGTERM, signal.SIGCHLD)])
    """,
    "a child": """
        import subprocess, sys
        code = "import sys; print(sys.path, sys.argv); sys.exit(5)"
        print(subprocess.run([sys.executable, "-c", code, "x"]).returncode)
    """,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_behaves_as_in_plain_python(tmp_path: Path, name: str) -> None:
    script = write(tmp_path, PROGRAMS[name])
    arguments = [script, "a b", "--help", "--", "-x", "", "--quiet"]

    with_fix = execute([*RUN, "--quiet", *arguments], tmp_path)

    assert outcome(with_fix) == outcome(execute([*PYTHON, *arguments], tmp_path))


@pytest.mark.parametrize("target", ["program", "package", "missing", "json.tool"])
def test_a_module_behaves_as_in_plain_python(tmp_path: Path, target: str) -> None:
    write(tmp_path, PROGRAMS["names"])
    (tmp_path / "package").mkdir()
    write(tmp_path / "package", PROGRAMS["names"], "__main__.py")
    arguments = ["-m", target, "--quiet", "--help"]

    with_fix = execute([*RUN, "--quiet", *arguments], tmp_path)

    assert outcome(with_fix) == outcome(execute([*PYTHON, *arguments], tmp_path))


@pytest.mark.parametrize("target", ["folder", "-", "/dev/stdin"])
def test_whatever_python_runs_by_its_path_is_run(tmp_path: Path, target: str) -> None:
    (tmp_path / "folder").mkdir()
    write(tmp_path / "folder", PROGRAMS["names"], "__main__.py")

    with_fix, plain = (
        subprocess.run(
            [*command, target, "x"],
            cwd=tmp_path,
            input=textwrap.dedent(PROGRAMS["names"]),
            capture_output=True,
            text=True,
            check=True,
        )
        for command in ([*RUN, "--quiet"], PYTHON)
    )

    assert outcome(with_fix) == outcome(plain)
    assert with_fix.stdout


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 5)]
)
def test_a_signal_reaches_the_program_itself(tmp_path: Path, number: int, code: int) -> None:
    script = write(
        tmp_path,
        """
        import signal, sys, time
        signal.signal(signal.SIGINT, lambda *_: sys.exit(5))
        print("ready", flush=True)
        time.sleep(60)
        """,
    )
    process = subprocess.Popen([*RUN, script], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

        process.send_signal(number)

        assert process.wait(timeout=30) == code


def test_a_program_without_torch_pays_for_nothing(tmp_path: Path) -> None:
    script = write(tmp_path, "import sys; print(*sys.modules)")

    with_fix, plain = (execute([*command, script], tmp_path) for command in (RUN, PYTHON))

    added = set(with_fix.stdout.split()) - set(plain.stdout.split())
    assert added <= {"__future__", "atexit"}
    assert with_fix.stderr == NOTHING


def test_what_stands_in_pythonpath_stays_behind_ours_and_ours_stands_once(tmp_path: Path) -> None:
    script = write(tmp_path, "import os; print(os.environ['PYTHONPATH'])")
    present = os.pathsep.join([os.environ.get("PYTHONPATH", "first"), "second", ""])
    nested = [*RUN, "--quiet", "-m", "qwenprof", "run", script]

    done = execute(nested, tmp_path, {"PYTHONPATH": present})

    assert done.stdout == f"{STARTUP_FOLDER}{os.pathsep}{present}\n"
    assert done.stderr == NOTHING, "the inner command is not quiet"


def test_a_command_on_path_gets_the_fix_too(tmp_path: Path) -> None:
    script = write(tmp_path, "import sys; print(sys.flags.dev_mode); sys.exit(7)")
    (tmp_path / "python").mkdir()
    environment = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    done = execute([*RUN, "python", "-X", "dev", script], tmp_path, environment)

    assert outcome(done) == (7, "True\n", NOTHING)


def test_a_command_on_path_dies_of_a_broken_pipe_as_usual(tmp_path: Path) -> None:
    done = execute([*RUN, "sh", "-c", "yes | head -n 1"], tmp_path)

    assert outcome(done) == (0, "y\n", "")


@pytest.mark.parametrize("target", ["missing.py", "", "./missing", "a-folder"])
def test_what_cannot_be_run_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a-folder").mkdir()

    with pytest.raises(UsageError, match=rf"^{target}: there is no such file.*give a script"):
        launch(target, [], module=False, quiet=False)

    assert execute([*RUN, target], tmp_path).returncode == 2


def test_a_command_that_the_system_cannot_start_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken").write_text("no program")
    (tmp_path / "broken").chmod(0o755)
    (tmp_path / "elsewhere").mkdir()
    environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}

    done = execute([*RUN, "broken"], tmp_path / "elsewhere", environment)

    assert done.returncode == 2
    assert done.stderr.startswith("qwenprof: cannot start broken: [Errno 8] Exec format error")


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&-", ">&0", "2>&0", ">&0 2>&0"])
def test_streams_that_are_closed_or_broken_change_nothing(tmp_path: Path, redirection: str) -> None:
    """Where stderr is closed, a file of the program gets its number: no line may land there."""
    source = "f = open('out', 'w'); print('to the file', file=f); f.flush(); print('to stdout')"
    script = write(tmp_path, source)
    reader, broken_pipe = os.pipe()
    os.close(reader)

    def result(command: list[str]) -> tuple[int, str, str]:
        shell = ["sh", "-c", f'exec "$@" {redirection}', "sh", *command, script]
        streams: Any = {"stdin": broken_pipe, "stdout": subprocess.PIPE, "text": True}
        done = subprocess.run(shell, cwd=tmp_path, check=False, **streams)
        return done.returncode, done.stdout, (tmp_path / "out").read_text()

    with_fix, plain = result(RUN), result(PYTHON)
    os.close(broken_pipe)

    assert with_fix == plain
    assert plain[2] == "to the file\n"


def test_where_there_is_no_exec_the_exit_code_is_handed_on(tmp_path: Path) -> None:
    script = write(tmp_path, "import sys; print(sys.argv, flush=True); sys.exit(7)")
    code = f"""if True:
        import sys
        from qwenprof.fix import launcher
        launcher._IS_WINDOWS = True
        sys.exit(launcher.launch({script!r}, ["x"], module=False, quiet=False))
    """

    done = execute([*PYTHON, "-c", code], tmp_path)

    assert outcome(done) == (7, "['program.py', 'x']\n", NOTHING)
