"""How seconds are divided, on a clock that only moves when told to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenprof.harness.plan import LEAST_CASE_S, Allowance, Refusal, TimePlan
from qwenprof.harness.simulated import SimulatedDevice


def allowed(plan: TimePlan, case: str) -> Allowance:
    answer = plan.start(case)
    assert isinstance(answer, Allowance)
    return answer


def refused(plan: TimePlan, case: str) -> Refusal:
    answer = plan.start(case)
    assert isinstance(answer, Refusal)
    return answer


def test_cases_of_which_nothing_is_known_share_evenly() -> None:
    # GIVEN 8 s for four cases WHEN the first starts THEN it may take 2 s
    plan = TimePlan(SimulatedDevice(), 8.0, dict.fromkeys("abcd", 1.0))
    assert allowed(plan, "a") == Allowance(case_s=2.0, limit_s=8.0)


def test_what_a_case_leaves_is_for_the_others() -> None:
    # GIVEN 8 s for four cases, of which the first took half a second
    clock = SimulatedDevice()
    plan = TimePlan(clock, 8.0, dict.fromkeys("abcd", 1.0))
    plan.start("a")
    clock.host_work(0.5)
    # WHEN the second starts THEN it has a third of what is left
    assert allowed(plan, "b").case_s == pytest.approx(2.5)


def test_no_case_gets_more_than_the_cap() -> None:
    plan = TimePlan(SimulatedDevice(), 100.0, {"only": 1.0}, case_cap_s=6.0)
    assert allowed(plan, "only") == Allowance(case_s=6.0, limit_s=100.0)


def test_one_call_of_each_case_to_come_is_set_aside() -> None:
    # GIVEN 30 s, and a case of which one call took 2 s
    clock = SimulatedDevice()
    plan = TimePlan(clock, 30.0, {"1": 1.0, "2": 2.0, "4": 4.0})
    plan.start("1")
    clock.host_work(4.0)
    plan.learn("1", 2.0)
    # WHEN the next one starts THEN 8 s are set aside for the last, which is twice as large
    assert allowed(plan, "2").limit_s == pytest.approx(30 - 4 - 8)


def test_a_case_that_cannot_fit_is_refused_with_its_prediction() -> None:
    # GIVEN 20 s, of which a call of the smallest case took 5 s
    clock = SimulatedDevice()
    plan = TimePlan(clock, 20.0, {"1": 1.0, "16": 16.0})
    plan.start("1")
    clock.host_work(10.0)
    plan.learn("1", 5.0)
    # WHEN the largest would take 80 s THEN it is not started, and the numbers are told
    reason = refused(plan, "16").reason
    assert "80 s" in reason
    assert "10 s" in reason
    assert "--budget" in reason


def test_a_case_that_fits_but_for_a_little_is_tried() -> None:
    clock = SimulatedDevice()
    plan = TimePlan(clock, 10.0, {"1": 1.0, "2": 2.0})
    plan.start("1")
    plan.learn("1", 6.0)
    assert isinstance(plan.start("2"), Allowance)


def test_all_cases_so_far_predict_the_next_by_their_work() -> None:
    # GIVEN a small case that was slow for its size, as small ones are, and a larger one
    clock = SimulatedDevice()
    plan = TimePlan(clock, 50.0, {"1": 1.0, "2": 2.0, "8": 8.0})
    for case, one_call_s in (("1", 10.0), ("2", 2.0)):
        plan.start(case)
        plan.learn(case, one_call_s)
    # WHEN the largest starts THEN it is expected to take 8 x 12 / 3 = 32 s, not 8 x 10
    assert isinstance(plan.start("8"), Allowance)


def test_when_nothing_is_left_a_fast_case_still_gets_a_little() -> None:
    clock = SimulatedDevice()
    plan = TimePlan(clock, 1.0, {"a": 1.0, "b": 1.0})
    plan.start("a")
    clock.host_work(5.0)
    answer = allowed(plan, "b")
    assert answer.case_s == LEAST_CASE_S
    assert answer.limit_s == 0.0


@given(
    budget_s=st.floats(0.0, 100.0),
    work=st.lists(st.floats(0.1, 1e4), min_size=1, max_size=8),
    rate=st.floats(1e-6, 10.0),
)
def test_cases_that_keep_to_their_allowance_keep_the_budget(
    budget_s: float, work: list[float], rate: float
) -> None:
    # GIVEN cases that each take what they are allowed, but one call at least
    clock = SimulatedDevice()
    plan = TimePlan(clock, budget_s, {str(i): each for i, each in enumerate(work)})
    largest_s = 0.0
    for i, each in enumerate(work):
        answer = plan.start(str(i))
        if isinstance(answer, Allowance):
            clock.host_work(max(rate * each, answer.case_s))
            plan.learn(str(i), rate * each)
            largest_s = max(largest_s, rate * each)
    # THEN they overrun the budget by no more than one call of the largest and the least shares
    assert clock.now_s() <= budget_s + largest_s + LEAST_CASE_S * len(work) + 1e-6


def test_more_work_gets_more_seconds() -> None:
    # GIVEN 10 s for two cases, one of which is four times as large
    plan = TimePlan(SimulatedDevice(), 10.0, {"small": 1.0, "large": 4.0}, case_cap_s=60.0)
    # WHEN the small one starts THEN it may take a fifth, and the large one all the rest
    assert allowed(plan, "small").case_s == pytest.approx(2.0)
    assert allowed(plan, "large").case_s == pytest.approx(10.0)
