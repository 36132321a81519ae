"""Counts the work of each node of a call tree: FLOP, bytes and operators, in one untimed pass.

FLOP come from torch's own counter, where one multiply-add is two; it knows matrix products,
convolutions and fused attention, and counts nothing for elementwise operators. Bytes are what
a node must at least move: its tensor arguments, its result and its weights, once each. Of an
embedding's weights only the rows that were looked up count. Operators are those of ATen that
compute something; on an accelerator each is a launch at least.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from qwenprof.harness.probe import Node, attached

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


# what allocates, aliases or describes, beside the views, which say so themselves
IDLE = {
    "detach_",
    "empty",
    "empty_like",
    "empty_permuted",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
    "resize_",
    "set_",
    "_unsafe_view",
}


@dataclass(frozen=True, kw_only=True)
class Work:
    """FLOP, bytes and operators of one node in one pass, all its calls together."""

    flops: int
    moved_bytes: int
    operators: int


class OperatorCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operators that compute something, as PyTorch's dispatcher runs them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.count += computes(func)
        return func(*args, **(kwargs or {}))


@cache
def computes(operator: Any) -> bool:
    """Whether an operator launches work: no view, no bare allocation, no question."""
    schema = operator._schema
    if operator.namespace == "prim" or schema.name.removeprefix("aten::") in IDLE:
        return False
    views = (
        each.alias_info is not None and not each.alias_info.is_write for each in schema.returns
    )
    returned = " ".join(str(each.type) for each in schema.returns)
    return not any(views) and ("Tensor" in returned or returned in ("number", ""))


def count_work(call: Callable[[], Any], nodes: Sequence[Node]) -> dict[str, Work]:
    """Run `call` once and count what each node did, everything below it included."""
    counted: dict[str, Work] = {}
    open_calls: list[tuple[int, int, int]] = []
    counter = FlopCounterMode(display=False, custom_mapping=cpu_attention())
    operators = OperatorCounter()

    def enter(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        moved = _tensor_bytes((args, kwargs))
        moved += _weight_bytes(node.module) if node.module is not None else 0
        open_calls.append((counter.get_total_flops(), operators.count, moved))

    def leave(node: Node, output: Any) -> None:
        flops_before, operators_before, moved = open_calls.pop()
        before = counted.get(node.path, Work(flops=0, moved_bytes=0, operators=0))
        counted[node.path] = Work(
            flops=before.flops + counter.get_total_flops() - flops_before,
            moved_bytes=before.moved_bytes + moved + _tensor_bytes(output),
            operators=before.operators + operators.count - operators_before,
        )

    # the inner one takes composite operators apart for the outer one
    with operators, counter, attached(nodes, enter, leave):
        call()
    return counted


def cpu_attention() -> dict[Any, Callable[..., int]]:
    """The fused attention of CPUs, which torch's counter does not know."""
    operator = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
    if operator is None or operator.default in flop_counter.flop_registry:
        return {}

    count: Callable[..., int] = flop_counter.sdpa_flop_count

    def flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return count(query, key, value)

    return {operator: flops}


def _weight_bytes(module: nn.Module) -> int:
    return _tensor_bytes(
        [
            parameter
            for child in module.modules()
            if not isinstance(child, nn.Embedding)
            for parameter in child.parameters(recurse=False)
        ]
    )


def _tensor_bytes(value: Any) -> int:
    return sum(tensor.nbytes for tensor in _unique(value))


def _unique(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor in a nest of arguments, once, however often it is passed."""
    leaves = {id(leaf): leaf for leaf in tensors(value)}
    yield from leaves.values()


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor in a nest of arguments, as often as it is in it."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)
