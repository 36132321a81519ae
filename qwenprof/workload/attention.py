"""Switches, forces, replaces and watches the attention of a vision tower."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from qwenprof.workload.family import Tower
from qwenprof.workload.inputs import Pixels
from qwenprof.workload.loading import Subject, VisionModel

PROBE_GRID = [[1, 4, 10], [1, 10, 6]]  # more than one window of 8 by 8 patches each


def obstacle(attention: str, subject: Subject) -> str | None:
    """Why this implementation cannot run here; None if nothing is known to speak against it."""
    if attention != "flash_attention_2":
        return None
    if subject.device.type != "cuda":
        return f"flash_attention_2 needs a CUDA device, this runs on {subject.device.type}"
    if subject.dtype_name == "fp32":
        return "flash_attention_2 computes in bf16 or fp16, this workload is fp32"
    from transformers.utils import is_flash_attn_2_available

    if not is_flash_attn_2_available():
        return "flash-attn is not installed: pip install flash-attn --no-build-isolation"
    return None


@contextmanager
def implementation(subject: Subject, attention: str) -> Iterator[None]:
    """The whole model with this implementation, through transformers' own switch."""
    model: Any = subject.model
    before = subject.require_vision().workload.attention
    model.set_attn_implementation(attention)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def forced(tower: Tower, attention: str) -> Iterator[None]:
    """This implementation written into every block by hand, past every switch above it."""
    modules: list[Any] = list(tower.attentions().values())
    configs = [module.config for module in modules]
    for module in modules:
        module.config = copy.copy(module.config)
        module.config._attn_implementation = attention
    try:
        yield
    finally:
        for module, config in zip(modules, configs, strict=True):
            module.config = config


@contextmanager
def replaced_by_plain_sdpa(vision: VisionModel, pixels: Pixels) -> Iterator[None]:
    """Every vision attention replaced by torch's own SDPA, with nothing of transformers in it."""
    lengths = vision.family.attention_lengths(vision.tower, pixels)
    modules = vision.tower.attentions()
    for path, module in modules.items():
        module.forward = vision.family.plain_attention(module, lengths[path])
    try:
        yield
    finally:
        for module in modules.values():
            del module.forward


def probe_pixels(subject: Subject) -> Pixels:
    """Two tiny images of different shape: cheap, and enough to take every path."""
    tower = subject.require_vision().tower
    weight: Any = tower.child(tower.projection).weight
    grid = torch.tensor(PROBE_GRID)
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(int(grid.prod(1).sum()), weight[0].numel(), generator=generator)
    return Pixels(values=values.to(weight.device, weight.dtype), grid=grid.to(weight.device))


def tower_output(subject: Subject, pixels: Pixels) -> torch.Tensor:
    """The tower's merged features: (visual tokens, output size), in fp32."""
    vision = subject.require_vision()
    with torch.inference_mode():
        output = vision.tower.module(**vision.family.tower_inputs(pixels))
    first: Any = output[0] if isinstance(output, tuple) else output
    features: torch.Tensor = getattr(first, "pooler_output", first)
    return features.float()


def used_implementations(subject: Subject) -> dict[str, str]:
    """Which implementation each block's attention really calls: module path -> name.

    Runs the tower once on tiny images with every implementation watched.
    """
    tower = subject.require_vision().tower
    paths = {id(module): path for path, module in tower.attentions().items()}
    used: dict[str, str] = {}

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def attention(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            used[paths[id(module)]] = name
            return function(module, *args, **kwargs)

        return attention

    with ExitStack() as stack:
        _watch_implementations(stack, tower, watched)
        tower_output(subject, probe_pixels(subject))
    return used


def _watch_implementations(
    stack: ExitStack,
    tower: Tower,
    watched: Callable[[str, Callable[..., Any]], Callable[..., Any]],
) -> None:
    """Wrap the functions of transformers' registry, and eager's, which is not in it."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as registry  # noqa: N811

    modeling: Any = sys.modules[type(tower.module).__module__]
    eager = modeling.eager_attention_forward
    modeling.eager_attention_forward = watched("eager", eager)
    stack.callback(setattr, modeling, "eager_attention_forward", eager)
    own = registry._local_mapping
    before = dict(own)
    stack.callback(own.update, before)
    stack.callback(own.clear)
    for name in ("sdpa", "flash_attention_2"):
        own[name] = watched(name, registry[name])
