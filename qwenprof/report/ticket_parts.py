"""The parts of a ticket: each is text for GitHub, stands by itself and can be left out alone."""

from __future__ import annotations

import html
from dataclasses import replace
from typing import TYPE_CHECKING

from qwenprof.diagnosis.caveats import caveats, provoked
from qwenprof.diagnosis.finding import Finding, rules
from qwenprof.diagnosis.known_issues import KnownIssue
from qwenprof.diagnosis.projection import comparison
from qwenprof.diagnosis.responsibility import Layer, responsibility
from qwenprof.diagnosis.rules.known_issue import sort as sorted_issues
from qwenprof.diagnosis.verdict import verdict
from qwenprof.formatting import clean, listed, plural, seconds
from qwenprof.record.published import is_published
from qwenprof.record.record import Record
from qwenprof.report import ticket_charts
from qwenprof.report.exclusion import LEAD
from qwenprof.report.markdown import LONGEST_CELL, render_block
from qwenprof.report.section import (
    Block,
    Bullets,
    Code,
    Figure,
    Inline,
    Paragraph,
    Styled,
    Table,
    code,
    paragraph,
    sections,
    strong,
)
from qwenprof.report.sections.environment import account_of
from qwenprof.report.ticket_environment import in_full, in_short

if TYPE_CHECKING:
    from qwenprof.report.repro import Reproduction
    from qwenprof.report.telling import Telling

MOST_ROWS = 60  # of a table; the rest is in the attachments
LONGEST_ANSWER = 400  # characters of one answer of the verdict
DISTURBED = "disturbed:"  # what a caveat about the conditions of a run begins with
LOSES = 1.05  # times the Linear: a convolution that takes less does what is expected
# sections that are told of other stages than the one of their name
TOLD_OF = {
    "dispatch": ("dispatch", "compare-patch-embed"),
    "end-to-end": ("compare-patch-embed",),
}
# what a section says of its place in the report, as a ticket has to say it
POINTERS = {
    "are in Appendix A.": "are in report.md of the attachments.",
    "are in the section of the comparison.": "are in report.md of the attachments.",
}
METHOD = (
    "The first call of each case is timed apart; then calls are sampled, after a warm-up, until "
    "the 95 % interval of their median is within 0.5 % of it or the seconds are spent, and a case "
    "that is too slow for that is called once or twice more. Device work is timed by the device's "
    "own events, everything else by the host's clock once the device is done, and variants that "
    "are compared run in turn (A B B A) on the same random data. Errors are against the same map "
    "in fp64, and no sample was dropped: each one is in record.json."
)


def rendered(*blocks: Block) -> str:
    """Blocks as markdown. Pictures are left out, and long tables cut."""
    kept = [_shown(block) for block in blocks if not isinstance(block, Figure)]
    return "\n\n".join(render_block(block) for block in kept)


def folded(summary: str, text: str) -> str:
    """Text under a line that opens it; `summary` is no text of a record."""
    if not text:
        return ""
    return f"<details><summary>{html.escape(summary)}</summary>\n\n{text}\n\n</details>"


def section(told: Telling, name: str) -> str:
    """A section of the report as a part, folded under its title."""
    found = sections().get(name)
    if found is None or not set(TOLD_OF.get(name, (name,))) & told.record.stages.keys():
        return ""
    blocks = found.compose(replace(told, against=None))
    return folded(
        found.title, rendered(*(_pointed(block) for block in blocks if not _is_dump(block)))
    )


def _pointed(block: Block) -> Block:
    """A paragraph or a table's caption that points to where a reader of the ticket can look."""
    if isinstance(block, Paragraph):
        spans = tuple(_pointer(each) if isinstance(each, str) else each for each in block.spans)
        return replace(block, spans=spans)
    return replace(block, caption=_pointer(block.caption)) if isinstance(block, Table) else block


def _pointer(text: str) -> str:
    for pointer, there in POINTERS.items():
        text = text.replace(pointer, there)
    return text


def verdict_lines(told: Telling) -> str:
    """The one answer, what was provoked or published, and what ran where."""
    found = verdict(told.record, told.findings)
    answers = {
        "Culprit": code(_short(found.culprit))
        if found.culprit
        else "not known"
        if found.is_open
        else "nobody",
        "Cause": _short(found.cause),
        "Confidence": _short(f"{found.confidence}: {found.confidence_because}")
        if found.confidence
        else "",
        "What the fix gains": _short(found.gain),
        "Cure": _short(found.cure),
    }
    items = tuple((strong(f"{name}:"), " ", said) for name, said in answers.items() if said)
    head = paragraph(strong(f"{_short(found.headline)}."))
    what = "Published for:" if is_published(told.record) else "Measured:"
    ran = Bullets(items=(*items, (strong(what), " ", _short(_what_ran(told.record)))))
    return rendered(head, *_beware(told.record), ran)


