"""One case in two runs: judged by noise, alike from both sides, and never by chance."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenprof.diagnosis.change import DISTURBED, HOST_RUN_TO_RUN, WITHIN_NOISE, spread
from qwenprof.diagnosis.comparing import compare
from qwenprof.diagnosis.comparison_gate import failure
from qwenprof.record.record import Row
from tests.diagnosis.runs import CPU, GPU, SERIES, judged, only, record


def steady(
    n: int, sigma: float, generator: np.random.Generator, *, of_s: float = 1e-3
) -> list[float]:
    return [float(value) for value in of_s * generator.lognormal(0.0, sigma, n)]


def simulated_pairs(
    draw: Callable[[int, float, np.random.Generator], list[float]], *, factor: float = 1.0
) -> Counter[str]:
    """Judgements on 400 pairs of runs, each run with an offset of its own of up to 1 %."""
    generator = np.random.default_rng(20260101)
    base: dict[str, Sequence[float]] = {}
    new: dict[str, Sequence[float]] = {}
    for pair in range(400):
        n, sigma = int(generator.integers(20, 201)), float(generator.uniform(0.01, 0.02))
        offsets = 1 + generator.uniform(-0.01, 0.01, 2)
        base[str(pair)] = [offsets[0] * value for value in draw(n, sigma, generator)]
        new[str(pair)] = [factor * offsets[1] * value for value in draw(n, sigma, generator)]
    return Counter(row.judgement for row in compare(record(base), record(new)).rows)


def correlated(n: int, sigma: float, generator: np.random.Generator) -> list[float]:
    """Samples each of which remembers 60 % of the one before it, as those of real runs do."""
    noise, values = 0.0, []
    for step in generator.normal(0.0, sigma * 0.8, n):
        noise = 0.6 * noise + step
        values.append(float(np.exp(noise)))
    return values


@pytest.mark.parametrize("draw", [steady, correlated])
def test_two_runs_of_the_same_thing_come_out_the_same_19_times_in_20(
    draw: Callable[[int, float, np.random.Generator], list[float]],
) -> None:
    counts = simulated_pairs(draw)
    assert counts["SAME"] >= 0.95 * 400
    assert counts["SLOWER"] + counts["FASTER"] <= 1


def test_the_fewest_and_noisiest_samples_come_out_the_same_19_times_in_20_too() -> None:
    generator = np.random.default_rng(7)
    pairs = [
        {
            str(pair): (1 + generator.uniform(-0.005, 0.005))
            * np.array(steady(20, 0.02, generator))
            for pair in range(400)
        }
        for _ in range(2)
    ]
    base, new = ({key: values.tolist() for key, values in side.items()} for side in pairs)
    counts = Counter(row.judgement for row in compare(record(base), record(new)).rows)
    assert counts["SAME"] >= 0.95 * 400
    assert counts["SLOWER"] + counts["FASTER"] == 0


def test_a_change_of_a_tenth_is_seen() -> None:
    assert simulated_pairs(steady, factor=1.10)["SLOWER"] >= 0.95 * 400
    assert simulated_pairs(steady, factor=1 / 1.10)["FASTER"] >= 0.95 * 400


SAMPLES = st.lists(st.floats(0.9, 1.1), min_size=6, max_size=40)
MIRROR = {"FASTER": "SLOWER", "SLOWER": "FASTER"}


@settings(max_examples=60, deadline=None)
@given(base=SAMPLES, new=SAMPLES, factor=st.sampled_from([0.5, 0.9, 1.0, 1.2, 2.0, 8.0]))
def test_changing_places_mirrors_the_judgement(
    base: list[float], new: list[float], factor: float
) -> None:
    new = [factor * value for value in new]
    there, back = judged(base, new), judged(new, base)
    assert back.judgement == MIRROR.get(there.judgement, there.judgement)
    assert back.ratio == pytest.approx(1 / (there.ratio or 0.0))
    assert back.noise == there.noise


@settings(max_examples=40, deadline=None)
@given(base=SAMPLES, new=SAMPLES, power=st.integers(-40, 40))
def test_a_common_scale_changes_nothing(base: list[float], new: list[float], power: int) -> None:
    scaled = [[value * 2.0**power for value in side] for side in (base, new)]
    plain, other = judged(base, new), judged(*scaled)
    assert (plain.judgement, plain.ratio, plain.noise) == (
        other.judgement,
        other.ratio,
        other.noise,
    )


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.floats(0.95, 1.05), min_size=20, max_size=100))
def test_identical_samples_are_the_same(values: list[float]) -> None:
    assert judged(values, values).judgement == "SAME"


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.floats(0.9, 1.1), min_size=20, max_size=100))
@pytest.mark.parametrize(("environment", "factor"), [(GPU, 1.5), (CPU, 2.5)])
def test_what_clears_the_noise_is_slower(
    environment: dict[str, Any], factor: float, values: list[float]
) -> None:
    longer = [factor * value for value in values]
    base, new = (record({"a": each}, environment=environment) for each in (values, longer))
    assert only(compare(base, new)).judgement == "SLOWER"


@settings(max_examples=60, deadline=None)
@given(base=SAMPLES, new=SAMPLES, factor=st.floats(0.5, 2.0), least=st.floats(0.0, 0.5))
@pytest.mark.parametrize("environment", [GPU, CPU])
def test_what_lies_wholly_beyond_the_least_change_is_never_the_same(
    environment: dict[str, Any], base: list[float], new: list[float], factor: float, least: float
) -> None:
    sides = (base, [factor * value for value in new])
    found = only(
        compare(*(record({"a": each}, environment=environment) for each in sides), min_change=least)
    )
    assert found.interval is not None
    low, high = found.interval
    if low > 1 + least or 1 / high > 1 + least:
        assert found.judgement in ("SLOWER", "FASTER", "INCONCLUSIVE")
        assert found.why == ("" if found.judgement != "INCONCLUSIVE" else WITHIN_NOISE)


def test_what_drifts_within_a_run_is_held_against_its_drift() -> None:
    drifting = [1.0 + 0.02 * step for step in range(30)]
    assert spread(drifting) > 0.25
    assert judged(drifting, [1.15 * each for each in drifting]).judgement == "INCONCLUSIVE"


def test_on_a_hosts_cores_runs_of_the_same_thing_differ_until_told_otherwise() -> None:
    base, new = record(SERIES, environment=CPU), record({"a": [1.3] * 30}, environment=CPU)

    told, known = only(compare(base, new)), only(compare(base, new, run_to_run=0.05))

    assert (told.judgement, told.noise, told.why) == (
        "INCONCLUSIVE",
        HOST_RUN_TO_RUN,
        WITHIN_NOISE,
    )
    assert (known.judgement, known.noise) == ("SLOWER", 0.05)
    assert only(compare(base, new, min_change=0.4)).judgement == "SAME"
    assert any("--run-to-run" in note for note in compare(base, new).notes)


def test_on_a_gpu_only_what_the_host_does_is_held_against_that() -> None:
    names = ("a", "a/host_enqueue", "a/wall")
    base = record({name: [1.0] * 30 for name in names})
    new = record({name: [1.3] * 30 for name in names})
    found = {row.series: row.judgement for row in compare(base, new).rows}
    assert found == {"a": "SLOWER", "a/host_enqueue": "INCONCLUSIVE", "a/wall": "INCONCLUSIVE"}


@pytest.mark.parametrize(
    ("base", "new", "judgement"),
    [
        ([1.0], [1.0], "INCONCLUSIVE"),
        ([1.0], [3.0], "INCONCLUSIVE"),
        ([1.0] * 30, [16.0], "SLOWER"),
        ([16.0], [1.0] * 30, "FASTER"),
        ([1.0] * 30, [1.5, 1.5], "INCONCLUSIVE"),
        ([1.0] * 30, [2.5, 1.9], "INCONCLUSIVE"),
        ([1.0] * 30, [2.5, 2.1], "SLOWER"),
    ],
)
def test_few_samples_tell_only_what_none_of_them_contradicts(
    base: list[float], new: list[float], judgement: str
) -> None:
    found = judged(base, new)
    assert found.judgement == judgement
    assert found.interval is None
    assert "too few samples" in found.why


def test_a_first_call_is_compared_and_never_judged() -> None:
    pair = [record({"a/first_call": [value]}) for value in (1.0, 100.0)]
    found = compare(*pair)
    assert (only(found).judgement, only(found).ratio) == ("INCONCLUSIVE", 100.0)


def test_bytes_differ_and_do_not_become_faster() -> None:
    base, new = (record({"a": [value] * 30}, unit="bytes") for value in (1e9, 2e9))
    found = compare(base, new)
    assert only(found).judgement == "DIFFERENT"
    assert (bool(failure(found, "slower")), bool(failure(found, "different"))) == (False, True)


@pytest.mark.parametrize("factor", [1.0, 1.5, 80.0])
def test_a_disturbed_stage_is_never_judged(factor: float) -> None:
    busy: dict[str, list[Row]] = {"conditions": [{"other_gpu_processes": 1}]}
    found = compare(record(SERIES, tables=busy), record({"a": [factor] * 30}))
    assert (only(found).judgement, only(found).why) == ("INCONCLUSIVE", DISTURBED)
    assert "1 other process on the GPU (in BASE)" in found.notes[0]
    assert "nothing could be judged" in failure(found, "slower")


@pytest.mark.parametrize("values", [[0.0] * 30, [-1.0] * 30, [1e308] * 30, [5e-324] * 30])
def test_samples_of_which_no_ratio_means_anything(values: list[float]) -> None:
    found = judged(values, values)
    assert (found.judgement, found.ratio) == ("INCONCLUSIVE", None)
    assert json.dumps(asdict(compare(record({"a": values}), record())), allow_nan=False)


def test_very_many_samples_do_not_fill_the_memory() -> None:
    many = [1.0, 1.01] * 100_000
    assert judged(many, many).judgement == "SAME"
