"""What the families of Qwen-VL have in common: the prompt, the image processor, the attention.

Works with the module structure of transformers 4.57, where positions and windows are methods of
the tower, and of 5.x, where they are functions of its module.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qwenprof.workload.family import Helper, Size, Tower

if TYPE_CHECKING:
    import torch
    from torch import nn

    from qwenprof.workload.inputs import Pixels

VISION_START, VISION_END, IMAGE = 151652, 151653, 151655
ORDINARY_TOKENS = 150_000
MERGED_PATCHES = 4
TEXT_TOKENS = 117  # with eight frames of 190 tokens and their delimiters: 1,653 in all


def text(hidden: int, layers: int, heads: int, intermediate: int) -> dict[str, Any]:
    """The dimensions of a language model that differ from size to size."""
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": intermediate,
    }


def whole_configuration(size: Size) -> dict[str, Any]:
    """Keyword arguments of the whole model's configuration, which may change them."""
    return {
        "vision_config": copy.deepcopy(dict(size.vision)),
        "text_config": copy.deepcopy(dict(size.text)),
        "tie_word_embeddings": size.tie_word_embeddings,
    }


def built(model: Any, configuration: Any, attention: str, dtype: torch.dtype) -> nn.Module:
    """A model of this class with random weights."""
    module: nn.Module = model._from_config(
        configuration, dtype=dtype, attn_implementation=attention
    )
    return module


def vision_tower(model: nn.Module, mark: str, helpers: Mapping[str, Sequence[str]]) -> Tower:
    """The tower: the module that has the attribute `mark`.

    helpers: what a helper function does -> its names in the versions of transformers.
    """
    path = next(name for name, module in model.named_modules() if hasattr(module, mark))
    module = model.get_submodule(path)
    return Tower(
        module=module,
        path=path,
        projection="patch_embed.proj",
        blocks="blocks",
        attention="attn",
        helpers=tuple(_helpers(module, helpers)),
    )


def _helpers(module: nn.Module, helpers: Mapping[str, Sequence[str]]) -> list[Helper]:
    """Each helper where this transformers has it: on the tower, or in the tower's own file."""
    owners = (module, sys.modules[type(module).__module__])
    return [
        Helper(part=part, owner=owner, attribute=attribute)
        for part, attributes in helpers.items()
        for attribute in attributes
        for owner in owners
        if hasattr(owner, attribute)
    ]


def image_processor(**settings: Any) -> Any:
    """The torchvision image processor, with the settings of a preprocessor_config.json."""
    import transformers

    # 4.57 calls the torchvision one "Fast"; 5.x gave it the plain name and deprecates the other
    fast = "Qwen2VLImageProcessorFast"
    name = fast if fast in dir(transformers) else "Qwen2VLImageProcessor"
    return getattr(transformers, name)(temporal_patch_size=2, merge_size=2, **settings)


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

    words = torch.randint(0, ORDINARY_TOKENS, (TEXT_TOKENS,), generator=generator)
    images = [[VISION_START, *[IMAGE] * count, VISION_END] for count in image_tokens]
    return torch.cat([*(torch.tensor(image) for image in images), words])


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
