"""Is it the patch embedding's convolution? Conv3d against the linear layer that equals it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

from qwenprof.diagnosis.bounds import number
from qwenprof.formatting import (
    NOT_MEASURED,
    count,
    listed,
    seconds,
    significant,
    times_with_interval,
)
from qwenprof.harness.statistics import Fit, fit_line
from qwenprof.record.published import is_published
from qwenprof.record.record import Record, Row
from qwenprof.report.beside import beside
from qwenprof.report.exclusion import excluded
from qwenprof.report.reading import (
    AS_PUBLISHED,
    INTERVALS,
    device_name,
    interval,
    is_measured,
    measured,
    median_s,
    n_cell,
    no_interval,
    outcome,
    reasons,
    text,
    time_and_n,
    time_cell,
)
from qwenprof.report.section import (
    Block,
    Bullets,
    Figure,
    Inline,
    Section,
    Table,
    paragraph,
    strong,
)
from qwenprof.report.sections._every_variant import every_variant
from qwenprof.report.sections._patch_bars import bars, has_one_size
from qwenprof.report.sections._patch_plot import figure, gap
from qwenprof.report.telling import Other, Telling

STAGE = "compare-patch-embed"
CONV, LINEAR = "Conv3d", "Linear"
NOT_RECORDED = "not recorded"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Both variants on the same patches, in one dtype and direction."""

    conv: Row
    linear: Row

    @property
    def dtype(self) -> str:
        return text(self.conv.get("dtype"))

    @property
    def patches(self) -> float:
        return number(self.conv.get("patches")) or 0.0

    @property
    def is_measured(self) -> bool:
        return is_measured(self.conv) and is_measured(self.linear)

    @property
    def speedup(self) -> float:
        return median_s(self.conv) / median_s(self.linear)

    @property
    def interval(self) -> tuple[float, float] | None:
        return interval(self.linear, "speedup_low", "speedup_high")


def compose(told: Telling) -> list[Block]:
    record = told.record
    blocks, rows = outcome(record, STAGE), record.rows(STAGE, "variants")
    if not rows:
        return blocks
    plain = [row for row in rows if _is_plain(row)]
    pairs = _pairs(plain)
    blocks += [paragraph(*_conclusion(record, pairs)), _table(record, pairs, told.against)]
    if measured(plain):
        blocks.append(_figure(record, plain, _decisive(record, pairs), told.against))
        blocks += _slopes(plain, told.against)
    blocks.append(_errors(pairs, told.against))
    most = max((number(row.get("patches")) or 0.0 for row in rows), default=0.0)
    blocks += every_variant(told, text(record.workload.get("dtype")), most)
    why = reasons(rows, "{variant}, {direction}, {dtype}, {patches} patches")
    blocks += [paragraph(strong("Not measured:")), Bullets(items=tuple(why))] if why else []
    return blocks + excluded(told.findings, STAGE)


def _plain(other: Other | None) -> list[Row]:
    """The other record's rows of the plain comparison."""
    return [row for row in other.rows(STAGE, "variants") if _is_plain(row)] if other else []


def _is_plain(row: Row) -> bool:
    """Whether the row is one of the plain comparison: Conv3d or Linear, forward."""
    return row.get("variant") in (CONV, LINEAR) and row.get("direction") in (None, "forward")


def _pairs(rows: Sequence[Row]) -> list[Pair]:
    found: dict[tuple[object, ...], dict[str, Row]] = {}
    for row in rows:
        key = (row.get("dtype"), row.get("direction"), row.get("patches"))
        found.setdefault(key, {})[text(row.get("variant"))] = row
    pairs = [Pair(conv=p[CONV], linear=p[LINEAR]) for p in found.values() if len(p) == 2]
    dtypes = list(dict.fromkeys(pair.dtype for pair in pairs))
    return sorted(pairs, key=lambda pair: (dtypes.index(pair.dtype), pair.patches))


