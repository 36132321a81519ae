"""Is it a known issue? Versions that are exposed and the issue's signature in the measurements.

A version alone makes an issue possible and accuses nobody. Only an issue whose signature was
measured matches.
"""

from __future__ import annotations

from dataclasses import dataclass

from qwenprof.diagnosis.finding import (
    Confidence,
    Finding,
    Rule,
    Severity,
    not_assessed,
    severity_of,
)
from qwenprof.diagnosis.known_issues import (
    KnownIssue,
    exposure_of,
    known_issues,
    missing,
    most_specific_first,
)
from qwenprof.diagnosis.projection import Comparison, comparison, share_saved
from qwenprof.diagnosis.signatures import dispatch_observed
from qwenprof.diagnosis.versions import cudnn_version
from qwenprof.formatting import clean, listed, plural
from qwenprof.record.record import Record

NAME, QUESTION = "known-issue", "Is it a known issue?"
SLOW_DISPATCH, OUTPUT_WRONG = "conv-slow-dispatch", "output-wrong"
OF_THE_CONVOLUTION = (SLOW_DISPATCH, "conv-much-slower-than-linear")
FACTS = (
    ("torch", "torch", "version"),
    ("cuDNN", "torch", "cudnn_runtime"),
    ("compiled with cuDNN", "torch", "cudnn_compiled"),
    ("transformers", "packages", "transformers"),
    ("device", "device", "name"),
)


@dataclass(frozen=True, kw_only=True)
class Sorted:
    """The known issues as one record has them, the most specific first.

    matches: exposed, and the signature was measured.
    absent: exposed, and the signature was measured and is not there.
    open: it was not measured, or a fact that decides the exposure was not recorded.
    unseen: exposed, and nothing that is measured could show it.
    """

    matches: list[KnownIssue]
    absent: list[KnownIssue]
    open: list[KnownIssue]
    unseen: list[KnownIssue]


def judge(record: Record) -> Finding:
    if not record.environment:
        return not_assessed(NAME, QUESTION, "The record has no environment, so no versions.")
    found = sort(record)
    if found.matches:
        return _problem(found, record)
    if found.open:
        return not_assessed(NAME, QUESTION, _open(found, record))
    return _clear(found, record)


def sort(record: Record) -> Sorted:
    """Every known issue that may concern a record; a hazard that was not measured does not."""
    found = Sorted(matches=[], absent=[], open=[], unseen=[])
    for issue in most_specific_first(list(known_issues())):
        exposure = exposure_of(issue, record)
        if exposure == "not affected":
            continue
        shown = issue.shows.holds(record) if issue.shows else None
        if issue.shows is None:
            found.unseen.extend([issue] if exposure == "affected" else [])
        elif exposure == "affected" and shown is not None:
            (found.matches if shown else found.absent).append(issue)
        elif shown is not False and issue.kind != "hazard":
            found.open.append(issue)
    return found


def _open(found: Sorted, record: Record) -> str:
    reasons = "; ".join(_why_open(issue, record) for issue in found.open)
    absent = "".join(f" {sentence}" for sentence in _absent(found))
    return f"Possible, but not assessed: {reasons}.{absent}"


def _absent(found: Sorted) -> tuple[str, ...]:
    """A sentence that names what was measured and is not there; nothing where that is none."""
    names = [issue.id for issue in found.absent if issue.kind != "hazard"]
    return (f"Measured and not there: {listed(names)}.",) if names else ()


def _why_open(issue: KnownIssue, record: Record) -> str:
    """An issue that stays open, and what would have to be known."""
    if exposure_of(issue, record) == "unknown":
        return f"{issue.id} (not known: {listed(missing(issue, record)) or 'which version'})"
    return f"{issue.id} (its signature, {issue.signature}, was not measured)"


