"""The verdict, readable in ten seconds: one sentence, one table, then what stands behind it."""

from __future__ import annotations

from collections.abc import Sequence

from qwenprof.diagnosis.finding import Finding, rules
from qwenprof.formatting import listed, plural
from qwenprof.record.record import Record
from qwenprof.report.reading import READS_AS
from qwenprof.report.section import (
    Block,
    Bullets,
    Inline,
    Paragraph,
    Section,
    Table,
    code,
    paragraph,
    strong,
)

READS = {"problem": "PROBLEM", "clear": "clear", "not assessed": "not assessed"}


def compose(record: Record, findings: Sequence[Finding]) -> list[Block]:
    problems = [finding for finding in findings if finding.verdict == "problem"]
    blocks: list[Block] = [*_interrupted(record), _verdict(problems, findings)]
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


def _verdict(problems: Sequence[Finding], findings: Sequence[Finding]) -> Paragraph:
    if problems:
        worst = problems[0]
        culprit: list[Inline] = [" Culprit: ", code(worst.culprit), "."] if worst.culprit else []
        more = f" {plural(len(problems) - 1, 'more problem')} below." if len(problems) > 1 else ""
        kind = "Minor problem" if worst.severity == "info" else f"Problem ({worst.severity})"
        return paragraph(strong(f"{kind}: {worst.title}."), *culprit, more)
    if not findings:
        return paragraph(strong("No rule judged this record."))
    clear = sum(1 for finding in findings if finding.verdict == "clear")
    if not clear:
        return paragraph(strong("Nothing could be assessed."), " The record lacks what rules need.")
    rest = len(findings) - clear
    return paragraph(
        strong("No problem found."),
        f" {clear} of {len(findings)} questions have a clear answer"
        + (f", {rest} could not be assessed." if rest else "."),
    )


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
