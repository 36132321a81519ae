"""Rules and what they find. A Record goes in, a Finding comes out; nothing is stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from qwenprof.diagnosis.disturbance import disturbances
from qwenprof.discover import discover
from qwenprof.record.record import Record

Verdict = Literal["problem", "clear", "not assessed"]
Severity = Literal["critical", "warning", "info"]
Confidence = Literal["high", "medium", "low"]


MOST_OF_THE_FORWARD, NOTABLE_SHARE = 0.5, 0.02


def severity_of(share: float | None, *, unknown: Severity = "warning") -> Severity:
    """By the share of the forward that a fault costs; `unknown` where that was not measured."""
    if share is None:
        return unknown
    if share >= MOST_OF_THE_FORWARD:
        return "critical"
    return "warning" if share >= NOTABLE_SHARE else "info"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one rule says about one record.

    verdict: "clear" only when the rule had all it needed and found nothing.
    culprit: a module path, operator or component, or None.
    cause: why the culprit is slow, in a few words; "" where the rule does not tell.
    cost_share: share of the workload's forward that the advice would save, None if not known.
    factor: how many times as fast the culprit itself becomes with the advice, None if not known.
    confidence: of a problem; what was inferred and not observed is never "high".
    evidence: sentences, each with its numbers.
    """

    rule: str
    verdict: Verdict
    severity: Severity
    title: str
    culprit: str | None = None
    cause: str = ""
    cost_share: float | None = None
    factor: float | None = None
    confidence: Confidence = "high"
    evidence: tuple[str, ...] = ()
    advice: str = ""
    links: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One question about a record.

    question: what the rule answers, as a reader would ask it.
    judge: the answer; raises nothing for any valid record.
    reads: the stages whose results it looks at; it has nothing to say where none of them ran.
    compares_times: whether it clears by times that a disturbed run spoils.
    """

    name: str
    order: int
    question: str
    judge: Callable[[Record], Finding]
    reads: tuple[str, ...] = ()
    compares_times: bool = False


def rules() -> dict[str, Rule]:
    """All rules by name."""
    return discover("qwenprof.diagnosis.rules", "RULE", Rule)


def diagnose(record: Record) -> list[Finding]:
    """Every rule's finding, problems first, the most severe on top."""
    findings = [_undisturbed(rule, rule.judge(record), record) for rule in rules().values()]
    verdicts = ("problem", "clear", "not assessed")
    severities = ("critical", "warning", "info")
    return sorted(findings, key=lambda f: (verdicts.index(f.verdict), severities.index(f.severity)))


def _undisturbed(rule: Rule, finding: Finding, record: Record) -> Finding:
    """The finding, but nobody is cleared by times that something else disturbed."""
    if finding.verdict != "clear" or not rule.compares_times:
        return finding
    disturbed = [each for stage in rule.reads for each in disturbances(record, stage)]
    if not disturbed:
        return finding
    why = f"It would be clear ({finding.title}), but the run was disturbed: {disturbed[0]}."
    return not_assessed(rule.name, rule.question, why)


def unasked(record: Record) -> set[str]:
    """The rules without a question: none of the stages that they read ran."""
    return {
        name
        for name, rule in rules().items()
        if rule.reads and not any(stage in record.stages for stage in rule.reads)
    }


def not_assessed(rule: str, question: str, why: str) -> Finding:
    """The finding of a rule whose input is missing."""
    return Finding(
        rule=rule, verdict="not assessed", severity="info", title=question, evidence=(why,)
    )
