"""The loop: each stage in turn, its result into the record, the record to disk."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from qwenprof._version import __version__
from qwenprof.errors import NotApplicable, QwenprofError, UsageError, reason_of
from qwenprof.formatting import without_homes
from qwenprof.record.record import (
    COLLECT_ENV,
    Facts,
    Record,
    Row,
    Series,
    StageResult,
    Status,
    Tool,
    save,
)
from qwenprof.stages.stage import Stage, stages

if TYPE_CHECKING:
    from torch import nn

    from qwenprof.harness.clock import Clock
    from qwenprof.harness.conditions import Conditions, Gauge
    from qwenprof.harness.plan import TimePlan
    from qwenprof.harness.sampler import Rules
    from qwenprof.workload.loading import Subject
    from qwenprof.workload.workload import Workload

ACCELERATOR_BUDGET = 2.0


class Observer(Protocol):
    """Who wants to know how far a run has come."""

    def started(self, stage: Stage) -> None: ...

    def said(self, text: str) -> None: ...

    def finished(self, stage: Stage, result: StageResult) -> None: ...


class Silent:
    """Nobody wants to know."""

    def started(self, stage: Stage) -> None: ...

    def said(self, text: str) -> None: ...

    def finished(self, stage: Stage, result: StageResult) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What a run needs to know: the thing to measure, and where it runs.

    facts: the workload as the record keeps it.
    load: builds the subject; called when the first stage needs it.
    clock, gauge: what times and watches the device; None is the device's own.
    rules: the numbers of the sampler's protocol; None is its own.
    device_facts: what the record says of the device in place of what `device` is, for one that
        is simulated.
    around: the context in which all stages run.
    """

    facts: Facts
    device: str
    dtype: str
    load: Callable[[], Subject]
    clock: Clock | None = None
    gauge: Gauge | None = None
    rules: Rules | None = None
    device_facts: Facts | None = None
    around: Callable[[], AbstractContextManager[Any]] = nullcontext


class Laboratory:
    """The Bench of a run: one device, one sampler, one subject for all its stages."""

    def __init__(self, experiment: Experiment, record: Record, observer: Observer) -> None:
        import torch

        from qwenprof.harness.clock import clock_for
        from qwenprof.harness.sampler import Sampler

        self._experiment = experiment
        self._observer = observer
        self._subject: Subject | None = None
        clock = experiment.clock or clock_for(torch.device(experiment.device))
        self.sampler = Sampler(clock, experiment.rules)
        self.record = record
        self.device, self.dtype = experiment.device, experiment.dtype
        self.clear(0.0)

    def clear(self, budget_s: float) -> None:
        """An empty bench with this many seconds, for the next stage."""
        self.budget_s = budget_s
        self.tables: dict[str, list[Row]] = {}
        self.series: dict[str, Series] = {}

    def subject(self) -> Subject:
        if self._subject is None:
            self.say(f"building {self._experiment.facts['summary']}")
            self._subject = self._experiment.load()
            self.record = msgspec.structs.replace(
                self.record, workload=self.record.workload | self._subject.facts()
            )
        return self._subject

    def plan(self, work: Mapping[str, float], share: float = 1.0) -> TimePlan:
        from qwenprof.harness.plan import TimePlan

        return TimePlan(self.sampler.clock, self.budget_s * share, work)

    def conditions(self) -> Conditions:
        """What watches the device; what else the host does is nothing to a clock of its own."""
        from qwenprof.harness.conditions import Conditions, gauge_for

        gauge = self._experiment.gauge or gauge_for(self.device)
        if self._experiment.clock is None:
            return Conditions(gauge)
        return Conditions(gauge, load=lambda: None, core_time=lambda: None)

    def say(self, text: str) -> None:
        self._observer.said(text)

    def add_row(self, table: str, row: Row) -> None:
        if isinstance(row.get("reason"), str):
            row = row | {"reason": _speakable(str(row["reason"]))}
        self.tables.setdefault(table, []).append(row)

    def add_series(self, series: Mapping[str, Series]) -> None:
        self.series.update(series)


