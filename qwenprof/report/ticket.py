"""A bug report that leaves no question open, in the form that the project's own template asks for.

GitHub cuts an issue at 65,536 characters. A browser sends each line break as two of them, and what
is no character of the basic plane counts as two as well: both are counted here. What does not fit
is left out in a stated order, the least important first, and the ticket says what that was.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from qwenprof.diagnosis.responsibility import MODEL, PYTORCH
from qwenprof.diagnosis.verdict import verdict
from qwenprof.errors import UsageError
from qwenprof.formatting import clean, listed, without_homes
from qwenprof.record.published import is_published
from qwenprof.record.record import Record, write_atomically
from qwenprof.report import attachments as archive
from qwenprof.report import repro
from qwenprof.report import ticket_parts as parts
from qwenprof.report.section import Inline, Paragraph, code, paragraph, strong
from qwenprof.report.telling import Telling
from qwenprof.report.ticket_answers import answers

NAME = "ticket.md"
LIMIT = 65_536
LONGEST_TITLE = 140
# the names of parts, in the order in which they are left out
LEAST_IMPORTANT_FIRST = (
    "attention-sweep",
    "breakdown",
    "matmul",
    "batch-sweep",
    "charts",
    "end-to-end",
    "per-layer",
    "findings",
    "verify",
    "compare-patch-embed",
    "open ends",
    "known issues",
    "dispatch",
    "environment",
    "script",
    "answers",
    "expected",
)
CALLED = {
    "charts": "the charts",
    "findings": "the evidence of every finding",
    "open ends": "what was not assessed",
    "known issues": "the known issues",
    "environment": "the environment",
    "script": "the script",
    "answers": "the short answers",
    "expected": "what is expected",
}
MEASURED = (
    "dispatch",
    "compare-patch-embed",
    "verify",
    "per-layer",
    "end-to-end",
    "matmul",
    "batch-sweep",
    "attention-sweep",
    "breakdown",
    "known issues",
    "findings",
    "open ends",
    "method",
    "attachments",
)
NOT_IN_VLLM = (
    "This was measured on the model of transformers, outside vLLM, which has layers of its own. "
    "What is said of PyTorch and of the device holds wherever the same convolution is called; "
    "whether this version of vLLM calls it was not looked at."
)


@dataclass(frozen=True, kw_only=True)
class Form:
    """What a project's template asks for.

    prefix: of the title.
    fields: its headings in order, each with the names of the parts under it.
    layer: which layer of the diagnosis the project is.
    """

    prefix: str
    fields: tuple[tuple[str, tuple[str, ...]], ...]
    layer: str


# Source: bug-report.yml of huggingface/transformers and pytorch/pytorch, 400-bug-report.yml of
# vllm-project/vllm, each in .github/ISSUE_TEMPLATE.
TARGETS: Mapping[str, Form] = {
    "transformers": Form(
        prefix="",
        fields=(
            ("System Info", ("environment",)),
            ("Who can help?", ("who",)),
            ("Information", ("information",)),
            ("Tasks", ("tasks",)),
            ("Reproduction", ("answers", "script", "charts", *MEASURED)),
            ("Expected behavior", ("expected",)),
        ),
        layer=MODEL,
    ),
    "pytorch": Form(
        prefix="",
        fields=(
            ("🐛 Describe the bug", ("answers", "script", "expected", "charts", *MEASURED)),
            ("Versions", ("environment",)),
        ),
        layer=PYTORCH,
    ),
    "vllm": Form(
        prefix="[Bug]: ",
        fields=(
            ("Your current environment", ("environment",)),
            (
                "🐛 Describe the bug",
                ("not in vllm", "answers", "script", "expected", "charts", *MEASURED),
            ),
            ("Before submitting a new issue...", ("searched",)),
        ),
        layer=MODEL,
    ),
}


def write_ticket(
    told: Telling, folder: Path, target: str, attachments: Sequence[Path]
) -> list[Path]:
    """Write ticket.md, attachments.zip and, where a convolution is to blame, repro.py.

    Args:
        told: the record as others may see it, and its findings.
        folder: is there already.
        target: a name of TARGETS.
        attachments: report.md, report.html and pictures that go into the archive.

    Returns:
        The files that were written, ticket.md last. Where no script is among them, a repro.py
        that an earlier ticket left in this folder is removed; one of somebody else's is kept.

    Raises:
        UsageError: an unknown target.
        OSError: a file cannot be read or written.
    """
    if target not in TARGETS:
        raise UsageError(f"--for {target}: choose one of {', '.join(TARGETS)}")
    found = repro.reproduction(told.record, told.findings)
    packed = archive.pack(
        told.record, attachments, (repro.NAME, found.script) if found.script else None
    )
    contents = {
        **({repro.NAME: found.script.encode()} if found.script else {}),
        archive.NAME: packed.content,
        NAME: ticket(told, target, found, packed).encode(),
    }
    if not found.script:
        repro.remove(folder)
    for name, content in contents.items():
        write_atomically(folder / name, content)
    return [folder / name for name in contents]


def ticket(
    told: Telling,
    target: str,
    found: repro.Reproduction,
    packed: archive.Packed,
    limit: int = LIMIT,
) -> str:
    """The text of the ticket, under `limit` characters as GitHub counts them."""
    form, told = TARGETS[target], replace(told, against=None)
    texts = _texts(told, form, found, packed)
    cut: list[str] = []
    page = _page(told, form, texts, cut)
    for name in LEAST_IMPORTANT_FIRST:
        if weight(page) < limit:
            break
        if texts.get(name):
            texts[name] = ""
            cut.append(name)
            page = _page(told, form, texts, cut)
    return page


def weight(text: str) -> int:
    """Characters as GitHub counts them at most: UTF-16 units, each line break as two."""
    return len(text.encode("utf-16-le")) // 2 + text.count("\n")


def _texts(
    told: Telling, form: Form, found: repro.Reproduction, packed: archive.Packed
) -> dict[str, str]:
    """Every part by name; "" where the record holds nothing for it."""
    written: dict[str, Callable[[], str]] = {
        "environment": lambda: parts.environment(told),
        "answers": lambda: parts.rendered(answers(told)),
        "script": lambda: parts.script(found),
        "expected": lambda: parts.expected(told, form.layer),
        "charts": lambda: parts.charts(told),
        "known issues": lambda: parts.known_issues(told),
        "findings": lambda: parts.findings(told),
        "open ends": lambda: parts.open_ends(told),
        "method": lambda: parts.method(told),
        "attachments": lambda: parts.rendered(_attached(packed)),
        **_boxes(told.record),
    }
    names = [name for _, under in form.fields for name in under]
    return {
        name: written[name]() if name in written else parts.section(told, name) for name in names
    }


def _boxes(record: Record) -> dict[str, Callable[[], str]]:
    """What is the same in every ticket but for a word, with the boxes that a template has."""
    own = "qwenprof on the model as transformers builds it"
    ran = "prefill of the whole model" if record.workload.get("scope") == "full" else "vision part"
    return {
        "who": lambda: (
            "Whoever keeps the vision models. This was written by a program, which tags nobody."
        ),
        "information": lambda: (
            "- [ ] Official example scripts\n- [x] Own scripts: "
            f"{'figures from a publication' if is_published(record) else own}"
        ),
        "tasks": lambda: (
            "- [ ] A task of the examples folder\n- [x] Own task: a forward of the "
            f"{ran}, as described above"
        ),
        "not in vllm": lambda: NOT_IN_VLLM,
        "searched": lambda: (
            "- [ ] Searched for the same issue: qwenprof looked up only those "
            "that it knows, which are listed above. Whoever files this has to look."
        ),
    }


def _attached(packed: archive.Packed) -> Paragraph:
    names: list[Inline] = []
    for name in packed.names:
        names += [", " if names else "", code(name)]
    dropped = ""
    if packed.dropped:
        dropped = f" Too large to go with them: {clean(listed(packed.dropped), 400)}."
    return paragraph(
        strong("Attachments."),
        " With this ticket goes ",
        code(archive.NAME),
        ": ",
        *names[: 2 * parts.MOST_ROWS],
        f".{dropped}",
    )


def _page(told: Telling, form: Form, texts: Mapping[str, str], cut: Sequence[str]) -> str:
    pieces = [_title(told, form), parts.verdict_lines(told), _left_out(cut)]
    for heading, names in form.fields:
        pieces += [f"### {heading}", *(texts[name] for name in names)]
    return "\n\n".join(piece for piece in pieces if piece) + "\n"


def _title(told: Telling, form: Form) -> str:
    """A title for the issue, in a comment that GitHub does not show."""
    headline = verdict(told.record, told.findings).headline
    provoked = " (provoked on purpose)" if told.record.workload.get("provoke") else ""
    published = " (published figures)" if is_published(told.record) else ""
    safe = re.sub(r"-{2,}|[<>]", "-", clean(without_homes(headline), LONGEST_TITLE))
    return f"<!-- Suggested title: {form.prefix}{safe}{provoked}{published} -->"


def _left_out(cut: Sequence[str]) -> str:
    if not cut:
        return ""
    names = listed([CALLED.get(name, f"the section {name}") for name in cut])
    said = f" To stay under the {LIMIT:,} characters of an issue: {names}. What was left out is in "
    return parts.rendered(paragraph(strong("Left out."), said, code(archive.NAME), "."))
