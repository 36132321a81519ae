"""The start-up hook of `qwenprof run`: it waits for torch, applies the fix, says what ran.

Python imports a module of this name when it starts, before the program, from the folders of
PYTHONPATH; `qwenprof.fix.launcher` puts this one there, and child processes inherit it. The
name belongs to whoever comes first, so this file makes room for the sitecustomize behind it.

A program that never imports torch pays for nothing here: this file imports only what Python
itself has imported by then. It may meet any Python from 3.7, with or without a qwenprof.
"""

from __future__ import annotations

import atexit
import os
import sys

TYPE_CHECKING = False  # as typing has it, which Python does not import by itself
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

    from qwenprof.fix.patch import Tally

PATCH = "qwenprof.fix.patch"


class TorchFinder:
    """First in sys.meta_path until torch is imported; it finds torch as the others do."""

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "torch":
            return None
        others = [it for it in sys.meta_path if it is not cls and hasattr(it, "find_spec")]
        specs = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            _apply_after(spec)
        return spec


def _apply_after(spec: ModuleSpec) -> None:
    """Make the loader of torch apply the fix once it has executed torch.

    Whoever asks whether torch is there gets a spec too and never loads it, so the finder stays
    until one has been executed.
    """
    loader: Any = spec.loader
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        del loader.exec_module
        execute(module)
        if TorchFinder in sys.meta_path:
            sys.meta_path.remove(TorchFinder)
        _apply()

    loader.exec_module = exec_module


def _apply() -> None:
    try:
        _import_patch().apply_fix()
        _count_apart_in_workers()
    except Exception as error:  # noqa: BLE001 - without the fix the program still runs
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        _write(f"the fix is not applied in {sys.executable}: {reason}")


def _import_patch() -> ModuleType:
    """qwenprof of this environment; where it has none, the one that this file belongs to."""
    from importlib import import_module
    from pathlib import Path

    sys.path.append(str(Path(__file__).parents[3]))
    try:
        return import_module(PATCH)
    finally:
        sys.path.pop()


def _count_apart_in_workers() -> None:
    """A forked process counts from zero and says its own line.

    Workers of multiprocessing end without atexit, but they run their finalizers.
    """
    from multiprocessing import util

    def tell_when_finished(_: object = None) -> None:
        util.Finalize(None, _tell, exitpriority=-100)

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_count_anew)
    util.register_after_fork(_tell, tell_when_finished)
    if not _is_first():
        tell_when_finished()


def _count_anew() -> None:
    patch = sys.modules[PATCH]
    patch.TALLY = patch.Tally()  # type: ignore[attr-defined]


def _is_first() -> bool:
    """Whether this is the process that `qwenprof run` became, not one of its children."""
    return os.environ.get("QWENPROF_RUN_PID") == str(os.getpid())


def _tell() -> None:
    """The line at the end: the first process always has one, others if they ran something."""
    tally = getattr(sys.modules.get(PATCH), "TALLY", None)
    ran = tally is not None and tally.calls > 0
    if (ran or _is_first()) and "QWENPROF_RUN_QUIET" not in os.environ:
        _write(_outcome(tally))
    if ran:
        _count_anew()


def _outcome(tally: Tally | None) -> str:
    if "torch" not in sys.modules:
        return "torch was never imported, so there was nothing to fix"
    if tally is None:
        return "the fix was not applied"
    compiled = ", not counting compiled code" if _has_compiled() else ""
    if tally.calls == 0:
        return f"no Conv3d ran as Linear in this process{compiled}"
    modules = _plural(tally.convolutions, "Conv3d module")
    return f"{modules} ran as Linear in {_plural(tally.calls, 'call')}{compiled}"


def _has_compiled() -> bool:
    """Whether torch.compile made any code here, which counts no calls."""
    return bool(getattr(sys.modules.get("torch._dynamo.utils"), "counters", None))


def _plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _write(text: str) -> None:
    """One line on stderr, past its buffer: what would stay there could change the exit code."""
    rank = os.environ.get("RANK")
    process = f"rank {rank}" if rank else "" if _is_first() else f"process {os.getpid()}"
    line = f"qwenprof ({process}): {text}\n" if process else f"qwenprof: {text}\n"
    try:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        os.write(sys.__stderr__.fileno(), line.encode(errors="replace"))  # type: ignore[union-attr]
    except (AttributeError, OSError, ValueError):
        pass


def _start() -> None:
    """Wait for torch, and leave no trace in sys.path; children read PYTHONPATH again."""
    folder = os.path.dirname(__file__)  # noqa: PTH120 - Python has not imported pathlib
    sys.path[:] = [entry for entry in sys.path if entry != folder]
    # where there is no exec, the first Python to start is the first process
    os.environ.setdefault("QWENPROF_RUN_PID", str(os.getpid()))
    atexit.register(_tell)
    if "torch" in sys.modules:  # a .pth file was faster
        _apply()
    else:
        sys.meta_path.insert(0, TorchFinder)


def _make_room() -> None:
    """Import the sitecustomize behind this one, as if this one were not there.

    Where there is none, `site` gets the error that it expects, and says nothing.
    """
    del sys.modules["sitecustomize"]
    __import__("sitecustomize")


_start()
_make_room()
