"""What each stage of the hunt excludes, at the end of its section."""

from __future__ import annotations

from typing import Any

import pytest

from qwenprof.diagnosis.finding import Finding, diagnose, rules
from qwenprof.record.published import writeup
from qwenprof.record.record import Record
from qwenprof.report import markdown
from qwenprof.report.exclusion import LEAD, SUSPECTS, excluded
from qwenprof.report.section import Paragraph, sections
from qwenprof.report.telling import telling


def finding(rule: str, verdict: Any, **fields: Any) -> Finding:
    base = {"severity": "info", "title": f"What {rule} found"}
    return Finding(rule=rule, verdict=verdict, **(base | fields))


def said(*findings: Finding, stage: str = "attention-sweep") -> str:
    return "\n".join(markdown.render_block(block) for block in excluded(findings, stage))


def test_every_rule_that_decides_is_a_rule_that_reads_the_stage() -> None:
    known = rules()
    for stage, suspects in SUSPECTS.items():
        for rule in suspects:
            assert stage in known[rule].reads


def test_a_clear_finding_excludes_its_suspect() -> None:
    assert said(finding("attention", "clear", title="Not attention: all take the same")) == (
        "**What this excludes.** **Excluded:** attention. All take the same."
    )


def test_a_problem_convicts() -> None:
    found = finding(
        "attention", "problem", severity="critical", culprit="attention: eager", title="It is slow"
    )
    assert said(found) == "**What this excludes.** **Convicted:** attention. It is slow."


def test_a_problem_without_a_culprit_excludes_nothing_and_convicts_nobody() -> None:
    found = finding("batching", "problem", severity="warning", title="The work did not grow")
    assert said(found, stage="batch-sweep") == (
        "**What this excludes.** **Not excluded:** batching. The work did not grow."
    )


def test_a_minor_problem_is_no_conviction() -> None:
    text = said(finding("attention", "problem", culprit="x"))
    assert text.startswith("**What this excludes.** **Minor:** attention.")


def test_what_was_not_assessed_excludes_nothing_and_says_why() -> None:
    text = said(finding("attention", "not assessed", evidence=("Only one was measured.",)))
    assert text.endswith("**Not assessed:** attention. Only one was measured.")


def test_findings_of_other_stages_are_not_told() -> None:
    assert excluded([finding("batching", "clear")], "attention-sweep") == []
    assert excluded([], "matmul") == []


@pytest.mark.parametrize("stage", SUSPECTS)
def test_it_is_the_last_that_a_section_says(simulated_gpu: Record, stage: str) -> None:
    told = telling(simulated_gpu, diagnose(simulated_gpu))
    blocks = sections()[stage].compose(told)
    leads = [
        number
        for number, block in enumerate(blocks)
        if isinstance(block, Paragraph) and markdown.render_block(block).startswith(f"**{LEAD}**")
    ]
    assert leads == ([len(blocks) - 1] if stage in simulated_gpu.stages else [])


def test_the_published_case_excludes_all_but_the_patch_embedding() -> None:
    told = telling(writeup(), diagnose(writeup()))

    def last(stage: str) -> str:
        return markdown.render_block(sections()[stage].compose(told)[-1])

    assert "**Excluded:** the device. The device is healthy" in last("matmul")
    assert "**Excluded:** batching. " in last("batch-sweep")
    assert "**Excluded:** attention. " in last("attention-sweep")
    assert "**Convicted:** " in last("per-layer")
    assert "patch_embed" in last("per-layer")
    assert last("breakdown").startswith("**Not measured.**")
