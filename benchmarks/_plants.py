"""Faults that are planted in real towers, each as the context manager in which it is there.

A fault changes how something is computed and never what: a tower with a fault gives the same
features. Where a module gets another forward it gets another class, since stages replace and
restore forwards of instances.
"""

from __future__ import annotations

import functools
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from qwenprof.harness.dispatch import conv3d_without_library, library_off
from qwenprof.workload.loading import Inputs, Subject

Plant = Callable[[Subject], AbstractContextManager[None]]
ODD_BLOCK = 2
QUERIES_AT_A_TIME = 16


def conv_without_onednn(_: Subject) -> AbstractContextManager[None]:
    """The convolution alone without oneDNN: Slow3d."""
    return conv3d_without_library("cpu")


def everything_without_onednn(_: Subject) -> AbstractContextManager[None]:
    """oneDNN switched off for the whole process."""
    return library_off("cpu")()


@contextmanager
def slow_dilated_conv(_: Subject) -> Iterator[None]:
    """A dispatcher that picks slow_conv_dilated3d, as that of torch 2.9 does on a GPU."""
    original, select = functional.conv3d, torch._C._select_conv_backend
    backend = torch._C._ConvBackend.SlowDilated3d

    def conv3d(x: Any, weight: Any, bias: Any = None, stride: Any = 1, *_: Any) -> torch.Tensor:
        kernel = list(weight.shape[2:])
        steps = list(stride) if not isinstance(stride, int) else [stride] * 3
        slow: Any = torch.ops.aten.slow_conv_dilated3d
        result: torch.Tensor = slow(x, weight, kernel, bias, steps, [0] * 3, [1] * 3)
        return result

    functional.conv3d = conv3d
    torch._C._select_conv_backend = lambda *_, **__: backend
    try:
        yield
    finally:
        functional.conv3d, torch._C._select_conv_backend = original, select


@contextmanager
def conv_patch_by_patch(_: Subject) -> Iterator[None]:
    """oneDNN is called for one patch at a time: a healthy backend, and slow all the same."""
    original = functional.conv3d

    def conv3d(x: torch.Tensor, *args: Any) -> torch.Tensor:
        return torch.cat([original(patch, *args) for patch in x.split(1)])

    functional.conv3d = conv3d
    try:
        yield
    finally:
        functional.conv3d = original


def merger_in_fp64(subject: Subject) -> AbstractContextManager[None]:
    return _in_fp64(_tower(subject).merger)


def every_mlp_in_fp64(subject: Subject) -> AbstractContextManager[None]:
    """The fault is in every block, so that no block is unlike the others."""
    return _in_fp64(*(block.mlp for block in _tower(subject).blocks))


