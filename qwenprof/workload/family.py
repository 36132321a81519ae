"""What a model family's file must say: its sizes, how to build it, what its parts are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

    from qwenprof.workload.inputs import Pixels

AttentionLengths = Callable[["Tower", "Pixels"], Mapping[str, Sequence[int]]]
PlainAttention = Callable[["nn.Module", Sequence[int]], Callable[..., "torch.Tensor"]]


@dataclass(frozen=True, kw_only=True)
class Size:
    """The published dimensions of one size, as keyword arguments of the configurations."""

    vision: Mapping[str, Any]
    text: Mapping[str, Any]
    tie_word_embeddings: bool


@dataclass(frozen=True, kw_only=True)
class Helper:
    """A function that does part of the tower's work without being a module.

    part: what it does, in the words of the field.
    owner, attribute: where the forward looks it up: an instance or a Python module.
    """

    part: str
    owner: Any
    attribute: str


@dataclass(frozen=True, kw_only=True)
class Tower:
    """A vision tower and the names of its parts, dotted paths below the tower itself.

    path: of the tower below the model that is run; "" where it is that model.
    """

    module: nn.Module
    path: str
    projection: str
    blocks: str
    attention: str
    helpers: tuple[Helper, ...]

    def child(self, path: str) -> nn.Module:
        """The module at a path below the tower."""
        return self.module.get_submodule(path)

    def full_path(self, path: str) -> str:
        """A path below the tower as a path below the model that is run."""
        return ".".join(part for part in (self.path, path) if part)

    def attentions(self) -> dict[str, nn.Module]:
        """Every block's attention module, by its path below the tower."""
        count = len(list(self.child(self.blocks).children()))
        paths = [f"{self.blocks}.{index}.{self.attention}" for index in range(count)]
        return {path: self.child(path) for path in paths}


@dataclass(frozen=True, kw_only=True)
class Family:
    """One model family.

    sizes: published sizes by name.
    default_size: the one that is run where none is asked for.
    build: (size, scope, attention, dtype) -> model with random weights, made on the device
        and in the dtype that are torch's defaults when it is called.
    tower: finds the vision tower and its parts in a model that `build` made.
    merged_patches: patches that become one visual token.
    processor: the image processor that users of this family run, from transformers.
    tower_inputs: pixels -> keyword arguments of the tower's forward.
    model_inputs: (model, pixels, samples, generator) -> keyword arguments of the whole
        model's prefill, visual tokens in place among `text_tokens` random ones.
    attention_lengths: (tower, pixels) -> for every attention's path below the tower, the lengths
        of the segments of patches that attend to themselves there.
    plain_attention: (attention module, lengths) -> a forward for it that is nothing but
        scaled dot product attention over segments of these lengths.
    """

    name: str
    order: int
    sizes: Mapping[str, Size]
    default_size: str
    build: Callable[[Size, str, str, torch.dtype], nn.Module]
    tower: Callable[[nn.Module], Tower]
    merged_patches: int
    processor: Callable[[], Any]
    tower_inputs: Callable[[Pixels], dict[str, Any]]
    model_inputs: Callable[[nn.Module, Pixels, int, torch.Generator], dict[str, Any]]
    attention_lengths: AttentionLengths
    plain_attention: PlainAttention
