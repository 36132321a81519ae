"""Finds plug-ins: every module of a package that defines one agreed name.

A stage is `stages/x.py` with `STAGE`, a rule `diagnosis/rules/x.py` with `RULE`, a model
family `workload/families/x.py` with `FAMILY`, a report section `report/sections/x.py` with
`SECTION`. A file that does not keep the contract fails loudly, with its name.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Protocol, TypeVar

from qwenprof.errors import PluginError


class Plugin(Protocol):
    """What every plug-in has: a name of its own and its place in the order."""

    @property
    def name(self) -> str: ...

    @property
    def order(self) -> int: ...


P = TypeVar("P", bound=Plugin)


def discover(package: str, attribute: str, kind: type[P]) -> dict[str, P]:
    """The plug-ins of `package` by name, in their order.

    Args:
        package: dotted name of the folder to look in.
        attribute: the module-level name that each file must define.
        kind: the type that it must have.

    Raises:
        PluginError: a file cannot be imported, lacks `attribute`, gives it another type,
            or uses a name that another file has taken.
    """
    found: dict[str, P] = {}
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if module.name.startswith("_") or module.name == kind.__name__.lower():
            continue
        plugin = _load(f"{package}.{module.name}", attribute, kind)
        if plugin.name in found:
            raise PluginError(f"{package}.{module.name}: the name {plugin.name!r} is taken")
        found[plugin.name] = plugin
    return dict(sorted(found.items(), key=lambda item: (item[1].order, item[0])))


def _load(name: str, attribute: str, kind: type[P]) -> P:
    try:
        plugin = getattr(importlib.import_module(name), attribute)
    except (ImportError, AttributeError, SyntaxError) as error:
        raise PluginError(f"{name}: cannot be used as a plug-in: {error}") from error
    if not isinstance(plugin, kind):
        raise PluginError(
            f"{name}.{attribute} is a {type(plugin).__name__}, it must be a {kind.__name__}"
        )
    return plugin
