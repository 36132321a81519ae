"""The ways to run one patch projection: the convolution's own, those provoked, and its equals.

Each variant is built from a convolution of its own (a copy) and says what it cannot run on, so
that a comparison has a row for it either way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

CONV, LINEAR, FIX = "Conv3d", "Linear", "fix (view)"
SLOW_DIRECT, FUSED = "slow_conv_dilated3d", "fusion_config"
COMPILE_S = 12.0  # by a C++ compiler on two cores, with nothing of it in a cache


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A patch projection that is ready to run.

    forward: patches (N, C, *K) -> features, (N, D) or (N, D, 1, 1, 1).
    parameters: weight and, if there is one, bias, as they are after a first forward.
    """

    forward: Callable[[torch.Tensor], torch.Tensor]
    parameters: Callable[[], Sequence[torch.Tensor]]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to run it.

    what: what is done, for a reader.
    build: makes the layer from a convolution that it may keep and change.
    around: the context in which it must run.
    obstacle: (device type, convolution) -> why it cannot run there, None if it can.
    backend: the implementation behind it; None where the dispatcher is to be asked.
    backward_obstacle: why its backward says nothing of it; "" if it does.
    in_turn: whether it is timed in turn with the convolution, or alone because it may be slow.
    start_s: what starting it takes, where that is long: it is not begun with less time left.
    """

    name: str
    what: str
    build: Callable[[nn.Conv3d], Layer]
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    obstacle: Callable[[str, nn.Conv3d], str | None] = lambda *_: None
    backend: str | None = None
    backward_obstacle: str = ""
    in_turn: bool = False
    start_s: float = 0.0


def variants(device_type: str) -> list[Variant]:
    """All of them, for a device of this type: those timed in turn first."""
    return [*_in_turn(), *_provoked(device_type), *_compiled_ones()]


def _in_turn() -> list[Variant]:
    """The convolution, what equals it, and what changes only its weight or bias."""
    return [
        Variant(name=CONV, what="as dispatched", build=_module, in_turn=True),
        Variant(
            name=FIX,
            what="F.linear over a view of the convolution's own weight: qwenprof.apply_fix()",
            build=_fixed,
            backend="GEMM",
            in_turn=True,
        ),
        Variant(
            name=LINEAR,
            what="the equal nn.Linear on flat patches",
            build=_linear,
            backend="GEMM",
            in_turn=True,
        ),
        Variant(
            name="lazy swap",
            what="an nn.Linear that takes the convolution's place in the first call",
            build=_lazily_swapped,
            backend="GEMM",
            in_turn=True,
        ),
        Variant(
            name="channels_last_3d",
            what="the convolution with its weight in channels_last_3d",
            build=_channels_last,
            in_turn=True,
        ),
        Variant(
            name="bias apart",
            what="the convolution without its bias, which is added after it",
            build=_bias_apart,
            obstacle=_has_no_bias,
            in_turn=True,
        ),
    ]


def _provoked(device_type: str) -> list[Variant]:
    """What PyTorch would not pick here by itself, slow paths among it."""
    from qwenprof.harness.dispatch import LIBRARIES, library_off

    library = LIBRARIES.get(device_type, "vendor library")
    return [
        Variant(
            name=f"{library} off",
            what=f"the convolution as dispatched with {library} switched off",
            build=_module,
            around=library_off(device_type),
            obstacle=_has_no_library,
        ),
        Variant(
            name="cudnn.benchmark",
            what="the convolution with torch.backends.cudnn.benchmark on, after its search",
            build=_module,
            around=_benchmark,
            obstacle=_needs_cudnn,
        ),
        Variant(
            name=SLOW_DIRECT,
            what="torch.ops.aten.slow_conv_dilated3d called directly",
            build=_slow_direct,
            backend="SlowDilated3d",
            backward_obstacle="PyTorch computes the gradient of this operator with the backend "
            f"that it picks for the convolution: see {CONV}",
        ),
        Variant(
            name="cudnn_convolution",
            what="torch.cudnn_convolution called directly, the bias added after it",
            build=_cudnn_direct,
            obstacle=_needs_cudnn,
            backend="Cudnn",
        ),
    ]


def _compiled_ones() -> list[Variant]:
    layers = (
        ("Conv3d compiled", "torch.compile of the convolution", _compiled),
        ("Linear compiled", "torch.compile of the equal nn.Linear", _linear_compiled),
    )
    return [
        Variant(
            name=name,
            what=what,
            build=build,
            obstacle=_needs_compiler,
            start_s=COMPILE_S,
            backend="torch.compile",
        )
        for name, what, build in layers
    ]


def _of_module(module: nn.Module) -> Callable[[], Sequence[torch.Tensor]]:
    return lambda: list(module.parameters())


def _module(conv: nn.Conv3d) -> Layer:
    return Layer(forward=conv, parameters=_of_module(conv))


def _fixed(conv: nn.Conv3d) -> Layer:
    from qwenprof.fix.patch import forward_as_linear

    def forward(patches: torch.Tensor) -> torch.Tensor:
        y = forward_as_linear(conv, patches, conv.weight, conv.bias)
        assert y is not None
        return y

    return Layer(forward=forward, parameters=_of_module(conv))


def _linear(conv: nn.Conv3d) -> Layer:
    from qwenprof.fix.linearize import linearize

    linear = linearize(conv)
    return Layer(forward=lambda patches: linear(patches.flatten(1)), parameters=_of_module(linear))


def _lazily_swapped(conv: nn.Conv3d) -> Layer:
    from torch import nn

    from qwenprof.fix.linearize import linearize

    owner = nn.ModuleDict({"proj": conv})

    def forward(patches: torch.Tensor) -> torch.Tensor:
        if isinstance(owner["proj"], nn.Conv3d):
            owner["proj"] = linearize(owner["proj"])
        projected: torch.Tensor = owner["proj"](patches.flatten(1))
        return projected

    return Layer(forward=forward, parameters=_of_module(owner))


def _channels_last(conv: nn.Conv3d) -> Layer:
    import torch

    return _module(conv.to(memory_format=torch.channels_last_3d))


def _bias_apart(conv: nn.Conv3d) -> Layer:
    from torch.nn.functional import conv3d

    bias = conv.bias
    assert bias is not None

    def forward(patches: torch.Tensor) -> torch.Tensor:
        return conv3d(patches, conv.weight, None, conv.stride) + bias.view(-1, 1, 1, 1)

    return Layer(forward=forward, parameters=_of_module(conv))


def _slow_direct(conv: nn.Conv3d) -> Layer:
    import torch

    def forward(patches: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.ops.aten.slow_conv_dilated3d(
            patches,
            conv.weight,
            list(conv.kernel_size),
            conv.bias,
            list(conv.stride),
            [0, 0, 0],
            [1, 1, 1],
        )
        return result

    return Layer(forward=forward, parameters=_of_module(conv))


def _cudnn_direct(conv: nn.Conv3d) -> Layer:
    import torch

    flags, call = torch.backends.cudnn, getattr(torch, "cudnn_convolution", None)

    def forward(patches: torch.Tensor) -> torch.Tensor:
        assert call is not None
        result: torch.Tensor = call(
            patches,
            conv.weight,
            [0, 0, 0],
            list(conv.stride),
            [1, 1, 1],
            1,
            flags.benchmark,
            flags.deterministic,
            flags.allow_tf32,
        )
        return result if conv.bias is None else result + conv.bias.view(-1, 1, 1, 1)

    return Layer(forward=forward, parameters=_of_module(conv))


def _compiled(conv: nn.Conv3d) -> Layer:
    return Layer(forward=_compile(conv), parameters=_of_module(conv))


def _linear_compiled(conv: nn.Conv3d) -> Layer:
    from qwenprof.fix.linearize import linearize

    linear = linearize(conv)
    compiled = _compile(linear)
    return Layer(
        forward=lambda patches: compiled(patches.flatten(1)), parameters=_of_module(linear)
    )


def _compile(module: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """The compiled module. The compiler's remark that there is no GPU is not for the user."""
    import logging

    import torch

    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    compiled: Callable[[torch.Tensor], torch.Tensor] = torch.compile(module, dynamic=False)
    return compiled


