"""Two records held together: what became faster or slower, and whether that may be said at all."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import get_args

from qwenprof.diagnosis.change import (
    DISTURBED,
    FIRST,
    HOST_RUN_TO_RUN,
    STEADY,
    Change,
    Circumstances,
    Judgement,
    changed,
    not_compared,
)
from qwenprof.diagnosis.disturbance import GEMM_STAGE, disturbances, on_cpu
from qwenprof.diagnosis.run_differences import (
    Difference,
    checked_names,
    differences,
    forbidding,
)
from qwenprof.diagnosis.shares import check_share
from qwenprof.diagnosis.timed_cases import SUFFIXES, Case, Key, absence, cases
from qwenprof.diagnosis.versions import cudnn_version
from qwenprof.formatting import clean, plural, significant, times_with_interval
from qwenprof.record.published import is_published
from qwenprof.record.record import Cell, Record

MIN_CHANGE = 0.03
JUDGEMENTS: tuple[Judgement, ...] = get_args(Judgement)
CHANGED: tuple[Judgement, ...] = ("FASTER", "SLOWER", "DIFFERENT")
JUDGED: tuple[Judgement, ...] = (*CHANGED, "SAME")
# differences that change how fast a matrix product or a copy runs, which then is no news
MACHINERY = frozenset({"device", "host", "threads", "driver", "torch", "cudnn", "settings"})


@dataclass(frozen=True, kw_only=True)
class Run:
    """One of the two runs. versions: name -> version, of what was recorded.

    published: the figures are quoted from a publication, not measured by qwenprof.
    """

    created: str
    tool: str
    device: str
    dtype: str
    versions: dict[str, str]
    workload: str
    published: bool


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What changed from one run to another. Plain data: `dataclasses.asdict` makes it JSON-able.

    min_change: relative; smaller changes do not count. run_to_run: as it was asked for.
    across: the differences that are the point.
    differences: all between the runs, the point included.
    refused: why nothing is judged, one sentence a difference; empty where it is judged.
    rows: every case of either run, in the order of the stages.
    counts: how many rows have each judgement.
    lost: what went well in BASE and not in NEW, one sentence each.
    notes: what a reader must know before believing the rows.
    summary: all of it in one sentence or two.
    """

    base: Run
    new: Run
    min_change: float
    run_to_run: float | None
    across: tuple[str, ...]
    differences: tuple[Difference, ...]
    refused: tuple[str, ...]
    rows: tuple[Change, ...]
    counts: dict[str, int]
    lost: tuple[str, ...]
    notes: tuple[str, ...]
    summary: str


def compare(
    base: Record,
    new: Record,
    *,
    min_change: float = MIN_CHANGE,
    across: Collection[str] = (),
    run_to_run: float | None = None,
) -> Comparison:
    """Hold every series of two records together, matched by stage and name.

    Args:
        base: the run before. new: the run after.
        min_change: relative change that counts at least, such as 0.03.
        across: names of the differences between the runs that are the point, such as "torch".
        run_to_run: how far runs of the same thing lie apart on this machine, relative. None takes
            100 % for what the host's cores do, or what the machine itself changed by where that is
            more, and nothing beyond `min_change` for an accelerator.

    Returns:
        FASTER and SLOWER are said of seconds alone, and only where the 95 % bootstrap interval of
        the ratio of medians lies beyond the noise; SAME where it lies within `min_change` or the
        samples' spread, and never where it lies wholly beyond `min_change`. Runs of the same thing
        come out SAME 19 times in 20 where they differ by less than `min_change`, as on a machine
        of one's own; on shared cores most of them differ by more, and are INCONCLUSIVE. Of other
        units the word is DIFFERENT: of bytes less is better, of anything else nothing is known.
        Nothing is judged in a stage that was disturbed, or where the runs differ in device,
        workload, versions or settings that are not named in `across`.

    Raises:
        UsageError: an unknown name in `across`, or a `min_change` that is no share.
    """
    check_share("--min-change", min_change)
    if run_to_run is not None:
        check_share("--run-to-run", run_to_run)
    names = checked_names(across)
    found = differences(base, new, names)
    around = Circumstances(
        min_change=min_change,
        run_to_run=run_to_run,
        on_host=on_cpu(base) or on_cpu(new),
        disturbed=_disturbed(base, new),
        refused=bool(forbidding(found)),
    )
    machine = _machine(base, new, around, found)
    if machine:
        around = replace(around, machine=math.expm1(machine.size))
    return _comparison(base, new, around, names, found, machine)


