"""Qwen3-VL, dense.

Dimensions: config.json of Qwen/Qwen3-VL-{2B,4B,8B}-Instruct. The image processor's settings:
their preprocessor_config.json. Works with the module structure of transformers 4.57, where
position interpolation and rotary embedding are methods of the tower, and of 5.x, where they
are functions of its module.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from qwenprof.workload.family import Family, Helper, Size, Tower

if TYPE_CHECKING:
    import torch
    from torch import nn

    from qwenprof.workload.inputs import Pixels

VISION_START, VISION_END, IMAGE = 151652, 151653, 151655
ORDINARY_TOKENS = 150_000
MERGED_PATCHES = 4
TEXT_TOKENS = 117  # with eight frames of 190 tokens and their delimiters: 1,653 in all

HELPERS = {
    "position interpolation": (
        "fast_pos_embed_interpolate",
        "get_vision_interpolation_indices_and_weights",
    ),
    "rotary position": ("rot_pos_emb", "get_vision_position_ids"),
    "sequence lengths": ("get_vision_attention_seqlens",),
}

_SMALL_VISION = {
    "depth": 24,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "deepstack_visual_indexes": [5, 11, 17],
}
_LARGE_VISION = {
    "depth": 27,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "deepstack_visual_indexes": [8, 16, 24],
}
_COMMON_VISION = {
    "num_heads": 16,
    "in_channels": 3,
    "patch_size": 16,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "num_position_embeddings": 2304,
    "hidden_act": "gelu_pytorch_tanh",
}
_COMMON_TEXT = {
    "vocab_size": 151936,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 262144,
    "rope_theta": 5_000_000,
    "rope_scaling": {
        "rope_type": "default",
        "mrope_section": [24, 20, 20],
        "mrope_interleaved": True,
    },
}


def _size(vision: dict[str, Any], text: dict[str, Any], *, tied: bool) -> Size:
    return Size(
        vision=_COMMON_VISION | vision | {"out_hidden_size": text["hidden_size"]},
        text=_COMMON_TEXT | text | {"tie_word_embeddings": tied},
        tie_word_embeddings=tied,
    )


def _text(hidden: int, layers: int, heads: int, intermediate: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": intermediate,
    }


def build(size: Size, scope: str, attention: str, dtype: torch.dtype) -> nn.Module:
    from transformers.models.qwen3_vl import configuration_qwen3_vl as configuration
    from transformers.models.qwen3_vl import modeling_qwen3_vl as modeling

    if scope == "vision":
        model = modeling.Qwen3VLVisionModel
        config = configuration.Qwen3VLVisionConfig(**size.vision)
    else:
        model = modeling.Qwen3VLForConditionalGeneration
        config = configuration.Qwen3VLConfig(
            vision_config=dict(size.vision),
            text_config=dict(size.text),
            tie_word_embeddings=size.tie_word_embeddings,
        )
    built: nn.Module = model._from_config(config, dtype=dtype, attn_implementation=attention)
    return built


def tower(model: nn.Module) -> Tower:
    path = next(
        name for name, module in model.named_modules() if hasattr(module, "deepstack_merger_list")
    )
    module = model.get_submodule(path)
    return Tower(
        module=module,
        path=path,
        projection="patch_embed.proj",
        blocks="blocks",
        attention="attn",
        helpers=tuple(_helpers(module)),
    )


def _helpers(module: nn.Module) -> list[Helper]:
    """Each helper where this transformers has it: on the tower, or in the tower's own file."""
    owners = (module, sys.modules[type(module).__module__])
    return [
        Helper(part=part, owner=owner, attribute=attribute)
        for part, attributes in HELPERS.items()
        for attribute in attributes
        for owner in owners
        if hasattr(owner, attribute)
    ]


