"""What one transformers does, for a test to compare with what another does.

`work` and `facts` run with the transformers that this process imports. `elsewhere` runs this
file in a process of its own, with the transformers in a folder, which may be a patched copy:

    PYTHONPATH=FOLDER python upstream_worker.py TASK

TASK is the JSON of a `Task`, or of the folder that `facts` takes; the last line of the output is
the JSON of what they return.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, TypedDict

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.profiler import ProfilerActivity, profile
from transformers import (
    Qwen3VLConfig,
    VideoMAEConfig,
    VideoMAEForPreTraining,
    VideoMAEModel,
    VJEPA2Config,
    VJEPA2Model,
)
from transformers.models.qwen3_vl import modeling_qwen3_vl as qwen3_vl

Tensors = dict[str, torch.Tensor]
Convolutions = dict[str, list[str]]


class Task(TypedDict):
    """sites: file, class, attribute and what it sees, of each layer to run.
    models: names in MODELS, to be loaded from the folder `source`, or made without one.
    target: a folder for the checkpoints and outputs.safetensors.
    """

    sites: list[tuple[str, str, str, str]]
    models: list[str]
    source: str | None
    target: str


class Worked(NamedTuple):
    """What came of a task: which convolutions each layer and model ran, and what they gave."""

    target: Path
    layers: Convolutions
    models: Convolutions

    @property
    def outputs(self) -> Tensors:
        return load_file(self.target / "outputs.safetensors")


def worked(task: Task, folder: Path | None = None) -> Worked:
    """The task done here, or with the transformers in a folder."""
    result = elsewhere(folder, task) if folder else work(task)
    return Worked(Path(task["target"]), result["layers"], result["models"])


def work(task: Task) -> dict[str, Any]:
    torch.manual_seed(0)
    source = Path(task["source"]) if task["source"] else None
    target = Path(task["target"])
    layer_tensors, layer_convolutions = layers(task["sites"])
    model_tensors, model_convolutions = models(task["models"], source, target)
    save_file(layer_tensors | model_tensors, target / "outputs.safetensors")
    return {
        "transformers": transformers.__file__,
        "layers": layer_convolutions,
        "models": model_convolutions,
    }


def patch(folder: Path, diff: str, *options: str) -> None:
    command = ["git", "apply", *options]
    done = subprocess.run(
        command, cwd=folder, input=diff, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def copy_transformers(folder: Path) -> Path:
    """The folder, with a copy of the transformers that this process imports."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(transformers.__file__).parent, folder / "transformers", ignore=ignored)
    return folder


def elsewhere(folder: Path, task: Task | str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, json.dumps(task)],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert result["transformers"].startswith(str(folder))
    return result


