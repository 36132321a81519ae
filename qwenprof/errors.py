"""The errors that qwenprof raises on purpose.

QwenprofError              anything qwenprof itself refuses or fails to do
├── UsageError             an option or argument that cannot be met; exit code 2
├── RecordError            a record that cannot be read or written
├── PluginError            a stage, rule, family or section file that breaks its contract
├── NotApplicable          a stage that has nothing to measure here; it is recorded as skipped
└── MeasurementError       a measurement that would not mean what its name says

Every message says what was wrong, with which value, and what to do about it.
"""


def reason_of(error: BaseException) -> str:
    """One line that says why: the error's first, or its name where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class QwenprofError(Exception):
    """Base of every error that qwenprof raises on purpose."""


class UsageError(QwenprofError):
    """An option or argument that cannot be met on this machine."""


class RecordError(QwenprofError):
    """A record that cannot be read or written."""


class PluginError(QwenprofError):
    """A file in stages/, rules/, families/ or sections/ that breaks its contract."""


class NotApplicable(QwenprofError):  # noqa: N818 - not a fault, a reason
    """A stage that has nothing to measure in this workload."""


class MeasurementError(QwenprofError):
    """A measurement whose own checks failed, so that its numbers mean nothing."""
