"""From a workload to a model on the device that is ready to be called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from qwenprof.errors import NotApplicable, UsageError
from qwenprof.record.record import Facts
from qwenprof.workload.family import Family, Tower
from qwenprof.workload.inputs import Pixels, processed
from qwenprof.workload.workload import Workload, families

TORCH_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
DTYPE_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What one forward is given, and how much work that is.

    pixels: None for a module that is not one of ours.
    sequence_length: tokens of one sample in the language model; for the vision tower alone
        the visual tokens that it would contribute; None for a module that is not one of ours.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any]
    pixels: Pixels | None = None
    sequence_length: int | None = None


@dataclass(frozen=True, kw_only=True)
class VisionModel:
    """What makes a subject one of ours: its workload, its family, its tower."""

    workload: Workload
    family: Family
    tower: Tower


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A module on its device and what it is called with: what every stage measures.

    make_inputs: the inputs of a forward of so many samples.
    vision: None for a module that is not one of ours.
    """

    model: nn.Module
    device: torch.device
    dtype_name: str
    batch: int
    make_inputs: Callable[[int], Inputs]
    vision: VisionModel | None = None

    def inputs(self, batch: int | None = None) -> Inputs:
        """The inputs of `batch` samples; of the workload's own batch if None."""
        return self.make_inputs(batch or self.batch)

    def call(self, inputs: Inputs) -> Callable[[], Any]:
        """One forward without gradients."""

        def forward() -> Any:
            with torch.inference_mode():
                return self.model(*inputs.args, **inputs.kwargs)

        return forward

    def require_vision(self) -> VisionModel:
        """The vision model.

        Raises:
            NotApplicable: this is somebody's own module.
        """
        if self.vision is None:
            raise NotApplicable("this stage needs a model of a known family, not a bare module")
        return self.vision

    def facts(self) -> Facts:
        """How much work one forward is, for the record."""
        inputs = self.inputs()
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        if inputs.pixels is None:
            return {"parameters": parameters}
        grid = inputs.pixels.grid[0].tolist()
        patch_size = int(self.require_vision().family.processor().patch_size)
        return {
            "parameters": parameters,
            "patches": inputs.pixels.patches,
            "sequence_length": inputs.sequence_length,
            "images": inputs.pixels.grid.shape[0],
            "grid_thw": str(grid),
            "processed_height": grid[1] * patch_size,
            "processed_width": grid[2] * patch_size,
        }


def load(workload: Workload) -> Subject:
    """Build the model with random weights, right on the device and in the dtype."""
    family = families()[workload.family]
    device, dtype = torch.device(workload.device), TORCH_DTYPES[workload.dtype]
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(workload.seed)
        size = family.sizes[workload.size]
        model = family.build(size, workload.scope, workload.attention, dtype)
    model = model.to(device).eval()
    vision = VisionModel(workload=workload, family=family, tower=family.tower(model))
    return Subject(
        model=model,
        device=device,
        dtype_name=workload.dtype,
        batch=workload.batch,
        make_inputs=lru_cache(maxsize=2)(partial(_vision_inputs, vision, model, device, dtype)),
        vision=vision,
    )


def foreign_subject(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Subject:
    """Somebody's own module with the arguments to call it with, on the device it is on.

    Raises:
        UsageError: its parameters, buffers and arguments are on more than one device.
    """
    inputs = Inputs(args=args, kwargs=kwargs)
    passed = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    own = [*module.parameters(), *module.buffers(), *passed]
    devices = {tensor.device for tensor in own}
    if len(devices) > 1:
        names = ", ".join(sorted(map(str, devices)))
        raise UsageError(f"the module and its arguments are on {names}: put them on one device")
    floating = [tensor for tensor in own if tensor.is_floating_point()]
    example = next(iter(floating or own), torch.empty(0))
    return Subject(
        model=module,
        device=example.device,
        dtype_name=DTYPE_NAMES.get(example.dtype, str(example.dtype).removeprefix("torch.")),
        batch=1,
        make_inputs=lambda _: inputs,
    )


def _vision_inputs(
    vision: VisionModel, model: nn.Module, device: torch.device, dtype: torch.dtype, batch: int
) -> Inputs:
    workload, family = vision.workload, vision.family
    pixels = processed(workload, family.processor(), batch, dtype, device)
    if workload.scope == "vision":
        merged = family.merged_patches
        return Inputs(
            kwargs=family.tower_inputs(pixels),
            pixels=pixels,
            sequence_length=pixels.patches // merged // batch,
        )
    generator = torch.Generator().manual_seed(workload.seed)
    kwargs = family.model_inputs(model, pixels, batch, generator)
    length = int(kwargs["input_ids"].shape[1])
    return Inputs(kwargs=kwargs, pixels=pixels, sequence_length=length)
