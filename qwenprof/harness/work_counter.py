"""Counts the work of each node of a call tree: FLOP and bytes, in one untimed pass.

FLOP come from torch's own counter, where one multiply-add is two; it knows matrix products,
convolutions and fused attention, and counts nothing for elementwise operators. Bytes are what
a node must at least move: its tensor arguments, its result and its weights, once each. Of an
embedding's weights only the rows that were looked up count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils import flop_counter
from torch.utils.flop_counter import FlopCounterMode

from qwenprof.harness.probe import Node, attached

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


@dataclass(frozen=True, kw_only=True)
class Work:
    """FLOP and bytes of one node in one pass, all its calls together."""

    flops: int
    moved_bytes: int


def count_work(call: Callable[[], Any], nodes: Sequence[Node]) -> dict[str, Work]:
    """Run `call` once and count what each node did, everything below it included."""
    counted: dict[str, Work] = {}
    open_calls: list[tuple[int, int]] = []
    counter = FlopCounterMode(display=False, custom_mapping=_cpu_attention())

    def enter(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        moved = _tensor_bytes((args, kwargs))
        moved += _weight_bytes(node.module) if node.module is not None else 0
        open_calls.append((counter.get_total_flops(), moved))

    def leave(node: Node, output: Any) -> None:
        flops_before, moved = open_calls.pop()
        before = counted.get(node.path, Work(flops=0, moved_bytes=0))
        counted[node.path] = Work(
            flops=before.flops + counter.get_total_flops() - flops_before,
            moved_bytes=before.moved_bytes + moved + _tensor_bytes(output),
        )

    with counter, attached(nodes, enter, leave):
        call()
    return counted


def _cpu_attention() -> dict[Any, Callable[..., int]]:
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
    leaves = {id(leaf): leaf for leaf in _leaves(value)}
    yield from leaves.values()


def _leaves(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
