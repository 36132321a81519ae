"""The diff against transformers: what it finds, what it writes, and that the result is the same.

Tests of the result apply it to a copy of the installed transformers and run that in a process of
its own, with the tiny models of `upstream_worker`.
"""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from upstream_worker import MODELS, Task, Worked, copy_transformers, elsewhere, patch, worked

from qwenprof.errors import UsageError
from qwenprof.fix._conv3d import LAYERS, Site, Style, find_sites, rewrite
from qwenprof.fix._source import CannotRewrite, Source, classes, file_diff, method
from qwenprof.fix.upstream import STYLES, Diff, Pattern, checked_style, patterns, upstream_diff

PATCHES = """\
from torch import nn

from ...activations import ACT2FN
from ...utils import logging


class Embed(nn.Module):  # Maße: (N, C, kt, kh, kw)
    def __init__(self, config):
        self.dim = config.dim
        kernel_size = [2, config.patch, config.patch]
        self.proj = nn.Conv3d(3, config.dim, kernel_size=kernel_size, stride=kernel_size)

    def forward(self, x):
        return self.proj(x.to(self.proj.weight.dtype)).view(-1, self.dim)  # rows
"""

CLIP = """\
from torch import nn

from ...utils import logging


class Tubelets(nn.Module):
    def __init__(self, config):
        self.projection = nn.Conv3d(
            in_channels=3,
            out_channels=config.dim,
            kernel_size=(2, config.patch, config.patch),
            stride=(2, config.patch, config.patch),
        )

    def forward(self, video):
        return self.projection(video.transpose(1, 2)).flatten(2).transpose(1, 2)
"""

PATCHES_SITE = Site(class_name="Embed", attribute="proj", sees="patches")
CLIP_SITE = Site(class_name="Tubelets", attribute="projection", sees="clip")


def test_both_forms_are_found() -> None:
    assert find_sites(PATCHES) == [PATCHES_SITE]
    assert find_sites(CLIP) == [CLIP_SITE]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("stride=kernel_size", "stride=1"),
        ("stride=kernel_size", "stride=kernel_size, padding=1"),
        ("stride=kernel_size", "stride=kernel_size, groups=3"),
        ("stride=kernel_size", "stride=kernel_size, **config.more"),
        (", stride=kernel_size", ""),
        ("kernel_size=kernel_size, stride=kernel_size", "kernel_size=1, stride=1"),
        ("nn.Conv3d", "nn.ConvTranspose3d"),
        ("self.proj(", "self.other("),
    ],
)
def test_what_overlaps_or_is_not_called_is_left_alone(old: str, new: str) -> None:
    text = PATCHES.replace(old, new)

    assert text != PATCHES
    assert find_sites(text) == []


@pytest.mark.parametrize("result", ["", ".view(self.dim, -1)", ".view(2, -1, self.dim)"])
def test_a_result_that_is_not_taken_for_rows_may_be_a_clip(result: str) -> None:
    (site,) = find_sites(PATCHES.replace(".view(-1, self.dim)", result))

    assert site.sees == "clip"


def test_style_view_changes_the_constructor_and_imports_it() -> None:
    new = rewrite(PATCHES, [PATCHES_SITE], "view")

    assert new == PATCHES.replace("nn.Conv3d(", "PatchConv3d(").replace(
        "ACT2FN\n", "ACT2FN\nfrom ...pytorch_utils import PatchConv3d\n"
    )


def test_style_linear_flattens_the_input_too() -> None:
    new = rewrite(PATCHES, [PATCHES_SITE], "linear")

    as_view = rewrite(PATCHES, [PATCHES_SITE], "view").replace("PatchConv3d", "PatchLinear")
    assert new == as_view.replace("weight.dtype))", "weight.dtype).flatten(1))")
    of_clips = rewrite(CLIP, [CLIP_SITE], "linear")
    product = "self.projection(self.projection.patches(video.transpose(1, 2))).movedim(-1, 1)"
    assert f"return {product}.flatten(2).transpose(1, 2)\n" in of_clips
    sums = PATCHES.replace("x.to(self.proj.weight.dtype)", "x + 1")
    assert "self.proj((x + 1).flatten(1)).view" in rewrite(sums, [PATCHES_SITE], "linear")


