"""What a stage of the hunt excludes, said at the end of its section from what its rules found."""

from __future__ import annotations

from collections.abc import Sequence

from qwenprof.diagnosis.finding import Finding
from qwenprof.report.section import Block, paragraph, strong

LEAD = "What this excludes."
# stage -> the rules that decide what it excludes, each with what it suspects
SUSPECTS = {
    "matmul": {"device-health": "the device", "dtype-support": "the dtype"},
    "batch-sweep": {"batching": "batching"},
    "attention-sweep": {"attention": "attention"},
    "breakdown": {"input-bound": "preparing the inputs"},
    "per-layer": {
        "culprit": "a part that takes more than its work should",
        "block-unlike-siblings": "one block among its like",
    },
    "compare-patch-embed": {
        "conv-slow-backend": "a slow loop of PyTorch",
        "conv-against-linear": "a healthy convolution",
        "bias-cliff": "the bias of the convolution",
    },
}


def excluded(findings: Sequence[Finding], stage: str) -> list[Block]:
    """One paragraph; nothing where no rule of the stage was asked."""
    by_rule = {finding.rule: finding for finding in findings}
    sentences = [
        _sentence(by_rule[rule], suspect)
        for rule, suspect in SUSPECTS[stage].items()
        if rule in by_rule
    ]
    return [paragraph(strong(LEAD), " ", " ".join(sentences))] if sentences else []


def _sentence(finding: Finding, suspect: str) -> str:
    if finding.verdict == "clear":
        return f"{suspect[0].upper()}{suspect[1:]} as the cause: {_without_not(finding.title)}."
    if finding.verdict == "not assessed":
        return f"It excludes nothing about {suspect}: {_why(finding)}"
    if finding.severity == "info":
        return f"It finds something minor about {suspect}: {finding.title}."
    if finding.culprit:
        return f"It convicts {finding.culprit}: {finding.title}."
    return f"It does not exclude {suspect} as the cause: {finding.title}."


def _without_not(title: str) -> str:
    """What a title like "Not batching: the time of ..." says after its first words."""
    head, _, rest = title.partition(": ")
    return rest if head.startswith("Not ") and rest else title


def _why(finding: Finding) -> str:
    return finding.evidence[0] if finding.evidence else f"{finding.title} is not answered."
