"""The part that takes the longest over what it should: named, cleared, or not to be told."""

from __future__ import annotations

import msgspec
import pytest

from qwenprof.diagnosis.components import Component
from qwenprof.diagnosis.finding import Finding
from qwenprof.diagnosis.suspects import Suspect, usual_slowdown
from qwenprof.record.published import writeup
from qwenprof.record.record import Record, Row, Series
from tests.diagnosis.convolutions import MODULE, pair
from tests.diagnosis.handmade import judged, record

BUSY = {"cores_busy_elsewhere_meanwhile": 1.9}


def module(path: str, time_s: float, bound_s: float | None = None) -> Row:
    return {"path": path, "module_type": "Module", "inclusive_s": time_s, "bound_s": bound_s}


def blocks(
    time_s: float, bound_s: float | None, count: int = 24, container: str = "blocks"
) -> list[Row]:
    return [module(f"{container}.{index}", time_s, bound_s) for index in range(count)]


def forward(*parts: Row, **tables: list[Row]) -> Record:
    """A tower of these parts; what holds them takes as long as those that nothing holds."""
    paths = {str(part["path"]) for part in parts}
    outer = [part for part in parts if str(part["path"]).rpartition(".")[0] not in paths]
    total_s = sum(float(str(part["inclusive_s"])) for part in outer)
    tables["per_layer__modules"] = [module("", total_s), *parts]
    return record("cuda", **tables)


def culprit(*parts: Row, **tables: list[Row]) -> Finding:
    return judged("culprit", forward(*parts, **tables))


def test_the_culprit_is_the_part_with_the_largest_excess() -> None:
    finding = culprit(module("patch_embed", 16.1113, 0.0003), *blocks(0.0014, 0.0004))

    assert (finding.verdict, finding.severity) == ("problem", "critical")
    assert finding.culprit == "patch_embed"
    assert "53,700 x" in finding.title
    assert finding.cost_share == pytest.approx(16.111 / 16.1449, rel=1e-3)
    assert "takes 16.1 s, 99.8 % of all parts; the rest takes 33.6 ms" in finding.evidence[0]
    assert "where 3.50 x is usual in this model" in finding.evidence[1]


def test_the_deepest_module_that_has_most_of_the_excess_is_named() -> None:
    inner = [
        module("patch_embed", 16.1114, 0.0003),
        module("patch_embed.norm", 0.0001, 0.0001),
        module("patch_embed.proj", 16.1113, 0.0003),
    ]
    shared = [
        module("patch_embed", 16.0, 0.001),
        module("patch_embed.proj", 8.0, 0.0005),
        module("patch_embed.norm", 8.0, 0.0005),
    ]

    assert culprit(*inner, *blocks(0.0014, 0.0004)).culprit == "patch_embed.proj"
    assert culprit(*shared, *blocks(0.0014, 0.0004)).culprit == "patch_embed"


def test_half_of_the_forward_makes_it_critical() -> None:
    finding = culprit(module("merger", 0.04, 0.001), *blocks(0.003, 0.001))

    assert (finding.severity, finding.culprit) == ("warning", "merger")


def test_a_machine_that_is_slow_everywhere_accuses_nobody() -> None:
    finding = culprit(module("patch_embed", 0.2, 0.002), *blocks(0.1, 0.001))

    assert finding.verdict == "clear"
    assert finding.evidence[0].startswith("The largest excess: blocks, 24 blocks")


def test_an_outlier_is_found_behind_big_healthy_blocks() -> None:
    """The blocks have the larger excess, but no more than is usual."""
    big, healthy = blocks(0.1, 0.02), module("merger", 0.2, 0.05)

    finding = culprit(*big, healthy, module("patch_embed", 1.0, 0.01))

    assert (finding.verdict, finding.culprit) == ("problem", "patch_embed")
    assert "5.00 x is usual" in finding.evidence[1]


def test_a_small_part_far_off_its_bound_is_no_culprit() -> None:
    finding = culprit(module("norm", 0.0001, 1e-7), *blocks(0.0014, 0.0004))

    assert finding.verdict == "clear"


def test_an_ordinary_spread_between_parts_accuses_nobody() -> None:
    """A healthy part takes two to five times its bound."""
    parts = [module("patch_embed", 0.05, 0.01), module("merger", 0.02, 0.01)]

    assert culprit(*parts, *blocks(0.02, 0.005)).verdict == "clear"


@pytest.mark.parametrize(("slowdown", "verdict"), [(20.0, "clear"), (30.0, "problem")])
def test_blocks_have_to_stand_out_further(slowdown: float, verdict: str) -> None:
    """A bound leaves out their norms and softmax, so ten times a merger's slowdown is no fault."""
    others = [module("patch_embed", 0.01, 0.01), module("merger", 0.01, 0.01)]

    finding = culprit(*others, *blocks(0.001 * slowdown, 0.001))

    assert finding.verdict == verdict
    if verdict == "problem":
        assert finding.culprit == "blocks"
        assert finding.title.startswith("blocks, 24 blocks takes 30.0 x")


