"""Which layer is at fault: the model's code, PyTorch's dispatcher, or the vendor library?

For every convolution of the model whose windows do not overlap: the backend that PyTorch picks for
the input that it really gets, what it would pick in another dtype, memory format or without the
library, the dispatcher's conditions one by one, and the launches that one call makes. The patch
projection was timed against all that equals it by compare-patch-embed; any other such convolution
is timed here against the fix, and without its library. The fix as a diff against the transformers
that was measured is kept beside all that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from qwenprof.errors import NotApplicable
from qwenprof.record.record import Row
from qwenprof.stages._launches import launch_tables
from qwenprof.stages._others import time_the_others
from qwenprof.stages._upstream import upstream_rows
from qwenprof.stages.stage import Bench, Stage

if TYPE_CHECKING:
    import torch

    from qwenprof.fix.linearize import Convolution
    from qwenprof.workload.loading import Subject


def measure(bench: Bench) -> None:
    from qwenprof.fix.patch import is_fixed

    if is_fixed():
        raise NotApplicable(
            "the fix is applied in this process, so no convolution is dispatched as it would be: "
            "call qwenprof.undo_fix() before"
        )
    subject = bench.subject()
    bench.say("looking for convolutions whose windows do not overlap")
    found = captured(subject)
    if not found:
        raise NotApplicable("the forward reaches no convolution whose windows do not overlap")
    for path, (conv, x) in found.items():
        row = description(path, conv, x, bench.device)
        bench.add_row("convolutions", row)
        for condition in _conditions(bench, row):
            bench.add_row("gate", condition)
    _count_launches(bench, found)
    time_the_others(bench, found)
    bench.say("writing the fix as a diff")
    for row in upstream_rows(subject.model, found):
        bench.add_row("upstream", row)


def captured(subject: Subject) -> dict[str, tuple[Convolution, torch.Tensor]]:
    """Every non-overlapping convolution that a forward reaches, with its first input, by path."""
    from qwenprof.fix.linearize import obstacle

    convs = {
        path: module for path, module in subject.model.named_modules() if obstacle(module) is None
    }
    inputs: dict[str, torch.Tensor] = {}

    def keep(path: str) -> Callable[..., None]:
        def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            inputs.setdefault(path, args[0] if args else kwargs["input"])

        return hook

    handles = [
        conv.register_forward_pre_hook(keep(path), with_kwargs=True) for path, conv in convs.items()
    ]
    try:
        if convs:
            subject.call(subject.inputs())()
    finally:
        for handle in handles:
            handle.remove()
    chosen: Any = convs
    return {path: (chosen[path], x) for path, x in inputs.items()}


def description(path: str, conv: Convolution, x: torch.Tensor, device: str) -> Row:
    """What the dispatcher sees of one convolution and its input, and what it picks.

    patches: the windows of the whole input. backend_*: what it would pick if one thing changed.
    """
    from qwenprof.harness.dispatch import is_conv3d_without_library, library_supports
    from qwenprof.workload.loading import DTYPE_NAMES

    kernel, weight = tuple(conv.kernel_size), conv.weight
    grid = [size // step for size, step in zip(x.shape[-len(kernel) :], kernel, strict=True)]
    windows = 1
    for size in (*grid, x.shape[0] if x.dim() == weight.dim() else 1):
        windows *= int(size)
    return {
        "module": path,
        "module_type": type(conv).__name__,
        "dtype": DTYPE_NAMES.get(x.dtype, str(x.dtype).removeprefix("torch.")),
        "rank": weight.dim(),
        "kernel": _shape(kernel),
        "input_shape": _shape(x.shape),
        "weight_shape": _shape(weight.shape),
        "features_in": weight[0].numel(),
        "features": weight.shape[0],
        "bias": conv.bias is not None,
        "patches": windows,
        "memory_format": _memory_format(x, weight),
        "library_dtype_supported": library_supports(device.partition(":")[0], x.dtype),
        "library_switched_off": weight.dim() == 5 and is_conv3d_without_library(),
        **_backends(conv, x, device.partition(":")[0]),
    }


def _backends(conv: Convolution, x: torch.Tensor, device_type: str) -> Row:
    import torch

    from qwenprof.harness.dispatch import convolution_backend, library_off
    from qwenprof.workload.loading import TORCH_DTYPES

    row: Row = {"backend": convolution_backend(conv, x)}
    with library_off(device_type)():
        row["backend_library_off"] = convolution_backend(conv, x)
    row["backend_without_bias"] = convolution_backend(conv, x, conv.weight, None)
    if conv.weight.dim() == 5:
        last = conv.weight.to(memory_format=torch.channels_last_3d)
        row["backend_channels_last"] = convolution_backend(conv, x, last, conv.bias)
    for name, dtype in TORCH_DTYPES.items():
        bias = None if conv.bias is None else conv.bias.to(dtype)
        row[f"backend_{name}"] = convolution_backend(
            conv, x[:1].to(dtype).expand_as(x), conv.weight.to(dtype), bias
        )
    return row


def _memory_format(x: torch.Tensor, weight: torch.Tensor) -> str:
    """What PyTorch suggests for this input and weight: channels-last if either of them is."""
    import torch

    last: Any = {4: torch.channels_last, 5: torch.channels_last_3d}.get(weight.dim())
    if last is None:
        return "contiguous"
    is_last = any(
        each.dim() == weight.dim()
        and each.is_contiguous(memory_format=last)
        and not each.is_contiguous()
        for each in (x, weight)
    )
    return str(last).removeprefix("torch.") if is_last else "contiguous"


def _shape(sizes: Any) -> str:
    return "x".join(str(int(size)) for size in sizes)


def _conditions(bench: Bench, conv: Row) -> Iterator[Row]:
    from qwenprof.diagnosis.gate import decisions

    for decision in decisions(bench.record, conv):
        for condition in decision.conditions:
            yield {
                "module": conv["module"],
                "library": decision.library,
                "if_all_hold": decision.effect,
                "condition": condition.text,
                "found": condition.found,
                "holds": condition.holds,
            }


def _count_launches(bench: Bench, found: dict[str, tuple[Convolution, torch.Tensor]]) -> None:
    """Of the Conv3d that get their patches one by one; elsewhere the formula does not hold."""
    from torch import nn

    from qwenprof.stages._projection import Projection

    bench.say("counting launches")
    for path, (conv, x) in found.items():
        if isinstance(conv, nn.Conv3d) and tuple(x.shape[2:]) == tuple(conv.kernel_size):
            launches, operators = launch_tables(Projection.of(conv, x.detach(), x.dtype))
            for table, rows in (("launches", launches), ("operators", operators)):
                for row in rows:
                    bench.add_row(table, {"module": path, **row})


STAGE = Stage(
    name="dispatch",
    order=55,
    question="Whose fault is it?",
    suspect="the model's code, PyTorch's dispatcher or the vendor library",
    measure=measure,
    budget_s=10.0,
    requires=("matmul", "compare-patch-embed"),
    example="qwenprof dispatch --dtype bf16",
)
