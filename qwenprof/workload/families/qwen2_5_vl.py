"""Qwen2.5-VL: most blocks attend within windows, and the patch embedding has no bias.

Dimensions: config.json of Qwen/Qwen2.5-VL-{3B,7B,32B}-Instruct, 32B's from copies that agree with
each other and with its checkpoint's number of parameters. What they leave out is the default of
transformers' Qwen2_5_VLVisionConfig. The image processor's settings: their
preprocessor_config.json. 72B is missing because its config.json could not be checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from qwenprof.workload.families import _qwen_vl as shared
from qwenprof.workload.families._qwen_vl import text as _text
from qwenprof.workload.family import Family, Size, Tower

if TYPE_CHECKING:
    import torch
    from torch import nn

    from qwenprof.workload.inputs import Pixels

HELPERS = {
    "rotary position": ("rot_pos_emb", "get_vision_position_ids"),
    "window index": ("get_window_index", "get_vision_window_index"),
    "window order": ("permute_input_for_window_attn",),
    "sequence lengths": ("get_vision_attention_seqlens",),
}

_COMMON_VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "num_heads": 16,
    "in_channels": 3,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "tokens_per_second": 2,
    "hidden_act": "silu",
}
_COMMON_TEXT = {
    "max_position_embeddings": 128000,
    "rms_norm_eps": 1e-6,
    "use_sliding_window": False,
    "rope_theta": 1_000_000,
    "rope_scaling": {"rope_type": "default", "mrope_section": [16, 24, 24]},
}


def _size(text: dict[str, Any], intermediate: int, key_value_heads: int, *, tied: bool) -> Size:
    """A size by its language model, and by how wide the tower's blocks are inside."""
    vision = {"intermediate_size": intermediate, "out_hidden_size": text["hidden_size"]}
    own = {
        "num_key_value_heads": key_value_heads,
        "vocab_size": 151936 if tied else 152064,
        "tie_word_embeddings": tied,
    }
    return Size(
        vision=_COMMON_VISION | vision,
        text=_COMMON_TEXT | text | own,
        tie_word_embeddings=tied,
    )


def build(size: Size, scope: str, attention: str, dtype: torch.dtype) -> nn.Module:
    from transformers.models.qwen2_5_vl import configuration_qwen2_5_vl as configuration
    from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as modeling

    if scope == "vision":
        config = configuration.Qwen2_5_VLVisionConfig(**size.vision)
        model = modeling.Qwen2_5_VisionTransformerPretrainedModel
        return shared.built(model, config, attention, dtype)
    config = configuration.Qwen2_5_VLConfig(**shared.whole_configuration(size))
    return shared.built(modeling.Qwen2_5_VLForConditionalGeneration, config, attention, dtype)


def tower(model: nn.Module) -> Tower:
    return shared.vision_tower(model, "fullatt_block_indexes", HELPERS)


def processor() -> Any:
    return shared.image_processor(
        patch_size=14,
        size={"longest_edge": 12845056, "shortest_edge": 3136},
        image_mean=[0.48145466, 0.4578275, 0.40821073],
        image_std=[0.26862954, 0.26130258, 0.27577711],
    )


def attention_lengths(vision: Tower, pixels: Pixels) -> Mapping[str, Sequence[int]]:
    """A few blocks attend to whole frames, the others within windows."""
    module: Any = vision.module
    frames, windows = pixels.segment_lengths(), _window_lengths(module.config, pixels)
    return {
        path: frames if index in module.fullatt_block_indexes else windows
        for index, path in enumerate(vision.attentions())
    }


def _window_lengths(config: Any, pixels: Pixels) -> list[int]:
    """Patches of each window, in the order in which the tower lays them out.

    A window is counted in patches that have been merged. Those at the right and the lower edge of
    a frame are what is left there.
    """
    merge = config.spatial_merge_size
    side = config.window_size // merge // config.patch_size

    def cut(patches: int) -> list[int]:
        return [min(side, patches // merge - at) for at in range(0, patches // merge, side)]

    return [
        rows * columns * merge**2
        for times, height, width in pixels.grid.tolist()
        for _, rows, columns in product(range(times), cut(height), cut(width))
    ]


FAMILY = Family(
    name="qwen2.5-vl",
    order=20,
    sizes={
        "3b": _size(_text(2048, 36, 16, 11008), 3420, 2, tied=True),
        "7b": _size(_text(3584, 28, 28, 18944), 3420, 4, tied=False),
        "32b": _size(_text(5120, 64, 40, 27648), 3456, 8, tied=False),
    },
    default_size="3b",
    build=build,
    tower=tower,
    merged_patches=shared.MERGED_PATCHES,
    processor=processor,
    tower_inputs=shared.tower_inputs,
    model_inputs=shared.model_inputs,
    attention_lengths=attention_lengths,
    plain_attention=shared.plain_attention,
)
