"""Qwen3-VL, dense.

Dimensions: config.json of Qwen/Qwen3-VL-{2B,4B,8B}-Instruct. The image processor's settings:
their preprocessor_config.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qwenprof.workload.families import _qwen_vl as shared
from qwenprof.workload.families._qwen_vl import text as _text
from qwenprof.workload.family import Family, Size, Tower

if TYPE_CHECKING:
    import torch
    from torch import nn

    from qwenprof.workload.inputs import Pixels

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


def build(size: Size, scope: str, attention: str, dtype: torch.dtype) -> nn.Module:
    from transformers.models.qwen3_vl import configuration_qwen3_vl as configuration
    from transformers.models.qwen3_vl import modeling_qwen3_vl as modeling

    if scope == "vision":
        config = configuration.Qwen3VLVisionConfig(**size.vision)
        return shared.built(modeling.Qwen3VLVisionModel, config, attention, dtype)
    config = configuration.Qwen3VLConfig(**shared.whole_configuration(size))
    return shared.built(modeling.Qwen3VLForConditionalGeneration, config, attention, dtype)


def tower(model: nn.Module) -> Tower:
    return shared.vision_tower(model, "deepstack_merger_list", HELPERS)


def processor() -> Any:
    return shared.image_processor(
        patch_size=16,
        size={"longest_edge": 16777216, "shortest_edge": 65536},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )


def attention_lengths(vision: Tower, pixels: Pixels) -> Mapping[str, Sequence[int]]:
    """Every block attends to whole frames."""
    return dict.fromkeys(vision.attentions(), pixels.segment_lengths())


FAMILY = Family(
    name="qwen3-vl",
    order=10,
    sizes={
        "2b": _size(_SMALL_VISION, _text(2048, 28, 16, 6144), tied=True),
        "4b": _size(_SMALL_VISION, _text(2560, 36, 32, 9728), tied=True),
        "8b": _size(_LARGE_VISION, _text(4096, 36, 32, 12288), tied=False),
    },
    default_size="4b",
    build=build,
    tower=tower,
    merged_patches=shared.MERGED_PATCHES,
    processor=processor,
    tower_inputs=shared.tower_inputs,
    model_inputs=shared.model_inputs,
    attention_lengths=attention_lengths,
    plain_attention=shared.plain_attention,
)
