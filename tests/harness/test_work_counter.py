"""FLOP, bytes and operators of each node, against what the arithmetic says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from qwenprof.harness.probe import Node, tree
from qwenprof.harness.work_counter import Work, count_work

BATCH, WIDTH, DEEP = 8, 16, 32
FLOAT = 4


def counted(
    model: nn.Module, *args: torch.Tensor, nodes: list[Node] | None = None
) -> dict[str, Work]:
    with torch.inference_mode():
        return count_work(lambda: model(*args), nodes or tree(model))


def test_a_linear_layer() -> None:
    # GIVEN a linear layer with a bias WHEN its work is counted
    work = counted(nn.Linear(WIDTH, DEEP), torch.rand(BATCH, WIDTH))[""]
    # THEN a multiply-add is two FLOP, and input, output and weights move once
    assert work.flops == 2 * BATCH * WIDTH * DEEP
    assert work.moved_bytes == FLOAT * (BATCH * WIDTH + BATCH * DEEP + WIDTH * DEEP + DEEP)


def test_a_convolution_that_cuts_patches_equals_its_linear_layer() -> None:
    # GIVEN a patch embedding and the linear layer that it is
    conv = nn.Conv3d(3, DEEP, kernel_size=(2, 4, 4), stride=(2, 4, 4))
    linear = nn.Linear(3 * 2 * 4 * 4, DEEP)
    # WHEN both are counted THEN their work is the same
    patches = torch.rand(BATCH, 3, 2, 4, 4)
    assert counted(conv, patches)[""] == counted(linear, patches.flatten(1))[""]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_attention_counts_on_a_cpu_too(dtype: torch.dtype) -> None:
    # GIVEN attention of 2 heads over 10 tokens of 8 channels
    class Attention(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x)

    # WHEN it is counted
    x = torch.rand(1, 2, 10, 8, dtype=dtype)
    work = counted(Attention(), x)[""]
    # THEN there are two matrix products, and the argument moves once though it is used thrice
    assert work.flops == 2 * (2 * 2 * 10 * 10 * 8)
    assert work.moved_bytes == 2 * x.nbytes


def test_parents_contain_their_children_and_repeated_calls_add_up() -> None:
    # GIVEN a model that calls one layer twice
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(WIDTH, WIDTH, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(self.layer(x)) @ x.T

    # WHEN it is counted
    work = counted(Twice(), torch.rand(BATCH, WIDTH))
    # THEN the layer has both calls, and the model its own product besides
    assert work["layer"].flops == 2 * (2 * BATCH * WIDTH * WIDTH)
    assert work[""].flops == work["layer"].flops + 2 * BATCH * WIDTH * BATCH


def test_of_an_embedding_only_the_rows_that_are_looked_up_move() -> None:
    # GIVEN a table of a thousand rows WHEN three are looked up
    indices = torch.tensor([1, 5, 7])
    work = counted(nn.Embedding(1000, WIDTH), indices)[""]
    # THEN the table does not count
    moved_bytes = indices.nbytes + 3 * WIDTH * FLOAT
    assert work == Work(flops=0, moved_bytes=moved_bytes, operators=1)


def test_a_weight_that_two_layers_share_moves_once() -> None:
    # GIVEN two layers with one weight
    first, second = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(2))
    second.weight = first.weight
    model = nn.Sequential(first, second)
    # WHEN the model is counted THEN the weight is there once
    x = torch.rand(BATCH, WIDTH)
    assert counted(model, x)[""].moved_bytes == 2 * x.nbytes + first.weight.nbytes


def test_a_helper_function_is_counted_by_its_arguments_and_result() -> None:
    # GIVEN a model with a helper that takes a nest of tensors and a keyword
    class Model(nn.Module):
        def helper(self, nest: tuple[Any, ...], *, scale: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"product": nest[0] @ nest[1][0] * scale}

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.helper((x, [x.T]), scale=torch.ones(1))["product"]

    model = Model()
    node = Node(path="helper", kind="function", owner=model, attribute="helper")
    # WHEN it is counted
    x = torch.rand(BATCH, WIDTH)
    work = counted(model, x, nodes=[node])["helper"]
    # THEN every tensor in the nest counts
    assert work.flops == 2 * BATCH * WIDTH * BATCH
    assert work.moved_bytes == 2 * x.nbytes + FLOAT + BATCH * BATCH * FLOAT


def test_a_node_that_is_not_reached_has_no_work() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    assert "unused" not in counted(Idle(), torch.rand(2))


def test_elementwise_work_is_no_flop() -> None:
    assert counted(nn.GELU(), torch.rand(BATCH, WIDTH))[""].flops == 0


def test_operators_are_those_that_compute_something() -> None:
    # GIVEN a forward of views, an allocation, a product, a sum and a question for one number
    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            transposed = x.T.reshape(WIDTH, -1)[:, :4].detach()
            torch.empty(3)
            product = x[:4] @ transposed.T[:, :WIDTH].T
            return product * product.sum().item()

    # WHEN it is counted THEN it is product, sum, the number's way to the host, and the scaling
    assert counted(Model(), torch.rand(BATCH, WIDTH))[""].operators == 4


def test_operators_of_children_are_in_their_parents() -> None:
    # GIVEN two layers and an activation WHEN they are counted, with gradients or without
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))
    x = torch.rand(BATCH, WIDTH)
    with_gradients = count_work(lambda: model(x), tree(model))
    # THEN a linear layer with its bias is one operator either way
    for work in (counted(model, x), with_gradients):
        assert [work[path].operators for path in ("", "0", "1", "2")] == [3, 1, 1, 1]
