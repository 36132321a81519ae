"""The code, the proof, the workaround, the diff and the recipe, as the report tells them."""

from __future__ import annotations

import ast
import copy
import itertools
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import torch
from torch import nn

from qwenprof.diagnosis.finding import Finding, diagnose
from qwenprof.record.published import writeup
from qwenprof.record.record import Facts, Record, Row, StageResult
from qwenprof.report import markdown
from qwenprof.report.section import Block, Code, sections
from qwenprof.report.sections._convolution import convolution, shape
from qwenprof.report.sections.equivalence import _flat_index, _tolerance
from qwenprof.report.sections.slow_code import source_of
from qwenprof.report.sections.workaround import pasted_patch
from qwenprof.report.telling import telling
from qwenprof.stages._checks import rounding_tolerance
from tests.diagnosis.convolutions import GATED, HEALTHY_CPU, MODULE, compared, pair
from tests.report.conftest import HOSTILE

NAMES = ("slow-code", "equivalence", "workaround", "upstream", "reproduce")
CUT: Row = {
    "module_type": "Conv3d",
    "input_shape": "6080x3x2x16x16",
    "weight_shape": "1024x3x2x16x16",
    "features_in": 1536,
    "patches": 6080,
    "backend": "SlowDilated3d",
}
IMAGE: Row = {
    "module_type": "Conv2d",
    "rank": 4,
    "kernel": "16x16",
    "input_shape": "2x3x224x230",
    "weight_shape": "768x3x16x16",
    "features_in": 768,
    "features": 768,
    "patches": 392,
    "bias": False,
}
STRANGE = (None, True, -1, 0, 10**30, 1e308, 5e-324, "", "x", "2x", "9" * 400, HOSTILE)


def slow(convolution: Row | None = None, **tables: list[Row]) -> Record:
    """The published case as a run of one's own; a keyword is a table of the stage per-layer."""
    variants = pair("SlowDilated3d", 16.1, 0.0003)
    given = compared(variants, torch=GATED, forward_s=16.2, convolution=CUT | (convolution or {}))
    return with_tables(given, "per-layer", tables) if tables else given


def with_tables(given: Record, stage: str, tables: dict[str, list[Row]]) -> Record:
    before = given.stages.get(stage, StageResult(status="ok", duration_s=1.0))
    result = msgspec.structs.replace(before, tables={**before.tables, **tables})
    return given.with_stage(stage, result)


def with_facts(given: Record, section: str, facts: Facts) -> Record:
    environment = given.environment | {section: given.environment.get(section, {}) | facts}
    return msgspec.structs.replace(given, environment=environment)


def blocks(given: Record, section: str, findings: list[Finding] | None = None) -> list[Block]:
    known = diagnose(given) if findings is None else findings
    return sections()[section].compose(telling(given, known))


def told(given: Record, section: str, findings: list[Finding] | None = None) -> str:
    return "\n\n".join(markdown.render_block(block) for block in blocks(given, section, findings))


def codes(given: Record, section: str, language: str) -> list[str]:
    found = [each for each in blocks(given, section) if isinstance(each, Code)]
    return [each.text for each in found if each.language == language]


def blaming(culprit: str) -> list[Finding]:
    return [
        Finding(
            rule="culprit",
            verdict="problem",
            severity="critical",
            title="it is slow",
            culprit=culprit,
            cost_share=0.9,
        )
    ]


# the slow code


def source(module: str, name: str, **cells: Any) -> Row:
    base: Row = {
        "module": module,
        "name": name,
        "file": "pkg/modeling.py",
        "first_line": 59,
        "last_line": 76,
        "source": f"class {name}(nn.Module):\n    pass\n",
        "reason": None,
    }
    return base | cells


MODULES: list[Row] = [
    {"path": path, "module_type": kind}
    for path, kind in (
        ("", "Model"),
        ("model.visual", "Tower"),
        ("model.visual.positions", "function: positions"),
        ("model.visual.patch_embed", "PatchEmbed"),
        (MODULE, "Conv3d"),
        ("model.visual.blocks.0", "Block"),
        ("model.visual.blocks.0.attn", "Attention"),
        ("model.visual.blocks.5", "Block"),
        ("model.visual.blocks.5.attn", "Attention"),
        ("model.visual.blocks.5.attn.qkv", "Linear"),
    )
]
SOURCES = [
    source("", "Model"),
    source("model.visual", "Tower"),
    source(
        "model.visual.positions", "positions", source="    def positions(self):\n        pass\n"
    ),
    source("model.visual.patch_embed", "PatchEmbed"),
    source("model.visual.blocks.0", "Block"),
    source("model.visual.blocks.0.attn", "Attention"),
]


