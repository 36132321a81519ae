"""Of all findings the one story: who, why, how sure, what to do, what it gains."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from qwenprof.diagnosis.finding import Finding, diagnose
from qwenprof.diagnosis.verdict import Verdict, diagnosis, verdict
from qwenprof.record.published import writeup
from qwenprof.record.record import Record, load
from tests.diagnosis.convolutions import GATED, MODULE, compared, pair
from tests.diagnosis.handmade import record

REAL = sorted((Path(__file__).parents[2] / "reports").glob("*/record.json"))
PART = "model.visual.patch_embed"


def problem(rule: str, culprit: str | None = None, **fields: Any) -> Finding:
    common: dict[str, Any] = {"verdict": "problem", "severity": "critical", "title": f"by {rule}"}
    return Finding(rule=rule, culprit=culprit, **(common | {"evidence": ("A fact.",)} | fields))


def answer(rule: str, word: Any = "clear") -> Finding:
    return Finding(rule=rule, verdict=word, severity="info", title=rule, evidence=("A fact.",))


def told(*findings: Finding, given: Record | None = None) -> Verdict:
    return verdict(given or record(), findings)


EXCESS = problem("culprit", PART, cost_share=0.99, factor=50_000.0, advice="Look at it.")
SLOW_CONV = problem(
    "conv-slow-backend",
    MODULE,
    cause="the gate is closed",
    cost_share=0.98,
    factor=53_704.0,
    advice="Run it as a matrix product.",
)
DISTURBED = problem("run-quality", severity="warning", title="Something disturbed 3 stages")


def test_a_device_below_its_best_does_not_hide_what_takes_most_of_the_forward() -> None:
    tired = problem("device-health", "some device", severity="warning", advice="Cool it.")
    mild = problem("culprit", PART, cost_share=0.1, factor=5.0)

    assert told(EXCESS, SLOW_CONV, tired).culprit == MODULE
    assert "not at its best either: by device-health" in (
        told(EXCESS, SLOW_CONV, tired).confidence_because
    )
    assert told(mild, tired).culprit == "some device"


def test_the_finding_that_knows_why_decides_how_sure_it_is() -> None:
    inferred = problem("culprit", PART, cost_share=0.99, confidence="medium")

    assert told(inferred, SLOW_CONV).confidence == "high"
    assert told(inferred).confidence == "medium"


def test_nobody_to_blame_is_not_the_same_as_not_known() -> None:
    assert told(answer("culprit", "not assessed"), answer("attention")).is_open
    assert not told(answer("culprit"), answer("attention")).is_open
    assert not told(EXCESS).is_open


@pytest.mark.parametrize(("open_", "confidence"), [(2, "high"), (3, "medium")])
def test_many_open_questions_leave_it_less_sure_that_nobody_is_to_blame(
    open_: int, confidence: str
) -> None:
    clear = [answer(name) for name in ("culprit", "run-quality", "conv-slow-backend")]
    unknown = [answer(f"rule {index}", "not assessed") for index in range(open_)]

    found = told(*clear, *unknown)

    assert found.confidence == confidence
    assert f"{open_} questions have no answer" in found.confidence_because


def test_a_sick_device_comes_before_any_part() -> None:
    sick = problem(
        "device-health", "some device", severity="critical", cause="throttled", advice="Cool it."
    )

    found = told(EXCESS, SLOW_CONV, sick)

    assert (found.headline, found.culprit, found.cause) == (
        "by device-health",
        "some device",
        "throttled",
    )
    assert found.cure == "Cool it."
    assert found.rules == ("device-health",)


def test_a_culprit_is_joined_by_the_finding_that_knows_its_cause() -> None:
    found = told(EXCESS, SLOW_CONV, answer("attention"), answer("batching"))

    assert found.headline == "by conv-slow-backend"
    assert found.culprit == MODULE
    assert (found.cause, found.cure) == ("the gate is closed", "Run it as a matrix product.")
    assert (found.part_factor, found.forward_share) == (53_704.0, 0.98)
    assert found.rules == ("culprit", "conv-slow-backend")
    assert found.cleared == ("attention", "batching")
    assert found.confidence_because == "2 findings agree on it"


@pytest.mark.parametrize("path", ["patch_embed", "visual.patch_embed.proj", MODULE, PART])
def test_paths_are_joined_whatever_they_leave_out(path: str) -> None:
    assert told(problem("culprit", path, cost_share=0.99), SLOW_CONV).cause == "the gate is closed"


@pytest.mark.parametrize("path", ["merger", "patch_embed.projection", "blocks.1", None])
def test_another_parts_cause_is_not_borrowed(path: str | None) -> None:
    found = told(problem("culprit", path, cost_share=0.99), SLOW_CONV)

    assert (found.headline, found.culprit, found.cause) == ("by culprit", path, "")


def test_a_block_is_not_taken_for_one_whose_number_begins_alike() -> None:
    first = problem("block-unlike-siblings", "blocks.1", cost_share=0.3)
    other = problem("known-issue", "blocks.10.attn", cause="a known bug", cost_share=0.3)

    assert told(first, other).cause == ""


def test_a_minor_cause_does_not_explain_a_large_excess() -> None:
    """The linear gains next to nothing there, so the convolution is not why the part is slow."""
    minor = problem(
        "conv-against-linear",
        MODULE,
        severity="info",
        title="The patch embedding is not to blame",
        cause="it is a convolution",
        cost_share=0.004,
    )

    found = told(EXCESS, minor)

    assert (found.headline, found.cause, found.forward_share) == ("by culprit", "", 0.99)


def test_a_mere_remark_about_a_part_does_not_explain_it() -> None:
    remark = problem("known-issue", MODULE, severity="info", cause="a possible bug")

    assert told(EXCESS, remark).cause == ""


def test_a_cause_of_a_small_part_of_the_excess_does_not_explain_it() -> None:
    lesser = problem("conv-against-linear", MODULE, cause="it is a convolution", cost_share=0.1)

    found = told(EXCESS, lesser)

    assert (found.headline, found.cause, found.forward_share) == ("by culprit", "", 0.99)


def test_the_problem_that_costs_the_most_leads() -> None:
    block = problem("block-unlike-siblings", "blocks.3", cost_share=0.3)
    attention = problem("attention", "attention: eager", cost_share=0.6, severity="warning")

    assert told(block, attention).headline == "by attention"


def test_what_is_aside_never_leads() -> None:
    aside = [problem(rule) for rule in ("numerics", "exactness", "consistency", "memory")]

    found = told(*aside, DISTURBED, answer("culprit"))

    assert found.culprit is None
    assert found.headline == "No part of the model stands out as slow"


def test_a_pipeline_that_waits_for_its_inputs_has_no_share_of_the_forward() -> None:
    found = told(problem("input-bound", "the processor", cost_share=0.8))

    assert (found.headline, found.forward_share) == ("by input-bound", None)


# nobody


def test_a_share_of_the_pipeline_is_held_against_what_the_forward_is_of_it() -> None:
    slow_inputs = problem("input-bound", "the processor", cost_share=0.6)

    assert told(EXCESS, slow_inputs).headline == "by input-bound"
    assert told(EXCESS, replace(slow_inputs, cost_share=0.3)).culprit == PART


def test_nobody_is_to_blame() -> None:
    names = ("culprit", "run-quality", "conv-slow-backend")
    found = told(*map(answer, names))

    assert found.headline == "No part of the model stands out as slow"
    assert (found.culprit, found.cause, found.gain) == (None, "", "")
    assert (found.confidence, found.confidence_because) == ("high", "every question has an answer")
    assert found.cleared == names
    assert told(answer("culprit")).confidence == "medium", "who looked at the machine?"


def test_nobody_with_the_most_that_a_fix_could_gain() -> None:
    minor = problem(
        "conv-against-linear", MODULE, severity="info", cost_share=0.012, advice="Fix it."
    )

    found = told(minor, answer("culprit"))

    assert found.headline == (
        "No part of the model stands out as slow; the patch embedding is not to blame, and fixing "
        "it gains at most 1.20 % of the forward"
    )
    assert (found.culprit, found.cure) == (None, "")
    assert found.rules == ("conv-against-linear",)


def test_nobody_is_cleared_where_the_main_question_is_open() -> None:
    open_ = told(answer("attention"), answer("culprit", "not assessed"))

    assert open_.headline == "Whether any part of the model is slow could not be assessed"
    assert (open_.confidence, open_.confidence_because) == (None, "1 question has no answer")


def test_without_an_answer_there_is_no_verdict() -> None:
    found = told(answer("culprit", "not assessed"))

    assert found.headline.startswith("Nothing could be assessed")
    assert found.confidence is None
    assert told().headline == found.headline


# how sure


def test_a_disturbed_run_lowers_the_confidence() -> None:
    for found in (told(SLOW_CONV, DISTURBED), told(answer("culprit"), DISTURBED)):
        assert found.confidence == "medium"
        assert "the run was disturbed (Something disturbed 3 stages)" in found.confidence_because


def test_a_remark_about_the_run_lowers_nothing() -> None:
    remark = problem("run-quality", severity="info")

    assert told(SLOW_CONV, remark).confidence == "high"


def test_what_was_inferred_is_no_surer_than_its_inference() -> None:
    likely = replace(SLOW_CONV, confidence="low")

    found = told(EXCESS, likely, DISTURBED)

    assert found.confidence == "low"
    assert found.confidence_because.startswith("it is inferred, not observed; the run was")


def test_a_verdict_on_published_figures_says_whose_they_are() -> None:
    given = record()
    origin = given.workload | {"origin": "published, not measured here"}
    published = msgspec.structs.replace(given, workload=origin)

    for findings in ((SLOW_CONV,), (answer("culprit"),)):
        found = told(*findings, given=published)
        assert "published, not measured here" in found.confidence_because


# the gain

FASTER = "the part becomes 4.00 x as fast"
TWICE = "the forward becomes 2.00 x as fast"


@pytest.mark.parametrize(
    ("factor", "share", "gain"),
    [
        (4.0, 0.5, f"{FASTER}; 50.0 % of the forward is saved, so that {TWICE}"),
        (4.0, 0.005, f"{FASTER}; 0.50 % of the forward is saved"),
        (None, 0.5, f"50.0 % of the forward is saved, so that {TWICE}"),
        (4.0, 1.0, f"{FASTER}; 100 % of the forward is saved"),
        (4.0, None, FASTER),
        (None, None, ""),
    ],
)
def test_the_gain_for_the_part_and_for_the_whole(
    factor: float | None, share: float | None, gain: str
) -> None:
    assert Verdict(headline="", part_factor=factor, forward_share=share).gain == gain


@pytest.mark.parametrize(
    ("share", "gain"),
    [
        (
            0.5,
            f"50.0 % of the forward is saved, so that {TWICE}, computed from the time of the "
            "part; 2.10 x as published, from whole forwards with and without the fix",
        ),
        (None, "2.10 x as published, from whole forwards with and without the fix"),
    ],
)
def test_two_factors_of_one_forward_have_their_basis(share: float | None, gain: str) -> None:
    found = Verdict(headline="", forward_share=share, end_to_end="2.10 x as published")

    assert found.gain == gain


# whole records


def test_a_closed_gate_from_the_record_to_the_verdict() -> None:
    given = compared(pair("SlowDilated3d", 16.1, 0.0003), torch=GATED, forward_s=16.4)

    found = told(*diagnose(given), given=given)

    assert found.culprit == MODULE
    assert "the gate of torch 2.9.0+cu128 keeps cuDNN 9.10.2 away from bf16 Conv3d" in found.cause
    assert found.gain == (
        "the part becomes 53,700 x as fast; 98.2 % of the forward is saved, so that the forward "
        "becomes 54.6 x as fast"
    )


def test_the_writeup_has_its_culprit_cause_and_cure() -> None:
    given = writeup()

    found = told(*diagnose(given), given=given)

    assert "patch_embed" in str(found.culprit)
    assert "gate" in found.cause
    assert found.confidence == "medium"
    assert "published, not measured here" in found.confidence_because
    assert "apply_fix" in found.cure
    assert found.forward_share is not None
    assert found.forward_share > 0.97
    assert {"device-health", "attention", "batching"} <= set(found.cleared)


@pytest.mark.parametrize("file", REAL, ids=lambda file: str(file.parent.name))
def test_every_committed_record_gives_a_verdict(file: Path) -> None:
    given = load(file)

    found = told(*diagnose(given), given=given)

    assert found.headline
    assert found.confidence is not None
    assert found.confidence_because
    assert found.cleared
    assert (found.culprit is None) or (found.cure and found.rules)


@pytest.mark.parametrize("given", [writeup(), record(), *map(load, REAL)])
def test_a_diagnosis_is_plain_data(given: Record) -> None:
    plain = json.loads(json.dumps(diagnosis(given), allow_nan=False))

    assert set(plain) == {"verdict", "layers", "findings"}
    assert {"headline", "gain", "forward_factor", "cleared"} <= set(plain["verdict"])
    assert len(plain["findings"]) == len(diagnose(given))
    assert all({"name", "role", "evidence", "fix"} == set(layer) for layer in plain["layers"])
