"""qwenprof: GPU profiling and diagnosis for Qwen-VL style vision towers.

The public names, and nothing else. Those that need torch import it when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qwenprof._version import __version__

if TYPE_CHECKING:
    from qwenprof.diagnosis.comparing import Comparison, compare
    from qwenprof.diagnosis.finding import Finding, diagnose
    from qwenprof.errors import QwenprofError
    from qwenprof.fix.linearize import linearize
    from qwenprof.fix.patch import apply_fix, fixed, undo_fix
    from qwenprof.fix.swap import linearize_model
    from qwenprof.record.record import Record
    from qwenprof.record.record import load as load_record
    from qwenprof.report.writing import write_report
    from qwenprof.runner import profile_module, run
    from qwenprof.workload.workload import Workload

__all__ = [
    "Comparison",
    "Finding",
    "QwenprofError",
    "Record",
    "Workload",
    "__version__",
    "apply_fix",
    "compare",
    "diagnose",
    "fixed",
    "linearize",
    "linearize_model",
    "load_record",
    "profile_module",
    "run",
    "undo_fix",
    "write_report",
]

_HOMES = {
    "Comparison": ("qwenprof.diagnosis.comparing", "Comparison"),
    "Finding": ("qwenprof.diagnosis.finding", "Finding"),
    "QwenprofError": ("qwenprof.errors", "QwenprofError"),
    "Record": ("qwenprof.record.record", "Record"),
    "Workload": ("qwenprof.workload.workload", "Workload"),
    "apply_fix": ("qwenprof.fix.patch", "apply_fix"),
    "compare": ("qwenprof.diagnosis.comparing", "compare"),
    "diagnose": ("qwenprof.diagnosis.finding", "diagnose"),
    "fixed": ("qwenprof.fix.patch", "fixed"),
    "linearize": ("qwenprof.fix.linearize", "linearize"),
    "linearize_model": ("qwenprof.fix.swap", "linearize_model"),
    "load_record": ("qwenprof.record.record", "load"),
    "profile_module": ("qwenprof.runner", "profile_module"),
    "run": ("qwenprof.runner", "run"),
    "undo_fix": ("qwenprof.fix.patch", "undo_fix"),
    "write_report": ("qwenprof.report.writing", "write_report"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'qwenprof' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return __all__
