"""What a report is told from: a record, its findings, and what it is held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qwenprof.diagnosis.finding import Finding
from qwenprof.record.published import SAMPLES, is_published, writeup
from qwenprof.record.record import Record, Row
from qwenprof.report.reading import cudnn_of, device_name, is_qwen
from qwenprof.report.section import Inline, published

AS_ASKED = "nothing, as was asked for"  # taken out, where that was forbidden


@dataclass(frozen=True, kw_only=True)
class Other:
    """Another record, whose figures stand beside those of the one that is told.

    asked: the reader asked for it, so what it alone has is told too; else only what both have.
    """

    record: Record
    asked: bool = True

    @property
    def is_published(self) -> bool:
        """Whether its figures were taken from a publication, and not measured by qwenprof."""
        return is_published(self.record)

    @property
    def kind(self) -> str:
        """What its figures are, in two words at most."""
        return "published" if self.is_published else "other run"

    @property
    def label(self) -> str:
        """What its figures are, for the header of a column: "published, H200"."""
        device = device_name(self.record).removeprefix("NVIDIA ").removeprefix("GeForce ")
        return f"{self.kind}, {device}"

    @property
    def source(self) -> str:
        """Where its figures are from, as a sentence."""
        torch, cudnn = self.record.fact("torch", "version"), cudnn_of(self.record)
        parts = [
            device_name(self.record),
            f"torch {torch}" if torch else "",
            f"cuDNN {cudnn}" if cudnn and self.record.fact("device", "type") == "cuda" else "",
            str(self.record.workload.get("dtype") or ""),
        ]
        told = ", ".join(part for part in parts if part)
        if self.is_published:
            return f"Published for {told}; not measured here."
        return f"Another run, of {self.record.created[:10]}: {told}."

    def set(self, text: str) -> Inline:
        """One of its figures, set apart where it was not measured."""
        return published(text) if self.is_published else text

    def rows(self, stage: str, table: str) -> list[Row]:
        """The rows of one of its tables."""
        return self.record.rows(stage, table)


@dataclass(frozen=True, kw_only=True)
class Telling:
    """Everything that a section may tell.

    against: the record whose figures stand beside; None for none.
    samples: of the dataset that times are projected to.
    taken_out: what redaction took out of the record, for a sentence; "" where it was not told.
    """

    record: Record
    findings: tuple[Finding, ...] = ()
    against: Other | None = None
    samples: int = SAMPLES
    taken_out: str = ""


def telling(
    record: Record,
    findings: Sequence[Finding] = (),
    *,
    against: Record | None = None,
    samples: int = SAMPLES,
) -> Telling:
    """A record with its findings, beside another record.

    Without `against` a run of a Qwen model is told beside the published case.
    """
    other = usual_other(record) if against is None else against
    return Telling(
        record=record,
        findings=tuple(findings),
        against=None
        if other is None or other is record
        else Other(record=other, asked=against is not None),
        samples=samples,
    )


def usual_other(record: Record) -> Record | None:
    """The published case, for what can be held against it; None for anything else."""
    return writeup() if is_qwen(record) and not is_published(record) else None


def measured_or_published(record: Record) -> str:
    """What a record's own figures are, for the legend of a plot."""
    return "published" if is_published(record) else "measured"