def _beware(record: Record) -> list[Block]:
    said: list[Block] = []
    fault = provoked(record)
    if fault is not None:
        said.append(paragraph(strong(fault[0]), f" {fault[1]}"))
    if is_published(record):
        text = " Its figures were taken from a publication; qwenprof did not measure them."
        said.append(paragraph(strong("Published, not measured here."), text))
    broken = [name for name, each in record.stages.items() if each.status == "interrupted"]
    if broken:
        said.append(paragraph(strong("Interrupted"), _short(f" during {listed(broken)}.")))
    return said


def _what_ran(record: Record) -> str:
    summary = record.workload.get("summary") or "the record does not say what ran"
    return f"{summary}; {in_short(record)}"


def environment(told: Telling) -> str:
    """What it ran on: a line that is shown, and everything folded away."""
    record = told.record
    facts = rendered(Code(text=in_full(record)))
    whose = "published" if is_published(record) else "qwenprof recorded it"
    texts = [
        rendered(paragraph(_short(in_short(record)), ".")),
        folded(f"Environment, as {whose}", facts),
    ]
    if record.command:
        command = clean(" ".join(record.command), LONGEST_ANSWER)
        texts.append(rendered(paragraph("Measured with ", code(command), ".")))
    account = account_of(record)
    if account:
        texts.append(folded("python -m torch.utils.collect_env", rendered(Code(text=account))))
    elif not is_published(record):
        more = " prints more of the machine; it was not run."
        texts.append(rendered(paragraph(code("python -m torch.utils.collect_env"), more)))
    return "\n\n".join(texts)


def script(found: Reproduction) -> str:
    """The script, or why there is none and what to run in its place."""
    if found.script is None:
        instead = (
            " The whole measurement can be made again: the report in the attachments tells how, "
            "and "
        )
        return rendered(
            paragraph(found.said, instead, code("qwenprof per-layer"), " shows the part alone.")
        )
    head = paragraph(
        code("python repro.py"),
        " needs torch alone, downloads nothing, and says REPRODUCED, NOT REPRODUCED or, without "
        "the device, CANNOT TELL, with its factor and spread (exit code 0, 1 or 2). "
        f"It shows {found.said} ",
        code("python repro.py 64"),
        " does it for a batch of 64.",
    )
    return rendered(head, Code(text=found.script.rstrip("\n"), language="python"))


def expected(told: Telling, layer_name: str) -> str:
    """What should happen instead, and what the target's own layer has to do with it."""
    record, found = told.record, comparison(told.record)
    blocks: list[Block] = []
    if found is not None and found.ratio.least > LOSES:
        blocks.append(
            paragraph(
                "Where stride equals kernel no window overlaps another, so the convolution is one "
                f"matrix product. It should take about what that takes: {seconds(found.linear_s)} "
                f"here, where it takes {seconds(found.conv_s)}."
            )
        )
    else:
        cure = verdict(record, told.findings).cure
        said = _short(cure) if cure else "Nothing was found that should be otherwise."
        blocks.append(paragraph(said))
    own = [layer for layer in responsibility(record) if layer.name == layer_name]
    return rendered(*blocks, *(_part_of(layer) for layer in own))


def _part_of(layer: Layer) -> Block:
    fix = f" It could {layer.fix}." if layer.fix and layer.role != "clear" else ""
    evidence = " ".join(_short(each) for each in layer.evidence[:2])
    return paragraph(strong(f"{layer.name}: {layer.role}."), f" {evidence}{fix}")


def charts(told: Telling) -> str:
    """What GitHub draws of it."""
    return "\n\n".join(
        rendered(paragraph(caption), chart) for caption, chart in ticket_charts.charts(told)
    )


def findings(told: Telling) -> str:
    """Every question that was asked, and the evidence of the problems."""
    questions = {name: rule.question for name, rule in rules().items()}
    rows = tuple(
        (questions.get(each.rule, each.rule), _verdict_of(each), each.title)
        for each in told.findings
        if each.verdict != "not assessed"
    )
    if not rows:
        return ""
    table = Table(header=("Question", "Verdict", "Answer"), align="lll", rows=rows)
    problems = [each for each in told.findings if each.verdict == "problem"]
    evidence = [block for each in problems for block in _evidence(each)]
    return folded(f"The {plural(len(rows), 'question')} with an answer", rendered(table, *evidence))


def _verdict_of(finding: Finding) -> Inline:
    if finding.verdict != "problem":
        return finding.verdict
    return "minor problem" if finding.severity == "info" else strong("PROBLEM")


def _evidence(finding: Finding) -> list[Block]:
    items = tuple((_short(sentence),) for sentence in finding.evidence)
    if finding.links:
        items = (*items, (f"See {listed(finding.links)}",))
    return [paragraph(strong(finding.rule)), Bullets(items=items)] if items else []


