"""A module class that holds a non-overlapping nn.Conv3d: find it in source text, and rewrite it.

Text in, text out: nothing is imported, so a file of any version can be read.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from qwenprof.fix._source import (
    CannotRewrite,
    Edit,
    Source,
    classes,
    is_self_attribute,
    method,
    same,
    with_import,
    wrapped,
)

Style = Literal["view", "linear"]
Sees = Literal["patches", "clip"]

LAYERS: dict[Style, str] = {"view": "PatchConv3d", "linear": "PatchLinear"}
LAYER_HOME = "pytorch_utils"
_POSITIONAL = ("in_channels", "out_channels", "kernel_size", "stride")
_KNOWN = {*_POSITIONAL, "bias"}


@dataclass(frozen=True, kw_only=True)
class Site:
    """One such convolution: self.`attribute` of the class, called in its forward.

    sees: "patches", if forward calls it on windows of (C, kt, kh, kw), one for each row that it
        makes of the result; "clip", if the convolution cuts (N, C, T, H, W) itself.
    """

    class_name: str
    attribute: str
    sees: Sees


def find_sites(text: str) -> list[Site]:
    """The non-overlapping Conv3d patch embeddings of a file, in its order.

    What counts: `self.X = nn.Conv3d(...)` in `__init__` whose kernel and stride are the same
    expression, without padding, dilation or groups, not pointwise, and a `self.X(...)` in the
    class's own `forward`.
    """
    if "Conv3d" not in text:
        return []
    return [site for owner in classes(ast.parse(text)) for site in _sites_of(owner)]


def rewrite(text: str, sites: Iterable[Site], style: Style) -> str:
    """The file with these convolutions as the style's layer; the same text if it has none of them.

    A file may hold a part of a class, as transformers' modular files do: `__init__`, `forward`
    or both are rewritten, whichever stands there.

    Raises:
        CannotRewrite: a class uses its convolution in a way that is not known.
    """
    source = Source.parse(text)
    edits = [
        edit
        for site in sites
        for owner in classes(source.tree)
        if owner.name == site.class_name
        for edit in _edits(source, owner, site, style)
    ]
    if any(LAYERS[style] in edit.text for edit in edits):
        edits += with_import(source, LAYER_HOME, LAYERS[style])
    return source.spliced(edits)


def _sites_of(owner: ast.ClassDef) -> Iterator[Site]:
    init, forward = method(owner, "__init__"), method(owner, "forward")
    if init is None or forward is None:
        return
    for statement, _ in _convolutions(init):
        attribute = _attribute(statement)
        calls = _calls(forward, attribute)
        if calls:
            rows = all(_becomes_rows(forward, call) for call in calls)
            sees: Sees = "patches" if rows else "clip"
            yield Site(class_name=owner.name, attribute=attribute, sees=sees)


def _convolutions(init: ast.FunctionDef) -> Iterator[tuple[ast.Assign, ast.Call]]:
    """Each `self.X = nn.Conv3d(...)` whose windows do not overlap."""
    for node in ast.walk(init):
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Call):
            continue
        is_conv3d = ast.unparse(node.value.func) in ("nn.Conv3d", "torch.nn.Conv3d")
        if is_conv3d and is_self_attribute(node.targets[0]):
            given = _arguments(node.value)
            kernel = given.get("kernel_size")
            apart = given.keys() <= _KNOWN and same(kernel, given.get("stride"))
            if apart and kernel is not None and not _is_pointwise(kernel):
                yield node, node.value


def _attribute(statement: ast.Assign) -> str:
    target = statement.targets[0]
    assert isinstance(target, ast.Attribute)
    return target.attr


def _arguments(call: ast.Call) -> dict[str, ast.expr]:
    """The arguments by name; one that a convolution of this kind has not is called as it is."""
    named = {each.arg or "**": each.value for each in call.keywords}
    names = (*_POSITIONAL, *(f"argument {i}" for i in range(4, len(call.args))))
    return dict(zip(names, call.args, strict=False)) | named


def _is_pointwise(kernel: ast.expr) -> bool:
    sizes = kernel.elts if isinstance(kernel, ast.Tuple | ast.List) else [kernel]
    return all(isinstance(size, ast.Constant) and size.value == 1 for size in sizes)


def _calls(forward: ast.FunctionDef, attribute: str) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(forward)
        if isinstance(node, ast.Call) and is_self_attribute(node.func, attribute)
    ]


def _becomes_rows(forward: ast.FunctionDef, call: ast.Call) -> bool:
    """Whether the result is viewed as (-1, D): then each sample was one window."""
    return any(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.value is call
        and node.func.attr in ("view", "reshape")
        and len(node.args) == 2
        and ast.unparse(node.args[0]) == "-1"
        for node in ast.walk(forward)
    )


def _edits(source: Source, owner: ast.ClassDef, site: Site, style: Style) -> Iterator[Edit]:
    init, forward = method(owner, "__init__"), method(owner, "forward")
    for statement, conv in _convolutions(init) if init else ():
        if _attribute(statement) == site.attribute:
            yield _as_layer(source, statement, conv, LAYERS[style])
    if forward and style == "linear":
        for call in _calls(forward, site.attribute):
            yield _as_call_of_linear(source, call, site.sees)


def _as_layer(source: Source, statement: ast.Assign, conv: ast.Call, layer: str) -> Edit:
    """Another constructor, with the arguments as they are."""
    head, _, arguments = source.of(statement).partition(source.of(conv.func))
    text = f"{head}{layer}{arguments}"
    if "\n" not in text:
        indent, inner = " " * statement.col_offset, arguments.strip()[1:-1]
        text = wrapped(indent, f"{head}{layer}(", inner, ")").lstrip()
    return Edit(source.start(statement), source.end(statement), text)


def _as_call_of_linear(source: Source, call: ast.Call, sees: Sees) -> Edit:
    """The call of an nn.Linear, which takes windows flattened in the last axis."""
    name = source.of(call.func)
    if len(call.args) != 1 or call.keywords:
        raise CannotRewrite(f"{name} is not called with one argument")
    x = source.of(call.args[0])
    if not isinstance(call.args[0], ast.Name | ast.Attribute | ast.Subscript | ast.Call):
        x = f"({x})"
    windows = f"{x}.flatten(1)" if sees == "patches" else f"{name}.patches({x})"
    back = "" if sees == "patches" else ".movedim(-1, 1)"
    return Edit(source.start(call), source.end(call), f"{name}({windows}){back}")