def test_a_line_that_gets_too_long_is_broken_once_and_a_broken_one_stays() -> None:
    wide = f"config.{'d' * 44}"

    new = rewrite(PATCHES.replace("3, config.dim", f"3, {wide}"), [PATCHES_SITE], "view")

    arguments = f"3, {wide}, kernel_size=kernel_size, stride=kernel_size"
    assert f"PatchConv3d(\n            {arguments}\n        )\n" in new
    assert rewrite(CLIP, [CLIP_SITE], "view").count("\n") == CLIP.count("\n") + 1


def test_an_import_from_the_same_place_takes_the_name_in() -> None:
    there = "from ...pytorch_utils import Conv1D, meshgrid\nfrom ...utils"

    new = rewrite(PATCHES.replace("from ...utils", there), [PATCHES_SITE], "linear")

    assert "import Conv1D, PatchLinear, meshgrid\n" in new


@pytest.mark.parametrize("style", STYLES)
def test_each_class_and_each_call_of_a_file_is_rewritten(style: Style) -> None:
    # GIVEN two more classes, one of which calls its convolution in two branches
    call = "return self.projection(video"
    other = PATCHES[PATCHES.index("class Embed") :].replace("Embed", "Other")
    twice = CLIP[CLIP.index("class Tubelets") :].replace(call, f"if 1: {call})\n        {call}")
    text = f"{PATCHES}\n\n{other}\n\n{twice}"
    assert [site.class_name for site in find_sites(text)] == ["Embed", "Other", "Tubelets"]

    new = rewrite(text, find_sites(text), style)

    ast.parse(new)
    assert new.count(f"{LAYERS[style]}(") == 3
    assert new.count(".patches(") == (2 if style == "linear" else 0)


@pytest.mark.parametrize("arguments", ["video, None", "*video, 2", "input=video", ""])
def test_a_call_of_another_form_is_not_rewritten_for_linear(arguments: str) -> None:
    text = CLIP.replace("video.transpose(1, 2)", arguments)

    with pytest.raises(CannotRewrite, match="one argument"):
        rewrite(text, [CLIP_SITE], "linear")


def test_a_file_without_relative_imports_is_not_rewritten() -> None:
    text = CLIP.replace("from ...utils import logging", "")

    with pytest.raises(CannotRewrite, match="to put PatchConv3d beside"):
        rewrite(text, [CLIP_SITE], "view")


def test_a_file_without_an_end_of_line_makes_a_valid_diff() -> None:
    diff = file_diff("a.py", "x = 1", "x = 2\n")

    assert diff.endswith("-x = 1\n\\ No newline at end of file\n+x = 2\n")


# the installed transformers


@cache
def _installed() -> list[Pattern]:
    return patterns()


def test_the_installed_families_are_found_and_emu3_is_not() -> None:
    found = {each.family: each.sees for each in _installed()}

    families = ("qwen2_vl", "qwen2_5_vl", "qwen2_5_omni", "qwen3_vl", "qwen3_vl_moe", "glm4v")
    assert [found[each] for each in families] == ["patches"] * 6
    assert [found[each] for each in ("videomae", "vivit", "vjepa2")] == ["clip"] * 3
    assert "emu3" not in found


@pytest.mark.parametrize("family", ["qwen3-vl", "qwen3_vl", "Qwen3-VL"])
def test_one_family_is_one_folder_and_the_layer(family: str) -> None:
    files = [f"models/qwen3_vl/{kind}_qwen3_vl.py" for kind in ("modeling", "modular")]

    assert upstream_diff(family).files == (*files, "pytorch_utils.py")