def sourced(*rows: Row) -> Record:
    return slow(modules=MODULES, sources=list(rows) or SOURCES)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (MODULE, "PatchEmbed"),
        ("patch_embed.proj", "PatchEmbed"),
        ("model.visual.patch_embed", "PatchEmbed"),
        ("model.visual.blocks.5.attn.qkv", "Attention"),
        ("model.visual.blocks.5.mlp.linear_fc1", "Block"),
        ("model.visual.positions", "positions"),
        ("model.visual", "Tower"),
        ("", "Model"),
    ],
)
def test_a_part_is_traced_to_the_innermost_class_around_it(path: str, name: str) -> None:
    found = source_of(sourced(), path)

    assert found is not None
    assert found["name"] == name


@pytest.mark.parametrize("path", ["NVIDIA H100", "attention", "no.such.module"])
def test_what_is_no_part_of_the_model_has_no_source(path: str) -> None:
    assert source_of(sourced(), path) is None


def test_the_code_of_the_culprit_stands_with_file_and_lines() -> None:
    text = told(sourced(), "slow-code")

    assert f"The culprit is `{MODULE}`." in text
    assert "`PatchEmbed` in `pkg/modeling.py`, lines 59 to 76, as installed:" in text
    assert "```python\nclass PatchEmbed(nn.Module):\n    pass\n```" in text


def test_published_code_is_told_by_its_place_and_not_as_recorded() -> None:
    text = told(writeup(), "slow-code")

    assert "The culprit is `model.visual.patch_embed.proj`. **Published, not recorded" in text
    assert (
        "`Qwen3VLVisionPatchEmbed` in `transformers/models/qwen3_vl/modeling_qwen3_vl.py`, lines "
        "59 to 76, as installed with transformers 5.0.0.dev0 (section 2)."
    ) in text
    assert "was not recorded" not in text
    assert "```python" not in text


def test_only_a_published_record_has_published_code() -> None:
    place = writeup().rows("per-layer", "published_code")

    assert "Published, not recorded" not in told(slow(published_code=place), "slow-code")


def test_the_code_of_a_method_starts_at_the_margin() -> None:
    text = told(sourced(), "slow-code", blaming("model.visual.positions"))

    assert "```python\ndef positions(self):\n    pass\n```" in text


def test_where_nobody_is_to_blame_the_patch_embedding_is_shown() -> None:
    cleared = Finding(rule="culprit", verdict="clear", severity="info", title="Nobody")
    text, unknown = (told(sourced(), "slow-code", found) for found in ([cleared], []))

    assert text.startswith("**No code is to blame.** What follows is the patch embedding")
    assert unknown.startswith("**Which code is to blame is not known.** What follows is the patch")
    assert "class PatchEmbed" in text


def test_a_device_that_is_to_blame_has_no_code() -> None:
    text = told(sourced(), "slow-code", blaming("NVIDIA H100"))

    assert text.startswith("**The culprit is no part of the model's code:** `NVIDIA H100`.")
    assert "class PatchEmbed" in text


def test_what_was_cut_and_what_could_not_be_read_is_said() -> None:
    cut = source("model.visual.patch_embed", "PatchEmbed", reason="the last 3 lines are left out")
    unread = cut | {"source": None, "file": None, "reason": "could not get source code"}

    assert "Here the last 3 lines are left out." in told(sourced(cut), "slow-code")
    text = told(sourced(unread), "slow-code")
    assert "Its source could not be read: could not get source code." in text


def test_a_record_without_source_says_why() -> None:
    assert "an older qwenprof" in told(slow(modules=MODULES), "slow-code")
    without = slow()
    stages = {name: each for name, each in without.stages.items() if name != "per-layer"}
    assert "did not run" in told(msgspec.structs.replace(without, stages=stages), "slow-code")
    stage = writeup().stages["per-layer"]
    tables = {name: rows for name, rows in stage.tables.items() if name != "published_code"}
    placeless = writeup().with_stage("per-layer", msgspec.structs.replace(stage, tables=tables))
    text = told(placeless, "slow-code")
    assert "published figures" in text
    assert "It is in the class `Qwen3VLVisionPatchEmbed`." in text