def _comparison(
    base: Record,
    new: Record,
    around: Circumstances,
    across: tuple[str, ...],
    found: tuple[Difference, ...],
    machine: Change | None,
) -> Comparison:
    rows, forbidden = _rows(base, new, around), forbidding(found)
    counted = Counter(row.judgement for row in rows)
    return Comparison(
        base=_run(base),
        new=_run(new),
        min_change=around.min_change,
        run_to_run=around.run_to_run,
        across=across,
        differences=found,
        refused=tuple(f"{each}; if that is the point: --across {each.name}" for each in forbidden),
        rows=rows,
        counts={each: counted[each] for each in JUDGEMENTS},
        lost=_lost(base, new, rows),
        notes=(*_machine_note(machine), *_notes(base, new, around, across, found)),
        summary=_refusal(forbidden) if forbidden else _summary(rows),
    )


def by_size(rows: Iterable[Change]) -> list[Change]:
    """What changed first, then the rest; each by how much, those without a ratio last."""
    return sorted(
        rows, key=lambda row: (row.judgement not in CHANGED, -row.size, row.ratio is None)
    )


def is_known(row: Change) -> bool:
    """Whether a case is known to have changed, or not to have changed beyond its noise."""
    if row.judgement != "INCONCLUSIVE" or row.why in (DISTURBED, FIRST):
        return row.judgement in JUDGED
    if row.interval is None or row.noise is None:
        return False
    least, most = row.interval
    return 1 / (1 + row.noise) <= least and most <= 1 + row.noise


def _disturbed(base: Record, new: Record) -> dict[str, str]:
    """What disturbed the stages that both runs have, in either of them."""
    return {
        stage: f"{clean(found[0])} (in {which})"
        for which, record in (("NEW", new), ("BASE", base))
        for stage in record.stages
        if stage in base.stages and stage in new.stages and (found := disturbances(record, stage))
    }


def _machine(
    base: Record, new: Record, around: Circumstances, found: Collection[Difference]
) -> Change | None:
    """What changed the most of what a host does without the model, and nothing else explains."""
    told = {each.name for each in found}
    if not around.on_host or around.refused or told & MACHINERY or GEMM_STAGE in around.disturbed:
        return None
    ours, theirs = cases(base), cases(new)
    keys = [key for key in ours if key[0] == GEMM_STAGE and key in theirs]
    rows = [changed(key, ours[key], theirs[key], around) for key in keys]
    timed = [row for row in rows if row.interval and row.unit == "s"]
    return max(timed, key=lambda row: row.size, default=None)


def _machine_note(machine: Change | None) -> tuple[str, ...]:
    if machine is None or math.expm1(machine.size) <= STEADY:
        return ()
    ratio = times_with_interval(machine.ratio, machine.interval)
    return (
        f"the machine itself changed: {clean(machine.name, 80)}, which runs nothing of the model, "
        f"takes {ratio} what it did in BASE",
    )


def _rows(base: Record, new: Record, around: Circumstances) -> tuple[Change, ...]:
    ours, theirs = cases(base), cases(new)
    keys = sorted({**ours, **theirs}, key=_order(base, new))
    return tuple(_row(key, ours.get(key), theirs.get(key), (base, new), around) for key in keys)


def _order(base: Record, new: Record) -> Callable[[Key], int]:
    stages = list({**base.stages, **new.stages})
    return lambda key: stages.index(key[0])


def _row(
    key: Key,
    ours: Case | None,
    theirs: Case | None,
    records: tuple[Record, Record],
    around: Circumstances,
) -> Change:
    if ours and theirs:
        return changed(key, ours, theirs, around)
    which, record = ("NEW", records[1]) if ours else ("BASE", records[0])
    return not_compared(key, ours, theirs, f"not in {which}: {clean(absence(record, key))}")


def _run(record: Record) -> Run:
    cudnn = cudnn_version(record.fact("torch", "cudnn_runtime"))
    versions = {
        "torch": record.fact("torch", "version") or record.fact("packages", "torch"),
        "cuDNN": str(cudnn) if cudnn and not on_cpu(record) else None,
        "driver": record.fact("device", "driver"),
        "transformers": record.fact("packages", "transformers"),
    }
    device = record.fact("device", "name") or record.fact("device", "type")
    return Run(
        created=record.created,
        tool=f"{record.tool.name} {record.tool.version}",
        device=str(device or record.workload.get("device") or "an unknown device"),
        dtype=str(record.workload.get("dtype") or ""),
        versions={name: str(cell) for name, cell in versions.items() if cell is not None},
        workload=str(record.workload.get("summary") or ""),
        published=is_published(record),
    )