def _conclusion(record: Record, pairs: Sequence[Pair]) -> list[Inline]:
    pair = _decisive(record, pairs)
    if pair is None:
        return [
            f"Conv3d and Linear were not both measured in {record.workload.get('dtype')}, the "
            "workload's dtype."
        ]
    spans: list[Inline] = [
        f"At {count(pair.patches)} patches in {pair.dtype} on {device_name(record)}, Conv3d "
        f"({_on(pair.conv)}) takes {time_and_n(pair.conv)} and the equal Linear "
        f"{time_and_n(pair.linear)}. ",
        *_claim(pair),
    ]
    ordered = sorted(pairs, key=lambda each: each.patches)
    others = {p.dtype: p for p in ordered if p.is_measured and p.dtype != pair.dtype}
    beside = [
        f"{times_with_interval(p.speedup, p.interval)} in {p.dtype} ({_on(p.conv)}, "
        f"{count(p.patches)} patches)"
        for p in others.values()
    ]
    return [*spans, f" In other dtypes: {listed(beside)}." if beside else ""]


def _on(conv: Row) -> str:
    return f"backend {NOT_RECORDED}" if conv.get("backend") is None else _backend(conv)


def _backend(conv: Row) -> str:
    """A backend is read from the dispatcher, so it is recorded or not, and never measured."""
    backend = conv.get("backend")
    return NOT_RECORDED if backend is None else str(backend)


def _decisive(record: Record, pairs: Sequence[Pair]) -> Pair | None:
    """The largest patch count at which both were measured in the workload's dtype."""
    own = (p for p in pairs if p.is_measured and p.dtype == record.workload.get("dtype"))
    return max(own, key=lambda pair: pair.patches, default=None)


def _claim(pair: Pair) -> list[Inline]:
    """What the speed-up allows to be said; nothing where its interval includes 1."""
    said = times_with_interval(pair.speedup, pair.interval)
    if pair.interval is None:
        return [
            "Linear comes out ",
            strong(said),
            f" as fast, with {no_interval(pair.conv, pair.linear)}.",
        ]
    if pair.interval[0] > 1:
        return ["Linear is ", strong(said), " as fast."]
    if pair.interval[1] < 1:
        return ["Linear is ", strong(said), " as fast: the convolution is the faster of the two."]
    return [f"The ratio is {said}, which includes 1, so no difference is claimed."]


def _table(record: Record, pairs: Sequence[Pair], other: Other | None) -> Table:
    theirs = {_key(pair): pair for pair in _pairs(_plain(other)) if pair.is_measured}
    return beside(
        _own_table(record, pairs),
        [_key(pair) for pair in pairs],
        other,
        {
            "Conv3d": _told(theirs, lambda pair: time_and_n(pair.conv)),
            "Linear": _told(theirs, lambda pair: time_and_n(pair.linear)),
            "speed-up, computed": _told(theirs, _speedup),
        },
        {key: (pair.dtype, count(pair.patches)) for key, pair in theirs.items()},
    )


def _key(pair: Pair) -> Hashable:
    return pair.dtype, pair.patches


def _told(
    pairs: Mapping[Hashable, Pair], tell: Callable[[Pair], str | None]
) -> dict[Hashable, str | None]:
    return {key: tell(pair) for key, pair in pairs.items()}


def _own_table(record: Record, pairs: Sequence[Pair]) -> Table:
    return Table(
        header=("dtype", "Patches", "Backend", "Conv3d", "n", "Linear", "n", "Speed-up"),
        align="lrlrrrrr",
        rows=tuple(
            (
                pair.dtype,
                count(pair.patches),
                _backend(pair.conv),
                time_cell(pair.conv),
                n_cell(pair.conv),
                time_cell(pair.linear),
                n_cell(pair.linear),
                _speedup(pair),
            )
            for pair in pairs
        ),
        caption=f"Forward of the patch projection on {device_name(record)}{_how(record)} Speed-up "
        "is Conv3d over Linear.",
    )


def _how(record: Record) -> str:
    if is_published(record):
        return f". {AS_PUBLISHED}"
    return f", both variants timed in turn with the same weights and patches. {INTERVALS}"


