"""A record as files: the findings, the sections, the pictures, then the page that shows them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from qwenprof.diagnosis.finding import diagnose
from qwenprof.errors import UsageError
from qwenprof.record.record import Record, write_atomically
from qwenprof.report import markdown
from qwenprof.report.section import Block, Figure, Section, sections
from qwenprof.report.telling import Telling, telling

Pieces = list[tuple[Section, list[Block]]]


def write_report(record: Record, out: Path | str, formats: Sequence[str] = ("md",)) -> list[Path]:
    """Diagnose a record and write the report of it.

    Args:
        record: what was measured; any part of it may be missing.
        out: the folder for the report and its pictures; made if it is not there.
        formats: names of FORMATS.

    Returns:
        The files that were written, the pictures first. A file of the same name is replaced in
        one step, so that a reader never meets half a report.

    Raises:
        UsageError: an unknown format, or a folder that cannot be written to.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise UsageError(f"--format {','.join(unknown)}: choose from {', '.join(FORMATS)}")
    folder = Path(out)
    pieces = composed(telling(record, diagnose(record)))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pictures = [_picture(figure, folder) for figure in figures(pieces)]
        return pictures + [FORMATS[name](record, pieces, folder) for name in dict.fromkeys(formats)]
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


def _picture(figure: Figure, folder: Path) -> Path:
    from qwenprof.report.plots import png

    path = folder / f"{figure.stem}.png"
    write_atomically(path, png(figure.draw))
    return path


def _markdown(record: Record, pieces: Pieces, folder: Path) -> Path:
    path = folder / "report.md"
    write_atomically(path, markdown.render(title(record), pieces).encode())
    return path


FORMATS: dict[str, Callable[[Record, Pieces, Path], Path]] = {"md": _markdown}
