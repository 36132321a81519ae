"""The real model classes and the real processor, on a tiny configuration of the family."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from qwenprof.workload import attention
from qwenprof.workload.families._qwen_vl import IMAGE, text
from qwenprof.workload.families.qwen2_5_vl import FAMILY, _size
from qwenprof.workload.family import Tower
from qwenprof.workload.inputs import Pixels, processed
from qwenprof.workload.loading import Subject, load
from qwenprof.workload.workload import Workload

TINY_VISION = {"depth": 3, "hidden_size": 64, "num_heads": 4, "fullatt_block_indexes": [1]}
HEAD_DIM_128 = text(hidden=256, layers=2, heads=2, intermediate=256)
SMALL_CLIP = {"dtype": "fp32", "device": "cpu", "frames": 2, "short_edge": 140}


@pytest.fixture
def tiny() -> Iterator[dict[str, Any]]:
    """Options of a workload of a tiny size, with windows that frames are larger than."""
    sizes: Any = FAMILY.sizes
    size = _size(HEAD_DIM_128, 128, 1, tied=True)
    sizes["tiny"] = replace(size, vision=dict(size.vision) | TINY_VISION)
    try:
        yield {"family": FAMILY.name, "size": "tiny", **SMALL_CLIP}
    finally:
        del sizes["tiny"]


@pytest.fixture
def subject(tiny: dict[str, Any]) -> Subject:
    return load(Workload.default(**tiny))


def test_the_published_dimensions() -> None:
    """Source: config.json of Qwen/Qwen2.5-VL-{3B,7B,32B}-Instruct."""
    dimensions = {
        name: (
            size.vision["intermediate_size"],
            size.vision["out_hidden_size"],
            size.text["num_hidden_layers"],
            size.text["num_attention_heads"],
            size.text["num_key_value_heads"],
            size.text["intermediate_size"],
            size.text["vocab_size"],
        )
        for name, size in FAMILY.sizes.items()
    }

    assert dimensions == {
        "3b": (3420, 2048, 36, 16, 2, 11008, 151936),
        "7b": (3420, 3584, 28, 28, 4, 18944, 152064),
        "32b": (3456, 5120, 64, 40, 8, 27648, 152064),
    }


@pytest.mark.parametrize(
    ("size", "parameters"),
    [("3b", 3_754_622_976), ("7b", 8_292_166_656), ("32b", 33_452_718_336)],
)
def test_the_sizes_have_as_many_parameters_as_the_checkpoints(size: str, parameters: int) -> None:
    """Source: the checkpoints of Qwen/Qwen2.5-VL-{3B,7B,32B}-Instruct, two bytes a parameter."""
    with torch.device("meta"):
        model = FAMILY.build(FAMILY.sizes[size], "full", "sdpa", torch.bfloat16)

    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_the_image_processor_has_the_settings_of_the_family() -> None:
    """Source: preprocessor_config.json. Edges are multiples of 28, within the limits of pixels."""
    workload = Workload.default("cpu", family=FAMILY.name, frames=8)

    pixels = processed(workload, FAMILY.processor(), 1, torch.float32, torch.device("cpu"))

    assert pixels.values.shape == (8 * 24 * 42, 3 * 2 * 14 * 14)
    assert pixels.grid.tolist() == [[1, 24, 42]] * 8
    white = torch.full((3, 28, 56), 255, dtype=torch.uint8)
    means, deviations = FAMILY.processor().image_mean, FAMILY.processor().image_std
    patch = FAMILY.processor()(images=[white], return_tensors="pt")["pixel_values"][0]
    expected = [(1 - mean) / std for mean, std in zip(means, deviations, strict=True)]
    torch.testing.assert_close(patch.view(3, -1).mean(1), torch.tensor(expected))
    assert expected == pytest.approx([1.9303, 2.0749, 2.1459], abs=1e-4)


def test_its_parts_are_found_and_the_projection_has_no_bias(tiny: dict[str, Any]) -> None:
    subject = load(Workload.default(**(tiny | {"dtype": "bf16"})))

    tower = subject.require_vision().tower
    projection = tower.child(tower.projection)
    assert {parameter.dtype for parameter in subject.model.parameters()} == {torch.bfloat16}
    assert tower.path == ""
    assert isinstance(projection, torch.nn.Conv3d)
    assert projection.bias is None
    assert list(tower.attentions()) == [f"blocks.{index}.attn" for index in range(3)]
    assert [helper.part for helper in tower.helpers][:2] == ["rotary position", "window index"]
    assert all(callable(getattr(helper.owner, helper.attribute)) for helper in tower.helpers)


def test_the_forward_calls_every_helper_where_it_is_found(subject: Subject) -> None:
    tower = subject.require_vision().tower
    called = []

    def watched(name: str, function: Any) -> Any:
        def helper(*args: Any, **kwargs: Any) -> Any:
            called.append(name)
            return function(*args, **kwargs)

        return helper

    with pytest.MonkeyPatch.context() as patch:
        for each in tower.helpers:
            before = getattr(each.owner, each.attribute)
            patch.setattr(each.owner, each.attribute, watched(each.part, before))
        subject.call(subject.inputs())()

    assert set(called) == {helper.part for helper in tower.helpers}


def test_full_scope_is_the_prefill_with_image_tokens_in_place(tiny: dict[str, Any]) -> None:
    subject = load(Workload.default(**tiny, scope="full"))

    inputs = subject.inputs(2)
    output = subject.call(inputs)()

    assert inputs.pixels is not None
    assert inputs.pixels.grid.tolist() == [[1, 10, 18]] * 4
    ids = inputs.kwargs["input_ids"]
    assert ids.shape == (2, inputs.sequence_length)
    assert (ids == IMAGE).sum() == inputs.pixels.patches // 4
    assert output.logits.shape == (2, 1, 151936)
    assert subject.require_vision().tower.path == "model.visual"


def test_the_rotation_of_the_language_model_is_the_published_one(tiny: dict[str, Any]) -> None:
    """Sections of 16, 24 and 24 frequencies for time, height and width; base 1,000,000."""
    subject = load(Workload.default(**tiny, scope="full"))

    rotary: Any = subject.model.get_submodule("model.language_model.rotary_emb")
    config: Any = rotary.config
    settings = getattr(config, "rope_parameters", None) or config.rope_scaling

    assert settings["mrope_section"] == [16, 24, 24]
    torch.testing.assert_close(rotary.inv_freq, 1e6 ** (-torch.arange(64) / 64))


@pytest.mark.parametrize("name", ["eager", "sdpa"])
def test_every_block_uses_the_implementation_that_is_asked_for(subject: Subject, name: str) -> None:
    with attention.implementation(subject, name):
        switched = attention.used_implementations(subject)
    with attention.forced(subject.require_vision().tower, name):
        forced = attention.used_implementations(subject)

    assert set(switched.values()) == {name}
    assert set(forced.values()) == {name}
    assert len(switched) == 3
    assert set(attention.used_implementations(subject).values()) == {"sdpa"}, "all is put back"


@pytest.mark.parametrize(
    "grid",
    [
        [[1, 4, 10], [1, 10, 6]],
        [[2, 8, 16]],
        [[1, 2, 2], [3, 18, 10]],
    ],
)
def test_the_segments_are_those_of_the_model(subject: Subject, grid: list[list[int]]) -> None:
    """The model's own cumulative lengths, as every block is given them, are the reference."""
    tower = subject.require_vision().tower
    pixels = _pixels(grid)
    seen: dict[str, list[int]] = {}

    def remember(path: str) -> Any:
        def hook(_: Any, __: Any, kwargs: Mapping[str, Any]) -> None:
            seen[path] = kwargs["cu_seqlens"].diff().tolist()

        return hook

    handles = [
        module.register_forward_pre_hook(remember(path), with_kwargs=True)
        for path, module in tower.attentions().items()
    ]
    attention.tower_output(subject, pixels)
    for handle in handles:
        handle.remove()

    assert FAMILY.attention_lengths(tower, pixels) == seen
    assert sum(seen["blocks.0.attn"]) == pixels.patches


