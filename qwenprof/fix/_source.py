"""Splice Python source text by the positions of its syntax tree, so that the rest stays."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import unified_diff
from typing import NamedTuple

LINE_LENGTH = 119  # of transformers' own formatter


class CannotRewrite(Exception):  # noqa: N818 - not a fault, a reason
    """A file that has the pattern in a form that no rule here rewrites; says why."""


class Edit(NamedTuple):
    """Bytes start to end of a source become `text`; equal positions insert."""

    start: int
    end: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file's text with its syntax tree, whose positions count bytes of UTF-8."""

    text: str
    tree: ast.Module
    line_starts: tuple[int, ...]

    @staticmethod
    def parse(text: str) -> Source:
        starts = [0]
        for line in text.encode().split(b"\n"):
            starts.append(starts[-1] + len(line) + 1)
        return Source(text=text, tree=ast.parse(text), line_starts=tuple(starts))

    def start(self, node: ast.expr | ast.stmt) -> int:
        return self.line_starts[node.lineno - 1] + node.col_offset

    def end(self, node: ast.expr | ast.stmt) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self.line_starts[node.end_lineno - 1] + node.end_col_offset

    def of(self, node: ast.expr | ast.stmt) -> str:
        return self.text.encode()[self.start(node) : self.end(node)].decode()

    def spliced(self, edits: Iterable[Edit]) -> str:
        data = self.text.encode()
        for edit in sorted(edits, reverse=True):
            data = data[: edit.start] + edit.text.encode() + data[edit.end :]
        return data.decode()


def classes(tree: ast.Module) -> Iterator[ast.ClassDef]:
    return (node for node in tree.body if isinstance(node, ast.ClassDef))


def method(owner: ast.ClassDef, name: str) -> ast.FunctionDef | None:
    return next(
        (each for each in owner.body if isinstance(each, ast.FunctionDef) and each.name == name),
        None,
    )


def same(one: ast.expr | None, other: ast.expr | None) -> bool:
    return one is not None and other is not None and ast.dump(one) == ast.dump(other)


def is_self_attribute(node: ast.expr, name: str | None = None) -> bool:
    """Whether `node` is self.NAME, or self.anything."""
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
        and name in (None, node.attr)
    )


def wrapped(indent: str, before: str, inner: str, after: str) -> str:
    """`before` + `inner` + `after` as the formatter sets it: on one line, or broken once inside."""
    line = f"{indent}{before}{inner}{after}"
    if len(line) <= LINE_LENGTH:
        return line
    return f"{indent}{before}\n{indent}    {inner}\n{indent}{after}"


def with_import(source: Source, module: str, name: str) -> list[Edit]:
    """The edit that makes `from ...module import name` stand among the file's own imports.

    Raises:
        CannotRewrite: the file imports nothing from there that tells where it belongs.
    """
    near = [
        node for node in source.tree.body if isinstance(node, ast.ImportFrom) and node.level == 3
    ]
    if not near:
        raise CannotRewrite(f"no 'from ...' import to put {name} beside")
    there = next((node for node in near if node.module == module), None)
    if there is not None:
        names = sorted((*(each.name for each in there.names), name), key=_import_order)
        line = f"from ...{module} import {', '.join(names)}"
        return [Edit(source.start(there), source.end(there), line)]
    before = [node for node in near if (node.module or "") < module]
    line = f"from ...{module} import {name}\n"
    spot = (
        source.line_starts[before[-1].end_lineno or 0]
        if before
        else source.line_starts[near[0].lineno - 1]
    )
    return [Edit(spot, spot, line)]


def _import_order(name: str) -> tuple[int, str]:
    """Constants, classes, functions: the order that isort keeps."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


def file_diff(path: str, old: str, new: str) -> str:
    """The change of one file in git's format, with paths that `git apply` takes."""
    lines = unified_diff(
        old.splitlines(keepends=True), new.splitlines(keepends=True), f"a/{path}", f"b/{path}"
    )
    ended = (
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
    )
    return f"diff --git a/{path} b/{path}\n" + "".join(ended)
