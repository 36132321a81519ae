"""What a stage of the hunt excludes, said at the end of its section from what its rules found."""

from __future__ import annotations

from collections.abc import Sequence

from qwenprof.diagnosis.finding import Finding
from qwenprof.report.section import Block, Inline, paragraph, strong
from qwenprof.report.wording import opened

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
    spans: list[Inline] = [strong(LEAD)]
    for rule, suspect in SUSPECTS[stage].items():
        if rule in by_rule:
            found = by_rule[rule]
            spans += [" ", strong(f"{_word(found)}:"), f" {suspect}. {_because(found)}"]
    return [paragraph(*spans)] if len(spans) > 1 else []


def _word(finding: Finding) -> str:
    if finding.verdict == "clear":
        return "Excluded"
    if finding.verdict == "not assessed":
        return "Not assessed"
    if finding.severity == "info":
        return "Minor"
    return "Convicted" if finding.culprit else "Not excluded"


def _because(finding: Finding) -> str:
    if finding.verdict == "not assessed":
        return finding.evidence[0] if finding.evidence else ""
    return f"{opened(_without_not(finding.title), finding.culprit)}."


def _without_not(title: str) -> str:
    """What a title like "Not batching: the time of ..." says after its first words."""
    head, _, rest = title.partition(": ")
    return rest if head.startswith("Not ") and rest else title