def _benchmark() -> AbstractContextManager[Any]:
    import torch

    searching: AbstractContextManager[Any] = torch.backends.cudnn.flags(
        enabled=True, benchmark=True
    )
    return searching


def _has_no_bias(_: str, conv: nn.Conv3d) -> str | None:
    return None if conv.bias is not None else "this convolution has no bias"


def _has_no_library(device_type: str, _: nn.Conv3d) -> str | None:
    from qwenprof.harness.dispatch import LIBRARIES, is_conv3d_without_library

    if device_type not in LIBRARIES:
        return f"no library is known that could be switched off on {device_type}"
    if is_conv3d_without_library():
        return f"the fault made on purpose switches {LIBRARIES[device_type]} off already"
    return None


def _needs_cudnn(device_type: str, _: nn.Conv3d) -> str | None:
    import torch

    if device_type != "cuda":
        return f"cuDNN needs a CUDA device, this is {device_type}"
    backends: Any = torch.backends
    return None if backends.cudnn.is_available() else "this torch has no cuDNN"


def _needs_compiler(device_type: str, _: nn.Conv3d) -> str | None:
    """Inductor writes C++ for a CPU and Triton for a GPU."""
    import importlib.util
    import os
    import shutil

    if device_type == "cpu":
        compilers = (os.environ.get("CXX", ""), "g++", "clang++", "c++")
        if not any(shutil.which(each) for each in compilers if each):
            return "torch.compile needs a C++ compiler on a CPU, and there is none"
    elif importlib.util.find_spec("triton") is None:
        return f"torch.compile needs triton on {device_type}, which is not installed"
    return None
