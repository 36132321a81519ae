"""The same fix in the module tree itself: real nn.Linear layers, for export.

Checkpoints keep the shape that everybody else's have: a swapped layer saves and loads the
weight as the convolution's (D, C, *K). What replaces every nn.Linear by a layer of its own, as
quantizers do, has to leave these out: they are given windows, not rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from qwenprof.errors import UsageError
from qwenprof.fix.linearize import Convolution, convolve_as_linear
from qwenprof.fix.patch import runs_as_linear

HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
)


class PatchLinear(nn.Linear):
    """A linear layer in the place of a convolution whose stride equals its kernel.

    It takes what the convolution took, (N, C, *S) or (C, *S), and gives what it gave. In a
    state_dict its weight is (D, C, *K), and it loads that or (D, C * prod(K)).

    Args:
        conv: what it stands in for.
        weight: (D, C * prod(K)), its parameter.
    """

    def __init__(self, conv: Convolution, weight: nn.Parameter) -> None:
        kernel = conv.weight.shape[1:]
        # on the meta device nothing is allocated; the given tensors take the place
        super().__init__(kernel.numel(), weight.shape[0], conv.bias is not None, device="meta")
        self.weight = weight
        self.bias = conv.bias  # type: ignore[assignment]
        self.in_channels, self.out_channels = conv.in_channels, conv.out_channels
        self.kernel_size, self.stride = conv.kernel_size, conv.stride
        self.kernel_shape = kernel
        self.train(conv.training)
        self.register_state_dict_post_hook(_saved_as_conv)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_loaded_as_linear)  # type: ignore[no-untyped-call]

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - nn.Linear's own name
        weight = self.weight.view(self.out_features, *self.kernel_shape)
        return convolve_as_linear(input, weight, self.bias)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, kernel_size={self.kernel_size}"


def linearize_model(model: nn.Module) -> nn.Module:
    """Swap every non-overlapping nn.Conv3d of a model for the nn.Linear that it equals, in place.

    Unlike `apply_fix` this makes new parameters: call it before an optimizer is made. They share
    the storage of the old ones where these are contiguous. Convolutions that `apply_fix` leaves
    alone stay as they are, and so do subclasses of nn.Conv3d, which may compute something else.

    Returns:
        The model; a new module if `model` is itself such a convolution.

    Raises:
        UsageError: such a convolution has hooks, which would be lost; nothing was swapped.
    """
    found = {name: each for name, each in model.named_modules() if _is_plain(each)}
    for name, conv in found.items():
        if any(getattr(conv, attribute) for attribute in HOOKS):
            raise UsageError(
                f"{name or 'the convolution'} has hooks, which a swap would lose: remove them, "
                "or use qwenprof.apply_fix()"
            )
    weights: dict[torch.Tensor, nn.Parameter] = {}
    made = {conv: _swapped(conv, weights) for conv in found.values()}
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child in made:
                setattr(parent, name, made[child])
    return made.get(model, model)


def _is_plain(module: nn.Module) -> bool:
    return type(module) is nn.Conv3d and runs_as_linear(module)


def _swapped(conv: nn.Module, weights: dict[torch.Tensor, nn.Parameter]) -> PatchLinear:
    """The layer for this convolution. Convolutions that share a weight go on sharing one."""
    assert isinstance(conv, nn.Conv3d)
    weight = conv.weight
    if weight not in weights:
        flat = weight.detach().reshape(weight.shape[0], -1)
        weights[weight] = nn.Parameter(flat, requires_grad=weight.requires_grad)
    return PatchLinear(conv, weights[weight])


def _saved_as_conv(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    assert isinstance(module, PatchLinear)
    weight = state[prefix + "weight"]
    state[prefix + "weight"] = weight.view(weight.shape[0], *module.kernel_shape)


def _loaded_as_linear(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Any other shape is left for load_state_dict to complain of."""
    assert isinstance(module, PatchLinear)
    weight = state.get(prefix + "weight")
    if weight is not None and weight.shape[1:] == module.kernel_shape:
        state[prefix + "weight"] = weight.flatten(1)