@pytest.mark.parametrize(("slowdown", "verdict"), [(3.0, "clear"), (5.0, "problem")])
def test_a_single_part_stands_out_at_four_times_what_is_usual(
    slowdown: float, verdict: str
) -> None:
    parts = [module("merger", 0.1 * slowdown, 0.1), module("patch_embed", 0.1, 0.1)]

    assert culprit(*parts, *blocks(0.01, 0.01)).verdict == verdict


def layers(path: str, times: tuple[float, ...], bound_s: float) -> list[Row]:
    """Linear layers that hold all the arithmetic of their parent."""
    return [
        {**module(f"{path}.fc{index}", time_s, bound_s), "module_type": "Linear", "flops": 100}
        for index, time_s in enumerate(times)
    ]


def tower(*, mlp_s: float, attention_s: float = 0.006, first_surplus_s: float = 0.0) -> Finding:
    """24 blocks whose first is timed part by part, and a merger that is matrix products too."""
    whole_s = mlp_s + attention_s + 0.0002
    rest = blocks(whole_s, 0.0041)
    rest[0] |= {"inclusive_s": whole_s + first_surplus_s}
    attention = module("blocks.0.attn", attention_s + first_surplus_s, 0.002) | {"flops": 300}
    return culprit(
        module("merger", 0.012, 0.01) | {"flops": 200},
        *layers("merger", (0.006, 0.006), 0.005),
        module("patch_embed", 0.01, 0.0025) | {"flops": 50},
        *rest,
        attention,
        *layers("blocks.0.attn", (0.0015, 0.0005), 0.001),
        module("blocks.0.mlp", mlp_s, 0.002) | {"flops": 200},
        *layers("blocks.0.mlp", (mlp_s / 2, mlp_s / 2), 0.001),
        module("blocks.0.norm1", 0.0002, 0.0001),
    )


@pytest.mark.parametrize("factor", [5.0, 10.0, 20.0])
def test_a_part_that_is_slow_in_every_block_is_named(factor: float) -> None:
    """No block is unlike the others then, and the blocks together do not stand out."""
    finding = tower(mlp_s=0.0028 * factor)

    assert (finding.verdict, finding.culprit) == ("problem", "blocks.*.mlp")
    assert finding.title.startswith("blocks.*.mlp, in each of 24 blocks, takes")
    assert "in the first of 24 blocks, for all of them" in finding.evidence[1]
    assert "where 1.20 x is usual" in finding.evidence[2]
    assert finding.factor == pytest.approx(1.4 * factor / 1.2)


def test_healthy_blocks_are_not_taken_apart_into_culprits() -> None:
    assert tower(mlp_s=0.0028).verdict == "clear"
    assert tower(mlp_s=0.0028, attention_s=0.02).verdict == "clear"


def test_attention_in_every_block_has_to_stand_out_further() -> None:
    """Its softmax is in no bound."""
    assert tower(mlp_s=0.0028, attention_s=0.08).culprit == "blocks.*.attn"


def test_a_burst_in_the_first_block_is_not_what_every_block_takes() -> None:
    assert tower(mlp_s=0.0028, first_surplus_s=0.5).verdict == "clear"


def test_a_part_that_holds_blocks_has_to_stand_out_further_too() -> None:
    """A language model has norms and softmax as the blocks of the tower do."""
    text = blocks(0.05, 0.004, count=6, container="language_model.layers")
    parts = [module("merger", 0.1, 0.1), module("patch_embed", 0.1, 0.1), *blocks(0.01, 0.01)]

    assert culprit(*parts, module("language_model", 1.3, 0.1), *text).verdict == "clear"
    assert culprit(*parts, module("language_model", 1.3, 0.1)).verdict == "problem"


def test_that_all_is_slow_is_said_where_nobody_stands_out() -> None:
    slow = culprit(module("merger", 1.0, 0.01), *blocks(1.0, 0.01))
    usual = culprit(module("merger", 0.02, 0.01), *blocks(0.02, 0.01))

    assert (slow.verdict, slow.confidence) == ("clear", "medium")
    assert "takes 100 x the sum of the bounds: all of it is slow" in slow.evidence[-1]
    assert (usual.verdict, usual.confidence) == ("clear", "high")
    assert usual.evidence[-1].endswith("takes 2.00 x the sum of the bounds.")


def test_where_the_bound_is_one_launch_no_factor_is_claimed() -> None:
    helper = module("interpolate", 0.02, 2e-6) | {"operators": 6113, "calls": 1}
    machine: list[Row] = [{"launch_latency_s": 2e-6}]

    finding = culprit(
        helper, module("merger", 0.01, 0.01), *blocks(0.004, 0.003), matmul__machine=machine
    )

    assert (finding.verdict, finding.culprit, finding.factor) == ("problem", "interpolate", None)
    assert finding.title == (
        "interpolate takes 20.0 ms, in 6,113 operators, where next to no work is to be done: 15.9 %"
    )
    assert "one launch, 2.00 us, and says little" in finding.evidence[1]
    assert " x " not in finding.advice


