"""The models of transformers with a non-overlapping Conv3d, small, with inputs of the real layout.

Every model is built by transformers itself from its own configuration class, with small sizes
put in. The convolution keeps its real kernel, so its dot products are as long as in the real one.
"""

from __future__ import annotations

import importlib
import math
from types import ModuleType
from typing import Any

import torch
from torch import nn

from qwenprof.fix.patch import runs_as_linear

# The processor cuts the image; the convolution is given one patch per sample.
PATCHES = (
    "cohere_compass",
    "cohere_compass_vision",
    "colqwen2",
    "cosmos3_omni",
    "exaone4_5",
    "exaone4_5_vision",
    "glm46v",
    "glm4v",
    "glm4v_moe",
    "glm4v_moe_vision",
    "glm4v_vision",
    "glm5_next",
    "glm5_next_vision",
    "glm_ocr",
    "glm_ocr_vision",
    "glmga",
    "hyperclovax_vision_v2",
    "minimax_m3_vl",
    "minimax_m3_vl_vision",
    "qwen2_5_omni",
    "qwen2_5_omni_thinker",
    "qwen2_5_omni_vision_encoder",
    "qwen2_5_vl",
    "qwen2_5_vl_vision",
    "qwen2_vl",
    "qwen2_vl_vision",
    "qwen3_5",
    "qwen3_5_moe",
    "qwen3_5_moe_vision",
    "qwen3_5_vision",
    "qwen3_omni_moe",
    "qwen3_omni_moe_thinker",
    "qwen3_omni_moe_vision_encoder",
    "qwen3_vl",
    "qwen3_vl_moe",
    "qwen3_vl_moe_vision",
    "qwen3_vl_vision",
    "qwen4_exp",
    "qwen4_exp_vision",
)
# The convolution is given the whole clip.
CLIPS = ("videomae", "videoprism", "videoprism_vision_model", "vivit", "vjepa2")
FRAMES = 4
# Two images, one larger than an attention window of Qwen2.5-VL (8 x 8 patches).
GRID_THW = torch.tensor([[1, 4, 6], [1, 10, 12]])

# Where AutoModel has no class for the configuration.
ARCHITECTURES = {
    "colqwen2": "ColQwen2ForRetrieval",
    "minimax_m3_vl_vision": "MiniMaxM3VLVisionModel",
    "qwen2_5_omni": "Qwen2_5OmniForConditionalGeneration",
    "qwen2_5_omni_vision_encoder": "Qwen2_5OmniVisionEncoder",
    "qwen2_vl_vision": "Qwen2VisionTransformerPretrainedModel",
    "qwen3_omni_moe": "Qwen3OmniMoeForConditionalGeneration",
    "qwen3_omni_moe_vision_encoder": "Qwen3OmniMoeVisionEncoder",
}

# The names by which configurations call their sizes. Patch sizes are left as they are.
SMALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "embed_dim", "out_hidden_size", "pred_hidden_size"), 32),
    **dict.fromkeys(("d_model", "projector_hidden_size", "moe_intermediate_size"), 32),
    **dict.fromkeys(("intermediate_size", "projection_intermediate_size"), 64),
    **dict.fromkeys(("depth", "num_hidden_layers", "pred_num_hidden_layers"), 2),
    **dict.fromkeys(("num_spatial_layers", "num_temporal_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_heads", "num_attention_heads", "pred_num_attention_heads"), 2),
    **dict.fromkeys(
        ("encoder_attention_heads", "num_experts", "num_local_experts", "n_routed_experts"), 2
    ),
    "num_key_value_heads": 1,
    "head_dim": 16,
    "fullatt_block_indexes": [1],
    "deepstack_visual_indexes": [0],
    "num_position_embeddings": 16,
    "vocab_size": 256,
    "pad_token_id": None,
    **dict.fromkeys(("num_frames", "frames_per_clip"), FRAMES),
}
# RoPE settings of text models whose defaults lack what their own code reads.
ROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [3, 3, 2]}
# What the names cannot say, by the model type of the configuration itself.
EXCEPTIONS: dict[str, dict[str, Any]] = {
    "cohere_compass_text": {"rope_parameters": {"full_attention": ROPE}},
    "minimax_m3_vl": {"merged_hidden_size": 4 * 32},
    "qwen2_5_omni": {"enable_audio_output": False},
    "qwen3_omni_moe": {"enable_audio_output": False},
    "qwen3_omni_moe_text": {"rope_scaling": ROPE},
    "qwen3_vl_moe_text": {"rope_scaling": ROPE},
    "qwen3_vl_text": {"rope_scaling": ROPE},
    "videomae": {"image_size": 32},
    "videoprism_vision_model": {"image_size": 36},
    "vivit": {"image_size": 32},
    "vjepa2": {"crop_size": 32},
}