def test_what_there_is_not_is_refused_with_what_there_is() -> None:
    with pytest.raises(UsageError, match=r"--family llama: .*qwen3_vl"):
        upstream_diff("llama")
    with pytest.raises(UsageError, match=r"--style conv: is no style; choose view or linear"):
        checked_style("conv")
    assert checked_style("linear") == "linear"


@pytest.mark.parametrize(
    ("style", "reason"),
    [("linear", "it cannot convert a Conv3d"), ("view", "pytorch_utils.py has changed")],
)
def test_a_source_that_lacks_what_a_style_needs_is_reported_file_by_file(
    tmp_path: Path, style: Style, reason: str
) -> None:
    # GIVEN a package without a word on layers and on how it loads parameters
    (tmp_path / "__init__.py").write_text('__version__ = "9.9"\n')
    folder = tmp_path / "models" / "tiny"
    folder.mkdir(parents=True)
    (folder / "modeling_tiny.py").write_text(PATCHES, encoding="utf-8")

    diff = upstream_diff(style=style, package=tmp_path)

    # THEN nothing changes, and both the list and the text say why
    assert [file for file, _ in diff.skipped] == ["models/tiny/modeling_tiny.py"]
    assert diff.files == ()
    assert f"# left as it is: models/tiny/modeling_tiny.py: {reason}" in diff.text
    assert "diff --git" not in diff.text


