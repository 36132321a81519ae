"""The layers that take a Conv3d's place in transformers, and what their checkpoints need.

A PatchConv3d is a Conv3d, and needs nothing. A PatchLinear must read and write a Conv3d's
checkpoints. How parameters get into a model differs between versions, and the source tells which
way it is:

- with `module.load_state_dict` (4.57): the layer itself loads and saves the convolution's shape;
- with `setattr` after a shape check (5.6 on): a WeightConverter, which save_pretrained reverses.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from qwenprof.fix._conv3d import LAYER_HOME, LAYERS, Style
from qwenprof.fix._source import Edit, Source, classes

Node = TypeVar("Node", bound=ast.stmt)

_PATCH_CONV3D = f'''

class {LAYERS["view"]}(nn.Conv3d):
    """
    `nn.Conv3d` for patch embeddings, whose stride equals the kernel size. Its windows are disjoint, so it is a linear
    projection of each of them and is computed as one: PyTorch may send a Conv3d in bf16 or fp16 to a slow path, see
    https://github.com/pytorch/pytorch/issues/163539
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.stride != self.kernel_size:
            raise ValueError(f"The stride {{self.stride}} must equal the kernel size {{self.kernel_size}}")
        if self.padding != (0, 0, 0) or self.dilation != (1, 1, 1) or self.groups != 1:
            raise ValueError("Patches have no padding, dilation or groups")

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        for size in self.kernel_size:
            hidden_states = hidden_states.unfold(-3, size, size)
        # (batch_size, channels, *grid, *kernel_size) -> (batch_size, *grid, channels * prod(kernel_size))
        hidden_states = hidden_states.movedim(-7, -4).flatten(-4)
        hidden_states = nn.functional.linear(hidden_states, self.weight.flatten(1), self.bias)
        return hidden_states.movedim(-1, -4).contiguous()
'''  # noqa: E501

_PATCH_LINEAR = f'''

class {LAYERS["linear"]}(nn.Linear):
    """
    Linear projection of flattened patches, in the place of an `nn.Conv3d` whose stride equals its kernel size.
    PyTorch may send that convolution to a slow path in bf16 or fp16, see
    https://github.com/pytorch/pytorch/issues/163539

    Checkpoints hold the weight in the shape of the convolution: `(out_channels, in_channels, *kernel_size)`.
    """

    def __init__(self, in_channels, out_channels, kernel_size, stride, bias=True):
        if tuple(stride) != tuple(kernel_size):
            raise ValueError(f"The stride {{stride}} must equal the kernel size {{kernel_size}}")
        frames, height, width = kernel_size
        super().__init__(in_channels * frames * height * width, out_channels, bias=bias)
        self.in_channels = in_channels
        self.kernel_size = (frames, height, width)

    def patches(self, video: torch.Tensor) -> torch.Tensor:
        """Cuts `(batch_size, channels, frames, height, width)` into `(batch_size, *grid, in_features)`."""
        for size in self.kernel_size:
            video = video.unfold(-3, size, size)
        return video.movedim(-7, -4).flatten(-4)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        if (weight := state_dict.get(prefix + "weight")) is not None:
            state_dict[prefix + "weight"] = weight.flatten(1)
        super()._load_from_state_dict(state_dict, prefix, *args)
'''  # noqa: E501

_SAVING = """
    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        weight = destination[prefix + "weight"]
        destination[prefix + "weight"] = weight.view(weight.shape[0], self.in_channels, *self.kernel_size)
"""  # noqa: E501

_CONVERTERS = f"""    # Checkpoints hold the weight of a `{LAYERS["linear"]}` in the shape of an `nn.Conv3d`
    for module_name, module in model.named_modules():
        if isinstance(module, {LAYERS["linear"]}):
            weight_name = f"{{module_name}}.weight".removeprefix(f"{{model.base_model_prefix}}.")
            to_linear = Conv3dToLinear(in_channels=module.in_channels, kernel_size=module.kernel_size)
            weight_conversions.append(WeightConverter(weight_name, weight_name, [to_linear]))

"""  # noqa: E501


@dataclass(frozen=True, kw_only=True)
class Support:
    """The shared files that a style changes, with their new text; or why it cannot be.

    limit: what the fix cannot do with this version, in one sentence; "" if there is nothing.
    """

    files: dict[str, str] = field(default_factory=dict)
    obstacle: str | None = None
    limit: str = ""


def support_for(style: Style, package: Path) -> Support:
    """What the transformers in this folder needs, told from its source and not its version."""
    file = f"{LAYER_HOME}.py"
    home = _text(package / file)
    if style == "view":
        return _support({file: _with_layer(home, _PATCH_CONV3D)})
    if "module.load_state_dict({param_type: tensor}" in _text(package / "modeling_utils.py"):
        layer = _with_layer(home, _PATCH_LINEAR + _SAVING)
        return _support({file: layer}, "accelerate cannot offload the layer.")
    if "class Conv3dToLinear(" not in _text(package / "core_model_loading.py"):
        return Support(obstacle="it cannot convert a Conv3d's weight on loading; 5.6 and later can")
    mapping = _with_converters(_text(package / "conversion_mapping.py"))
    layer = _with_layer(home, _PATCH_LINEAR)
    return _support({file: layer, "conversion_mapping.py": mapping})


def _support(files: dict[str, str | None], limit: str = "") -> Support:
    known = {file: text for file, text in files.items() if text is not None}
    lost = [file for file in files if file not in known]
    if lost:
        return Support(obstacle=f"{lost[0]} has changed, and has no known place for the layer")
    return Support(files=known, limit=limit)


def _text(file: Path) -> str:
    return file.read_bytes().decode() if file.is_file() else ""


def _with_layer(text: str, layer: str) -> str | None:
    """After the class Conv1D, which is the other layer that transformers adds to torch's."""
    source = Source.parse(text)
    beside = next((each for each in classes(source.tree) if each.name == "Conv1D"), None)
    if beside is None:
        return None
    end = source.end(beside) + 1
    return source.spliced([Edit(end, end, layer)])


def _with_converters(text: str) -> str | None:
    """At the end of what `get_model_conversion_mapping` collects from the model's own modules."""
    source = Source.parse(text)
    collect = _first(source, ast.FunctionDef, "name", "get_model_conversion_mapping")
    spots = [
        node
        for node in (collect.body if collect else [])
        if isinstance(node, ast.If) and ast.unparse(node.test) == "add_legacy"
    ]
    if not spots:
        return None
    start = source.line_starts[spots[0].lineno - 1]
    return _with_imports(source.spliced([Edit(start, start, _CONVERTERS)]))


def _with_imports(text: str) -> str | None:
    source = Source.parse(text)
    loading = _first(source, ast.ImportFrom, "module", "core_model_loading")
    if loading is None:
        return None
    names = sorted({*(each.name for each in loading.names), "Conv3dToLinear"})
    lines = ["from .core_model_loading import (", *(f"    {name}," for name in names), ")"]
    lines += [f"from .{LAYER_HOME} import {LAYERS['linear']}"]
    return source.spliced([Edit(source.start(loading), source.end(loading), "\n".join(lines))])


def _first(source: Source, kind: type[Node], attribute: str, value: str) -> Node | None:
    """The first statement of the file that is of this kind and name."""
    found = (each for each in source.tree.body if isinstance(each, kind))
    return next((each for each in found if getattr(each, attribute) == value), None)
