"""The verdict: of all findings the one story that they tell, with its cure and what that gains.

Findings are answers to single questions. A reader wants one answer: what is slow, why, how sure is
that, what to do, and what it gains, for the part and for the whole forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from qwenprof.diagnosis.finding import MOST_OF_THE_FORWARD, Confidence, Finding, diagnose
from qwenprof.diagnosis.projected import main_effect
from qwenprof.diagnosis.responsibility import responsibility
from qwenprof.formatting import count, percent, times
from qwenprof.record.published import is_published
from qwenprof.record.record import Record

EXPLAINS = 0.5  # of what a part costs: a cause of less is not why it is slow
DEVICE_RULES = ("device-health", "dtype-support")
CAUSE_RULES = ("conv-slow-backend", "conv-against-linear", "bias-cliff", "known-issue")
CONVOLUTION_RULES = ("conv-slow-backend", "conv-against-linear")
# about the measurement itself, or about exactness: no answer to why it is slow
ASIDE_RULES = ("run-quality", "numerics", "exactness", "consistency", "memory")
LAST_RULES = ("first-call",)  # leads only where nothing else does
UNKNOWN_SHARE, UNKNOWN_CRITICAL_SHARE = 0.05, 0.5
MOST_OPEN = 2  # questions without an answer, for a high confidence that nobody is to blame
NEEDED_TO_BE_SURE = ("culprit", "run-quality", "conv-slow-backend")
PIPELINE_RULES = ("input-bound",)  # their shares are of the pipeline, not of the forward
CONFIDENCES: tuple[Confidence, ...] = ("high", "medium", "low")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a record says, in five answers; None or "" is what it does not tell.

    headline: one sentence.
    culprit: what is to blame: a module path, a device, a setting; None where nobody is.
    part_factor: how many times as fast the culprit becomes with the cure.
    forward_share: share of the forward that the cure saves.
    end_to_end: what whole forwards with and without the cure say, "61.1 x as published"; "" where
        there are none.
    rules: the findings that it rests on.
    cleared: the questions that were answered with no.
    """

    headline: str
    culprit: str | None = None
    cause: str = ""
    confidence: Confidence | None = None
    confidence_because: str = ""
    cure: str = ""
    part_factor: float | None = None
    forward_share: float | None = None
    end_to_end: str = ""
    rules: tuple[str, ...] = ()
    cleared: tuple[str, ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether nobody is accused only because the main question has no answer."""
        return self.confidence is None

    @property
    def forward_factor(self) -> float | None:
        """How many times as fast the forward becomes with the cure."""
        share = self.forward_share
        return None if share is None or share >= 1 else 1 / (1 - share)

    @property
    def gain(self) -> str:
        """What the cure gains, as a sentence fragment; "" where it is not known."""
        return "; ".join(said for said in (self._of_the_part, self._of_the_forward) if said)

    @property
    def _of_the_part(self) -> str:
        factor = self.part_factor
        return "" if factor is None else f"the part becomes {times(factor)} as fast"

    @property
    def _of_the_forward(self) -> str:
        """From the findings' own share, and beside it what whole forwards say, each with its basis.

        The two differ where the part and the forwards were timed apart.
        """
        whole = (
            f"{self.end_to_end}, from whole forwards with and without the fix"
            if self.end_to_end
            else ""
        )
        if self.forward_share is None:
            return whole
        saved = f"{percent(self.forward_share)} of the forward is saved"
        if self.forward_factor is not None and self.forward_factor >= 1.01:
            saved += f", so that the forward becomes {times(self.forward_factor)} as fast"
        return f"{saved}, computed from the time of the part; {whole}" if whole else saved


def verdict(record: Record, findings: Sequence[Finding]) -> Verdict:
    """The verdict of these findings.

    A sick device comes before any part of the model, since it slows every part. Then the problem
    that costs the most; a finding about the same part that knows its cause and cure tells those.
    """
    cleared = tuple(each.rule for each in findings if each.verdict == "clear")
    problems = [each for each in findings if each.verdict == "problem"]
    leading = _leading(problems)
    if leading is None:
        return _nobody(record, findings, problems, cleared)
    because = _explaining(leading, problems)
    confidence, why = _confidence(record, leading, because, problems)
    rules = dict.fromkeys((leading.rule, because.rule))
    return Verdict(
        headline=because.title if because.rule in CAUSE_RULES else leading.title,
        culprit=because.culprit or leading.culprit,
        cause=because.cause or leading.cause,
        confidence=confidence,
        confidence_because=why,
        cure=because.advice or leading.advice,
        part_factor=because.factor if because.factor is not None else leading.factor,
        forward_share=None if leading.rule in PIPELINE_RULES else _share(because, leading),
        end_to_end=_end_to_end(record, because),
        rules=tuple(rules),
        cleared=cleared,
    )


def diagnosis(record: Record) -> dict[str, Any]:
    """Verdict, layers and findings of a record as plain data, for JSON."""
    findings = diagnose(record)
    told = verdict(record, findings)
    return {
        "verdict": asdict(told) | {"gain": told.gain, "forward_factor": told.forward_factor},
        "layers": [asdict(layer) for layer in responsibility(record)],
        "findings": [asdict(finding) for finding in findings],
    }


def _leading(problems: Sequence[Finding]) -> Finding | None:
    """The problem that the verdict is about; None where there is none that matters."""
    weighty = [
        each for each in problems if each.severity != "info" and each.rule not in ASIDE_RULES
    ]
    sick = [each for each in weighty if each.rule in DEVICE_RULES]
    dominated = any((each.cost_share or 0.0) >= MOST_OF_THE_FORWARD for each in weighty)
    if sick and (sick[0].severity == "critical" or not dominated):
        return sick[0]
    around = max(
        (each.cost_share or 0.0 for each in weighty if each.rule in PIPELINE_RULES), default=0.0
    )
    return max(weighty, key=lambda each: _weight(each, 1 - around), default=None)


def _weight(finding: Finding, forward_of_pipeline: float) -> tuple[bool, float]:
    """What is only slow at first comes last; an unknown cost is guessed by the severity.

    forward_of_pipeline: the share of the pipeline that the forward is, so that what is saved of
    either can be compared.
    """
    guess = UNKNOWN_CRITICAL_SHARE if finding.severity == "critical" else UNKNOWN_SHARE
    share = guess if finding.cost_share is None else finding.cost_share
    of_pipeline = share if finding.rule in PIPELINE_RULES else share * forward_of_pipeline
    return finding.rule not in LAST_RULES, of_pipeline


def _share(because: Finding, leading: Finding) -> float | None:
    return because.cost_share if because.cost_share is not None else leading.cost_share


def _end_to_end(record: Record, because: Finding) -> str:
    """What whole forwards with and without the fix say, where the finding is what it mends."""
    effect = main_effect(record) if because.rule in CONVOLUTION_RULES else None
    if effect is None or effect.basis != "measured" or effect.speedup is None:
        return ""
    how = "as published" if is_published(record) else "measured end to end"
    return f"{times(effect.speedup.value)} {how}"


def _explaining(leading: Finding, problems: Sequence[Finding]) -> Finding:
    """The finding about the same part that knows why, else the leading one itself."""
    if leading.cause:
        return leading
    about = [
        each
        for name in CAUSE_RULES
        for each in problems
        if each.rule == name and _explains(each, leading)
    ]
    return about[0] if about else leading


def _explains(cause: Finding, leading: Finding) -> bool:
    """Whether a cause is of the same part and costs enough of what that part does."""
    if cause.severity == "info" or not same_part(cause.culprit, leading.culprit):
        return False
    if cause.rule == "conv-slow-backend" and cause.confidence == "high":
        return True  # the backend was seen
    shares = cause.cost_share, leading.cost_share
    return None in shares or (shares[0] or 0.0) >= EXPLAINS * (shares[1] or 0.0)


def same_part(one: str | None, other: str | None) -> bool:
    """Whether one path is the other, or lies within it, whatever either leaves out in front."""
    if not one or not other:
        return False
    return any(f".{long}.".find(f".{short}.") >= 0 for long, short in ((one, other), (other, one)))


def _nobody(
    record: Record,
    findings: Sequence[Finding],
    problems: Sequence[Finding],
    cleared: tuple[str, ...],
) -> Verdict:
    """No problem that matters; whether that clears the model depends on what could be assessed."""
    open_ = [each.rule for each in findings if each.verdict == "not assessed"]
    minor = [each for each in problems if each.rule not in (*ASIDE_RULES, *PIPELINE_RULES)]
    rules = tuple(each.rule for each in minor)
    if not cleared and not minor:
        return Verdict(headline="Nothing could be assessed: the record lacks what rules need")
    if "culprit" not in cleared:
        return Verdict(
            headline="Whether any part of the model is slow could not be assessed",
            confidence_because=_unassessed(open_),
            rules=rules,
            cleared=cleared,
        )
    best = max((each.cost_share for each in minor if each.cost_share is not None), default=None)
    gain = (
        "" if best is None else f"; {_at_most(minor)} gains at most {percent(best)} of the forward"
    )
    sure = (
        all(name in cleared for name in NEEDED_TO_BE_SURE)
        and len(open_) <= MOST_OPEN
        and _disturbed(problems) is None
        and not _slow_altogether(findings)
    )
    reasons = [
        *_doubts(record, problems),
        *(["all of it takes long beside its bounds"] if _slow_altogether(findings) else []),
        *([_unassessed(open_)] if open_ else []),
    ]
    return Verdict(
        headline=f"No part of the model stands out as slow{gain}",
        confidence="high" if sure else "medium",
        confidence_because="; ".join(reasons) or "every question has an answer",
        forward_share=best,
        rules=rules,
        cleared=cleared,
    )


def _at_most(minor: Sequence[Finding]) -> str:
    """Whose mending it is that gains so little."""
    if all(each.rule in CAUSE_RULES for each in minor):
        return "the patch embedding is not to blame, and fixing it"
    return "what was found"


def _unassessed(names: Sequence[str]) -> str:
    """How many questions are open; the table of answers says which."""
    verb, noun = ("has", "question") if len(names) == 1 else ("have", "questions")
    return f"{count(len(names))} {noun} {verb} no answer"


def _slow_altogether(findings: Sequence[Finding]) -> bool:
    """Whether nobody stands out because all is slow."""
    return any(each.rule == "culprit" and each.confidence != "high" for each in findings)


def _confidence(
    record: Record, leading: Finding, because: Finding, problems: Sequence[Finding]
) -> tuple[Confidence, str]:
    """That of the finding which knows why, and never high in a run that was disturbed."""
    least = because.confidence
    reasons = []
    if least != "high":
        reasons.append("it is inferred, not observed")
    if _disturbed(problems):
        least = max((least, "medium"), key=CONFIDENCES.index)
    reasons += _doubts(record, problems)
    backing = [
        each.rule
        for each in problems
        if each.rule not in ASIDE_RULES and same_part(each.culprit, leading.culprit)
    ]
    if len(set(backing)) > 1:
        reasons.append(f"{count(len(set(backing)))} findings agree on it")
    reasons += [
        f"the device is not at its best either: {each.title}"
        for each in problems
        if each.rule in DEVICE_RULES and each is not leading
    ]
    return least, "; ".join(reasons) or "it was measured here, not inferred"


def _doubts(record: Record, problems: Sequence[Finding]) -> list[str]:
    """What any verdict on this record has against it: how it was measured, and who did."""
    disturbed, origin = _disturbed(problems), record.workload.get("origin")
    said = [f"the run was disturbed ({disturbed.title})"] if disturbed else []
    return said + ([str(origin)] if origin else [])


def _disturbed(problems: Sequence[Finding]) -> Finding | None:
    """What says that the run's times cannot be trusted."""
    return next(
        (each for each in problems if each.rule == "run-quality" and each.severity != "info"), None
    )
