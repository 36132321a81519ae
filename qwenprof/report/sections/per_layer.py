"""Which component is it? Every part of the forward, against what its work should cost."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from qwenprof.diagnosis.bounds import number
from qwenprof.diagnosis.components import Anatomy, Component, anatomy, first_block
from qwenprof.diagnosis.finding import Finding
from qwenprof.formatting import (
    NOT_MEASURED,
    count,
    listed,
    percent,
    seconds,
    times,
    times_with_interval,
)
from qwenprof.record.published import is_published
from qwenprof.record.record import Record, Row
from qwenprof.report.beside import Cells
from qwenprof.report.exclusion import excluded
from qwenprof.report.reading import (
    outcome,
    ratio,
    series_values,
    setting,
    text,
)
from qwenprof.report.section import (
    Block,
    Inline,
    Paragraph,
    Section,
    Table,
    code,
    paragraph,
    strong,
)
from qwenprof.report.sections._bounds import UNCOUNTED, pictures, rates
from qwenprof.report.sections._parts_beside import (
    FIRST,
    OTHERS,
    WHOLE,
    Stated,
    Theirs,
    block_beside,
    others_s,
    parts_beside,
    role,
    stated_of,
    theirs_of,
    with_stated,
)
from qwenprof.report.sections._parts_plot import figure
from qwenprof.report.telling import Telling

STAGE = "per-layer"
NOTABLE = 0.10  # of the forward: a part with less to lose is no culprit


def compose(told: Telling) -> list[Block]:
    record, findings = told.record, told.findings
    blocks, rows = outcome(record, STAGE), record.rows(STAGE, "modules")
    if not rows:
        return blocks
    whole, theirs = _anatomy(record), theirs_of(told.against)
    if whole is None:
        blocks.append(
            paragraph("The forward as a whole was not timed, so its parts have no shares.")
        )
        return [*blocks, *excluded(findings, STAGE)]
    culprit = _culprit(whole, findings)
    blocks += [_conclusion(record, whole, culprit, findings), *_doubt(whole)]
    blocks.append(_table(record, whole, culprit, theirs))
    blocks.append(figure(record, whole, culprit, _n(record), theirs))
    blocks += [*pictures(record, whole, culprit, _n(record)), *_zoom(rows, whole, theirs)]
    blocks += [paragraph("All timed modules and functions are in Appendix A."), *_checks(record)]
    return blocks + excluded(findings, STAGE)


def _anatomy(record: Record) -> Anatomy | None:
    """The forward taken apart; a publication's own totals go before the sum of its rounded rows."""
    whole = anatomy(record.rows(STAGE, "modules"))
    return whole and with_stated(whole, _stated(record))


def _stated(record: Record) -> Stated:
    return stated_of(record) if is_published(record) else {}


def _culprit(whole: Anatomy, findings: Sequence[Finding]) -> Component | None:
    """The part that a finding accuses, where it takes a notable share; nobody else."""
    accused = [f.culprit for f in findings if f.verdict == "problem" and f.culprit]
    parts = [whole.holding(path) or whole.holding(f"{whole.tower}.{path}") for path in accused]
    notable = (part for part in parts if part is not None and (part.share or 0.0) >= NOTABLE)
    return next(notable, None)


def _conclusion(
    record: Record, whole: Anatomy, culprit: Component | None, findings: Sequence[Finding]
) -> Paragraph:
    longest = max(whole.components, key=lambda part: part.time_s)
    part = culprit or longest
    others_s = max(0.0, whole.total_s - part.time_s)
    spans: list[Inline] = [
        code(part.label),
        f" takes {seconds(part.time_s)} of the {seconds(whole.total_s)} forward "
        f"({percent(part.share)}, {_n(record)}), {_beside_bound(part)}. "
        f"Everything else together takes {seconds(others_s)}.",
    ]
    if culprit is None:
        spans += [
            f" {finding.title}." if finding.verdict == "clear" else f" {finding.evidence[0]}"
            for finding in findings
            if finding.rule == "culprit" and finding.evidence
        ][:1]
    if longest is not part:
        spans += [" The longest part is ", code(longest.label)]
        spans.append(f" with {seconds(longest.time_s)} ({percent(longest.share)}).")
    return paragraph(*spans)


def _beside_bound(part: Component) -> str:
    if part.slowdown is None:
        return "and what it should take is not known"
    return (
        f"{times(part.slowdown)} the {seconds(part.bound_s)} that its work should take at least "
        "on this machine"
    )


def _doubt(whole: Anatomy) -> list[Block]:
    """Bounds that were beaten: the rates that they are made of were too low."""
    beaten = [part for part in whole.components if part.slowdown is not None and part.slowdown < 1]
    share = sum(part.share or 0.0 for part in beaten)
    if share < 0.01:
        return []
    return [
        paragraph(
            strong("Bounds to be doubted:"),
            f" parts that make up {percent(share)} of the forward ran faster than their bound, so "
            "the rates of the device section are lower than what the machine can do. Slowdowns "
            "compare parts with each other; they are no absolute figures in this run.",
        )
    ]


