"""A stage: one experiment, the suspect that it excludes, and what it may use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from qwenprof.discover import discover
from qwenprof.record.record import Record, Row, Series

if TYPE_CHECKING:
    from qwenprof.harness.plan import TimePlan
    from qwenprof.harness.sampler import Sampler
    from qwenprof.workload.loading import Subject


class Bench(Protocol):
    """What a stage is given to work with, and where it puts what it measured."""

    @property
    def device(self) -> str:
        """The torch device string that everything runs on."""

    @property
    def dtype(self) -> str:
        """The workload's dtype: bf16, fp16 or fp32."""

    @property
    def budget_s(self) -> float:
        """Seconds that this stage may take."""

    @property
    def record(self) -> Record:
        """What the stages before have measured."""

    @property
    def sampler(self) -> Sampler: ...

    def subject(self) -> Subject:
        """The model on its device; built when the first stage asks for it."""

    def plan(self, work: Mapping[str, float], share: float = 1.0) -> TimePlan:
        """A share of this stage's seconds, divided among cases by the amount of their work."""

    def say(self, text: str) -> None:
        """Tell the user what is being done now."""

    def add_row(self, table: str, row: Row) -> None:
        """Keep a row, whatever happens next."""

    def add_series(self, series: dict[str, Series]) -> None:
        """Keep raw samples, whatever happens next."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One experiment.

    question: what it answers, as the user would ask it.
    suspect: what it excludes or convicts.
    measure: does it; puts rows and series on the bench as it goes.
    budget_s: seconds that it may take on a CPU; an accelerator gets twice that.
    alone_budget_s: the same where nothing else was asked for, if a run of all stages is too
        short for everything that it could measure.
    requires: stages whose results it uses, which are run first.
    """

    name: str
    order: int
    question: str
    suspect: str
    measure: Callable[[Bench], None]
    budget_s: float
    alone_budget_s: float | None = None
    requires: tuple[str, ...] = ()
    example: str = ""


def stages() -> dict[str, Stage]:
    """All stages by name, in the order in which they run."""
    return discover("qwenprof.stages", "STAGE", Stage)