def _clear(found: Sorted, record: Record) -> Finding:
    exposed = sum(issue.kind != "hazard" for issue in found.absent)
    checked = f"{plural(len(known_issues()), 'known issue')} looked up. {_versions(record)}"
    return Finding(
        rule=NAME,
        verdict="clear",
        severity="info",
        title=_clear_title(exposed),
        evidence=(checked, *_absent(found), *_beware(found)),
    )


def _clear_title(exposed: int) -> str:
    if exposed == 0:
        return "No known issue that could be looked for concerns these versions"
    if exposed == 1:
        return "The one known issue that these versions are exposed to does not show"
    return f"None of the {exposed} known issues that these versions are exposed to shows"


def _problem(found: Sorted, record: Record) -> Finding:
    first, *others = sorted(found.matches, key=lambda issue: issue.kind == "hazard")
    conv = comparison(record) if first.signature in OF_THE_CONVOLUTION else None
    share = share_saved(record, conv) if conv else None
    return Finding(
        rule=NAME,
        verdict="problem",
        severity=_severity(first, share),
        title=f"Known issue: {first.title}",
        culprit=_culprit(first, conv),
        cause=first.cause,
        cost_share=share,
        factor=conv.ratio.value if conv else None,
        confidence=_confidence(first, record),
        evidence=_evidence(first, others, found, record),
        advice=f"{first.remedy} Fixed in: {first.fixed_in}.",
        links=tuple(dict.fromkeys(link for issue in (first, *others) for link in issue.links)),
    )


def _severity(issue: KnownIssue, share: float | None) -> Severity:
    if issue.kind == "hazard":
        return "info"
    if issue.kind != "slow":
        return "critical" if issue.signature == OUTPUT_WRONG else "warning"
    return severity_of(share, unknown="critical" if issue.signature == SLOW_DISPATCH else "warning")


def _culprit(issue: KnownIssue, conv: Comparison | None) -> str | None:
    if conv:
        return clean(conv.module, 200)
    return "attention" if issue.signature == "attention-split-costs" else "patch_embed.proj"


def _confidence(issue: KnownIssue, record: Record) -> Confidence:
    """High only where what the issue is about was observed, and not inferred from a time."""
    observed = issue.signature == SLOW_DISPATCH and dispatch_observed(record)
    return "high" if observed or issue.kind in ("hazard", "fails") else "medium"


def _evidence(
    first: KnownIssue, others: list[KnownIssue], found: Sorted, record: Record
) -> tuple[str, ...]:
    sentences = [f"{first.id} matches. {_versions(record)}", _shown(first, record)]
    for issue in others:
        sentences.append(f"{issue.id} matches too: {issue.title}. {_shown(issue, record)}")
        sentences.append(f"Its remedy: {issue.remedy} Fixed in: {issue.fixed_in}.")
    if found.open:
        names = listed([issue.id for issue in found.open])
        sentences.append(f"Possible, but not assessed: {names}.")
    return (*sentences, *_beware(found))


def _shown(issue: KnownIssue, record: Record) -> str:
    return issue.shows.said(record) if issue.shows else ""


def _beware(found: Sorted) -> tuple[str, ...]:
    return tuple(
        f"Beware, though no measurement shows it: {issue.title} ({issue.id})."
        for issue in found.unseen
    )


def _versions(record: Record) -> str:
    """The facts that decide, as far as they were recorded."""
    known = [(name, _version_of(record, section, key)) for name, section, key in FACTS]
    texts = [f"{name} {clean(text, 100)}" for name, text in known if text]
    return f"Recorded: {', '.join(texts)}." if texts else "No versions were recorded."


def _version_of(record: Record, section: str, key: str) -> str:
    """A fact as text, "" if it is missing; versions of cuDNN in the one scheme that reads well."""
    cell = record.fact(section, key)
    found = cudnn_version(cell) if key.startswith("cudnn") else None
    return str(found or ("" if cell is None else cell))


RULE = Rule(name=NAME, order=86, question=QUESTION, judge=judge)
