"""The verdict, readable in ten seconds: one sentence, one table, then what stands behind it."""

from __future__ import annotations

from collections.abc import Sequence

from qwenprof.diagnosis.caveats import provoked
from qwenprof.diagnosis.finding import Finding, rules
from qwenprof.diagnosis.verdict import verdict
from qwenprof.formatting import first_sentences, listed, plural
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

LONGEST_ANSWER = 240  # characters in a cell of the table of answers
READS = {"problem": "PROBLEM", "clear": "clear", "not assessed": "not assessed"}


def compose(told: Telling) -> list[Block]:
    record, findings = told.record, told.findings
    problems = [finding for finding in findings if finding.verdict == "problem"]
    blocks: list[Block] = [*_provoked(record), *_interrupted(record), *_verdict(record, findings)]
    if findings:
        blocks.append(_answers(findings))
    blocks += [*_disturbances(record), *_unfinished(record)]
    blocks += [block for finding in problems for block in _problem(finding)]
    return blocks + _evidence(findings)


def _provoked(record: Record) -> list[Block]:
    """Said before all else: a fault that was made on purpose accuses nobody."""
    said = provoked(record)
    return [] if said is None else [paragraph(strong(said[0]), f" {said[1]}")]


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
        (
            "Culprit",
            code(told.culprit) if told.culprit else "not known" if told.is_open else "nobody",
        ),
        ("Cause", told.cause),
        ("Confidence", sure),
        ("Cure", told.cure),
        ("Gain", told.gain),
        ("Cleared", _cleared(told.cleared)),
    ]
    items = tuple((strong(f"{name}:"), " ", answer) for name, answer in answers if answer)
    return [head, Bullets(items=items)]


def _cleared(names: Sequence[str]) -> str:
    if not names:
        return ""
    return f"{plural(len(names), 'question')}, answered as clear in the table below"


def _questions() -> dict[str, str]:
    return {name: rule.question for name, rule in rules().items()}


def _answers(findings: Sequence[Finding]) -> Table:
    questions = _questions()
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
        return question, verdict, _short(finding)
    return question, verdict, finding.title


def _short(finding: Finding) -> str:
    """Why it was not assessed, as far as whole sentences fit in a cell; all of it stands below."""
    return first_sentences(" ".join(finding.evidence), LONGEST_ANSWER) or finding.title


def _problem(finding: Finding) -> list[Block]:
    """Question, culprit, evidence and advice; the title stands in the table above."""
    culprit: list[Inline] = [" ", code(finding.culprit)] if finding.culprit else []
    weight = "minor" if finding.severity == "info" else finding.severity
    head = paragraph(strong(_questions().get(finding.rule, finding.rule)), f" ({weight})", *culprit)
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


def _is_cut(finding: Finding) -> bool:
    """Whether the table of answers has no room for all that an open answer says."""
    whole = " ".join(finding.evidence)
    return finding.verdict == "not assessed" and len(whole) > LONGEST_ANSWER


def _evidence(findings: Sequence[Finding]) -> list[Block]:
    questions = _questions()
    rows = [
        (questions.get(finding.rule, finding.rule), sentence)
        for finding in findings
        if finding.verdict == "clear" or _is_cut(finding)
        for sentence in finding.evidence
    ]
    fitting = tuple(row for row in rows if len(row[1]) <= LONGEST_ANSWER)
    long = tuple((strong(about), " ", said) for about, said in rows if (about, said) not in fitting)
    head = paragraph(strong("Other answers, in full:"))
    blocks: list[Block] = [head, Bullets(items=long)] if long else []
    if fitting:
        blocks.append(
            Table(
                header=("Question", "Evidence"),
                align="ll",
                rows=fitting,
                folded="Evidence for the other answers",
            )
        )
    return blocks


SECTION = Section(name="summary", order=10, title="Summary", compose=compose)
