"""Many passes condensed to one that still adds up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenprof.harness.module_timer import NodeTime, Pass, typical

PATHS = ("", "a", "a.b", "c")
durations = st.floats(0.0, 10.0)


def made_pass(own: dict[str, float]) -> Pass:
    """A pass in which each node takes this long by itself; "" comes first, c may be absent."""
    below = {"": own, "a": {k: v for k, v in own.items() if k.startswith("a")}}
    return {
        path: NodeTime(
            calls=1, inclusive_s=sum(below.get(path, {path: seconds}).values()), exclusive_s=seconds
        )
        for path, seconds in own.items()
    }


own_times = st.fixed_dictionaries(
    {"": durations, "a": durations, "a.b": durations}, optional={"c": durations}
)


class TestTypical:
    @given(owns=st.lists(own_times, min_size=1, max_size=12))
    def test_it_adds_up_like_every_pass_that_it_is_made_of(
        self, owns: list[dict[str, float]]
    ) -> None:
        # GIVEN passes that add up, not all of which reach every node
        passes = [made_pass(own) for own in owns]
        # WHEN they are condensed
        steady = typical(passes)
        # THEN so does the result, and its total lies among theirs
        total_s = sum(time.exclusive_s for time in steady.values())
        assert total_s == pytest.approx(steady[""].inclusive_s, rel=1e-9, abs=1e-9)
        inside_s = steady["a"].exclusive_s + steady["a.b"].exclusive_s
        assert inside_s == pytest.approx(steady["a"].inclusive_s, rel=1e-9, abs=1e-9)
        totals = [each[""].inclusive_s for each in passes]
        assert min(totals) - 1e-9 <= steady[""].inclusive_s <= max(totals) + 1e-9

    def test_a_quarter_of_disturbed_passes_does_not_matter(self) -> None:
        # GIVEN twelve like passes and four that something else disturbed
        good = made_pass({"": 1.0, "a": 2.0, "a.b": 3.0, "c": 4.0})
        bad = made_pass({"": 9.0, "a": 90.0, "a.b": 900.0, "c": 9000.0})
        # WHEN they are condensed THEN the result is the good ones'
        steady = typical([bad, bad, *[good] * 12, bad, bad])
        for path in PATHS:
            assert steady[path].exclusive_s == pytest.approx(good[path].exclusive_s)

    def test_without_a_pass_there_is_nothing_typical(self) -> None:
        with pytest.raises(ValueError, match="no pass"):
            typical([])