def test_neither_torch_nor_transformers_is_imported() -> None:
    code = (
        "import sys; from qwenprof.fix.upstream import upstream_diff; upstream_diff('qwen3-vl');"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


class Patched(NamedTuple):
    """A folder with a transformers folder to which git has applied the diff of a style."""

    style: Style
    folder: Path
    diff: Diff


@pytest.fixture(scope="module", params=STYLES)
def patched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Patched:
    folder = copy_transformers(tmp_path_factory.mktemp(request.param))
    diff = upstream_diff(None, request.param)
    patch(folder, diff.text)
    return Patched(request.param, folder, diff)


def test_the_patched_files_have_the_pattern_no_more(patched: Patched) -> None:
    assert patched.diff.skipped == ()
    assert {each.file for each in _installed()} <= set(patched.diff.files)
    with pytest.raises(UsageError, match="no model file"):
        upstream_diff(package=patched.folder / "transformers")


def test_the_patched_files_are_formatted_as_transformers_formats_them(patched: Patched) -> None:
    ruff = shutil.which("ruff", path=Path(sys.executable).parent) or shutil.which("ruff")
    if ruff is None:
        pytest.skip("ruff is not installed")
    # upstream's own settings, of its pyproject.toml
    settings = ["--isolated", "--line-length=119"]
    isort = ["lint.isort.lines-after-imports=2", 'lint.isort.known-first-party=["transformers"]']
    checks = ["--select=I,F401", *(f"--config={each}" for each in isort)]

    for command in (["format", "--diff"], ["check", *checks]):
        done = subprocess.run(
            [ruff, *command, *settings, *(f"transformers/{file}" for file in patched.diff.files)],
            cwd=patched.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_modular_and_modeling_files_say_the_same(patched: Patched) -> None:
    """Where a modular file writes out a method of the class, its generated file has it verbatim."""
    for pattern in _installed():
        whole = patched.folder / "transformers" / pattern.file
        modular = whole.with_name(whole.name.replace("modeling_", "modular_"))
        expected = _methods(whole, pattern.class_name)
        for name, text in _methods(modular, pattern.class_name).items():
            if "super().__init__(config)" not in text:
                own = text.replace("nn.Module.__init__(self)", "super().__init__()")
                assert own == expected[name], (pattern.file, name)


def _methods(file: Path, class_name: str) -> dict[str, str]:
    source = Source.parse(file.read_text(encoding="utf-8") if file.exists() else "")
    owners = [owner for owner in classes(source.tree) if owner.name == class_name]
    found = {name: method(each, name) for each in owners for name in ("__init__", "forward")}
    return {name: source.of(part) for name, part in found.items() if part}


def test_its_paths_hold_below_a_folder_such_as_src(patched: Patched) -> None:
    below = f"--directory={patched.folder.name}"

    patch(patched.folder.parent, patched.diff.text, "--check", "--reverse", below)


# what the patched transformers does


@pytest.mark.parametrize(
    "patched", ["view", pytest.param("linear", marks=pytest.mark.slow)], indirect=True
)
def test_pytorch_and_transformers_handle_the_layer_as_before(
    patched: Patched, tmp_path: Path
) -> None:
    facts = elsewhere(patched.folder, str(tmp_path))

    assert facts["conv3d"] == (patched.style == "view")
    assert max(facts.get("distance", 0), facts["compiled"], facts["exported"]) < 1e-6
    assert facts.get("contiguous", True)
    assert facts["std"] == pytest.approx(0.02, rel=0.1)
    assert facts.get("fusion", 0) < 1e-6
    if facts["conv3d"] and "fused" in facts:
        assert facts["fused"] == "FusedQwen3VLVisionPatchEmbed"


@pytest.mark.parametrize("patched", ["view"], indirect=True)
def test_a_tower_computes_the_same_and_its_checkpoint_goes_there_and_back(
    patched: Patched, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # GIVEN a checkpoint of the installed version, loaded and saved by the patched one, and back
    first, there, back = (tmp_path_factory.mktemp("tower") for _ in range(3))
    name = "qwen3_vl_tower"
    convolved = worked(_task(first, [name], None))
    multiplied = worked(_task(there, [name], first), patched.folder)
    again = worked(_task(back, [name], there))

    # THEN only the patched one runs no convolution, and all give the same
    assert [bool(each.models[name]) for each in (convolved, multiplied, again)] == [
        True,
        False,
        True,
    ]
    torch.testing.assert_close(multiplied.outputs, convolved.outputs)
    assert torch.equal(again.outputs[name], convolved.outputs[name])


def _task(
    target: Path, models: Iterable[str], source: Path | None, *, layers: bool = False
) -> Task:
    found = _installed() if layers else []
    return {
        "sites": [(each.file, each.class_name, each.attribute, each.sees) for each in found],
        "models": list(models),
        "source": source and str(source),
        "target": str(target),
    }


@pytest.fixture(scope="module")
def convolved(tmp_path_factory: pytest.TempPathFactory) -> Worked:
    """What the installed transformers makes of every layer and model."""
    return worked(_task(tmp_path_factory.mktemp("convolved"), MODELS, None, layers=True))


@pytest.fixture(scope="module")
def multiplied(
    patched: Patched, convolved: Worked, tmp_path_factory: pytest.TempPathFactory
) -> Worked:
    """What the patched one makes of them, with the checkpoints of the installed one."""
    target = tmp_path_factory.mktemp("multiplied")
    return worked(_task(target, MODELS, convolved.target, layers=True), patched.folder)


@pytest.mark.slow
def test_every_family_computes_the_same_without_a_convolution(
    convolved: Worked, multiplied: Worked
) -> None:
    assert set(multiplied.layers) == {each.family for each in _installed()}
    assert all(convolved.layers.values())
    assert not any([*multiplied.layers.values(), *multiplied.models.values()])
    new = multiplied.outputs
    torch.testing.assert_close({name: new[name] for name in convolved.outputs}, convolved.outputs)


@pytest.mark.slow
def test_every_checkpoint_goes_through_the_patched_version_unchanged(
    convolved: Worked, multiplied: Worked, tmp_path: Path
) -> None:
    again = worked(_task(tmp_path, MODELS, multiplied.target))
    for name in convolved.models:
        # THEN names, shapes, types and bits are the same in a checkpoint loaded and saved
        folders = (convolved.target, multiplied.target)
        before, after = (load_file(each / name / "model.safetensors") for each in folders)
        torch.testing.assert_close(after, before, rtol=0, atol=0)
        assert any(tensor.dim() == 5 for tensor in after.values())

        # THEN the installed version loads it and computes what it did before
        assert torch.equal(again.outputs[name], convolved.outputs[name])