def run(
    workload: Workload,
    stages: Sequence[str] | None = None,
    out: Path | str | None = None,
    *,
    budget_s: float | None = None,
    command: Sequence[str] = (),
    observer: Observer | None = None,
) -> Record:
    """Measure a workload, stage by stage.

    Args:
        workload: what to run.
        stages: names of stages; None runs all. Stages that they require are run first.
        out: an existing folder; `record.json` in it is rewritten after every stage.
        budget_s: seconds for all stages together; None gives each stage its own.
        command: how the run was asked for, for the record.
        observer: is told how far the run has come.

    Returns:
        The record. A stage that failed, ran out of memory or was interrupted is in it, with
        the reason and with what it had measured until then. An interrupt ends the run.

    Raises:
        UsageError: an unknown stage, a device that is not there, a folder that does not exist.
        RecordError: the record cannot be written.
    """
    from qwenprof.workload.loading import load
    from qwenprof.workload.workload import resolved_device

    experiment = Experiment(
        facts=workload.facts(),
        device=workload.device,
        dtype=workload.dtype,
        load=lambda: load(workload),
        around=_provoked(workload),
    )
    wanted = chosen(stages)
    resolved_device(workload.device)
    record = run_experiment(experiment, wanted, out, budget_s, command, observer or Silent())
    ended = any(result.status == "interrupted" for result in record.stages.values())
    return record if stages is not None or ended else _with_account(record, out)


def _with_account(record: Record, out: Path | str | None) -> Record:
    """After all stages, so that nothing waits for it, what PyTorch says of the machine."""
    from qwenprof.record.environment import collected

    environment = record.environment | {COLLECT_ENV: collected()}
    told = msgspec.structs.replace(record, environment=environment)
    if out is not None:
        save(told, Path(out) / "record.json")
    return told


def _provoked(workload: Workload) -> Callable[[], AbstractContextManager[Any]]:
    """The context that makes the fault which the workload asks for."""
    if workload.provoke is None:
        return nullcontext
    from qwenprof.harness.dispatch import conv3d_without_library

    return partial(conv3d_without_library, workload.device.partition(":")[0])


def profile_module(
    module: nn.Module, *args: Any, out: Path | str | None = None, **kwargs: Any
) -> Record:
    """Time the parts of any nn.Module, after a short look at what the machine can do.

    Args:
        module: on its device; it is called as `module(*args, **kwargs)` without gradients.
        out: an existing folder for `record.json`; the module itself never sees this argument.

    Returns:
        A record with the stages matmul and per-layer, which `diagnose` understands. It takes
        about a minute; the module is called once before, so that a wrong call fails at once.

    Raises:
        UsageError: the module and its arguments are on more than one device, or `out` is not
            a folder.
        Exception: whatever the module itself raises.
    """
    from qwenprof.workload.loading import foreign_subject

    subject = foreign_subject(module, args, kwargs)
    subject.call(subject.inputs())()
    facts: Facts = {"family": None, "device": str(subject.device), "dtype": subject.dtype_name}
    facts["summary"] = f"{type(module).__name__}, {subject.dtype_name} on {subject.device}"
    experiment = Experiment(
        facts=facts,
        device=str(subject.device),
        dtype=subject.dtype_name,
        load=lambda: subject,
    )
    return run_experiment(experiment, chosen(["per-layer"]), out, None, (), Silent())


def chosen(names: Sequence[str] | None) -> list[Stage]:
    """The stages of these names and those that they require, in their order.

    Raises:
        UsageError: there is no such stage.
    """
    known = stages()
    wanted = set(known if names is None else names)
    unknown = sorted(wanted - set(known))
    if unknown:
        raise UsageError(f"--stages {','.join(unknown)}: choose from {', '.join(known)}")
    for name in list(wanted):
        wanted.update(known[name].requires)
    return [stage for name, stage in known.items() if name in wanted]


