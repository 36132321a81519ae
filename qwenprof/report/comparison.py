"""A comparison as blocks of a report, as one markdown document, and as rows for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from qwenprof.diagnosis.change import Change, Judgement, Measured
from qwenprof.diagnosis.comparing import CHANGED, Comparison, Run, by_size
from qwenprof.errors import UsageError
from qwenprof.formatting import (
    NOT_MEASURED,
    clean,
    count,
    seconds,
    seconds_with_interval,
    shortened,
    significant,
    size,
    times,
    times_with_interval,
)
from qwenprof.record.record import write_atomically
from qwenprof.report import comparison_chart, markdown
from qwenprof.report.section import (
    Block,
    Bullets,
    Figure,
    Inline,
    Table,
    code,
    paragraph,
    published,
    strong,
)

LONGEST_NAME = 36  # with the other columns and two spaces between them, 80
HEADER = ("case", "BASE", "NEW", "NEW / BASE", "judgement")
HOW = (
    "Medians with their 95 % confidence interval, which fewer than six samples do not have. A case "
    "is FASTER or SLOWER where the whole 95 % bootstrap interval of the ratio of medians lies "
    "beyond its noise, SAME where it lies within the least change that counts or the samples' own "
    "spread and not wholly beyond the former, else INCONCLUSIVE. Noise is the largest of the "
    "least change that counts, the spread of both runs' own samples (interquartile range, or the "
    "distance between the medians of a run's thirds), and what runs of the same thing differ by: "
    "100 % on a host's cores, where others share them, or what the host's own copies and matrix "
    "products changed by. Samples that spread by more than 25 % are never called the SAME, and a "
    "disturbed stage is never judged. Fewer than six samples are judged only where all of them are "
    "more than 2 x apart, a single one where it is more than 10 x. Seconds alone become FASTER or "
    "SLOWER; other units are DIFFERENT, and of bytes less is better. First calls are never judged."
)


@dataclass(frozen=True, kw_only=True)
class TerminalRow:
    """One line of a table of at most 80 columns. The texts are clean, but not escaped.

    reason: which of `reasons` leaves it INCONCLUSIVE, counted from one; None where it is judged.
    """

    name: str
    base: str
    new: str
    ratio: str
    judgement: Judgement
    reason: int | None


def reasons(rows: Iterable[Change]) -> dict[str, int]:
    """Why cases are INCONCLUSIVE, and how many of them for each, the most frequent first."""
    counted = Counter(row.why for row in rows if row.judgement == "INCONCLUSIVE")
    return dict(counted.most_common())


def table_rows(comparison: Comparison, *, first_calls: bool = False) -> list[TerminalRow]:
    """Every case in a few words, what changed first, then by how much."""
    rows = [row for row in comparison.rows if first_calls or not row.is_first_call]
    numbers = {why: number for number, why in enumerate(reasons(rows), start=1)}
    return [
        TerminalRow(
            name=comparison_chart.short_name(row, LONGEST_NAME),
            base=_short(row, row.base),
            new=_short(row, row.new),
            ratio="-" if row.ratio is None else times(row.ratio),
            judgement=row.judgement,
            reason=numbers[row.why] if row.judgement == "INCONCLUSIVE" else None,
        )
        for row in by_size(rows)
    ]


def table_notes(comparison: Comparison) -> list[str]:
    """What the numbers behind INCONCLUSIVE in `table_rows` mean: "2 too few samples: 7 series"."""
    known = reasons(row for row in comparison.rows if not row.is_first_call)
    return [
        f"{number} {why}: {count(cases)} series"
        for number, (why, cases) in enumerate(known.items(), start=1)
    ]


def comparison_blocks(comparison: Comparison) -> list[Block]:
    """What a report tells of a comparison, whatever the records hold."""
    blocks: list[Block] = [paragraph(strong(comparison.summary))]
    if comparison.refused:
        blocks.append(_bullets(comparison.refused))
    blocks.append(_runs(comparison))
    chart = comparison_chart.ratio_chart(comparison)
    if chart:
        blocks.append(_figure(comparison, chart))
    blocks += _changes(comparison)
    if comparison.lost:
        blocks.append(paragraph(strong("What went well in BASE and not in NEW:")))
        blocks.append(_bullets(comparison.lost))
    if comparison.notes:
        blocks.append(paragraph(strong("What to know before believing this:")))
        blocks.append(_bullets(comparison.notes))
    return [*blocks, paragraph(HOW)]


def render_comparison(comparison: Comparison) -> str:
    """The comparison as a markdown document; its picture is `comparison.png` beside it."""
    title = markdown.escaped(f"qwenprof compare: {_title(comparison)}")
    parts = [f"# {title}", *(markdown.render_block(b) for b in comparison_blocks(comparison))]
    return "\n\n".join(parts) + "\n"


def write_comparison(comparison: Comparison, out: Path | str) -> list[Path]:
    """Write the picture and `comparison.md` that shows it into a folder; it is made if missing.

    Raises:
        UsageError: the folder cannot be written to.
    """
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths = [
            _picture(block, folder)
            for block in comparison_blocks(comparison)
            if isinstance(block, Figure)
        ]
        text = folder / "comparison.md"
        write_atomically(text, render_comparison(comparison).encode())
        return [*paths, text]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"cannot write the comparison to {folder}: {reason}; "
            "give a folder that can be written to"
        ) from error


def _picture(figure: Figure, folder: Path) -> Path:
    from qwenprof.report.plots import png

    path = folder / f"{figure.stem}.png"
    write_atomically(path, png(figure.draw))
    return path


def _title(comparison: Comparison) -> str:
    base, new = comparison.base, comparison.new
    devices = base.device if base.device == new.device else f"{base.device} against {new.device}"
    return f"{devices}, {base.created[:10]} against {new.created[:10]}"


def _bullets(sentences: Sequence[str]) -> Bullets:
    return Bullets(items=tuple((sentence,) for sentence in sentences))


def _runs(comparison: Comparison) -> Table:
    """Both runs, fact by fact, and whether a difference was asked for."""
    base, new = comparison.base, comparison.new
    facts: list[tuple[str, Callable[[Run], str]]] = [
        ("created", lambda run: run.created),
        ("measured by", lambda run: "published, not measured" if run.published else run.tool),
        ("workload", lambda run: run.workload or NOT_MEASURED),
    ]
    rows: list[tuple[Inline, ...]] = [(what, read(base), read(new), "") for what, read in facts]
    told = {each.what for each in comparison.differences}
    same = {"device": (base.device, new.device)} | {
        name: (base.versions[name], new.versions[name])
        for name in base.versions
        if name in new.versions
    }
    rows += [(what, ours, theirs, "") for what, (ours, theirs) in same.items() if what not in told]
    rows += [
        (each.what, each.base, each.new, _standing(each.accepted, each.follows))
        for each in comparison.differences
    ]
    return Table(header=("", "BASE", "NEW", "differs"), rows=tuple(rows), align="llll")


def _standing(accepted: bool, follows: bool) -> Inline:
    if follows:
        return "follows from another"
    return "the point" if accepted else strong("forbids judging")


def _figure(comparison: Comparison, chart: comparison_chart.RatioChart) -> Figure:
    least = comparison_chart.in_percent(comparison.min_change)
    return Figure(
        stem="comparison",
        alt=f"Ratio of medians, NEW over BASE, of {len(chart.spots)} cases. {comparison.summary}",
        caption=(
            f"BASE: {comparison_chart.run_line(comparison.base)}. "
            f"NEW: {comparison_chart.run_line(comparison.new)}. "
            f"The line is no change, the band about it {least}, which is the least that counts, "
            "and the grey behind a case the noise that it was held against. "
            "At the right the ratio with its 95 % interval, and n of BASE and NEW."
        ),
        draw=comparison_chart.drawing(chart),
    )


def _changes(comparison: Comparison) -> list[Block]:
    """What changed, in sight; then the rest, and the first calls, folded away."""
    ordered = by_size(comparison.rows)
    first = [row for row in ordered if row.is_first_call]
    changed = [row for row in ordered if row.judgement in CHANGED]
    rest = [row for row in ordered if row.judgement not in CHANGED and not row.is_first_call]
    groups = (
        (changed, f"Cases that changed: {len(changed)}. The largest change first.", None),
        (rest, "", f"Cases that did not change, or of which it cannot be said: {len(rest)}"),
        (first, "", f"First calls, which are never judged: {len(first)}"),
    )
    return [_table(comparison, rows, *titles) for rows, *titles in groups if rows]


def _table(
    comparison: Comparison, rows: Sequence[Change], caption: str, folded: str | None
) -> Table:
    return Table(
        header=(*HEADER[:1], "BASE, n", "NEW, n", *HEADER[3:], "noise", "why"),
        rows=tuple(_row(comparison, row) for row in rows),
        align="lrrrlrl",
        caption=caption,
        folded=folded,
    )


def _row(comparison: Comparison, row: Change) -> tuple[Inline, ...]:
    noise = (
        "-" if row.noise is None else f"{comparison_chart.in_percent(row.noise)}: {row.noise_from}"
    )
    return (
        code(row.name),
        _told(row, row.base, comparison.base),
        _told(row, row.new, comparison.new),
        "-" if row.ratio is None else times_with_interval(row.ratio, row.interval),
        strong(row.judgement) if row.judgement in CHANGED else row.judgement,
        noise,
        row.why,
    )


def _told(row: Change, measured: Measured | None, run: Run) -> Inline:
    """A median with its interval and n; set apart where it was published."""
    if measured is None or measured.median is None:
        return "-"
    text = _value(row.unit, measured.median)
    if row.unit == "s":
        text = seconds_with_interval(measured.median, measured.ci)
    n = "not stated" if measured.n is None else count(measured.n)
    told = f"{text}, {n}"
    return published(told) if run.published else told


def _short(row: Change, measured: Measured | None) -> str:
    return "-" if measured is None else _value(row.unit, measured.median)


def _value(unit: str, value: float | None) -> str:
    if value is None:
        return "-"
    if unit == "s":
        return seconds(value)
    return size(value) if unit == "bytes" else shortened(f"{significant(value)} {clean(unit)}", 12)
