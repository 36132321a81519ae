"""What the README tells a reader to paste works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def section(title: str) -> str:
    """The text of a section, without its heading."""
    text = README.read_text(encoding="utf-8")
    match = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## )", text, re.MULTILINE | re.DOTALL)
    assert match, f"no section {title}"
    return match[1].strip()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_fix_can_be_applied_by_pasting_at_most_ten_lines(tmp_path: Path) -> None:
    text = section("Apply the fix today")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

    assert len(text.splitlines()) <= 10
    (shell,) = blocks(text, "bash")
    done = subprocess.run(
        ["bash", "-ec", shell],
        env={**os.environ, "PATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "1 Conv3d module ran as Linear in 1 call" in done.stderr