@contextmanager
def _in_fp64(*modules: nn.Module) -> Iterator[None]:
    """These compute in double precision and give back what the model works in."""
    dtype = next(modules[0].parameters()).dtype
    handles = []
    for module in modules:
        module.double()
        handles += [
            module.register_forward_pre_hook(lambda _, args: tuple(map(_double, args))),
            module.register_forward_hook(lambda _, __, output: output.to(dtype)),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module in modules:
            module.to(dtype)


@contextmanager
def block_that_loops_over_heads(subject: Subject) -> Iterator[None]:
    """One block's attention goes through its heads and its queries in Python."""
    attention = _tower(subject).blocks[ODD_BLOCK].attn
    original = type(attention)
    modeling: Any = sys.modules[original.__module__]

    class Looping(original):  # type: ignore[misc, valid-type]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            with _one_head_at_a_time(modeling):
                return super().forward(*args, **kwargs)

    Looping.__name__ = original.__name__
    attention.__class__ = Looping
    try:
        yield
    finally:
        attention.__class__ = original


@contextmanager
def interpolation_that_loops(subject: Subject) -> Iterator[None]:
    """Position interpolation goes through images and patches in Python, scalar by scalar."""
    modeling: Any = sys.modules[type(_tower(subject)).__module__]
    name = "get_vision_interpolation_indices_and_weights"
    original = getattr(modeling, name)

    @functools.wraps(original)
    def looping(grid_thw: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        pieces = [original(each[None], *args, **kwargs) for each in grid_thw]
        rebuilt = [
            (torch.stack([_scalar_by_scalar(row) for row in indices]),
             torch.stack([_scalar_by_scalar(row) for row in weights]))
            for indices, weights in pieces
        ]  # fmt: skip
        return tuple(torch.cat(parts) for parts in zip(*rebuilt, strict=True))

    setattr(modeling, name, looping)
    try:
        yield
    finally:
        setattr(modeling, name, original)


@contextmanager
def dense_masked_attention(subject: Subject) -> Iterator[None]:
    """Eager attention over all images at once, with a dense block-diagonal mask."""
    attention_class: Any = type(_tower(subject).blocks[0].attn)
    modeling: Any = sys.modules[attention_class.__module__]
    original = attention_class.forward

    def forward(
        self: Any, hidden_states: torch.Tensor, cu_seqlens: torch.Tensor, **kwargs: Any
    ) -> Any:
        if self.config._attn_implementation != "eager":
            return original(self, hidden_states, cu_seqlens=cu_seqlens, **kwargs)
        mask = _block_diagonal(cu_seqlens, hidden_states.dtype)
        eager = modeling.eager_attention_forward

        def dense(module: Any, *states: Any, **options: Any) -> Any:
            return eager(module, *states, **(options | {"attention_mask": mask}))

        whole = cu_seqlens[[0, -1]]
        modeling.eager_attention_forward = dense
        try:
            return original(self, hidden_states, cu_seqlens=whole, **kwargs)
        finally:
            modeling.eager_attention_forward = eager

    attention_class.forward = forward
    try:
        yield
    finally:
        attention_class.forward = original


@contextmanager
def processor_that_dominates(subject: Subject) -> Iterator[None]:
    """Before the image processor runs, Python goes through the image value by value."""
    family: Any = subject.require_vision().family
    original = family.processor

    def slow() -> Any:
        processor = original()

        def call(images: Any, **kwargs: Any) -> Any:
            for image in images:
                for channel in image:
                    for row in channel:
                        [(value / 255 - 0.5) * 2 for value in row]
            return processor(images=images, **kwargs)

        return _Callable(call, processor)

    object.__setattr__(family, "processor", slow)
    try:
        yield
    finally:
        object.__setattr__(family, "processor", original)


@contextmanager
def batch_that_does_not_grow(subject: Subject) -> Iterator[None]:
    """Whatever builds the batch drops all samples but the first two."""
    original = subject.make_inputs

    def make_inputs(batch: int) -> Inputs:
        return original(min(batch, 2))

    object.__setattr__(subject, "make_inputs", make_inputs)
    try:
        yield
    finally:
        object.__setattr__(subject, "make_inputs", original)


@contextmanager
def busy_neighbour(_: Subject) -> Iterator[None]:
    """A process that is nobody's child keeps a core busy: our own children are no neighbours.

    It ends with this process, however that ends.
    """
    spin = f"import os\nwhile os.path.exists('/proc/{os.getpid()}'): pass"
    start = f"{shlex.quote(sys.executable)} -c {shlex.quote(spin)} > /dev/null 2>&1 & echo $!"
    shell = subprocess.run(["sh", "-c", start], capture_output=True, text=True, check=True)
    try:
        yield
    finally:
        os.kill(int(shell.stdout), signal.SIGKILL)


class _Callable:
    """A processor that is called another way, and is itself in everything else."""

    def __init__(self, call: Callable[..., Any], processor: Any) -> None:
        self._call, self._processor = call, processor

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)


def _tower(subject: Subject) -> Any:
    return subject.require_vision().tower.module


def _double(value: Any) -> Any:
    return (
        value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
    )


@contextmanager
def _one_head_at_a_time(modeling: Any) -> Iterator[None]:
    """Whatever implementation the module asks for, it is called for one head and few queries."""
    registry = modeling.ALL_ATTENTION_FUNCTIONS
    modeling.ALL_ATTENTION_FUNCTIONS = _HeadByHead(registry)
    try:
        yield
    finally:
        modeling.ALL_ATTENTION_FUNCTIONS = registry


class _HeadByHead:
    """A registry whose implementations loop over heads and queries around the real ones."""

    def __init__(self, registry: Any) -> None:
        self._registry = registry

    def get_interface(self, *wanted: Any) -> Callable[..., Any]:
        attention = self._registry.get_interface(*wanted)

        def looping(module: nn.Module, query: Any, key: Any, value: Any, **options: Any) -> Any:
            heads = []
            for head in range(query.shape[1]):
                one = slice(head, head + 1)
                rows = [
                    attention(module, few, key[:, one], value[:, one], **options)[0]
                    for few in query[:, one].split(QUERIES_AT_A_TIME, dim=2)
                ]
                heads.append(torch.cat(rows, dim=1))
            return torch.cat(heads, dim=2), None

        return looping


def _scalar_by_scalar(row: torch.Tensor) -> torch.Tensor:
    return torch.stack([value * 1 + 0 for value in row])


def _block_diagonal(cu_seqlens: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(1, 1, patches, patches): nought within an image, the least number between two."""
    owner = torch.repeat_interleave(torch.arange(len(cu_seqlens) - 1), cu_seqlens.diff().long())
    apart = owner[:, None] != owner[None, :]
    return torch.zeros(apart.shape, dtype=dtype).masked_fill(apart, torch.finfo(dtype).min)[
        None, None
    ]