def build(model_type: str) -> nn.Module:
    """The small model in fp32 and eval mode; its weights and biases are random, none is zero.

    Raises:
        KeyError: the installed transformers does not know the model type.
    """
    from transformers import CONFIG_MAPPING, AutoModel

    config = CONFIG_MAPPING[model_type]()
    shrink(config)
    torch.manual_seed(0)
    if model_type in ARCHITECTURES:
        model = getattr(modeling(config), ARCHITECTURES[model_type])._from_config(config)
    else:
        model = AutoModel.from_config(config)
    return randomized(model)


def build_emu3() -> nn.Module:
    """The VQ-VAE of Emu3: all its Conv3d layers overlap."""
    from transformers import Emu3VQVAE, Emu3VQVAEConfig

    torch.manual_seed(0)
    config = Emu3VQVAEConfig(
        codebook_size=16,
        base_channels=32,
        channel_multiplier=[1, 1],
        num_res_blocks=1,
        attn_resolutions=[1],
        hidden_size=32,
        temporal_downsample_factor=2,
    )
    return randomized(Emu3VQVAE(config))


def randomized(model: nn.Module) -> nn.Module:
    """Noise on every parameter: transformers starts biases and some embeddings at zero."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.float().eval()


def shrink(config: Any) -> None:
    """Put small sizes into a configuration and the ones within it, in place."""
    from transformers import PretrainedConfig

    for name, value in list(vars(config).items()):
        if isinstance(value, PretrainedConfig):
            shrink(value)
        elif name in SMALL and value is not None:
            setattr(config, name, SMALL[name])
    for name, value in EXCEPTIONS.get(config.model_type, {}).items():
        setattr(config, name, value)


def modeling(config: Any) -> ModuleType:
    """The Python module that holds the models of this configuration.

    Raises:
        ModuleNotFoundError: there is none, or a package that it needs is not installed.
    """
    name = type(config).__module__.replace(".configuration_", ".modeling_")
    return importlib.import_module(name)


def patch_convolutions(model: nn.Module) -> list[nn.Conv3d]:
    """The layers that the fix is meant for."""
    return [
        each for each in model.modules() if isinstance(each, nn.Conv3d) and runs_as_linear(each)
    ]


def pixels_for(model_type: str, conv: nn.Conv3d) -> torch.Tensor:
    """What the processor would give: (patches, C * prod(K)), or clips (B, T, C, H, W)."""
    torch.manual_seed(1)
    if model_type in CLIPS:
        _, height, width = conv.kernel_size
        return torch.randn(2, FRAMES, conv.in_channels, 2 * height, 2 * width)
    patches = int(GRID_THW.prod(dim=1).sum())
    return torch.randn(patches, conv.in_channels * math.prod(conv.kernel_size))


def encode(model_type: str, model: nn.Module, pixels: torch.Tensor) -> list[torch.Tensor]:
    """Every tensor that the vision tower gives, called as the whole model calls it."""
    if model_type in CLIPS:
        return tensors(_entrance(model, "get_video_features")(pixels))
    return tensors(_entrance(model, "get_image_features")(pixels, GRID_THW))


def tensors(output: Any) -> list[torch.Tensor]:
    """The tensors of a ModelOutput, tuple or list, and of those within it."""
    if isinstance(output, torch.Tensor):
        return [output]
    parts = output.values() if isinstance(output, dict) else output
    return [each for part in parts if part is not None for each in tensors(part)]


def _entrance(model: nn.Module, method: str) -> Any:
    """This method of the outermost module that has it; the model itself if none does."""
    return next((getattr(m, method) for m in model.modules() if hasattr(m, method)), model)