def test_a_part_that_was_fast_once_is_not_slow() -> None:
    """Something slowed the other passes; a fault is there in every one."""
    parts = [module("merger", 0.1, 0.1), *blocks(0.01, 0.01)]
    slow = module("patch_embed", 1.3, 0.1)

    assert culprit(slow | {"first_call_s": 1.4, "min_s": 1.2}, *parts).culprit == "patch_embed"
    assert culprit(slow | {"first_call_s": 0.3, "min_s": 1.2}, *parts).verdict == "clear"


def test_no_layer_is_named_where_all_of_an_encoder_is_slow() -> None:
    layers = blocks(0.1, 0.0001, count=5, container="encoder.layers")

    finding = culprit(module("embeddings", 0.1, 0.05), module("encoder", 0.5, 0.01), *layers)

    assert finding.verdict == "problem"
    assert finding.culprit == "encoder"


def test_no_culprit_without_bounds() -> None:
    assert judged("culprit", record()).verdict == "not assessed"
    assert culprit(*blocks(0.0014, None)).verdict == "not assessed"


def test_one_bound_is_not_enough_to_accuse_a_part_among_others_of_its_size() -> None:
    finding = culprit(module("patch_embed", 0.1, 0.001), *blocks(0.01, None))

    assert finding.verdict == "not assessed"
    assert "Fewer than two parts" in finding.evidence[0]


def test_the_equal_linear_stands_for_a_bound_that_is_missing() -> None:
    path = f"{MODULE.rpartition('.')[0]}"
    variants = pair(None, 16.1, 0.0003)

    found = culprit(
        module(path, 16.1), *blocks(0.0014, None), compare_patch_embed__variants=variants
    )
    lesser = culprit(
        module(path, 0.02), *blocks(0.0014, None), compare_patch_embed__variants=variants
    )

    assert (found.verdict, found.culprit) == ("problem", path)
    assert "The equal Linear takes 300 us: it takes 53,700 x as long." in found.evidence
    assert lesser.verdict == "not assessed"


def test_the_published_record_names_its_culprit_without_a_bound() -> None:
    given = writeup()
    assert all(row.get("bound_s") is None for row in given.rows("per-layer", "modules"))

    finding = judged("culprit", given)

    assert (finding.verdict, finding.culprit) == ("problem", "model.visual.patch_embed")
    assert finding.cost_share == pytest.approx(16.111 / 16.5), "of the whole forward"
    assert "The equal Linear takes 300 us" in finding.evidence[1]


def test_a_run_whose_own_check_fails_clears_no_part() -> None:
    summary: list[Row] = [{"with_marks_s": 3.31, "plain_s": 4.62}]

    finding = culprit(
        module("patch_embed", 0.1, 0.03), *blocks(0.1, 0.03), per_layer__summary=summary
    )

    assert finding.verdict == "not assessed"
    assert "3.31 s with marks and 4.62 s without" in finding.evidence[0]


@pytest.mark.parametrize(("slowdown", "verdict"), [(6.0, "not assessed"), (12.0, "problem")])
def test_a_disturbed_run_accuses_only_who_is_far_beyond_doubt(
    slowdown: float, verdict: str
) -> None:
    parts = [module("merger", 0.1 * slowdown, 0.1), module("patch_embed", 0.1, 0.1)]
    given = forward(*parts, *blocks(0.01, 0.01), per_layer__conditions=[{**BUSY}])
    samples = Series(unit="s", values=[1.0, 1.01], stop_reason="budget")
    result = msgspec.structs.replace(given.stages["per-layer"], series={"forward": samples})
    device = {"device": {"type": "cpu", "name": "some CPU"}}
    disturbed = msgspec.structs.replace(given, environment=device, stages={"per-layer": result})

    finding = judged("culprit", disturbed)

    assert finding.verdict == verdict
    if verdict == "not assessed":
        assert "the run was disturbed (cores busy with other processes: 1.9" in finding.evidence[0]


def suspect(time_s: float, bound_s: float | None) -> Suspect:
    part = Component(
        label="", paths=("a",), module_type="", time_s=time_s, share=None, bound_s=bound_s
    )
    return Suspect(part=part, least_s=bound_s or 1.0, fastest_s=time_s, should="{}")


def test_the_usual_slowdown_is_weighted_by_time() -> None:
    assert usual_slowdown([suspect(1.0, 0.5), suspect(10.0, 2.5)]) == pytest.approx(4.0)
    assert usual_slowdown([suspect(1.0, None)]) is None
    assert usual_slowdown([]) is None