def test_the_convolution_is_told_in_numbers() -> None:
    text = told(slow(), "slow-code")

    assert "| Input | 6080 x 3 x 2 x 16 x 16 |" in text
    assert "| Weight | 1024 x 3 x 2 x 16 x 16 = 1,572,864 parameters |" in text
    assert "(6,080 x 1,536) times (1,536 x 1,024): 19.1 GFLOP." in text


@pytest.mark.parametrize(
    ("cell", "sizes"),
    [("2x16x16", (2, 16, 16)), ("7", (7,)), ("", ()), (None, ()), ("2x", ()), ("0x2", ())],
)
def test_a_shape_is_read_or_not_known(cell: str | None, sizes: tuple[int, ...]) -> None:
    assert shape(cell) == sizes


# why the fix is exact


def test_the_derivation_has_this_convolutions_numbers() -> None:
    text = told(slow(), "equivalence")

    assert "C * kt * kh * kw = 3 * 2 * 16 * 16 = 1536" in text
    assert "here 0 <= c < 3, 0 <= i < 2, 0 <= j < 16, 0 <= k < 16" in text
    assert "h: [h*kh, (h + 1)*kh)    here 0..15, 16..31, ..." in text
    assert "here (6080 x 1536)(1536 x 1024): nn.Linear(1536, 1024)" in text
    assert "each sample is exactly one window" in text
    assert "V = x.reshape(6080, 1536)" in text
    assert "b[d] + sum over c, i, j, k of" in text
    assert "$" not in text


def test_a_convolution_over_whole_images_is_derived_too() -> None:
    given = with_tables(slow(), "dispatch", {"convolutions": [IMAGE | {"module": MODULE}]})
    text = told(given, "equivalence")

    assert "y[n, d, h, w] = sum over c, i, j of\n    W[d, c, i, j] * x[n, c, h*sh + i" in text
    assert "C * kh * kw = 3 * 16 * 16 = 768" in text
    assert "cut into 14 x 14 windows. What does not fill a window at the end is dropped" in text
    assert "V is a copy of the input in another order" in text
    assert "V = x.reshape" not in text
    assert "b[d]" not in text


def test_a_weight_with_channels_last_is_flattened_in_its_own_order() -> None:
    text = told(slow({"memory_format": "channels_last_3d"}), "equivalence")

    assert "the fix takes that of the weight" in text
    assert "W[d, c, i, j, k] lies at" not in text


def test_without_shapes_the_letters_stand_alone() -> None:
    given = compared(pair("Cudnn", 0.1, 0.01))
    stages = {name: each for name, each in given.stages.items() if name != "dispatch"}
    text = told(msgspec.structs.replace(given, stages=stages), "equivalence")

    assert "Not all shapes of this convolution were recorded" in text
    assert "K  numbers in a window: C * kt * kh * kw\n" in text
    assert "\nhere" not in text


@pytest.mark.parametrize("sizes", [(4, 3, 2, 5, 6), (4, 3, 5, 6), (4, 3, 6)])
def test_the_formula_of_the_flat_index_is_that_of_reshape(sizes: tuple[int, ...]) -> None:
    kernel = sizes[2:]
    weight_shape, kernel_cell = ("x".join(map(str, each)) for each in (sizes, kernel))
    conv = convolution(slow({"kernel": kernel_cell, "weight_shape": weight_shape}))
    assert conv is not None
    weight = torch.rand(sizes)
    flat = weight.reshape(sizes[0], -1)
    formula = compile(ast.parse(_flat_index(conv), mode="eval"), "formula", "eval")
    known = {f"k{axis}": size for axis, size in zip(conv.axes, kernel, strict=True)}

    for place in itertools.product(*(range(size) for size in sizes[1:])):
        index = dict(zip(("c", "i", "j", "k"), place, strict=False))
        m = eval(formula, {}, known | index)
        assert torch.equal(flat[:, m], weight[(slice(None), *place)])


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_the_bound_is_the_tolerance_of_stage_verify(dtype: str) -> None:
    assert _tolerance(dtype, 1536) == rounding_tolerance(dtype, 1536, 1.0)[0]
    assert f"{_tolerance(dtype, 1536):.3g}" in told(slow(), "equivalence")