def run(function: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, list[str]]:
    """What it returns, and the convolutions that it ran."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        result = function()
    names = {event.name for event in profiler.events() or ()}
    return result, sorted(name for name in names if "conv" in name and "conver" not in name)


def layers(sites: list[tuple[str, str, str, str]]) -> tuple[Tensors, Convolutions]:
    """Output and gradients of each patch embedding, in fp64, on sizes that are no multiples."""
    tensors: Tensors = {}
    convolutions: Convolutions = {}
    for file, class_name, _, sees in sites:
        family = file.split("/")[1]
        module = import_module("transformers." + file.removesuffix(".py").replace("/", "."))
        embed = layer(family, getattr(module, class_name)).double()
        torch.manual_seed(0)
        for parameter in embed.parameters():
            parameter.data.copy_(torch.randn(parameter.numel()).view_as(parameter))
        x = torch.randn((6, 96) if sees == "patches" else (2, 5, 3, 10, 10)).double()
        if family == "vjepa2":
            x = x.transpose(1, 2).contiguous()
        y, convolutions[family] = run(lambda embed=embed, x=x: embed(x))  # type: ignore[misc]
        y.square().sum().backward()
        tensors[family] = y.detach().contiguous()
        for name, parameter in embed.named_parameters():
            assert parameter.grad is not None
            tensors[f"{family}.{name}.grad"] = parameter.grad.flatten()
    return tensors, convolutions


def layer(family: str, cls: type[torch.nn.Module]) -> torch.nn.Module:
    patch = {"patch_size": 4, "temporal_patch_size": 2, "in_channels": 3}
    if "config" not in signature(cls.__init__).parameters:
        return cls(**patch, embed_dim=16)
    cube = (2, 4, 4) if family in ("vivit", "videoprism") else 2
    clip = {"image_size": 10, "crop_size": 10, "num_frames": 5, "frames_per_clip": 5}
    names = {"num_channels": 3, "in_chans": 3, "hidden_size": 16, "tubelet_size": cube}
    config = SimpleNamespace(**patch, **clip, **names)
    if "hidden_size" in signature(cls.__init__).parameters:
        return cls(config, hidden_size=16)
    return cls(config)


@torch.no_grad()
def models(names: list[str], source: Path | None, target: Path) -> tuple[Tensors, Convolutions]:
    """Each model made, or loaded from `source`, then run and saved to `target`."""
    tensors: Tensors = {}
    convolutions: Convolutions = {}
    for name in names:
        cls, make, forward = MODELS[name]
        if source is None and make is None:
            continue
        model = made(cls, make) if source is None else loaded(cls, source, name)
        tensors[name], convolutions[name] = run(
            lambda model=model, forward=forward: forward(model).contiguous()  # type: ignore[misc]
        )
        model.save_pretrained(target / name)
    return tensors, convolutions


def made(cls: Any, make: Any) -> Any:
    torch.manual_seed(0)
    return cls._from_config(make()).eval()


def loaded(cls: Any, source: Path, name: str) -> Any:
    """The model with nothing missing, whose state another instance takes."""
    # the base model is loaded from the checkpoint of the whole one
    folder = source / name.removesuffix("_base")
    model, info = cls.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"], (name, info)
    assert not info["mismatched_keys"], (name, info)
    copy.deepcopy(model).load_state_dict(model.state_dict())
    return model.eval()


SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}


def tower() -> Any:
    config = Qwen3VLConfig().vision_config
    small = {"depth": 1, "num_heads": 2, "patch_size": 4, "out_hidden_size": 16}
    more = {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
    config.update({**SIZES, **small, **more})
    return config


def whole() -> Any:
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [2, 1, 1]}
    small = {"num_hidden_layers": 1, "vocab_size": 32, "num_key_value_heads": 2, "head_dim": 8}
    text = {**SIZES, **small, "rope_scaling": rope}
    return Qwen3VLConfig(vision_config=tower().to_dict(), text_config=text)


def videomae() -> Any:
    clip = {"image_size": 8, "patch_size": 4, "num_frames": 4, "num_hidden_layers": 1}
    decoder = {f"decoder_{name}": size for name, size in SIZES.items()}
    return VideoMAEConfig(**SIZES, **clip, **decoder, decoder_num_hidden_layers=1)


def vjepa2() -> Any:
    # the rotary embedding of 4.57 takes no heads of fewer than 12 features
    sizes = {"hidden_size": 24, "mlp_ratio": 1, "num_hidden_layers": 1, "num_attention_heads": 2}
    predictor = {f"pred_{name}": size for name, size in sizes.items()}
    clip = {"crop_size": 8, "frames_per_clip": 4, "patch_size": 4}
    return VJEPA2Config(**sizes, **predictor, **clip, pred_num_mask_tokens=2)


def see(model: Any) -> torch.Tensor:
    inner = getattr(model, "model", model)
    visual = getattr(inner, "visual", inner)
    result = visual(torch.linspace(-1, 1, 16 * 96).view(16, 96), torch.tensor([[1, 4, 4]]))
    features = result.last_hidden_state if hasattr(result, "last_hidden_state") else result[0]
    assert isinstance(features, torch.Tensor)
    return features


def watch(model: Any) -> torch.Tensor:
    x = torch.linspace(-1, 1, 4 * 3 * 64).view(1, 4, 3, 8, 8)
    features = getattr(model, "videomae", model)(x).last_hidden_state
    assert isinstance(features, torch.Tensor)
    return features


MODELS: dict[str, tuple[Any, Any, Callable[[Any], torch.Tensor]]] = {
    "qwen3_vl_tower": (qwen3_vl.Qwen3VLVisionModel, tower, see),
    "qwen3_vl": (qwen3_vl.Qwen3VLForConditionalGeneration, whole, see),
    "videomae": (VideoMAEForPreTraining, videomae, watch),
    "videomae_base": (VideoMAEModel, None, watch),
    "vjepa2": (VJEPA2Model, vjepa2, watch),
}


@torch.no_grad()
def facts(folder: str) -> dict[str, Any]:
    """How the rest of PyTorch and transformers sees the patch embedding of a tower saved there.

    Distances are the greatest between its outputs. "fused" is the class that transformers' own
    `fusion_config` puts in, which comes last as it changes the process for good.
    """
    model = made(*MODELS["qwen3_vl_tower"][:2])
    model.save_pretrained(folder)
    embed, x = model.patch_embed, torch.linspace(-1, 1, 12 * 96).view(12, 96)
    compiled = torch.compile(embed, fullgraph=True, backend="eager", dynamic=True)
    rows = torch.export.Dim("rows", min=2)
    exported = torch.export.export(embed, (x[:5],), dynamic_shapes=({0: rows},)).module()
    found = {
        "transformers": transformers.__file__,
        "conv3d": isinstance(embed.proj, torch.nn.Conv3d),
        "compiled": float((compiled(x) - embed(x)).abs().max()),
        "exported": float((exported(x) - embed(x)).abs().max()),
    }
    if found["conv3d"]:
        found |= compared_with_conv3d(type(embed.proj))
    expected = see(model)
    embed.proj.weight = torch.nn.Parameter(torch.full_like(embed.proj.weight, 7.0))
    model._init_weights(embed.proj)
    found["std"] = float(embed.proj.weight.std())
    if find_spec("transformers.fusion_mapping"):
        fused = type(model).from_pretrained(folder, fusion_config={"patch_embeddings": True})
        found["fused"] = type(fused.patch_embed).__name__
        found["fusion"] = float((see(fused.eval()) - expected).abs().max())
    return found


def compared_with_conv3d(cls: type[torch.nn.Conv3d]) -> dict[str, Any]:
    """On windows, clips with a remainder, no batch, an empty one, and any layout; in fp64."""
    arguments: Any = (3, 8, (2, 4, 5), (2, 4, 5))
    convolution = torch.nn.Conv3d(*arguments).double()
    same = cls(*arguments).double()
    same.load_state_dict(convolution.state_dict())
    distances, contiguous = [], []
    for shape in [(6, 3, 2, 4, 5), (2, 3, 5, 11, 13), (3, 5, 11, 13), (0, 3, 2, 4, 5)]:
        x = torch.randn(shape).double()
        for laid_out in (x, x.mT.contiguous().mT):
            y, expected = same(laid_out), convolution(laid_out)
            assert y.shape == expected.shape
            distances += (y - expected).abs().flatten().tolist()
            contiguous.append(y.is_contiguous())
    return {"distance": max(distances), "contiguous": all(contiguous)}


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    result = facts(given) if isinstance(given, str) else work(given)
    sys.stdout.write(f"\n{json.dumps(result)}\n")