def _lost(base: Record, new: Record, rows: Iterable[Change]) -> tuple[str, ...]:
    """Stages, cases and checks that BASE has and NEW has not; a lost stage stands for its cases."""
    stages = {
        name: after
        for name, before in base.stages.items()
        for after in [new.stages.get(name)]
        if before.status == "ok" and (after is None or after.status != "ok")
    }
    found = [
        f"the stage {clean(name)}: "
        + ("it did not run" if result is None else clean(f"{result.status}: {result.reason or ''}"))
        for name, result in stages.items()
    ]
    found += [
        f"{clean(row.name)}: {row.why}"
        for row in rows
        if row.new is None and row.stage not in stages and not row.series.endswith(SUFFIXES)
    ]
    return (*found, *_failed_checks(base, new))


def _failed_checks(base: Record, new: Record) -> list[str]:
    """Checks of exactness that all passed in BASE and of which one fails in NEW."""
    before, after = _checks(base), _checks(new)
    return [
        f"verify: {clean(', '.join(check))} does not pass any more"
        for check, passed in after.items()
        if False in passed and True in before.get(check, set()) and False not in before[check]
    ]


def _checks(record: Record) -> dict[tuple[str, ...], set[Cell]]:
    """What became of each check; one is made for several inputs."""
    found: dict[tuple[str, ...], set[Cell]] = {}
    for row in record.rows("verify", "checks"):
        name = tuple(str(row.get(column)) for column in ("check", "dtype", "metric"))
        found.setdefault(name, set()).add(
            row.get("passed") if isinstance(row.get("passed"), bool) else None
        )
    return found


def _notes(
    base: Record,
    new: Record,
    around: Circumstances,
    across: Collection[str],
    found: Collection[Difference],
) -> tuple[str, ...]:
    notes = [
        f"{name}: its figures are published medians without raw samples, which cannot be judged"
        for name, record in (("BASE", base), ("NEW", new))
        if is_published(record)
    ]
    if around.on_host and around.run_to_run is None and not around.refused:
        allowed = significant(100 * HOST_RUN_TO_RUN, 2)
        notes.append(
            f"times of a host's cores count as changed beyond {allowed} % alone: runs of the same "
            "thing lie that far apart where a machine is shared, which two runs cannot tell. "
            "--run-to-run 5% sets what is known of this one, --min-change 30% what is the SAME"
        )
    notes += [f"{clean(stage)} was disturbed: {why}" for stage, why in around.disturbed.items()]
    unused = [name for name in across if name not in {each.name for each in found}]
    if unused:
        notes.append(f"--across {','.join(unused)}: the runs do not differ in that")
    tools = [f"{each.tool.name} {each.tool.version}" for each in (base, new)]
    if base.tool.name == new.tool.name and tools[0] != tools[1]:
        notes.append(f"measured by {clean(tools[0])} and {clean(tools[1])}, which may differ")
    if base.workload.get("seed") != new.workload.get("seed"):
        notes.append("the runs have different seeds, which should not change times")
    return tuple(notes)


def _refusal(forbidden: Collection[Difference]) -> str:
    """The first fact of each name tells enough; `refused` has them all."""
    first = {each.name: each for each in reversed(list(forbidden))}
    told = "; ".join(str(first[name]) for name in dict.fromkeys(each.name for each in forbidden))
    names = ",".join(dict.fromkeys(each.name for each in forbidden))
    return f"Not judged, because the runs differ: {told}. If that is the point: --across {names}"


def _summary(rows: tuple[Change, ...]) -> str:
    """How many, and what changed the most; first calls apart."""
    if not rows:
        return "Nothing to compare: neither record holds a series."
    judged = [row for row in rows if not row.is_first_call]
    counts = Counter(row.judgement for row in judged)
    told = ", ".join(f"{counts[each]} {each}" for each in JUDGEMENTS if counts[each])
    apart = len(rows) - len(judged)
    calls = f" {plural(apart, 'first call')} beside them, never judged." if apart else ""
    return f"{_headline(judged)}. Of {len(judged)} series: {told or 'none'}.{calls}"


def _headline(rows: Collection[Change]) -> str:
    most = next((row for row in by_size(rows) if row.judgement in CHANGED), None)
    if most is None:
        known = any(is_known(row) for row in rows)
        return f"Nothing {'changed beyond noise' if known else 'could be judged'}"
    ratio, what = times_with_interval(most.ratio, most.interval), clean(most.name, 80)
    verb = "takes" if most.unit == "s" else "is at"
    return f"{what} is {most.judgement}: it {verb} {ratio} what it did in BASE"