def test_measured_errors_stand_beside_the_bound() -> None:
    def check(variant: str, value: float, **cells: Any) -> Row:
        base: Row = {"check": "output", "variant": variant, "dtype": "bf16", "value": value}
        metric: Row = {"metric": "relative error (2-norm)", "reference": "fp64"}
        return base | metric | cells

    checks = [check("Conv3d", 0.00166), check("fix (view)", 0.00165, patches=6080)]
    text = told(with_tables(slow(), "verify", {"checks": checks}), "equivalence")

    assert "| bf16 | 0.00392 | 0.00166 | 0.00165 |" in text
    assert "| fp16 | 0.000498 | not measured | not measured |" in text


def test_the_published_difference_is_one_step_of_rounding() -> None:
    text = told(writeup(), "equivalence")

    assert (
        "is 0.0156. That is 2^-6: neighbouring bf16 numbers are as far apart from 2.00 to" in text
    )
    assert "stage verify did not compare them" in text


# the workaround


@pytest.fixture
def pasted() -> Iterator[Any]:
    """Runs the text for a class of convolution; what it replaced is put back."""
    classes: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    before = [each._conv_forward for each in classes]

    def paste(kind: str) -> None:
        exec(compile(pasted_patch(kind), "pasted", "exec"), {})

    yield paste
    for each, method in zip(classes, before, strict=True):
        each._conv_forward = method


def whole_numbers(*sizes: int) -> torch.Tensor:
    """Values whose sums of products fp64 holds exactly, in any order."""
    return torch.randint(-8, 9, sizes).double()


