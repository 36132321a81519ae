"""The verdict, readable in ten seconds: one sentence, one table, then what stands behind it."""

from __future__ import annotations

from collections.abc import Sequence

from qwenprof.diagnosis.finding import Finding, rules
from qwenprof.diagnosis.verdict import verdict
from qwenprof.formatting import listed
from qwenprof.record.record import Record
from qwenprof.report.reading import READS_AS
from qwenprof.report.section import (
    Block,
    Bullets,
    Inline,
    Section,
    Table,
    code,
    paragraph,
    strong,
)
from qwenprof.report.telling import Telling

READS = {"problem": "PROBLEM", "clear": "clear", "not assessed": "not assessed"}


def compose(told: Telling) -> list[Block]:
    record, findings = told.record, told.findings
    problems = [finding for finding in findings if finding.verdict == "problem"]
    blocks: list[Block] = [*_interrupted(record), *_verdict(record, findings)]
    if findings:
        blocks.append(_answers(findings))
    blocks += [*_disturbances(record), *_unfinished(record)]
    blocks += [block for finding in problems for block in _problem(finding)]
    return blocks + _evidence(findings)


def _interrupted(record: Record) -> list[Block]:
    """Said first: whatever else the summary says rests on a part of a run."""
    names = [name for name, each in record.stages.items() if each.status == "interrupted"]
    if not names:
        return []
    return [
        paragraph(
            strong("The run was interrupted"),
            f" during {listed(names)}: what follows rests on what was measured until then.",
        )
    ]


def _verdict(record: Record, findings: Sequence[Finding]) -> list[Block]:
    """The one answer: what, why, how sure, what to do, what it gains."""
    if not findings:
        return [paragraph(strong("No rule judged this record."))]
    told = verdict(record, findings)
    head: Block = paragraph(strong(f"{told.headline}."))
    sure = f"{told.confidence}: {told.confidence_because}" if told.confidence else ""
    answers: list[tuple[str, Inline]] = [
        ("Culprit", code(told.culprit) if told.culprit else "nobody"),
        ("Cause", told.cause),
        ("Confidence", sure),
        ("Cure", told.cure),
        ("Gain", told.gain),
        ("Cleared", ", ".join(told.cleared)),
    ]
    items = tuple((strong(f"{name}:"), " ", answer) for name, answer in answers if answer)
    return [head, Bullets(items=items)]


def _answers(findings: Sequence[Finding]) -> Table:
    questions = {name: rule.question for name, rule in rules().items()}
    order = list(questions)
    ordered = sorted(findings, key=lambda f: order.index(f.rule) if f.rule in order else len(order))
    return Table(
        header=("Question", "Verdict", "Answer"),
        align="lll",
        rows=tuple(
            _answer(finding, questions.get(finding.rule, finding.rule)) for finding in ordered
        ),
    )


def _answer(finding: Finding, question: str) -> tuple[Inline, ...]:
    verdict = READS[finding.verdict]
    if finding.verdict == "problem" and finding.severity == "info":
        return question, "minor problem", finding.title
    if finding.verdict == "problem":
        return question, strong(verdict), strong(finding.title)
    if finding.verdict == "not assessed":
        return question, verdict, " ".join(finding.evidence) or finding.title
    return question, verdict, finding.title


def _problem(finding: Finding) -> list[Block]:
    """Culprit, evidence and advice; the title stands in the table above."""
    culprit: list[Inline] = [", culprit ", code(finding.culprit)] if finding.culprit else []
    weight = "minor" if finding.severity == "info" else finding.severity
    head = paragraph(strong(finding.rule), f", {weight}", *culprit, ":")
    items: list[tuple[Inline, ...]] = [(sentence,) for sentence in finding.evidence]
    if finding.advice:
        items.append((strong("Advice:"), " ", finding.advice))
    if finding.links:
        items.append(("See ", listed(finding.links)))
    return [head, Bullets(items=tuple(items))] if items else [head]


def _disturbances(record: Record) -> list[Block]:
    """What disturbed whole stages, from the state of the machine while they ran."""
    stages: dict[str, list[str]] = {}
    for name in record.stages:
        for row in record.rows(name, "conditions"):
            for flag in str(row.get("flags") or "").split("; "):
                if flag:
                    stages.setdefault(flag.partition(": ")[2] or flag, []).append(name)
    if not stages:
        return []
    items = tuple((f"{what}, during {listed(names)}",) for what, names in stages.items())
    return [
        paragraph(strong("The run was disturbed"), ", so its times may be too long:"),
        Bullets(items=items),
    ]


def _unfinished(record: Record) -> list[Block]:
    """Stages that did not end well; their own sections tell what they measured."""
    items = tuple(
        (
            code(name),
            f": {READS_AS[result.status].lower()}",
            f": {result.reason}" if result.reason else "",
        )
        for name, result in record.stages.items()
        if result.status != "ok"
    )
    if not items:
        return []
    return [paragraph(strong("Stages that did not end well:")), Bullets(items=items)]


def _evidence(findings: Sequence[Finding]) -> list[Block]:
    rows = [
        (finding.rule, sentence)
        for finding in findings
        if finding.verdict == "clear"
        for sentence in finding.evidence
    ]
    if not rows:
        return []
    return [
        Table(
            header=("Rule", "Evidence"),
            align="ll",
            rows=tuple(rows),
            folded="Evidence for the clear answers",
        )
    ]


SECTION = Section(name="summary", order=10, title="Summary", compose=compose)