def known_issues(told: Telling) -> str:
    """Issues that others reported, which versions have them, and whether they show here."""
    if not told.record.environment:
        return folded("Known issues", "Not looked up: the record holds no versions.")
    found = sorted_issues(told.record)
    kinds = (
        ("matches", found.matches),
        ("possible, not assessed", found.open),
        ("measured, does not show", found.absent),
        ("beware, nothing measures it", found.unseen),
    )
    rows = tuple(_issue(issue, kind) for kind, issues in kinds for issue in issues)
    if not rows:
        return folded("Known issues", "None of those that qwenprof knows concerns these versions.")
    table = Table(
        header=("Known issue", "Here", "Versions", "Fixed in", "Links"), align="lllll", rows=rows
    )
    matching = f", {len(found.matches)} of them here" if found.matches else ", none of them here"
    return folded(f"Known issues that concern these versions{matching}", rendered(table))


def _issue(issue: KnownIssue, kind: str) -> tuple[Inline, ...]:
    here: Inline = strong(kind) if kind == "matches" else kind
    return issue.title, here, _versions(issue), issue.fixed_in, _links(issue)


def _links(issue: KnownIssue) -> str:
    """As many of them as a cell holds whole."""
    said = issue.links[0]
    for link in issue.links[1:]:
        said = f"{said} {link}" if len(said) + len(link) < LONGEST_CELL else said
    return said


def _versions(issue: KnownIssue) -> str:
    """The conditions of an issue; of each set, all have to hold."""
    return "; or ".join(
        ", ".join(
            f"{key.replace('_', ' ')} {_condition(value)}"
            for key, value in each.conditions().items()
        )
        for each in issue.affected
    )


def _condition(value: object) -> str:
    if isinstance(value, tuple):
        return " or ".join(str(each) for each in value)
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def open_ends(told: Telling) -> str:
    """What disturbed the run, and what was not measured or not assessed."""
    lines = caveats(told.record)
    disturbed: list[tuple[Inline, ...]] = [
        (_short(line),) for line in lines if line.startswith(DISTURBED)
    ]
    missing: list[tuple[Inline, ...]] = [
        (_short(line),) for line in lines if not line.startswith(DISTURBED)
    ]
    missing += [
        (code(name), f": {result.status.replace('_', ' ')}", f": {_short(result.reason or '')}")
        for name, result in told.record.stages.items()
        if result.status != "ok"
    ]
    kinds: dict[str, list[tuple[Inline, ...]]] = {
        "disturbed": disturbed,
        "not measured": missing,
        "not assessed": [
            (strong("Not assessed:"), f" {each.title} ", _short(" ".join(each.evidence)))
            for each in told.findings
            if each.verdict == "not assessed"
        ],
    }
    items = [item for each in kinds.values() for item in each]
    if not items:
        return rendered(paragraph("Nothing disturbed the run, and every question has an answer."))
    counted = "; ".join(f"{kind}: {len(each)}" for kind, each in kinds.items() if each)
    title = counted[0].upper() + counted[1:]
    return folded(title, rendered(Bullets(items=tuple(items[:MOST_ROWS]))))


def method(told: Telling) -> str:
    """How it was measured, in three sentences; of published figures, whose they are."""
    if is_published(told.record):
        source, note = (
            _short(str(told.record.workload.get(key) or "")) for key in ("source", "note")
        )
        return rendered(paragraph(strong("Where the figures are from."), f" {source}. {note}"))
    return rendered(paragraph(strong("How it was measured."), " ", METHOD))


def _short(text: object) -> str:
    return clean(str(text), LONGEST_ANSWER)


def _shown(block: Block) -> Block:
    """The block for a ticket: a table is not folded within a fold, and not endless."""
    if not isinstance(block, Table):
        return block
    more = len(block.rows) - MOST_ROWS
    caption = ". ".join(
        part.rstrip(".") for part in (block.folded or "", block.caption) if part.strip()
    )
    caption = f"{caption}." if caption else ""
    if more > 0:
        caption = f"{caption} {plural(more, 'more row')} in the attachments.".strip()
    return replace(block, rows=block.rows[:MOST_ROWS], folded=None, caption=caption)


def _is_dump(block: Block) -> bool:
    """Whether a block is the list of every module, or repeats a finding or what was published."""
    if isinstance(block, Paragraph):
        return block.spans[:1] == (strong(LEAD),)
    if not isinstance(block, Table):
        return False
    is_published_table = block.rows and all(
        any(isinstance(cell, Styled) and cell.style == "published" for cell in row)
        for row in block.rows
    )
    return block.header[:1] == ("Path",) or bool(is_published_table)