def _table(
    record: Record, whole: Anatomy, culprit: Component | None, theirs: Theirs | None
) -> Table:
    stated = _stated(record)
    rows = [row for part in whole.components for row in _part_rows(part, part is culprit, stated)]
    total: Cells = (WHOLE, "", seconds(whole.total_s), "100 %", "", "")
    table = Table(
        header=("Part", "Type", "Time", "Share", "Bound", "Slowdown"),
        align="llrrrr",
        rows=(*(cells for _, cells in rows), total),
        caption=f"Parts of one forward in the order in which it reaches them, {setting(record)}, "
        f"{_n(record)}. {_where(whole)}Parts do not overlap and add up to the forward. Bound is "
        f"the least time that the work can take at {rates(record)}. Every part is held to the GEMM "
        f"rate of the workload's dtype. Slowdown is the time over the bound. {UNCOUNTED}",
    )
    return parts_beside(table, [*(key for key, _ in rows), WHOLE], theirs)


def _where(whole: Anatomy) -> str:
    return f"The vision tower is at {whole.tower}. " if whole.tower else ""


def _part_rows(part: Component, is_culprit: bool, stated: Stated) -> list[tuple[Hashable, Cells]]:
    """What each row is about, and its cells."""
    cells = (
        seconds(part.time_s),
        percent(part.share),
        _bound(part.bound_s),
        _slowdown(part.slowdown),
    )
    label: Inline = code(part.label) if part.paths else part.label
    first: Cells = (label, part.module_type or "own code", *cells)
    if is_culprit:
        first = (strong(part.label), part.module_type, *(strong(cell) for cell in cells))
    name = role(part.label)
    if part.first_s is None:
        return [(name, first)]
    others = f"· each of the other {part.count - 1}, mean"
    return [
        (name, first),
        ((name, FIRST), ("· the first", "", seconds(part.first_s), "", "", "")),
        ((name, OTHERS), (others, "", seconds(others_s(part, stated)), "", "", "")),
    ]


def _bound(bound_s: float | None) -> str:
    return "not known" if bound_s is None else seconds(bound_s)


def _slowdown(ratio_to_bound: float | None) -> str:
    return "not known" if ratio_to_bound is None else times(ratio_to_bound)


def _zoom(rows: Sequence[Row], whole: Anatomy, theirs: Theirs | None) -> list[Block]:
    """The first of the blocks that take the longest, from inside."""
    repeated = [part for part in whole.components if part.count > 1 and first_block(rows, part)]
    if not repeated:
        return []
    part = max(repeated, key=lambda each: each.time_s)
    inner = first_block(rows, part)
    table = Table(
        header=(f"Inside {part.paths[0]}", "Type", "Time", "Share of the block", "Slowdown"),
        align="llrrr",
        rows=tuple(
            (
                code(str(row.get("path")).rpartition(".")[2]),
                text(row.get("module_type")),
                seconds(number(row.get("inclusive_s"))),
                _share_of(row, part.first_s),
                _slowdown(number(row.get("slowdown"))),
            )
            for row in inner
        ),
        caption=_apart_told(inner),
    )
    return [block_beside(table, inner, part, theirs)]


def _is_apart(row: Row) -> bool:
    """Whether it was timed by itself, so that its time is no part of the block's."""
    return str(row.get("note") or "").startswith("timed apart")


def _apart_told(inner: Sequence[Row]) -> str:
    """Each note on parts that were timed apart, with the parts that it is on."""
    names: dict[str, list[str]] = {}
    for row in inner:
        if _is_apart(row):
            names.setdefault(str(row["note"]), []).append(str(row.get("path")).rpartition(".")[2])
    return " ".join(f"{listed(each)}: {note}." for note, each in names.items())


def _share_of(row: Row, whole_s: float | None) -> str:
    if _is_apart(row):
        return ""
    time_s = number(row.get("inclusive_s"))
    return percent(time_s / whole_s) if time_s is not None and whole_s else NOT_MEASURED


def _n(record: Record) -> str:
    rows = record.rows(STAGE, "summary")
    n = number(rows[0].get("n")) if rows else None
    if n is None:
        return "n not stated" if is_published(record) else "n not recorded"
    return f"n = {count(n)}"


def _checks(record: Record) -> list[Block]:
    """What the probe says of itself: do the parts add up, and what do its marks cost?"""
    rows = record.rows(STAGE, "summary")
    if not rows:
        return []
    total_s, parts_s = (number(rows[0].get(key)) for key in ("total_s", "exclusive_sum_s"))
    sentences = []
    if total_s and parts_s is not None:
        sentences.append(
            f"Exclusive times add up to {seconds(parts_s)} of the {seconds(total_s)} forward, "
            f"{percent(abs(1 - parts_s / total_s))} off."
        )
    sentences.append(overhead(record))
    return [paragraph(strong("Checks of the probe."), " ", " ".join(filter(None, sentences)))]


def overhead(record: Record) -> str:
    """What timing from inside costs, as a sentence; "" where it was not measured."""
    rows = record.rows(STAGE, "summary")
    with_s, plain_s = (
        number(rows[0].get(key)) if rows else None for key in ("with_marks_s", "plain_s")
    )
    if not with_s or not plain_s:
        return ""
    samples = [series_values(record, STAGE, f"forward, {name}") for name in ("with marks", "plain")]
    found = ratio(*samples)
    change = found.ci if found else None
    counts = listed([f"n = {len(each)}" for each in samples if each])
    noise = (
        " The interval includes no cost at all."
        if change and change[0] <= 1 <= change[1]
        else " Too few samples for an interval."
        if not change
        else ""
    )
    return (
        f"The forward takes {seconds(with_s)} with the marks that time its parts and "
        f"{seconds(plain_s)} without ({counts}): "
        f"{times_with_interval(with_s / plain_s, change)}.{noise}"
    )


SECTION = Section(name="per-layer", order=70, title="Which component is it?", compose=compose)