def exact_conv(kind: str, *, bias: bool, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    kernel = {"Conv1d": 4, "Conv2d": (4, 3), "Conv3d": (2, 4, 3)}[kind]
    settings = {"kernel_size": kernel, "stride": kernel, "bias": bias} | options
    conv: nn.Module = getattr(nn, kind)(4, 8, dtype=torch.float64, **settings)
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.copy_(whole_numbers(*parameter.shape))
    return conv


INPUTS = {
    "cut": {"Conv1d": (4,), "Conv2d": (4, 3), "Conv3d": (2, 4, 3)},
    "grid": {"Conv1d": (13,), "Conv2d": (9, 7), "Conv3d": (5, 9, 7)},
}


@pytest.mark.parametrize("sizes", INPUTS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["Conv1d", "Conv2d", "Conv3d"])
def test_the_pasted_patch_is_exact(pasted: Any, kind: str, bias: bool, sizes: str) -> None:
    conv, x = exact_conv(kind, bias=bias), whole_numbers(5, 4, *INPUTS[sizes][kind])
    expected, single = conv(x), conv(x[0])

    pasted(kind)
    calls = ran(lambda: conv(x))

    assert torch.equal(conv(x), expected)
    assert conv(x).is_contiguous()
    assert conv(x).shape == expected.shape
    assert torch.equal(conv(x[0]), single)
    assert "aten::linear" in calls
    assert "aten::convolution" not in calls


def ran(call: Any) -> set[str]:
    """The operators that a call runs, by name."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        call()
    averages: Any = recorded.key_averages()
    return {event.key for event in averages}


def test_in_bf16_it_differs_by_rounding_alone(pasted: Any) -> None:
    torch.manual_seed(0)
    conv = nn.Conv3d(3, 32, (2, 16, 16), stride=(2, 16, 16), dtype=torch.bfloat16)
    x = torch.rand(16, 3, 2, 16, 16).bfloat16()
    exact = copy.deepcopy(conv).double()(x.double()).detach()

    pasted("Conv3d")
    error = (conv(x).detach().double() - exact).norm() / exact.norm()

    assert float(error) <= _tolerance("bf16", 1536)


def test_pasting_twice_is_harmless(pasted: Any) -> None:
    conv, x = exact_conv("Conv3d", bias=True), whole_numbers(5, 4, 2, 4, 3)
    expected = conv(x)

    pasted("Conv3d")
    once = nn.Conv3d._conv_forward
    pasted("Conv3d")

    assert nn.Conv3d._conv_forward is once
    assert torch.equal(conv(x), expected)


def test_pasting_touches_no_parameter_and_no_checkpoint(pasted: Any) -> None:
    conv = exact_conv("Conv3d", bias=True)
    before = {name: (each, each.data_ptr()) for name, each in conv.named_parameters()}
    state = {name: each.clone() for name, each in conv.state_dict().items()}

    pasted("Conv3d")
    conv(whole_numbers(5, 4, 2, 4, 3))

    for name, parameter in conv.named_parameters():
        assert (parameter, parameter.data_ptr()) == before[name]
    assert all(torch.equal(conv.state_dict()[name], each) for name, each in state.items())
    fresh = exact_conv("Conv3d", bias=True)
    fresh.load_state_dict(state)


def test_training_with_the_pasted_patch_gives_the_same_gradients(pasted: Any) -> None:
    conv, x = exact_conv("Conv3d", bias=True), whole_numbers(5, 4, 4, 8, 6).requires_grad_()
    direction = whole_numbers(*conv(x).shape)
    inputs = [x, *conv.parameters()]
    expected = torch.autograd.grad(conv(x), inputs, direction)

    pasted("Conv3d")
    found = torch.autograd.grad(conv(x), inputs, direction)

    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_hooks_still_run_and_models_built_before_are_reached(pasted: Any) -> None:
    conv, seen = exact_conv("Conv3d", bias=True), []
    conv.register_forward_hook(lambda *_: seen.append(1))

    pasted("Conv3d")

    assert "aten::linear" in ran(lambda: conv(whole_numbers(1, 4, 2, 4, 3)))
    assert seen == [1]


@pytest.mark.parametrize(
    "options",
    [
        {"stride": (1, 1, 1)},
        {"padding": (1, 0, 0)},
        {"padding": "valid"},
        {"dilation": (1, 2, 1)},
        {"groups": 2},
        {"kernel_size": 1, "stride": 1},
    ],
    ids=str,
)
def test_other_convolutions_run_as_before(pasted: Any, options: dict[str, Any]) -> None:
    conv, x = exact_conv("Conv3d", bias=True, **options), whole_numbers(2, 4, 6, 8, 6)
    expected = conv(x)

    pasted("Conv3d")

    assert "aten::convolution" in ran(lambda: conv(x))
    assert torch.equal(conv(x), expected)


@pytest.mark.parametrize("sizes", [(4, 2, 4, 2), (5, 4, 1, 4, 3), (4, 3), (1, 1, 4, 2, 4, 3)])
def test_an_input_that_a_convolution_refuses_is_refused_alike(
    pasted: Any, sizes: tuple[int, ...]
) -> None:
    conv = exact_conv("Conv3d", bias=True)
    with pytest.raises(RuntimeError) as before:
        conv(whole_numbers(*sizes))

    pasted("Conv3d")

    with pytest.raises(RuntimeError) as after:
        conv(whole_numbers(*sizes))
    assert str(after.value) == str(before.value)


def test_the_text_that_is_shown_is_the_text_that_was_run() -> None:
    shown = codes(slow(), "workaround", "python")

    assert shown[-1] == pasted_patch("Conv3d")
    assert len(shown[-1].splitlines()) < 30
    assert shown[-1].rstrip("\n") in told(slow(), "workaround")


def test_a_conv2d_gets_its_own_patch_and_no_other_promise() -> None:
    given = with_tables(slow(), "dispatch", {"convolutions": [IMAGE | {"module": MODULE}]})

    assert codes(given, "workaround", "python")[-1] == pasted_patch("Conv2d")
    assert "replace nn.Conv3d alone. For this nn.Conv2d there is the patch below." in told(
        given, "workaround"
    )


def test_a_known_issue_that_was_seen_names_the_releases_that_mend_it() -> None:
    text = told(slow(), "workaround")

    assert "Any one of these is enough. What it gains:" in text
    assert "These known issues were seen here:" in text
    assert "fixed in torch 2.10.0" in text


def test_where_nothing_is_slow_nothing_has_to_be_worked_around() -> None:
    given = compared(
        pair("Mkldnn", 0.011, 0.01), device_type="cpu", torch=HEALTHY_CPU, forward_s=5.0
    )
    cleared = Finding(rule="culprit", verdict="clear", severity="info", title="Nobody")
    text, unknown = (told(given, "workaround", found) for found in ([cleared], []))

    assert text.startswith("**The convolution is not what makes this model slow here.**")
    assert unknown.startswith("**Whether the convolution is what makes this model slow is not")


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("5.23.0", "5.23.0 can replace the convolution on loading"),
        ("4.57.1", "The transformers that ran, 4.57.1, has no such option"),
        (None, "Which transformers ran was not recorded"),
    ],
)
def test_the_fusion_of_transformers_depends_on_its_version(version: str | None, said: str) -> None:
    text = told(with_facts(slow(), "packages", {"transformers": version}), "workaround")

    assert said in text
    assert "It holds for the whole process" in text


# upstream


UPSTREAM: Row = {
    "family": "qwen3_vl",
    "style": "view",
    "files": "models/qwen3_vl/modeling_qwen3_vl.py",
    "diff": "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-old\n+new\n",
    "reason": None,
}


def test_the_recorded_diff_is_shown_as_it_is() -> None:
    given = with_tables(slow(), "dispatch", {"upstream": [UPSTREAM]})

    assert codes(given, "upstream", "diff") == [str(UPSTREAM["diff"]).rstrip("\n")]
    assert "every checkpoint loads as before" in told(given, "upstream")


def test_a_file_without_a_diff_is_named_with_the_reason() -> None:
    row = UPSTREAM | {"style": "linear", "diff": None, "files": None, "reason": "too old"}
    text = told(with_tables(slow(), "dispatch", {"upstream": [row]}), "upstream")

    assert "no place for it that is known" in text
    assert "**qwen3_vl**, style linear: too old" in text


def test_without_a_diff_there_is_the_command_for_it() -> None:
    assert "qwenprof upstream-diff --family qwen3-vl --style linear" in told(writeup(), "upstream")
    hostile = msgspec.structs.replace(slow(), workload={"family": "x; rm -rf /"})
    assert "--family FAMILY " in told(hostile, "upstream")


# how to reproduce it


def test_the_versions_of_the_record_are_pinned() -> None:
    packages: Facts = {"torch": "2.9.0", "torchvision": "0.24.0", "transformers": "5.0.0.dev0"}
    given = with_facts(slow(), "packages", packages)
    text = told(given, "reproduce")

    assert (
        "pip install torch==2.9.0 torchvision==0.24.0 "
        "--extra-index-url https://download.pytorch.org/whl/cu128" in text
    )
    assert "transformers 5.0.0.dev0 is a development version" in text


def test_a_version_that_is_none_is_kept_from_the_command() -> None:
    packages: Facts = {"torch": "2.9.0; rm -rf /", "transformers": "$(id)", "accelerate": HOSTILE}
    given = with_facts(slow(), "packages", packages)
    (install, *_) = codes(with_facts(given, "torch", {"version": HOSTILE}), "reproduce", "sh")

    assert install == "python -m pip install ."


def test_the_command_of_the_run_stands_as_it_was_without_a_home() -> None:
    command = ["qwenprof", "diagnose", "--out", "/home/alice/my reports"]
    text = told(msgspec.structs.replace(slow(), command=command), "reproduce")

    assert "qwenprof diagnose --out '~/my reports'" in text
    assert "alice" not in text


def test_a_run_from_python_gets_the_command_for_its_workload() -> None:
    assert "qwenprof diagnose --dtype bf16 --batch 1" in told(slow(), "reproduce")


def test_the_figures_to_expect_are_those_of_the_record() -> None:
    checks: list[Row] = [
        {"passed": True, "variant": "fix (view)"},
        {"passed": False, "variant": "fix (view)"},
        {"passed": False, "variant": "Conv3d"},
        {"passed": False, "variant": "slow", "must_fail": True},
    ]
    text = told(with_tables(slow(), "verify", {"checks": checks}), "reproduce")

    assert "| One forward of the workload | 16.2 s |" in text
    assert "| Checks of the fix that pass | 1 of 2 |" in text
    assert "Measuring took" in text
    assert "How long it took was not recorded." in told(writeup(), "reproduce")


# all of them


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_record_is_told_in_words(name: str, empty_record: Record) -> None:
    text = told(empty_record, name)

    assert len(text) > 100
    assert "None" not in text


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("cell", STRANGE, ids=repr)
def test_no_cell_can_break_a_section(name: str, cell: Any) -> None:
    given = with_facts(with_facts(slow(), "packages", {"torch": cell}), "torch", {"version": cell})
    for stage, table, row in (
        ("dispatch", "convolutions", {**CUT, "module": MODULE, "kernel": "2x16x16"}),
        ("dispatch", "upstream", UPSTREAM),
        ("per-layer", "sources", source("model.visual.patch_embed", "PatchEmbed")),
        ("per-layer", "modules", MODULES[3]),
        (
            "compare-patch-embed",
            "variants",
            pair("Cudnn", 0.1, 0.01)[1] | {"max_abs_difference": 1},
        ),
        ("verify", "checks", {"check": "output", "metric": "relative error (2-norm)", "value": 1}),
    ):
        for key in row:
            changed: Row = {**row, key: cell}
            before = given.rows(stage, table)
            assert told(with_tables(given, stage, {table: [*before, changed]}), name, [])
