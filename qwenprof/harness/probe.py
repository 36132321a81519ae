"""Puts something before and after modules and helper functions, and takes it away again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

ROOT = ""

Enter = Callable[["Node", tuple[Any, ...], dict[str, Any]], None]
Leave = Callable[["Node", Any], None]


@dataclass(frozen=True, kw_only=True)
class Node:
    """Something to watch: a module, or a function that is looked up by name when called.

    path: dotted path from the model, unique; "" is the model itself.
    kind: class name, or "function".
    module: the module, or None for a function.
    owner, attribute: where the function is looked up (an instance or a Python module), or
        None for a module.
    """

    path: str
    kind: str
    module: nn.Module | None = None
    owner: Any = None
    attribute: str = ""


def tree(model: nn.Module) -> list[Node]:
    """The model, its modules down to the repeated blocks, and the first of each in full.

    Where a container holds several children of one class, such as the blocks of a
    transformer, the first of them is entered and the others are taken whole. A container
    without a forward of its own is passed through. A module under two names has the first.
    """
    found: dict[int, Node] = {}

    def visit(module: nn.Module, path: str) -> None:
        if id(module) in found:
            return
        if has_forward(module):
            found[id(module)] = Node(path=path, kind=type(module).__name__, module=module)
        seen: set[type[nn.Module]] = set()
        repeats = _holds_repeats(module)
        for name, child in module.named_children():
            child_path = f"{path}.{name}" if path else name
            if repeats and type(child) in seen:
                node = Node(path=child_path, kind=type(child).__name__, module=child)
                found.setdefault(id(child), node)
            else:
                seen.add(type(child))
                visit(child, child_path)

    visit(model, ROOT)
    return list(found.values())


def has_forward(module: nn.Module) -> bool:
    """Whether a module can be called; a ModuleList, for one, cannot."""
    from torch import nn

    return not isinstance(module, nn.ModuleList | nn.ModuleDict)


@contextmanager
def attached(nodes: Sequence[Node], enter: Enter, leave: Leave) -> Iterator[None]:
    """Call `enter` before and `leave` after every call of every node inside this context.

    `leave` is called even where the node raises. Everything is put back on exit.
    """
    with ExitStack() as stack:
        for node in nodes:
            stack.enter_context(_attached_to(node, enter, leave))
        yield


def _holds_repeats(module: nn.Module) -> bool:
    from torch import nn

    return isinstance(module, nn.ModuleList | nn.Sequential)


def _attached_to(node: Node, enter: Enter, leave: Leave) -> AbstractContextManager[None]:
    if node.module is not None:
        return _hooked(node, node.module, enter, leave)
    return _wrapped(node, enter, leave)


@contextmanager
def _hooked(node: Node, module: nn.Module, enter: Enter, leave: Leave) -> Iterator[None]:
    before = module.register_forward_pre_hook(
        lambda _, args, kwargs: enter(node, args, kwargs), with_kwargs=True
    )
    after = module.register_forward_hook(
        lambda _, __, output: leave(node, output), always_call=True
    )
    try:
        yield
    finally:
        before.remove()
        after.remove()


@contextmanager
def _wrapped(node: Node, enter: Enter, leave: Leave) -> Iterator[None]:
    owner, attribute = node.owner, node.attribute
    original = getattr(owner, attribute)
    had_own = attribute in vars(owner)

    def watched(*args: Any, **kwargs: Any) -> Any:
        enter(node, args, kwargs)
        output = None
        try:
            output = original(*args, **kwargs)
        finally:
            leave(node, output)
        return output

    setattr(owner, attribute, watched)
    try:
        yield
    finally:
        if had_own:
            setattr(owner, attribute, original)
        else:
            delattr(owner, attribute)
