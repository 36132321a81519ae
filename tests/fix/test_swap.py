"""Real linear layers in the place of convolutions, with everybody else's checkpoints."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from qwenprof.errors import UsageError
from qwenprof.fix.swap import PatchLinear, linearize_model

PATCH = (2, 4, 4)


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv3d(3, 8, PATCH, stride=PATCH)
        self.overlapping = nn.Conv3d(8, 8, 3, padding=1)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        projected: torch.Tensor = self.proj(patches.view(-1, 3, *PATCH)).view(-1, 8)
        return projected


def test_the_projection_becomes_a_linear_layer_that_gives_the_same() -> None:
    tower, patches = Tower(), torch.randn(5, 96)
    plain = tower(patches)
    storage = tower.proj.weight.data_ptr()

    swapped = linearize_model(tower)

    assert swapped is tower
    assert isinstance(tower.proj, nn.Linear)
    assert tower.proj.weight.shape == (8, 96)
    assert tower.proj.weight.data_ptr() == storage
    assert isinstance(tower.overlapping, nn.Conv3d)
    torch.testing.assert_close(tower(patches), plain)


def test_it_takes_clips_and_unbatched_input_like_the_convolution() -> None:
    conv = nn.Conv3d(3, 8, PATCH, stride=PATCH, bias=False)
    linear = linearize_model(copy.deepcopy(conv))

    for x in (torch.randn(2, 3, 5, 9, 8), torch.randn(3, 4, 8, 8)):
        torch.testing.assert_close(linear(x), conv(x))


def test_layers_go_both_ways_bit_for_bit(tmp_path: Path) -> None:
    tower = Tower()
    expected = {name: each.clone() for name, each in tower.state_dict().items()}
    linearized = linearize_model(copy.deepcopy(tower))

    save_file(linearized.state_dict(), tmp_path / "tower.safetensors")
    saved = load_file(tmp_path / "tower.safetensors")
    assert saved.keys() == expected.keys()
    assert all(torch.equal(saved[name], expected[name]) for name in expected)

    fresh = linearize_model(Tower())
    fresh.load_state_dict(saved)
    Tower().load_state_dict(fresh.state_dict())
    torch.testing.assert_close(fresh(patches := torch.randn(2, 96)), tower(patches))


def test_it_also_loads_the_linear_shape() -> None:
    linear = linearize_model(nn.Conv3d(3, 8, PATCH, stride=PATCH))
    flat = {"weight": torch.randn(8, 96), "bias": torch.randn(8)}

    linear.load_state_dict(flat)

    assert isinstance(linear, PatchLinear)
    assert torch.equal(linear.weight, flat["weight"])


def test_it_keeps_dtype_mode_and_what_is_trained() -> None:
    conv = nn.Conv3d(3, 8, PATCH, stride=PATCH, dtype=torch.bfloat16).eval()
    conv.weight.requires_grad_(False)

    linear = linearize_model(conv)

    assert isinstance(linear, PatchLinear)
    assert not linear.training
    assert not linear.weight.requires_grad
    assert linear.bias is not None
    assert linear.bias.requires_grad
    assert linear.weight.dtype == torch.bfloat16


def test_one_module_in_two_places_stays_one() -> None:
    conv = nn.Conv3d(3, 8, PATCH, stride=PATCH)
    model = nn.ModuleDict({"left": conv, "right": conv})

    linearize_model(model)

    assert model["left"] is model["right"]


def test_gradients_arrive_in_the_linear_weight() -> None:
    conv = nn.Conv3d(3, 8, PATCH, stride=PATCH)
    linear = linearize_model(copy.deepcopy(conv))
    assert isinstance(linear, PatchLinear)
    x = torch.randn(4, 3, *PATCH)

    conv(x).square().sum().backward()
    linear(x).square().sum().backward()

    assert conv.weight.grad is not None
    assert linear.weight.grad is not None
    torch.testing.assert_close(linear.weight.grad, conv.weight.grad.flatten(1))


def test_it_can_be_copied_pickled_and_exported() -> None:
    model = nn.Sequential(linearize_model(nn.Conv3d(3, 8, PATCH, stride=PATCH)))
    x = torch.randn(4, 3, *PATCH)

    exported = torch.export.export(model, (x,)).module()

    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), exported):
        torch.testing.assert_close(twin(x), model(x))
        assert twin.state_dict()["0.weight"].dim() in (2, 5)


def test_a_swapped_model_is_left_as_it_is() -> None:
    tower = Tower()
    linearize_model(tower)
    projection = tower.proj

    linearize_model(tower)

    assert tower.proj is projection


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_any_memory_format(layout: torch.memory_format) -> None:
    conv = nn.Conv3d(3, 8, PATCH, stride=PATCH).to(memory_format=layout)
    x = torch.randn(2, 3, 4, 8, 8).contiguous(memory_format=layout)
    plain = conv(x)

    torch.testing.assert_close(linearize_model(conv)(x), plain)


def test_a_transformers_model_saves_a_checkpoint_that_everybody_loads(tmp_path: Path) -> None:
    from transformers.models.qwen3_vl import modeling_qwen3_vl as modeling

    from tests.conftest import TINY_VISION

    model = modeling.Qwen3VLVisionModel(modeling.Qwen3VLVisionConfig(**TINY_VISION))
    expected = {name: each.clone() for name, each in model.state_dict().items()}

    linearize_model(model).save_pretrained(tmp_path)  # type: ignore[operator]
    plain = modeling.Qwen3VLVisionModel.from_pretrained(tmp_path)

    assert isinstance(model.patch_embed.proj, nn.Linear)
    assert isinstance(plain.patch_embed.proj, nn.Conv3d)
    found = plain.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_subclass_with_arithmetic_of_its_own_is_left_alone() -> None:
    class Doubled(nn.Conv3d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
            return 2 * super().forward(input)

    conv = Doubled(3, 8, PATCH, stride=PATCH)

    assert linearize_model(conv) is conv


@pytest.mark.parametrize("hooked", ["register_forward_hook", "register_forward_pre_hook"])
def test_a_hook_is_not_lost_in_silence(hooked: str) -> None:
    tower = Tower()
    getattr(tower.proj, hooked)(lambda *_: None)

    with pytest.raises(UsageError, match="proj has hooks"):
        linearize_model(tower)
    assert isinstance(tower.proj, nn.Conv3d)


def test_a_parametrized_convolution_is_left_alone() -> None:
    conv = nn.utils.parametrizations.weight_norm(nn.Conv3d(3, 8, PATCH, stride=PATCH))

    assert linearize_model(conv) is conv


def test_a_shared_weight_stays_shared() -> None:
    left, right = (nn.Conv3d(3, 8, PATCH, stride=PATCH) for _ in range(2))
    right.weight = left.weight
    model = linearize_model(nn.ModuleDict({"left": left, "right": right}))

    assert len(list(model.parameters())) == 3


@pytest.mark.parametrize("shape", [(8, 3, 4, 4, 2), (8, 2, 3, 4, 4), (8, 96, 1)])
def test_a_checkpoint_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    linear = linearize_model(nn.Conv3d(3, 8, PATCH, stride=PATCH))

    with pytest.raises(RuntimeError, match="size mismatch"):
        linear.load_state_dict({"weight": torch.zeros(shape), "bias": torch.zeros(8)})
