"""The public face: what it is called, and what it costs to look at it."""

from __future__ import annotations

import subprocess
import sys

import pytest

import qwenprof


def test_all_names_what_the_documentation_promises() -> None:
    assert sorted(qwenprof.__all__) == [
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


@pytest.mark.parametrize("name", qwenprof.__all__)
def test_every_public_name_can_be_had_and_is_documented(name: str) -> None:
    value = getattr(qwenprof, name)
    assert name == "__version__" or value.__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        qwenprof.nothing_of_the_kind  # noqa: B018


@pytest.mark.parametrize(
    "statement",
    [
        "import qwenprof",
        "import qwenprof.cli",
        "import qwenprof; qwenprof.load_record; qwenprof.diagnose; qwenprof.write_report",
        "from qwenprof.record.published import load_or_writeup; "
        "from qwenprof.diagnosis.verdict import diagnosis; diagnosis(load_or_writeup('writeup'))",
        "from qwenprof.stages.stage import stages; stages()",
        "from qwenprof.workload.workload import families; families()",
    ],
)
def test_torch_is_not_imported_before_something_is_measured(statement: str) -> None:
    check = "import sys; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", f"{statement}; {check}"], check=True)
