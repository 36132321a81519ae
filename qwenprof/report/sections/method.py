"""How it was measured, what the numbers mean, and what is not known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from qwenprof.diagnosis.finding import Finding
from qwenprof.formatting import count, plural, seconds
from qwenprof.harness import statistics
from qwenprof.record.record import Record, StageResult
from qwenprof.report.reading import footer, is_measured, on_gpu
from qwenprof.report.section import Block, Bullets, Inline, Section, Table, code, paragraph, strong
from qwenprof.report.sections._bounds import UNCOUNTED
from qwenprof.report.sections.per_layer import overhead
from qwenprof.report.sections.workload import RANDOM, weights
from qwenprof.report.telling import Telling

PROTOCOL = (
    "The first call of every case is timed apart and never enters a median.",
    "A case whose first call exceeds its share of the seconds is called once more at most. Such a "
    "slow case has n = 1 and no interval.",
    "Otherwise calls warm up until they agree, then samples are taken until the 95 % confidence "
    "interval of the median is within 0.5 % of it on either side, or the seconds are spent.",
    "n is the number of samples. A number is their median; brackets hold its distribution-free "
    "95 % confidence interval, which fewer than six samples cannot have. No sample is dropped: "
    "what looks wrong is flagged and kept.",
    "Ratios of two medians have a bootstrap interval. Where it includes 1, no difference is "
    "claimed.",
    "Peak memory is read in a call of its own that is not timed; for slow cases, which have no "
    "calls to spare, from the mark that the allocator or the kernel keeps anyway.",
)


def compose(told: Telling) -> list[Block]:
    record, findings = told.record, told.findings
    if record.workload.get("origin"):
        return _of_published(told)
    blocks: list[Block] = [Bullets(items=tuple((sentence,) for sentence in PROTOCOL))]
    blocks += [*_sampling(record), *_host_times(record)]
    cost = overhead(record)
    blocks.append(
        paragraph(
            strong("Perturbation."),
            " ",
            cost or "No part was timed from inside, so nothing was perturbed.",
            " Times of whole forwards in the other sections were taken without marks.",
        )
    )
    blocks += [
        paragraph(strong("What is not known:")),
        Bullets(items=tuple(_unknown(record, findings))),
    ]
    blocks.append(paragraph(_origin(told)))
    return blocks


def _of_published(told: Telling) -> list[Block]:
    """Figures that somebody published were not measured by this protocol."""
    facts = told.record.workload
    source = f" {facts.get('origin')}. Source: {facts.get('source')}. {facts.get('note') or ''}"
    return [
        paragraph(strong("Not a run of qwenprof:"), source),
        paragraph(strong("What is not known:")),
        Bullets(items=tuple(_unknown(told.record, told.findings))),
        paragraph(_origin(told)),
    ]


def _sampling(record: Record) -> list[Block]:
    rows = [row for name, result in record.stages.items() if (row := _sampled(name, result))]
    if not rows:
        return []
    return [
        Table(
            header=(
                "Stage",
                "Status",
                "Took",
                "Cases timed",
                "n, least to most",
                "Sampling stopped",
                "Flags",
            ),
            align="llrrrll",
            rows=tuple(rows),
            caption="How far the samples of each stage can be trusted.",
        )
    ]


def _sampled(name: str, result: StageResult) -> tuple[Inline, ...]:
    series = [
        each
        for key, each in result.series.items()
        if not key.endswith(("/first_call", "/host_enqueue", "/wall"))
    ]
    counts = [len(each.values) for each in series]
    stops = Counter(each.stop_reason for each in series)
    flags = Counter(flag.partition(":")[0] for each in series for flag in each.flags)
    return (
        code(name),
        result.status.replace("_", " "),
        seconds(result.duration_s),
        count(len(series)),
        f"{count(min(counts))} to {count(max(counts))}" if counts else "-",
        _tally(stops),
        _tally(flags),
    )


def _host_times(record: Record) -> list[Block]:
    """Device, host and wall time apart, for every case that was timed on an accelerator."""
    rows = [
        _host_row(f"{name}: {key}", each.values, host.values, wall.values)
        for name, result in record.stages.items()
        for key, each in result.series.items()
        if (host := result.series.get(f"{key}/host_enqueue"))
        and (wall := result.series.get(f"{key}/wall"))
        and each.values
        and host.values
        and wall.values
    ]
    if not rows:
        return []
    return [
        Table(
            header=("Case", "Device", "Host, to enqueue", "Wall, from idle", "Host over device"),
            align="lrrrr",
            rows=tuple(rows),
            folded="Device, host and wall time apart",
            caption="Medians. Device is the time on the device's own timeline, which all other "
            "tables show. Host is the time until the call returned. Wall is from an idle device "
            "until it was done. Where the host takes 0.9 of the device's time or more, launches "
            "bound the case, not its work.",
        )
    ]


def _host_row(
    case: str, device: Sequence[float], host: Sequence[float], wall: Sequence[float]
) -> tuple[Inline, ...]:
    device_s, host_s, wall_s = (statistics.median(each) for each in (device, host, wall))
    share = f"{host_s / device_s:.2f}" if device_s > 0 else "-"
    return case, seconds(device_s), seconds(host_s), seconds(wall_s), share


def _tally(counter: Counter[str]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in counter.most_common()) or "-"


def _unknown(record: Record, findings: Sequence[Finding]) -> list[tuple[Inline, ...]]:
    items: list[tuple[Inline, ...]] = [
        (strong("Not assessed:"), f" {finding.title} ", " ".join(finding.evidence))
        for finding in findings
        if finding.verdict == "not assessed"
    ]
    if weights(record) == RANDOM and record.workload:
        items.append(
            (
                "The weights are random: times hold for any weights of these shapes, features "
                "mean nothing.",
            )
        )
    if not on_gpu(record):
        items.append(
            (
                "This ran on a CPU. What a GPU would do, and which backend it would pick there, is "
                "not known.",
            )
        )
    items += [*_single(record), *_not_run(record), (UNCOUNTED,)]
    return items


def _single(record: Record) -> list[tuple[Inline, ...]]:
    few = sum(
        1
        for result in record.stages.values()
        for table, rows in result.tables.items()
        if table not in ("conditions", "summary")
        for row in rows
        if is_measured(row) and row.get("n") == 1
    )
    if not few:
        return []
    return [(f"How repeatable the {plural(few, 'time')} with n = 1 would be.",)]


def _not_run(record: Record) -> list[tuple[Inline, ...]]:
    skipped = {
        name: sum(
            1
            for rows in result.tables.values()
            for row in rows
            if row.get("status") not in (None, "ok")
        )
        for name, result in record.stages.items()
    }
    return [
        (f"What {plural(n, 'case')} of ", code(name), " would have shown: see there why not.")
        for name, n in skipped.items()
        if n
    ]


def _origin(told: Telling) -> str:
    record = told.record
    private = f"Taken out of it, as private: {told.taken_out}. " if told.taken_out else ""
    return (
        f"{private}Written from a record of {record.created} (schema {record.schema_version}), "
        f"{record.tool.name} {record.tool.version}. {footer(record)}"
    )


SECTION = Section(name="method", order=94, title="Method and limits", compose=compose)