def test_plain_sdpa_gives_the_same_output_for_images_of_different_size(subject: Subject) -> None:
    pixels = attention.probe_pixels(subject)
    original = attention.tower_output(subject, pixels)

    with attention.replaced_by_plain_sdpa(subject.require_vision(), pixels):
        replaced = attention.tower_output(subject, pixels)
    back = attention.tower_output(subject, pixels)

    assert original.shape == (25, 256)
    torch.testing.assert_close(replaced, original)
    assert torch.equal(back, original)


def test_plain_sdpa_without_the_windows_is_seen_to_differ(subject: Subject) -> None:
    """The check must be able to fail: the probe's images are larger than a window."""

    def whole_frames(tower: Tower, pixels: Pixels) -> Mapping[str, Sequence[int]]:
        return dict.fromkeys(tower.attentions(), pixels.segment_lengths())

    vision = subject.require_vision()
    wrong = replace(vision, family=replace(vision.family, attention_lengths=whole_frames))
    pixels = attention.probe_pixels(subject)
    original = attention.tower_output(subject, pixels)

    with attention.replaced_by_plain_sdpa(wrong, pixels):
        replaced = attention.tower_output(subject, pixels)

    assert (replaced - original).abs().max() > 1e-3 * original.abs().max()


def _pixels(grid: list[list[int]]) -> Pixels:
    generator = torch.Generator().manual_seed(0)
    patches = sum(times * height * width for times, height, width in grid)
    values = torch.randn(patches, 3 * 2 * 14 * 14, generator=generator)
    return Pixels(values=values, grid=torch.tensor(grid))
