"""A machine and a user of known names, and a record in which every string is the same."""

from __future__ import annotations

import getpass
import platform
import socket
from typing import Any

import msgspec
import pytest

from qwenprof.record.record import Record, Series, StageResult, Tool

HOST = "zqbox17"
USER = "zqalice"


def pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process run as USER on HOST, whoever runs the tests."""
    monkeypatch.setattr(socket, "gethostname", lambda: f"{HOST}.acme.example")
    monkeypatch.setattr(platform, "node", lambda: HOST)
    monkeypatch.setattr(getpass, "getuser", lambda: USER)
    for name in ("HOSTNAME", "COMPUTERNAME", "SLURMD_NODENAME", "SUDO_USER", "USERPROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("USER", "LOGNAME", "USERNAME"):
        monkeypatch.setenv(name, USER)
    monkeypatch.setenv("HOME", f"/data/people/{USER}")


def record(*, text: str = "x", environment: dict[str, Any] | None = None, **parts: Any) -> Record:
    """A record in which every string is `text`, but where a part says something else."""
    keys = iter(range(10_000))

    def key() -> str:
        return f"{text} {next(keys)}"

    stages = {
        key(): StageResult(
            status="ok",
            reason=text,
            duration_s=1.0,
            series={key(): Series(unit=text, values=[1.0], stop_reason=text, flags=[text, text])},
            tables={key(): [{key(): text, "path": text, "n": 3, "share": 0.5, "ok": True}]},
        )
    }
    whole: dict[str, Any] = {
        "tool": Tool(name=text, version=text),
        "created": text,
        "command": ["qwenprof", text, "--model", text, f"--model={text}", f"--dtype={text}"],
        "environment": environment
        or {
            key(): {key(): text, "name": text, "driver": text},
            "torch": {"version": text, "nccl": text, "cudnn_wheel": text},
            "packages": {key(): text, "torch": text},
        },
        "workload": {key(): text, "model": text, "summary": text},
        "stages": stages,
    }
    return Record(**whole | parts)


def encoded(given: Record) -> str:
    return msgspec.json.encode(given).decode()
