"""A record as files: the findings, the sections, the pictures, then the pages that show them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from qwenprof.diagnosis.finding import diagnose
from qwenprof.errors import UsageError
from qwenprof.record.published import SAMPLES
from qwenprof.record.record import Record, write_atomically
from qwenprof.report import markdown
from qwenprof.report.reading import footer
from qwenprof.report.redact import redacted, redacted_and_counted, removed
from qwenprof.report.section import Block, Figure, Section, sections
from qwenprof.report.telling import AS_ASKED, Telling, telling

Pieces = list[tuple[Section, list[Block]]]
MARKDOWN, HTML, TICKET = "md", "html", "ticket"
ATTACHED = (MARKDOWN, HTML)  # what a ticket brings with it
PAGE, HTML_PAGE = "report.md", "report.html"
TRANSFORMERS = "transformers"


@dataclass(frozen=True, kw_only=True)
class Report:
    """What every format is made of.

    target: the project whose template a ticket follows.
    """

    told: Telling
    pieces: Pieces
    pictures: dict[str, bytes]
    target: str


def write_report(
    record: Record,
    out: Path | str,
    formats: Sequence[str] = ("md",),
    *,
    against: Record | None = None,
    samples: int = SAMPLES,
    target: str = TRANSFORMERS,
    redact: bool = True,
) -> list[Path]:
    """Diagnose a record and write the report of it.

    Args:
        record: what was measured; any part of it may be missing.
        out: the folder for the report and its pictures; made if it is not there.
        formats: names of FORMATS.
        against: the record whose figures stand beside; by default the published case, where it is
            comparable, and the record itself for none.
        samples: of the dataset that times are projected to.
        target: the project that a ticket is for, a name of ticket.TARGETS.
        redact: whether what tells who measured, and where, is taken out.

    Returns:
        The files that were written, the pictures first. A file of the same name is replaced in
        one step, so that a reader never meets half a report.

    Raises:
        UsageError: an unknown format or target, or a folder that cannot be written to.
    """
    _check(formats, target)
    told = _told(record, against, samples, redact=redact)
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        report = _drawn(told, target)
        wanted = {*formats, *(ATTACHED if TICKET in formats else ())}
        written = _pictures(report, folder) if MARKDOWN in wanted else []
        for name, write in FORMATS.items():
            written += write(report, folder) if name in wanted else []
        return written
    except OSError as error:
        raise UsageError(
            f"cannot write the report to {folder}: {error.strerror or error}; "
            "give a folder that can be written to"
        ) from error


def composed(told: Telling) -> Pieces:
    """Every section that has something to say about a record, with its blocks."""
    pieces = [(section, section.compose(told)) for section in sections().values()]
    return [(section, blocks) for section, blocks in pieces if blocks]


def figures(pieces: Pieces) -> list[Figure]:
    """The pictures of a report, in order."""
    return [block for _, blocks in pieces for block in blocks if isinstance(block, Figure)]


def title(record: Record) -> str:
    """What the report is about, in one line."""
    summary = record.workload.get("summary")
    return f"qwenprof report: {summary}" if summary else "qwenprof report"


def _check(formats: Sequence[str], target: str) -> None:
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise UsageError(f"--format {','.join(unknown)}: choose from {', '.join(FORMATS)}")
    if TICKET not in formats:
        return
    from qwenprof.report.ticket import TARGETS

    if target not in TARGETS:
        raise UsageError(f"--for {target}: choose from {', '.join(TARGETS)}")


def _told(record: Record, against: Record | None, samples: int, *, redact: bool) -> Telling:
    """The record and the one beside it; it stands beside nothing where both are the same."""
    alone, taken_out = against is record, AS_ASKED
    if redact:
        record, counts = redacted_and_counted(record)
        against, taken_out = against and redacted(against), removed(counts)
    other = record if alone else against
    told = telling(record, diagnose(record), against=other, samples=samples)
    return replace(told, taken_out=taken_out)


def _drawn(told: Telling, target: str) -> Report:
    from qwenprof.report.plots import png

    pieces = composed(told)
    pictures = {figure.stem: png(figure.draw) for figure in figures(pieces)}
    return Report(told=told, pieces=pieces, pictures=pictures, target=target)


def _pictures(report: Report, folder: Path) -> list[Path]:
    paths = []
    for stem, content in report.pictures.items():
        paths.append(folder / f"{stem}.png")
        write_atomically(paths[-1], content)
    return paths


def _markdown(report: Report, folder: Path) -> list[Path]:
    return [_page(folder / PAGE, markdown.render(title(report.told.record), report.pieces))]


def _html(report: Report, folder: Path) -> list[Path]:
    from qwenprof.report import html

    record = report.told.record
    page = html.render(
        title(record), report.pieces, report.pictures, subtitle=footer(record), footer=_made(record)
    )
    return [_page(folder / HTML_PAGE, page)]


def _ticket(report: Report, folder: Path) -> list[Path]:
    """The ticket; what is attached to it was written before."""
    from qwenprof.report.ticket import write_ticket

    names = [*(f"{stem}.png" for stem in report.pictures), PAGE, HTML_PAGE]
    attached = [folder / name for name in names]
    return write_ticket(report.told, folder, report.target, attached)


def _made(record: Record) -> str:
    return f"Made by {record.tool.name} {record.tool.version} from a record of {record.created}."


def _page(path: Path, text: str) -> Path:
    write_atomically(path, text.encode())
    return path


FORMATS: dict[str, Callable[[Report, Path], list[Path]]] = {
    MARKDOWN: _markdown,
    HTML: _html,
    TICKET: _ticket,
}
