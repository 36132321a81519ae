"""The raw environment leaves out what is private, unless who asked for it wants everything."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from qwenprof.record.record import COLLECT_ENV, Record
from qwenprof.report.writing import write_report

LEFT_OUT = "Host names, user names, paths and serial numbers are left out."
PRIVATE = {"hostname": "zqbox17", "user": "zqalice", "serial": "zq-4711", "model_path": "zq/model"}


@pytest.mark.parametrize("redact", [True, False])
def test_what_is_private_is_told_where_nothing_was_to_be_taken_out(
    empty_record: Record, tmp_path: Path, redact: bool
) -> None:
    record = msgspec.structs.replace(empty_record, environment={"lab": {**PRIVATE, "cores": 2}})

    write_report(record, tmp_path, redact=redact)

    appendix = (tmp_path / "report.md").read_text(encoding="utf-8").partition("Appendix C")[2]
    assert (LEFT_OUT in appendix) is redact
    assert ("and serial numbers stay, as was asked for" in appendix) is not redact
    assert all((value in appendix) is not redact for value in PRIVATE.values())
    assert "cores" in appendix


def test_what_pytorch_says_of_the_machine_stands_in_appendix_and_ticket(
    simulated_gpu: Record, tmp_path: Path
) -> None:
    account = "PyTorch version: 2.9.0\nOS: Debian ``` <b>\nGPU 0: /home/zqalice/driver"
    environment = simulated_gpu.environment | {COLLECT_ENV: {"text": account}}

    write_report(
        msgspec.structs.replace(simulated_gpu, environment=environment), tmp_path, ("ticket",)
    )

    for page in ("report.md", "ticket.md"):
        text = (tmp_path / page).read_text(encoding="utf-8")
        assert text.count("PyTorch version: 2.9.0") == 1, page
        assert "python -m torch.utils.collect_env" in text
        assert "zqalice" not in text
        assert "it was not run" not in text