def processor() -> Any:
    import transformers

    # 4.57 calls the torchvision one "Fast"; 5.x gave it the plain name and deprecates the other
    fast = "Qwen2VLImageProcessorFast"
    name = fast if fast in dir(transformers) else "Qwen2VLImageProcessor"
    return getattr(transformers, name)(
        patch_size=16,
        temporal_patch_size=2,
        merge_size=2,
        size={"longest_edge": 16777216, "shortest_edge": 65536},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )


def tower_inputs(pixels: Pixels) -> dict[str, Any]:
    return {"hidden_states": pixels.values, "grid_thw": pixels.grid}


def model_inputs(
    model: nn.Module, pixels: Pixels, samples: int, generator: torch.Generator
) -> dict[str, Any]:
    """Prefill of `samples` prompts, each with its share of the images and random text."""
    import torch

    tokens = [grid.prod() // MERGED_PATCHES for grid in pixels.grid.cpu()]
    frames = len(tokens) // samples
    rows = [
        _prompt([int(count) for count in tokens[row * frames : (row + 1) * frames]], generator)
        for row in range(samples)
    ]
    input_ids = torch.stack(rows).to(pixels.values.device)
    inputs = {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "pixel_values": pixels.values,
        "image_grid_thw": pixels.grid,
        "mm_token_type_ids": (input_ids == IMAGE).int(),
        "logits_to_keep": 1,
    }
    accepted = inspect.signature(model.forward).parameters
    return {name: value for name, value in inputs.items() if name in accepted}


def _prompt(image_tokens: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    """Shape (tokens,): each image between its delimiters, then text."""
    import torch

    text = torch.randint(0, ORDINARY_TOKENS, (TEXT_TOKENS,), generator=generator)
    images = [[VISION_START, *[IMAGE] * count, VISION_END] for count in image_tokens]
    return torch.cat([*(torch.tensor(image) for image in images), text])


def plain_attention(attention: nn.Module, lengths: Sequence[int]) -> Callable[..., torch.Tensor]:
    """Attention over segments of `lengths` with torch's own SDPA and nothing else around it.

    Takes and gives (patches, hidden size), like the module that it stands in for. The lengths
    are known beforehand, so nothing is copied to the host.
    """
    import torch

    module: Any = attention

    def rotated(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        wide = states.float()
        first, second = wide.chunk(2, dim=-1)
        turned = torch.cat((-second, first), dim=-1)
        return (wide * cos + turned * sin).to(states.dtype)

    def forward(
        hidden_states: torch.Tensor,
        cu_seqlens: torch.Tensor,
        *_: Any,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        **__: Any,
    ) -> torch.Tensor:
        patches = hidden_states.shape[0]
        qkv = module.qkv(hidden_states).view(patches, 3, module.num_heads, -1)
        cos, sin = (each.float().unsqueeze(1) for each in position_embeddings)
        query, key, value = qkv.unbind(1)
        query, key = rotated(query, cos, sin), rotated(key, cos, sin)
        segments = [
            torch.nn.functional.scaled_dot_product_attention(
                *(each.transpose(0, 1) for each in qkv)
            )
            for qkv in zip(
                *(each.split(list(lengths)) for each in (query, key, value)), strict=True
            )
        ]
        merged = torch.cat([segment.transpose(0, 1) for segment in segments])
        projected: torch.Tensor = module.proj(merged.reshape(patches, -1))
        return projected

    return forward


FAMILY = Family(
    name="qwen3-vl",
    order=10,
    sizes={
        "2b": _size(_SMALL_VISION, _text(2048, 28, 16, 6144), tied=True),
        "4b": _size(_SMALL_VISION, _text(2560, 36, 32, 9728), tied=True),
        "8b": _size(_LARGE_VISION, _text(4096, 36, 32, 12288), tied=False),
    },
    build=build,
    tower=tower,
    merged_patches=MERGED_PATCHES,
    processor=processor,
    tower_inputs=tower_inputs,
    model_inputs=model_inputs,
    plain_attention=plain_attention,
)
