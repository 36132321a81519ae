"""Can the run's times be trusted? What disturbed them, and which questions that leaves open."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from qwenprof.diagnosis.disturbance import (
    disturbances,
    holds_times,
    on_cpu,
    own_forward,
    power_capped,
    was_watched,
)
from qwenprof.diagnosis.finding import Finding, Rule, not_assessed
from qwenprof.formatting import listed, plural
from qwenprof.harness import statistics
from qwenprof.record.record import Record

NAME, QUESTION = "run-quality", "Can the run's times be trusted?"
FLAGS = ("noisy", "drift", "few_samples", "budget")

# what a stage answers; a stage that is not here goes by its name
ANSWERS = {
    "matmul": "Is the device healthy?",
    "batch-sweep": "Is it batching?",
    "attention-sweep": "Is it attention?",
    "breakdown": "Is it the model at all, or its inputs?",
    "per-layer": "Which component is it?",
    "compare-patch-embed": "Is it the patch embedding's convolution?",
    "dispatch": "Whose fault is it?",
}


def judge(record: Record) -> Finding:
    if not any(record.rows(stage, "conditions") for stage in record.stages):
        return not_assessed(NAME, QUESTION, "Nobody looked at the machine during the run.")
    timed = [stage for stage in record.stages if holds_times(record, stage)]
    disturbed = {stage: found for stage in timed if (found := disturbances(record, stage))}
    remarks = _remarks(record, timed)
    if disturbed:
        return _disturbed(disturbed, timed, remarks)
    unwatched = [stage for stage in timed if not was_watched(record, stage)]
    if not timed or unwatched:
        what = f"during {listed(unwatched)}" if timed else "for times, of which there are none"
        why = f"The machine was not looked at {what}, so nothing tells whether it was disturbed."
        return not_assessed(NAME, QUESTION, why)
    return _undisturbed(record, timed, remarks)


def _disturbed(
    disturbed: Mapping[str, Sequence[str]], timed: Sequence[str], remarks: Sequence[str]
) -> Finding:
    evidence = [f"{stage}: {'; '.join(found)}." for stage, found in disturbed.items()]
    left_open = [ANSWERS.get(stage, stage) for stage in disturbed]
    count = f"{len(disturbed)} of {plural(len(timed), 'stage')}"
    return Finding(
        rule=NAME,
        verdict="problem",
        severity="warning",
        title=f"Something disturbed {count}, whose times cannot be trusted",
        cause=_cause(disturbed),
        evidence=(*evidence, f"Not to be concluded from this run: {listed(left_open)}", *remarks),
        advice="Run again on a machine that does nothing else; on a GPU, look at nvidia-smi for "
        "other processes, temperature and power limit first.",
    )


def _cause(disturbed: Mapping[str, Sequence[str]]) -> str:
    said = " ".join(sentence for found in disturbed.values() for sentence in found)
    causes = {
        "other process": "other processes",
        "clocks held down": "throttling",
        "the workload's forward": "a forward that does not repeat",
    }
    return listed([cause for sign, cause in causes.items() if sign in said])


def _undisturbed(record: Record, timed: Sequence[str], remarks: Sequence[str]) -> Finding:
    few = _few(record, timed)
    looked = "other processes" if on_cpu(record) else "throttling and other processes"
    return Finding(
        rule=NAME,
        verdict="clear",
        severity="info",
        title="Nothing was seen to disturb the run" + (", but it is short of samples" * bool(few)),
        evidence=(f"Looked for {looked} in {listed(timed)}, and found none.", *few, *remarks),
    )


def _few(record: Record, timed: Sequence[str]) -> list[str]:
    """That the workload's own forward was timed too seldom for an interval."""
    counts = {
        stage: len(series.values) for stage in timed if (series := own_forward(record, stage))
    }
    if not counts or max(counts.values()) >= statistics.MIN_SAMPLES_FOR_CI:
        return []
    each = listed([f"{plural(n, 'time')} in {stage}" for stage, n in counts.items()])
    return [
        f"The workload's forward was timed {each}; its median has no interval below "
        f"{statistics.MIN_SAMPLES_FOR_CI}, so a difference of 30 % may be chance."
    ]


def _remarks(record: Record, timed: Sequence[str]) -> list[str]:
    """What a reader should know besides: flags of the samples, and what nobody could see."""
    found = [f"{stage}: {each}." for stage in timed for each in power_capped(record, stage)]
    flagged = [text for stage in timed if (text := _flags(record, stage))]
    if flagged:
        found.append(f"Flags of the samples: {'; '.join(flagged)}.")
    return found + _unseen(record, timed)


def _flags(record: Record, stage: str) -> str:
    """How many series of a stage carry each flag: "batch-sweep, 3 series: 3 few samples"."""
    series = [
        each
        for key, each in record.stages[stage].series.items()
        if each.unit == "s" and not key.endswith("/first_call")
    ]
    codes: Counter[str] = Counter()
    for each in series:
        codes.update({flag.partition(":")[0] for flag in each.flags} & set(FLAGS))
    if not codes:
        return ""
    counts = ", ".join(f"{codes[code]} {code.replace('_', ' ')}" for code in FLAGS if codes[code])
    return f"{stage}, {len(series)} series: {counts}"


def _unseen(record: Record, timed: Sequence[str]) -> list[str]:
    """Disturbances that this record could not have told of."""
    rows = [row for stage in timed for row in record.rows(stage, "conditions")]
    if on_cpu(record):
        during = ("cores_busy_elsewhere_meanwhile", "cores_busy_elsewhere_after")
        if rows and not any(row.get(column) is not None for row in rows for column in during):
            return ["Other processes were looked for only before each stage, not during it."]
        return []
    if rows and not any(row.get("other_gpu_processes") is not None for row in rows):
        return ["Whether other processes used the GPU could not be told, as in a container."]
    return []


RULE = Rule(name=NAME, order=25, question=QUESTION, judge=judge)
