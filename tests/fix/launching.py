"""Programs to run with and without the fix, and what comes of them."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

PYTHON = [sys.executable]
RUN = [sys.executable, "-m", "qwenprof", "run"]
NOTHING = "qwenprof: torch was never imported, so there was nothing to fix\n"


def write(folder: Path, source: str, name: str = "program.py") -> str:
    (folder / name).write_text(textwrap.dedent(source))
    return name


def execute(
    command: Sequence[str], here: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=here,
        env={**os.environ, **(environment or {})},
        input="some input",
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def outcome(done: subprocess.CompletedProcess[str]) -> tuple[int, str, str]:
    return done.returncode, done.stdout, done.stderr
