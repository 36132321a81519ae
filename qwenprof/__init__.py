"""qwenprof: GPU profiling and diagnosis for Qwen-VL style vision towers.

The public names, and nothing else. Those that need torch import it when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qwenprof._version import __version__

if TYPE_CHECKING:
    from qwenprof.diagnosis.finding import Finding, diagnose
    from qwenprof.errors import QwenprofError
    from qwenprof.fix.linearize import linearize
    from qwenprof.record.record import Record
    from qwenprof.record.record import load as load_record
    from qwenprof.report.writing import write_report
    from qwenprof.runner import profile_module, run
    from qwenprof.workload.workload import Workload

__all__ = [
    "Finding",
    "QwenprofError",
    "Record",
    "Workload",
    "__version__",
    "diagnose",
    "linearize",
    "load_record",
    "profile_module",
    "run",
    "write_report",
]

_HOMES = {
    "Finding": ("qwenprof.diagnosis.finding", "Finding"),
    "QwenprofError": ("qwenprof.errors", "QwenprofError"),
    "Record": ("qwenprof.record.record", "Record"),
    "Workload": ("qwenprof.workload.workload", "Workload"),
    "diagnose": ("qwenprof.diagnosis.finding", "diagnose"),
    "linearize": ("qwenprof.fix.linearize", "linearize"),
    "load_record": ("qwenprof.record.record", "load"),
    "profile_module": ("qwenprof.runner", "profile_module"),
    "run": ("qwenprof.runner", "run"),
    "write_report": ("qwenprof.report.writing", "write_report"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'qwenprof' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return __all__
