"""Known issues: the file, the ranges, the signatures, and what the rule makes of them."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenprof.diagnosis.finding import Finding, rules
from qwenprof.diagnosis.known_issues import (
    RANGES,
    Affected,
    KnownIssue,
    exposure,
    exposure_of,
    known_issues,
    possible,
    read_issues,
)
from qwenprof.diagnosis.signatures import SIGNATURES
from qwenprof.record.record import Cell, Facts, Record, Row, StageResult, Tool, load

REPORTS = Path(__file__).parents[2] / "reports"
GATE_290, GATE_291 = "torch-2.9.0-conv3d-gate", "torch-2.9.1-conv3d-gate"
WRONG_OUTPUT, GRADIENT = "cudnn-conv3d-bf16-wrong-output", "conv3d-slow-path-weight-gradient"
CPU_SLOW, AMX = "cpu-onednn-bf16-conv3d-slow", "cpu-amx-bf16-conv3d-wrong-output"
PARTS = st.tuples(st.integers(0, 12), st.integers(0, 30), st.integers(0, 9))
RESTRICTED = [
    pytest.param(affected, id=f"{issue.id}-{at}")
    for issue in known_issues()
    for at, affected in enumerate(issue.affected)
]


def issue(name: str) -> KnownIssue:
    return next(each for each in known_issues() if each.id == name)


def published(torch: str = "2.9.0+cu128", cudnn: Cell = 91002) -> dict[str, Facts]:
    """The environment that the published measurements name; what they do not name is missing."""
    return {
        "device": {"type": "cuda", "name": "RTX 5090"},
        "torch": {"version": torch, "cudnn_runtime": cudnn},
        "packages": {"transformers": "5.0.0.dev0"},
    }


def cpu(
    capability: str = "AVX512", instructions: str | None = "avx512f, avx512_bf16, amx_bf16"
) -> dict[str, Facts]:
    return {
        "device": {
            "type": "cpu",
            "name": "a CPU",
            "capability": capability,
            "instructions": instructions,
        },
        "torch": {"version": "2.14.1+cpu", "hip": None, "cudnn_runtime": None},
        "packages": {"transformers": "4.57.6"},
    }


def record(
    environment: dict[str, Facts], dtype: str = "bf16", **stages: dict[str, list[Row]]
) -> Record:
    """A record of these tables; a keyword is a stage, as in `compare_patch_embed`."""
    return Record(
        tool=Tool(name="qwenprof", version="0"),
        created="2026-01-01T00:00:00+00:00",
        command=[],
        environment=environment,
        workload={"dtype": dtype, "attention": "sdpa", "batch": 1, "family": "qwen3-vl"},
        stages={
            name.replace("_", "-"): StageResult(status="ok", duration_s=1.0, tables=tables)
            for name, tables in stages.items()
        },
    )


SPLIT_IS_FREE: list[Row] = [
    {"attention": "sdpa", "experiment": name, "median_s": 1.0, "batch": 1, "n": 20, "status": "ok"}
    for name in ("switched", "replaced by plain SDPA")
]


def variant(name: str, median_s: float, **columns: Cell) -> Row:
    row: Row = {"variant": name, "dtype": "bf16", "patches": 6080, "direction": "forward"}
    return row | {"median_s": median_s, "status": "ok", "n": 20} | columns


def compared(conv_s: float, linear_s: float, **columns: Cell) -> dict[str, list[Row]]:
    rows = [variant("Conv3d", conv_s, **columns), variant("Linear", linear_s)]
    return {"variants": rows}


def check(name: str, value: float, **columns: Cell) -> Row:
    row: Row = {"check": name, "variant": "Conv3d", "dtype": "bf16", "reference": "fp64"}
    row |= {"value": value, "tolerance": 0.004, "passed": value <= 0.004, "metric": "an error"}
    return row | columns


def judged(given_record: Record) -> Finding:
    return rules()["known-issue"].judge(given_record)


# The file


@pytest.mark.parametrize("each", known_issues(), ids=lambda each: each.id)
def test_an_entry_says_where_it_is_from_and_what_to_do(each: KnownIssue) -> None:
    assert all(link.startswith("https://") for link in each.links)
    assert each.signature in SIGNATURES or (each.signature is None and each.kind == "hazard")
    for text in (each.title, each.cause, each.remedy, each.fixed_in, each.source):
        assert text.strip()


def test_no_signature_is_left_over() -> None:
    assert {each.signature for each in known_issues() if each.signature} == SIGNATURES.keys()


def entry(**changes: Any) -> str:
    whole: dict[str, Any] = {
        "id": "x",
        "kind": "slow",
        "title": "t",
        "cause": "c",
        "signature": "output-wrong",
        "remedy": "r",
        "fixed_in": "f",
        "source": "s",
        "links": ["https://example.org"],
        "affected": [{"torch": "==2.9.0"}],
    }
    lines = [f"{key} = {toml(value)}" for key, value in (whole | changes).items()]
    return "\n".join(["[[issue]]", *lines])


def toml(value: Any) -> str:
    """Text, lists and tables as TOML writes them inline."""
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key} = {toml(each)}' for key, each in value.items())}}}"
    return msgspec.json.encode(value).decode()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"affected": [{"torch": "about 2.9"}]}, "about 2.9"),
        ({"affected": [{"cudnn": ">=9"}]}, "cudnn"),
        ({"affected": [{}]}, "condition"),
        ({"affected": []}, "condition"),
        ({"links": ["http://example.org"]}, "https"),
        ({"links": []}, "https"),
        ({"signature": "feels-slow"}, "feels-slow"),
        ({"signature": ""}, "''"),
        ({"kind": "annoying"}, "annoying"),
        ({"titel": "t"}, "titel"),
    ],
)
def test_a_broken_entry_fails_loudly(changes: dict[str, Any], told: str) -> None:
    assert read_issues(entry())

    with pytest.raises(msgspec.ValidationError, match=re.escape(told)):
        read_issues(entry(**changes))


def test_an_id_is_the_only_one_of_its_kind() -> None:
    with pytest.raises(msgspec.ValidationError, match="x"):
        read_issues(f"{entry()}\n{entry()}")


# Ranges


def inside(parts: tuple[int, ...], wanted: str) -> bool:
    """Whether a release lies in a range, worked out without `packaging`."""
    for clause in wanted.split(","):
        operator, text = re.fullmatch(r"(==|>=|<)([\d.]+)", clause).groups()  # type: ignore[union-attr]
        bound = tuple(map(int, text.split(".")))
        bound += (0,) * (3 - len(bound))
        if not {"==": parts == bound, ">=": parts >= bound, "<": parts < bound}[operator]:
            return False
    return True


def described(affected: Affected, versions: dict[str, str]) -> tuple[dict[str, Facts], Facts]:
    """An environment and a workload that meet every condition but those on versions."""
    wanted = affected.conditions()
    device: Facts = {"type": wanted.get("device", ("cuda",))[0]}
    device |= {"capability": wanted.get("cpu_capability", (None,))[0]}
    device |= {"instructions": ", ".join(wanted.get("cpu_has", ()))}
    device |= {"compute_capability": versions.get("compute_capability")}
    torch: Facts = {key: versions.get(key) for key in ("cudnn_runtime", "cudnn_compiled")}
    torch |= {"version": versions.get("torch"), "cudnn_allow_tf32": wanted.get("cudnn_allow_tf32")}
    packages: Facts = {"transformers": versions.get("transformers")}
    workload: Facts = {key: wanted.get(key, (None,))[0] for key in ("dtype", "attention", "family")}
    return {"device": device, "torch": torch, "packages": packages}, workload


@pytest.mark.parametrize("affected", RESTRICTED)
@given(data=st.data())
def test_a_version_is_classified_by_every_range(affected: Affected, data: st.DataObject) -> None:
    ranges = {key: value for key, value in affected.conditions().items() if key in RANGES}
    near = {key: bounds(value) for key, value in ranges.items()}
    drawn = {key: data.draw(st.one_of(st.sampled_from(near[key]), PARTS)) for key in ranges}
    alone = msgspec.structs.replace(known_issues()[0], affected=(affected,))
    texts = {key: ".".join(map(str, parts)) for key, parts in drawn.items()}

    environment, workload = described(affected, texts)

    within_all = all(inside(drawn[key], wanted) for key, wanted in ranges.items())
    expected = "affected" if within_all else "not affected"
    assert exposure(alone, environment, workload=workload) == expected


def bounds(wanted: str) -> list[tuple[int, int, int]]:
    """Releases on both sides of every bound of a range."""
    found = []
    for text in re.findall(r"[\d.]+", wanted):
        major, minor, patch = ([int(part) for part in text.split(".")] + [0, 0])[:3]
        found += [(major, minor, patch), (major, minor, patch + 1), (major, minor + 1, 0)]
        found += [(major, minor - 1, 9)] if minor else [(max(0, major - 1), 30, 9)]
    return found


@pytest.mark.parametrize("affected", RESTRICTED)
def test_a_fact_that_is_missing_is_not_known_and_one_that_differs_decides(
    affected: Affected,
) -> None:
    alone = msgspec.structs.replace(known_issues()[0], affected=(affected,))
    wanted = affected.conditions()

    assert exposure(alone, {}, workload={}) == "unknown"
    if "device" in wanted:
        elsewhere: dict[str, Facts] = {"device": {"type": "mps"}}
        assert exposure(alone, elsewhere) == "not affected"
    if "dtype" in wanted:
        assert exposure(alone, {}, "int8") == "not affected"


def test_cudnn_at_compile_time_and_at_run_time_are_told_apart() -> None:
    newer = published("2.9.0", 92000)
    newer["torch"]["cudnn_compiled"] = "9.10.2"
    older = published("2.9.0", 91002)
    older["torch"]["cudnn_compiled"] = "9.7.1"

    assert exposure(issue(GATE_290), newer, "bf16") == "affected"
    assert exposure(issue(GATE_290), older, "bf16") == "not affected"
    assert exposure(issue(GATE_291), published("2.9.1", 91002), "bf16") == "affected"
    assert exposure(issue(GATE_291), published("2.9.1", 91500), "bf16") == "not affected"
    assert exposure(issue(GATE_291), published("2.9.1", None), "bf16") == "unknown"


def test_an_amd_gpu_is_not_exposed_to_cudnn() -> None:
    environment = published()
    environment["torch"]["hip"] = "6.4"

    assert exposure(issue(GATE_290), environment, "bf16") == "not affected"


def test_a_device_is_known_by_the_workload_too() -> None:
    environment = published()
    del environment["device"]["type"]
    workload: Facts = {"device": "cuda:0"}

    assert exposure(issue(GATE_290), environment, "bf16") == "unknown"
    assert exposure(issue(GATE_290), environment, "bf16", workload) == "affected"


def test_possible_names_what_an_environment_is_exposed_to_before_anything_is_run() -> None:
    names = [each.id for each in possible(published())]

    assert GATE_290 in names
    assert GATE_291 not in names
    assert WRONG_OUTPUT not in names
    assert all(issue(name).kind != "hazard" for name in names)
    assert GATE_290 not in [each.id for each in possible(published(), "fp32")]
    assert WRONG_OUTPUT in [each.id for each in possible(published("2.8.0+cu128"), "bf16")]
    assert possible(published("2.14.1+cu130", 92400), "bf16") == []
    assert possible({}) == []


def test_possible_tells_an_old_cpu_of_bf16() -> None:
    assert "cpu-bf16-without-avx512" in [each.id for each in possible(cpu("AVX2"), "bf16")]
    assert "cpu-bf16-without-avx512" not in [each.id for each in possible(cpu("AVX512"), "bf16")]


# The rule


def test_the_published_measurements_match_the_gate_of_torch_2_9_0() -> None:
    finding = judged(record(published(), compare_patch_embed=compared(16.1113, 0.0003)))

    assert (finding.verdict, finding.severity) == ("problem", "critical")
    assert issue(GATE_290).title in finding.title
    assert "gate in PyTorch 2.9.0" in finding.cause
    assert finding.culprit == "patch_embed.proj"
    assert finding.confidence == "medium"  # the backend was not recorded
    assert finding.factor == pytest.approx(53704, rel=1e-3)
    assert GATE_290 in finding.evidence[0]
    assert "2.9.0+cu128" in finding.evidence[0]
    assert "6,080 patches: Conv3d 16.1 s" in finding.evidence[1]
    assert "torch 2.10.0" in finding.advice
    assert "https://github.com/pytorch/pytorch/pull/163581" in finding.links


def test_an_observed_backend_makes_it_certain() -> None:
    seen = compared(0.004, 0.003, backend="SlowDilated3d")
    healthy = compared(16.1, 0.0003, backend="Cudnn")

    assert judged(record(published(), compare_patch_embed=seen)).confidence == "high"
    assert judged(record(published(), compare_patch_embed=healthy)).verdict != "problem"


def test_a_slow_dispatch_that_costs_next_to_nothing_is_a_remark() -> None:
    tables = compared(0.004, 0.003, backend="SlowDilated3d")
    forward: dict[str, list[Row]] = {"summary": [{"plain_s": 10.0}]}

    finding = judged(record(published(), compare_patch_embed=tables, per_layer=forward))

    assert (finding.verdict, finding.severity) == ("problem", "info")
    assert finding.cost_share == pytest.approx(0.0001)


def test_versions_alone_are_only_possible() -> None:
    finding = judged(record(published()))

    assert finding.verdict == "not assessed"
    assert GATE_290 in finding.evidence[0]
    assert "was not measured" in finding.evidence[0]


def test_several_matches_are_all_told() -> None:
    checks = {"checks": [check("weight gradient", 0.19), check("output", 0.0016)]}
    tables = compared(16.1, 0.0003, backend="SlowDilated3d")

    finding = judged(record(published(), compare_patch_embed=tables, verify=checks))

    assert any(GRADIENT in sentence for sentence in finding.evidence)
    assert set(issue(GRADIENT).links) <= set(finding.links)
    assert set(issue(GATE_290).links) <= set(finding.links)


def test_wrong_numbers_match_only_where_they_were_measured() -> None:
    environment = published("2.8.0+cu128")
    tables = compared(0.003, 0.0003, backend="Cudnn")
    sweep = {"backends": SPLIT_IS_FREE}

    def verified(error: float) -> Finding:
        checks = {"checks": [check("output", error)]}
        given_record = record(environment, compare_patch_embed=tables, attention_sweep=sweep)
        verify = StageResult(status="ok", duration_s=1.0, tables=checks)
        return judged(given_record.with_stage("verify", verify))

    assert (verified(0.5).verdict, verified(0.5).severity) == ("problem", "critical")
    assert issue(WRONG_OUTPUT).title in verified(0.5).title
    assert verified(0.0016).verdict == "clear"
    assert verified(0.006).verdict == "clear"  # past its tolerance, but not beyond rounding
    unverified = judged(record(environment, compare_patch_embed=tables, attention_sweep=sweep))
    assert unverified.verdict == "not assessed"
    assert WRONG_OUTPUT in unverified.evidence[0]


def test_a_void_proof_proves_nothing() -> None:
    control = check("control", 0.001, must_fail=True, passed=True)
    checks = {"checks": [check("weight gradient", 0.19), control]}

    assert SIGNATURES["weight-gradient-wrong"].holds(record(published(), verify=checks)) is None


def test_signatures_of_memory_backward_and_attention() -> None:
    rows = compared(0.003, 0.0003)["variants"]
    rows[0]["peak_bytes"], rows[1]["peak_bytes"] = 7.27e9, 2.51e9
    failed = variant("Conv3d", 0, direction="backward", status="failed")
    failed["reason"] = "GET was unable to find an engine to execute this computation"
    own, plain = SPLIT_IS_FREE
    sweep = [own | {"median_s": 3.0}, plain]
    seen = record(
        published(),
        compare_patch_embed={"variants": [*rows, failed]},
        attention_sweep={"backends": sweep},
    )

    for name in ("conv-memory", "backward-fails", "attention-split-costs"):
        assert SIGNATURES[name].holds(seen) is True
        assert SIGNATURES[name].holds(record(published())) is None
        assert any(character.isalpha() for character in SIGNATURES[name].said(seen))
    assert (
        SIGNATURES["conv-memory"].holds(record(cpu(), compare_patch_embed={"variants": rows}))
        is None
    )


def test_a_fused_model_is_a_remark() -> None:
    environment = published("2.14.1+cu130", 92400)
    environment["packages"]["transformers"] = "5.23.0"
    modules: dict[str, list[Row]] = {"modules": [{"path": "visual.patch_embed.linear_proj"}]}

    finding = judged(record(environment, per_layer=modules))

    assert (finding.verdict, finding.severity) == ("problem", "info")
    assert "fusion_config" in finding.title


def test_a_stage_that_failed_over_the_shape_of_a_weight() -> None:
    reason = "size mismatch for visual.patch_embed.proj.weight: copying a param with shape"
    failed = StageResult(status="failed", reason=reason, duration_s=1.0)
    environment = cpu() | {"packages": {"transformers": "5.23.0"}}

    finding = judged(record(environment, "fp32").with_stage("per-layer", failed))

    assert (finding.verdict, finding.severity) == ("problem", "info")
    assert "_load_from_state_dict" in finding.title


def test_a_cpu_whose_convolution_is_much_slower_than_linear() -> None:
    def on_cpu(ratio: float) -> Finding:
        tables = compared(ratio, 1.0, backend="Mkldnn", relative_error=0.0016)
        return judged(record(cpu(), compare_patch_embed=tables))

    assert issue(CPU_SLOW).title in on_cpu(81.0).title
    assert on_cpu(81.0).severity == "warning"
    assert on_cpu(4.2).verdict == "clear"
    assert "2 known issues" in on_cpu(4.2).title


def test_a_ratio_that_a_disturbed_run_left_open_matches_no_issue() -> None:
    tables = compared(16.0, 1.0, backend="Mkldnn", relative_error=0.0016)
    tables["variants"][1] |= {"speedup": 16.0, "speedup_low": 4.1, "speedup_high": 22.6}

    found = judged(record(cpu(), compare_patch_embed=tables))

    assert issue(CPU_SLOW).title not in found.title


@pytest.mark.parametrize(
    ("instructions", "expected"),
    [("avx512f, amx_bf16", "affected"), ("avx512f", "not affected"), (None, "unknown")],
)
def test_an_issue_of_a_cpu_with_an_instruction_set(instructions: str | None, expected: str) -> None:
    assert exposure(issue(AMX), cpu(instructions=instructions), "bf16") == expected


@pytest.mark.parametrize(
    ("instructions", "expected"),
    [("avx512f, avx512_fp16", "not affected"), ("avx512f", "affected"), (None, "unknown")],
)
def test_an_issue_of_a_cpu_without_an_instruction_set(
    instructions: str | None, expected: str
) -> None:
    without = issue("cpu-fp16-without-onednn")

    assert exposure(without, cpu(instructions=instructions), "fp16") == expected


def test_old_records_tell_an_error_by_its_cosine() -> None:
    right = compared(1.0, 1.0, backend="Mkldnn", cosine=0.9999986)
    wrong = compared(1.0, 1.0, backend="Mkldnn", cosine=0.5)

    assert judged(record(cpu(), compare_patch_embed=right)).verdict == "clear"
    assert issue(AMX).title in judged(record(cpu(), compare_patch_embed=wrong)).title


def test_without_an_environment_nothing_is_assessed() -> None:
    tables = compared(16.1, 0.0003, backend="SlowDilated3d")

    assert judged(record({}, compare_patch_embed=tables)).verdict == "not assessed"
    unknown = judged(record({"device": {"type": "cuda"}}, compare_patch_embed=tables))
    assert unknown.verdict == "not assessed"
    assert f"{GATE_290} (not known: torch" in unknown.evidence[0]


def test_no_exposure_at_all_is_clear() -> None:
    finding = judged(record(cpu(), "fp32"))

    assert finding.verdict == "clear"
    assert finding.title == "No known issue that could be looked for concerns these versions"


@pytest.mark.parametrize("path", sorted(REPORTS.glob("*/record.json")), ids=lambda p: p.parent.name)
def test_the_committed_records_are_accused_of_nothing(path: Path) -> None:
    finding = judged(load(path))

    assert finding.verdict == "clear" or finding.severity == "info"


STRANGE: tuple[Cell, ...] = (
    None,
    True,
    0,
    -1,
    10**30,
    1e308,
    -1e308,
    5e-324,
    "",
    "x\x1b[31m",
    "9" * 5000,
)


@pytest.mark.parametrize("seed", range(200))
def test_no_record_makes_the_rule_fail(seed: int) -> None:
    chance = random.Random(seed)

    def strange(row: Row | Facts) -> dict[str, Cell]:
        return {k: chance.choice(STRANGE) if chance.random() < 0.4 else v for k, v in row.items()}

    environment = {name: strange(facts) for name, facts in published().items()}
    tables = compared(16.1, 0.0003, backend="SlowDilated3d", cosine=0.5, peak_bytes=3)["variants"]
    checks = [check("weight gradient", 0.19), check("output", 0.19)]
    given_record = record(
        environment,
        compare_patch_embed={"variants": [strange(row) for row in tables]},
        verify={"checks": [strange(row) for row in checks]},
        attention_sweep={"backends": [strange(variant("sdpa", 1.0, batch=1))]},
        per_layer={"modules": [strange({"path": "patch_embed.proj"})]},
    )

    finding = judged(given_record)

    assert finding.evidence
    assert "\x1b" not in " ".join((finding.title, *finding.evidence, str(finding.culprit)))
    for each in known_issues():
        assert exposure_of(each, given_record) in ("affected", "not affected", "unknown")
