"""Rules and what they find. A Record goes in, a Finding comes out; nothing is stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from qwenprof.discover import discover
from qwenprof.record.record import Record

Verdict = Literal["problem", "clear", "not assessed"]
Severity = Literal["critical", "warning", "info"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one rule says about one record.

    verdict: "clear" only when the rule had all it needed and found nothing.
    culprit: a module path, operator or component, or None.
    evidence: sentences, each with its numbers.
    """

    rule: str
    verdict: Verdict
    severity: Severity
    title: str
    culprit: str | None = None
    evidence: tuple[str, ...] = ()
    advice: str = ""
    links: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One question about a record.

    question: what the rule answers, as a reader would ask it.
    judge: the answer; raises nothing for any valid record.
    """

    name: str
    order: int
    question: str
    judge: Callable[[Record], Finding]


def rules() -> dict[str, Rule]:
    """All rules by name."""
    return discover("qwenprof.diagnosis.rules", "RULE", Rule)


def diagnose(record: Record) -> list[Finding]:
    """Every rule's finding, problems first, the most severe on top."""
    findings = [rule.judge(record) for rule in rules().values()]
    verdicts = ("problem", "clear", "not assessed")
    severities = ("critical", "warning", "info")
    return sorted(findings, key=lambda f: (verdicts.index(f.verdict), severities.index(f.severity)))


def not_assessed(rule: str, question: str, why: str) -> Finding:
    """The finding of a rule whose input is missing."""
    return Finding(
        rule=rule, verdict="not assessed", severity="info", title=question, evidence=(why,)
    )
