"""Is it the preprocessing or the transfer? The inputs' share of an image's way through it all."""

from __future__ import annotations

from dataclasses import dataclass

from qwenprof.diagnosis.bounds import positive
from qwenprof.diagnosis.disturbance import disturbances, on_cpu
from qwenprof.diagnosis.finding import Finding, Rule, Severity, not_assessed
from qwenprof.formatting import NOT_MEASURED, listed, percent, seconds, significant
from qwenprof.record.record import Record, Row

NAME, QUESTION = "input-bound", "Is it the preprocessing or the transfer?"
PROCESSOR, TRANSFER, VISION, LANGUAGE = "processor", "transfer", "vision", "language"
INPUTS, MODEL = (PROCESSOR, TRANSFER), (VISION, LANGUAGE)
NOTABLE, BOUND, DOMINANT = 0.25, 0.5, 0.8
CULPRITS = {PROCESSOR: "image preprocessing", TRANSFER: "transfer of pixels to the device"}

WORKERS = (
    "Run the preprocessing beside the model, in a DataLoader with num_workers > 0; or on the "
    "device: the torchvision ('fast') image processor takes device='cuda', and torchvision.io's "
    "decode_jpeg decodes there."
)
ON_CPU = (
    "Use the torchvision ('fast') image processor, and keep its output where images come again. "
    "Data-loader workers help only as far as the model leaves cores idle."
)
PINNED = (
    "Pin the memory (pin_memory=True) and copy with non_blocking=True while the forward before "
    "runs; cast to the model's dtype before the copy, which halves it in bf16."
)


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Seconds of the phases that were measured, one after the other."""

    phases: dict[str, float]
    processor: str | None
    images_per_s: float | None

    @property
    def serial_s(self) -> float:
        return sum(self.phases.values())

    @property
    def inputs_s(self) -> float:
        return sum(self.phases.get(phase, 0.0) for phase in INPUTS)

    @property
    def share(self) -> float:
        """Of the inputs, in the whole."""
        return self.inputs_s / self.serial_s

    @property
    def slowest_input(self) -> str:
        return max(INPUTS, key=lambda phase: self.phases.get(phase, 0.0))


def judge(record: Record) -> Finding:
    rows = record.rows("breakdown", "phases")
    summary = next(iter(record.rows("breakdown", "pipeline")), {})
    phases = {
        str(row.get("phase")): median_s
        for row in rows
        if row.get("phase") in (*INPUTS, *MODEL) and (median_s := positive(row.get("median_s")))
    }
    why = _obstacle(record, phases, summary)
    if why:
        return not_assessed(NAME, QUESTION, why)
    found = Pipeline(
        phases=phases,
        processor=str(summary["processor"]) if summary.get("processor") else None,
        images_per_s=positive(summary.get("images_per_s")),
    )
    return _clear(found) if found.share < NOTABLE else _problem(record, found)


def _obstacle(record: Record, phases: dict[str, float], summary: Row) -> str:
    """Why the shares cannot be told; "" if they can."""
    if PROCESSOR not in phases or VISION not in phases:
        return "The processor and the vision tower were not both timed."
    if summary.get("missing"):
        return f"Of the phases, this was not measured: {summary.get('missing')}."
    if TRANSFER not in phases and not on_cpu(record):
        return "The transfer to the device was not timed."
    if LANGUAGE not in phases and record.workload.get("scope") == "full":
        return "The language part of the model was not timed."
    return ""


def _problem(record: Record, found: Pipeline) -> Finding:
    return Finding(
        rule=NAME,
        verdict="problem",
        severity=_severity(found.share),
        title=f"Preparing the inputs takes {percent(found.share)} of the time that an image takes",
        culprit=CULPRITS[found.slowest_input],
        cause="the inputs are prepared before the model starts, and it waits for them",
        cost_share=found.share,
        confidence="medium" if disturbances(record, "breakdown") else "high",
        evidence=(
            *_evidence(found),
            f"The share is of processor, transfer and model together ({seconds(found.serial_s)}), "
            "not of the forward: the most that can be saved of an image's time.",
        ),
        advice=_advice(record, found),
    )


def _clear(found: Pipeline) -> Finding:
    return Finding(
        rule=NAME,
        verdict="clear",
        severity="info",
        title=f"Not the inputs: preparing them takes {percent(found.share)} of an image's time",
        evidence=_evidence(found),
    )


def _severity(share: float) -> Severity:
    if share >= DOMINANT:
        return "critical"
    return "warning" if share >= BOUND else "info"


def _advice(record: Record, found: Pipeline) -> str:
    if found.slowest_input == TRANSFER:
        return PINNED
    return ON_CPU if on_cpu(record) else WORKERS


def _evidence(found: Pipeline) -> tuple[str, ...]:
    """Each phase with its time; the rate that they come to; which processor that was."""
    named = {phase: seconds(found.phases.get(phase)) for phase in (*INPUTS, *MODEL)}
    told = listed([f"{phase} {text}" for phase, text in named.items() if text != NOT_MEASURED])
    sentences = [f"One after the other: {told}; {percent(found.share)} of it are the inputs."]
    if found.images_per_s:
        rate = significant(found.images_per_s)
        sentences.append(f"That is {rate} images per second while nothing overlaps.")
    if found.processor:
        sentences.append(f"The processor that was timed is {found.processor}.")
    return tuple(sentences)


RULE = Rule(
    name=NAME, order=48, question=QUESTION, judge=judge, reads=("breakdown",), compares_times=True
)