def run_experiment(
    experiment: Experiment,
    wanted: Sequence[Stage],
    out: Path | str | None,
    budget_s: float | None,
    command: Sequence[str],
    observer: Observer,
) -> Record:
    """The loop itself; `run` and `profile_module` are its two faces.

    Raises:
        UsageError: `out` is not a folder; said before anything is measured.
    """
    if out is not None and not Path(out).is_dir():
        raise UsageError(f"{out} is not a folder: make it first")
    with experiment.around():
        laboratory = Laboratory(experiment, _empty_record(experiment, command), observer)
        budgets_s = _budgets_s(wanted, budget_s, on_cpu=experiment.device == "cpu")
        for stage in wanted:
            observer.started(stage)
            laboratory.clear(budgets_s[stage.name])
            result = _measured(stage, laboratory)
            laboratory.record = laboratory.record.with_stage(stage.name, result)
            if out is not None:
                save(laboratory.record, Path(out) / "record.json")
            observer.finished(stage, result)
            if result.status == "interrupted":
                break
    return laboratory.record


def _empty_record(experiment: Experiment, command: Sequence[str]) -> Record:
    return Record(
        tool=Tool(name="qwenprof", version=__version__),
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        command=[_speakable(word) for word in command],
        environment=_environment(experiment),
        workload=experiment.facts,
    )


def _environment(experiment: Experiment) -> dict[str, Facts]:
    from qwenprof.record.environment import environment

    sections = environment(experiment.device)
    return sections | ({"device": experiment.device_facts} if experiment.device_facts else {})


def _budgets_s(
    wanted: Sequence[Stage], budget_s: float | None, *, on_cpu: bool
) -> dict[str, float]:
    """Seconds for each stage: its own, or its share of those that were asked for."""
    own_s = {stage.name: stage.budget_s for stage in wanted}
    if len(wanted) == 1:
        own_s = {stage.name: stage.alone_budget_s or stage.budget_s for stage in wanted}
    if budget_s is None:
        scale = 1.0 if on_cpu else ACCELERATOR_BUDGET
    else:
        scale = budget_s / (sum(own_s.values()) or 1.0)
    return {name: seconds * scale for name, seconds in own_s.items()}


def _measured(stage: Stage, laboratory: Laboratory) -> StageResult:
    """Run one stage; whatever happens to it becomes its status."""
    clock = laboratory.sampler.clock
    started_s = clock.now_s()
    status, reason = _outcome(stage, laboratory)
    return StageResult(
        status=status,
        reason=reason,
        duration_s=clock.now_s() - started_s,
        series=laboratory.series,
        tables=laboratory.tables,
    )


def _outcome(stage: Stage, laboratory: Laboratory) -> tuple[Status, str | None]:
    from qwenprof.harness.memory import is_out_of_memory

    conditions = laboratory.conditions()
    try:
        try:
            with conditions:
                stage.measure(laboratory)
        finally:
            laboratory.add_row("conditions", conditions.row())
    except KeyboardInterrupt:
        return "interrupted", "stopped by the user"
    except NotApplicable as error:
        return "skipped", str(error)
    except Exception as error:  # noqa: BLE001 - the one place where a failure becomes a result
        if is_out_of_memory(error):
            return "out_of_memory", _speakable(reason_of(error))
        return "failed", _speakable(str(error) if isinstance(error, QwenprofError) else repr(error))
    return _status_of_cases(laboratory.tables)


def _status_of_cases(tables: Mapping[str, Sequence[Row]]) -> tuple[Status, str | None]:
    """A stage of which not one case was measured did not go well."""
    cases = [row for rows in tables.values() for row in rows if row.get("status") is not None]
    statuses = {row["status"] for row in cases}
    if not cases or "ok" in statuses:
        return "ok", None
    status: Status = "failed"
    if statuses == {"out_of_memory"}:
        status = "out_of_memory"
    elif statuses == {"skipped"}:
        status = "skipped"
    first = next((row["reason"] for row in cases if row.get("reason")), None)
    return status, f"none of {len(cases)} cases was measured" + (f": {first}" if first else "")


def _speakable(text: str) -> str:
    """Text for a record: without home folders, and a file name that is not UTF-8 made so."""
    return without_homes(text.encode("utf-8", "replace").decode("utf-8"))