def _speedup(pair: Pair) -> str:
    return times_with_interval(pair.speedup, pair.interval) if pair.is_measured else NOT_MEASURED


def _slopes(rows: Sequence[Row], other: Other | None) -> list[Block]:
    """What one more patch costs: the slope of a line through the patch counts."""
    if has_one_size(rows):
        return [paragraph("At one number of patches nobody can tell what one more patch costs.")]
    groups = _groups(rows)
    fits = {key: _fit(own) for key, own in _groups(_plain(other)).items()}
    figures = {key: _signed(fit.slope) for key, fit in fits.items() if fit is not None}
    return [beside(_own_slopes(groups), list(groups), other, {"cost of a patch": figures})]


def _groups(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """What was measured, by dtype and variant."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in measured(rows):
        groups.setdefault((text(row.get("dtype")), text(row.get("variant"))), []).append(row)
    return groups


def _own_slopes(groups: Mapping[tuple[str, str], Sequence[Row]]) -> Table:
    return Table(
        header=("dtype", "Variant", "Cost of a patch", "Fixed cost", "R2", "Patch counts"),
        align="llrrrr",
        rows=tuple(
            (dtype, variant, *_slope_cells(_fit(own)), count(len(own)))
            for (dtype, variant), own in groups.items()
        ),
        caption="A line fitted through the medians, each weighted by its inverse, so that a "
        "relative error counts the same at every size.",
    )


def _fit(rows: Sequence[Row]) -> Fit | None:
    return fit_line(
        [number(row.get("patches")) or 0.0 for row in rows], [median_s(row) for row in rows]
    )


def _slope_cells(fit: Fit | None) -> tuple[str, str, str]:
    if fit is None:
        return NOT_MEASURED, NOT_MEASURED, "-"
    return _signed(fit.slope), _signed(fit.intercept), f"{fit.r_squared:.3f}"


def _signed(value_s: float) -> str:
    return f"-{seconds(-value_s)}" if value_s < 0 else seconds(value_s)


def _errors(pairs: Sequence[Pair], other: Other | None) -> Table:
    """The largest patch count of each dtype: do both compute the same?"""
    largest, theirs = _largest(pairs), _largest(_pairs(_plain(other)))
    columns = {
        "Conv3d from fp64": {key: _error(p.conv, "max_abs_error") for key, p in theirs.items()},
        "from each other": {
            key: _error(p.linear, "max_abs_difference") for key, p in theirs.items()
        },
    }
    return beside(_own_errors(largest), list(largest), other, columns)


def _largest(pairs: Sequence[Pair]) -> dict[str, Pair]:
    """By dtype, on the most patches."""
    return {p.dtype: p for p in sorted(pairs, key=lambda each: each.patches) if p.is_measured}


def _error(row: Row, column: str) -> str | None:
    value = number(row.get(column))
    return None if value is None else significant(value)


def _own_errors(largest: Mapping[str, Pair]) -> Table:
    return Table(
        header=(
            "dtype",
            "Patches",
            "Conv3d from fp64",
            "Linear from fp64",
            "From each other",
            "Cosine of Conv3d and fp64",
        ),
        align="lrrrrr",
        rows=tuple(
            (
                dtype,
                count(pair.patches),
                significant(number(pair.conv.get("max_abs_error"))),
                significant(number(pair.linear.get("max_abs_error"))),
                significant(number(pair.linear.get("max_abs_difference"))),
                _cosine(number(pair.conv.get("cosine"))),
            )
            for dtype, pair in largest.items()
        ),
        caption="Largest absolute difference of any output element from the same map in fp64, and "
        "of the two variants from each other.",
    )


def _cosine(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:.8f}"


def _figure(
    record: Record, rows: Sequence[Row], decisive: Pair | None, other: Other | None
) -> Figure:
    if has_one_size(rows):
        return bars(record, rows, _plain(other), other)
    marked = None if decisive is None else gap(decisive.conv, decisive.linear)
    return figure(record, rows, marked, _plain(other), other)


SECTION = Section(
    name="compare-patch-embed", order=80, title="Is it the patch embedding?", compose=compose
)
