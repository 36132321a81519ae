"""Which modules are watched, and that watching leaves no trace."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch
from torch import nn

from qwenprof.harness.probe import ROOT, Node, attached, has_forward, tree


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mlp(self.norm(x))


class Tower(nn.Module):
    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 4)
        self.blocks = nn.ModuleList(Block() for _ in range(depth))
        self.merger = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.merger(x)


def paths(model: nn.Module) -> list[str]:
    return [node.path for node in tree(model)]


class TestTree:
    def test_the_first_of_the_repeated_blocks_is_entered(self) -> None:
        # GIVEN a tower of three like blocks WHEN its nodes are listed
        found = paths(Tower())
        # THEN the first block is there in full, the others whole, the list itself not at all
        assert found == [
            ROOT,
            "embed",
            "blocks.0",
            "blocks.0.norm",
            "blocks.0.mlp",
            "blocks.1",
            "blocks.2",
            "merger",
            "merger.0",
            "merger.1",
            "merger.2",
        ]

    def test_a_block_of_another_class_is_entered_too(self) -> None:
        # GIVEN a list in which the second block is of another kind
        model = nn.Sequential(Block(), nn.Sequential(nn.GELU()), Block())
        # THEN each kind is entered where it first appears
        assert paths(model) == [ROOT, "0", "0.norm", "0.mlp", "1", "1.0", "2"]

    def test_a_module_under_two_names_has_the_first(self) -> None:
        model = nn.Module()
        model.one = model.other = nn.Linear(2, 2)
        assert paths(model) == [ROOT, "one"]

    def test_a_node_says_what_it_is(self) -> None:
        tower = Tower()
        node = next(node for node in tree(tower) if node.path == "blocks.0.mlp")
        assert node.kind == "Linear"
        assert node.module is tower.blocks[0].mlp

    def test_a_module_without_children_is_a_tree_of_one(self) -> None:
        assert paths(nn.GELU()) == [ROOT]

    @pytest.mark.parametrize(
        ("module", "callable_"),
        [(nn.ModuleList(), False), (nn.ModuleDict(), False), (nn.Sequential(), True)],
    )
    def test_containers_cannot_be_called(self, module: nn.Module, callable_: bool) -> None:
        assert has_forward(module) is callable_


class TestAttached:
    def test_it_sees_arguments_and_outputs_in_the_order_of_the_calls(self) -> None:
        # GIVEN a tower, watched
        tower, x = Tower(depth=1), torch.ones(2, 4)
        log: list[str] = []

        def enter(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            assert all(isinstance(value, torch.Tensor) for value in (*args, *kwargs.values()))
            log.append(f"> {node.path}")

        def leave(node: Node, output: Any) -> None:
            assert isinstance(output, torch.Tensor)
            log.append(f"< {node.path}")

        # WHEN it is called, by position and by keyword
        with attached([node for node in tree(tower) if node.path.count(".") < 2], enter, leave):
            tower(x=x)
        # THEN every call is enclosed in its parent's
        assert log[:4] == ["> ", "> embed", "< embed", "> blocks.0"]
        assert log[-1] == "< "
        assert len(log) == len(set(log))

    def test_the_result_is_not_changed(self) -> None:
        tower, x = Tower(), torch.ones(2, 4)
        expected = tower(x)
        with attached(tree(tower), lambda *_: None, lambda *_: None):
            assert torch.equal(tower(x), expected)

    def test_everything_is_put_back_even_if_attaching_fails(self) -> None:
        # GIVEN nodes of which the last cannot be attached
        tower, library = Tower(), types.ModuleType("library")
        missing = Node(path="missing", kind="function", owner=library, attribute="missing")
        # WHEN it is tried
        with (
            pytest.raises(AttributeError, match="missing"),
            attached([*tree(tower), missing], lambda *_: None, lambda *_: None),
        ):
            pass
        # THEN the others are free again
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in tower.modules())
        assert not hasattr(library, "missing")

    def test_hooks_of_others_stay(self) -> None:
        # GIVEN a module with somebody else's hook
        linear = nn.Linear(2, 2)
        seen: list[torch.Tensor] = []
        handle = linear.register_forward_hook(lambda _, __, output: seen.append(output))
        # WHEN it is watched and let go
        with attached(tree(linear), lambda *_: None, lambda *_: None):
            linear(torch.ones(2))
        linear(torch.ones(2))
        # THEN that hook was called each time
        assert len(seen) == 2
        handle.remove()

    def test_leave_is_called_where_the_node_raises(self) -> None:
        # GIVEN a function that fails
        library = types.ModuleType("library")

        def fail() -> None:
            raise ValueError("broken")

        library.fail = fail  # type: ignore[attr-defined]
        node = Node(path="fail", kind="function", owner=library, attribute="fail")
        log: list[str] = []
        # WHEN it is called while watched THEN it is left, and the error is the caller's
        with attached([node], lambda *_: log.append("in"), lambda *_: log.append("out")):
            with pytest.raises(ValueError, match="broken"):
                library.fail()
            assert log == ["in", "out"]
