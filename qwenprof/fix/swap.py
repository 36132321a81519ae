"""The same fix in the module tree itself: real nn.Linear layers, for export and quantization.

Checkpoints keep the shape that everybody else's have: a swapped layer saves and loads the
weight as the convolution's (D, C, *K).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from qwenprof.fix.linearize import Convolution, convolve_as_linear
from qwenprof.fix.patch import runs_as_linear


class PatchLinear(nn.Linear):
    """A linear layer in the place of a convolution whose stride equals its kernel.

    It takes what the convolution took, (N, C, *S) or (C, *S), and gives what it gave. Its
    weight is (D, C * prod(K)) in memory, over the storage of the convolution's own, and
    (D, C, *K) in a state_dict; it loads either shape.
    """

    def __init__(self, conv: Convolution) -> None:
        # on the meta device nothing is allocated; the convolution's own tensors take the place
        weight, kernel = conv.weight, conv.weight.shape[1:]
        super().__init__(kernel.numel(), weight.shape[0], conv.bias is not None, device="meta")
        flat = weight.detach().reshape(weight.shape[0], -1)
        self.weight = nn.Parameter(flat, requires_grad=weight.requires_grad)
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

    Unlike `apply_fix` this makes new parameters, over the storage of the old ones: call it
    before an optimizer is made. Convolutions that `apply_fix` leaves alone stay as they are.

    Returns:
        The model; a new module if `model` is itself such a convolution.
    """
    made: dict[nn.Module, PatchLinear] = {}
    if runs_as_linear(model):
        return _swapped(model, made)
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and runs_as_linear(child):
                setattr(parent, name, _swapped(child, made))
    return model


def _swapped(conv: nn.Module, made: dict[nn.Module, PatchLinear]) -> PatchLinear:
    """The layer for this convolution; one for all the places where the same one stands."""
    assert isinstance(conv, nn.Conv3d)
    if conv not in made:
        made[conv] = PatchLinear(conv)
    return made[conv]


def _saved_as_conv(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    assert isinstance(module, PatchLinear)
    weight = state[prefix + "weight"]
    state[prefix + "weight"] = weight.view(weight.shape[0], *module.kernel_shape)


def _loaded_as_linear(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    weight = state.get(prefix + "weight")
    if weight is not None and weight.dim() > 2:
        state[prefix + "weight"] = weight.flatten(1)
