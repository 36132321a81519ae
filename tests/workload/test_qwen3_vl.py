"""The real model classes and the real processor, on a tiny configuration of the family."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from qwenprof.errors import NotApplicable
from qwenprof.workload import attention
from qwenprof.workload.families._qwen_vl import IMAGE
from qwenprof.workload.families.qwen3_vl import FAMILY
from qwenprof.workload.inputs import processed, random_frames
from qwenprof.workload.loading import Subject, foreign_subject, load
from qwenprof.workload.workload import Workload


@pytest.fixture
def subject(tiny: dict[str, Any]) -> Subject:
    return load(Workload.default(**tiny))


def test_eight_frames_at_short_edge_336_are_the_published_clip() -> None:
    workload = Workload.default("cpu", frames=8)

    pixels = processed(workload, FAMILY.processor(), 1, torch.float32, torch.device("cpu"))

    assert pixels.values.shape == (6080, 1536)
    assert pixels.grid.tolist() == [[1, 20, 38]] * 8
    assert pixels.segment_lengths() == [760] * 8


def test_pixels_are_laid_out_in_blocks_that_merge() -> None:
    """Source: the layout (grid / merge, merge, merge) that the position embeddings assume."""
    workload = Workload.default("cpu", short_edge=320)
    frame = random_frames(workload, 0)[0]
    assert frame.shape == (3, 320, 569)

    pixels = processed(workload, FAMILY.processor(), 1, torch.float32, torch.device("cpu"))

    _, height, width = pixels.grid[0].tolist()
    image = pixels.values.view(height // 2, width // 2, 2, 2, 3, 2, 16, 16)
    still = image.permute(5, 4, 0, 2, 6, 1, 3, 7).reshape(2, 3, height * 16, width * 16)
    torch.testing.assert_close(still[0], still[1], msg="a still image is the same at both times")
    resized = torch.nn.functional.interpolate(
        frame[None].float(), (height * 16, width * 16), mode="bicubic", antialias=True
    )
    expected = resized[0].round().clamp(0, 255) / 127.5 - 1
    torch.testing.assert_close(still[0], expected, atol=1.1 / 127.5, rtol=0)


def test_samples_differ_and_a_seed_repeats_them() -> None:
    workload = Workload.default("cpu")

    first, again, second = (random_frames(workload, sample)[0] for sample in (0, 0, 1))
    other = random_frames(Workload.default("cpu", seed=1), 0)[0]

    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)


def test_the_tower_is_built_in_the_dtype_and_its_parts_are_found(tiny: dict[str, Any]) -> None:
    subject = load(Workload.default(**(tiny | {"dtype": "bf16"})))

    tower = subject.require_vision().tower
    assert {parameter.dtype for parameter in subject.model.parameters()} == {torch.bfloat16}
    assert not subject.model.training
    assert tower.path == ""
    assert isinstance(tower.child(tower.projection), torch.nn.Conv3d)
    assert list(tower.attentions()) == [f"blocks.{index}.attn" for index in range(3)]
    assert [helper.part for helper in tower.helpers][:2] == [
        "position interpolation",
        "rotary position",
    ]
    assert all(callable(getattr(helper.owner, helper.attribute)) for helper in tower.helpers)


@pytest.mark.parametrize(
    ("size", "parameters"),
    [("2b", 2_127_532_032), ("4b", 4_437_815_808), ("8b", 8_767_123_696)],
)
def test_the_sizes_have_as_many_parameters_as_the_layers(size: str, parameters: int) -> None:
    """Source: the safetensors totals of Qwen/Qwen3-VL-{2B,4B,8B}-Instruct: 2.13, 4.44, 8.77 B."""
    with torch.device("meta"):
        model = FAMILY.build(FAMILY.sizes[size], "full", "sdpa", torch.bfloat16)

    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_the_same_seed_gives_the_same_model(tiny: dict[str, Any]) -> None:
    one, two, other = (
        load(Workload.default(**tiny, seed=seed)).model.state_dict()["merger.linear_fc1.weight"]
        for seed in (0, 0, 1)
    )

    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_full_scope_is_the_prefill_with_image_tokens_in_place(tiny: dict[str, Any]) -> None:
    subject = load(Workload.default(**tiny, scope="full"))

    inputs = subject.inputs(2)
    output = subject.call(inputs)()

    assert inputs.pixels is not None
    assert inputs.pixels.patches == 2 * 2 * 264
    ids = inputs.kwargs["input_ids"]
    assert ids.shape == (2, inputs.sequence_length)
    assert (ids == IMAGE).sum() == inputs.pixels.patches // 4
    assert output.logits.shape == (2, 1, 151936)
    assert subject.require_vision().tower.path == "model.visual"


def test_the_published_sequence_has_1653_tokens(tiny: dict[str, Any]) -> None:
    subject = load(Workload.default(**(tiny | {"frames": 8, "short_edge": 336}), scope="full"))

    inputs = subject.inputs(1)

    assert inputs.sequence_length == 1653
    assert (inputs.kwargs["input_ids"] == IMAGE).sum() == 1520


@pytest.mark.parametrize("name", ["eager", "sdpa"])
def test_every_block_uses_the_implementation_that_is_asked_for(subject: Subject, name: str) -> None:
    with attention.implementation(subject, name):
        switched = attention.used_implementations(subject)
    with attention.forced(subject.require_vision().tower, name):
        forced = attention.used_implementations(subject)

    assert set(switched.values()) == {name}
    assert set(forced.values()) == {name}
    assert list(switched) == [f"blocks.{index}.attn" for index in range(3)]
    assert set(attention.used_implementations(subject).values()) == {"sdpa"}, "all is put back"


def test_a_block_that_ignores_the_setting_is_seen(subject: Subject) -> None:
    """The watch must be able to fail: one block is forced to something else."""
    blocks: Any = subject.require_vision().tower.child("blocks")
    with attention.forced(subject.require_vision().tower, "eager"):
        blocks[1].attn.config._attn_implementation = "sdpa"
        used = attention.used_implementations(subject)

    assert list(used.values()) == ["eager", "sdpa", "eager"]


def test_plain_sdpa_gives_the_same_output_for_images_of_different_size(subject: Subject) -> None:
    pixels = attention.probe_pixels(subject)
    original = attention.tower_output(subject, pixels)

    with attention.replaced_by_plain_sdpa(subject.require_vision(), pixels):
        replaced = attention.tower_output(subject, pixels)
    back = attention.tower_output(subject, pixels)

    torch.testing.assert_close(replaced, original)
    assert torch.equal(back, original)


def test_flash_attention_without_cuda_has_a_reason(subject: Subject) -> None:
    reason = attention.obstacle("flash_attention_2", subject)

    assert reason is not None
    assert "needs a CUDA device" in reason
    assert attention.obstacle("sdpa", subject) is None


def test_somebody_elses_module_has_no_vision_tower() -> None:
    subject = foreign_subject(torch.nn.Linear(2, 2, dtype=torch.bfloat16), (), {})

    assert subject.dtype_name == "bf16"
    with pytest.raises(NotApplicable, match="known family"):
        subject.require_vision()
