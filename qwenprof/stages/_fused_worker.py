"""transformers' own fusion of patch embeddings, timed in a process of its own.

`from_pretrained(..., fusion_config={"patch_embeddings": True})` changes its process for good:
every model that is loaded later is fused too. So whoever wants to compare starts this module
with a folder that holds an order, and finds the answer there.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from qwenprof.errors import MeasurementError, NotApplicable, reason_of
from qwenprof.record.record import Row, Series

if TYPE_CHECKING:
    from torch import nn

    from qwenprof.stages._projection import Projection

FUSION = {"patch_embeddings": True}
FIRST_WITH_FUSION = "5.6"
ORDER, ANSWER = "order.json", "answer.json"
SHALLOW = {
    "depth": 1,
    "num_hidden_layers": 1,
    "deepstack_visual_indexes": [0],
    "fullatt_block_indexes": [0],
}


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to time.

    home, model: Python module and name of the tower's class.
    config: its configuration.
    holder: path below the tower of the module whose Conv3d is fused.
    patches, features_in: the shape of its input.
    case_s: seconds for each direction.
    """

    home: str
    model: str
    config: dict[str, Any]
    holder: str
    dtype: str
    device: str
    patches: int
    features_in: int
    case_s: float
    directions: tuple[str, ...]


class Timed(msgspec.Struct, frozen=True, kw_only=True):
    """Cells of one row, and its series by what their names end in."""

    row: Row
    bias: bool
    series: dict[str, Series]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What was timed in each direction, or why nothing was."""

    directions: dict[str, Timed] = {}
    obstacle: str | None = None


def ask(order: Order, limit_s: float) -> Answer:
    """Have an order carried out in a new process.

    Raises:
        NotApplicable: this transformers cannot fuse this model; the message says why.
        MeasurementError: the process failed, or took longer than `limit_s`.
    """
    with tempfile.TemporaryDirectory(prefix="qwenprof-") as folder:
        try:
            Path(folder, ORDER).write_bytes(msgspec.json.encode(order))
            _carry_out_apart(folder, limit_s)
            answer = msgspec.json.decode(Path(folder, ANSWER).read_bytes(), type=Answer)
        except (OSError, msgspec.MsgspecError) as error:
            raise MeasurementError(f"its process gave no answer: {reason_of(error)}") from error
    if answer.obstacle:
        raise NotApplicable(answer.obstacle)
    return answer


def _carry_out_apart(folder: str, limit_s: float) -> None:
    """Run this module for the folder, which is also where the process lives.

    Python looks for modules where it is started, before anywhere else: not where the user is.
    """
    home = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), home)))
    try:
        done = subprocess.run(
            [sys.executable, "-m", __spec__.name],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise MeasurementError(f"the process was stopped after {limit_s:.3g} s") from error
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise MeasurementError(f"its process ended with {done.returncode}: {' '.join(last)}")


def shallow(config: dict[str, Any]) -> dict[str, Any]:
    """The same configuration with one block: only the patch embedding is wanted."""
    return config | {key: value for key, value in SHALLOW.items() if key in config}


def _carried_out(order: Order) -> Answer:
    import inspect

    import torch

    from qwenprof.stages._projection import Projection
    from qwenprof.workload.loading import TORCH_DTYPES

    model: Any = getattr(importlib.import_module(order.home), order.model)
    if "fusion_config" not in inspect.signature(model.from_pretrained).parameters:
        import transformers

        return Answer(
            obstacle=f"transformers {transformers.__version__} has no fusion_config: it came "
            f"with {FIRST_WITH_FUSION}"
        )
    dtype = TORCH_DTYPES[order.dtype]
    plain, fused = _plain_and_fused(model, order.config, order.holder, dtype)
    conv = next((each for each in plain.modules() if isinstance(each, torch.nn.Conv3d)), None)
    if conv is None or any(isinstance(each, torch.nn.Conv3d) for each in fused.modules()):
        return Answer(obstacle="transformers' fusion does not cover this model")
    patches = torch.rand(order.patches, order.features_in, device=order.device) * 2 - 1
    shaped = patches.view(-1, conv.in_channels, *conv.kernel_size)
    projection = Projection.of(conv.to(order.device), shaped, dtype)
    return _timed(order, fused.to(order.device).requires_grad_(), projection)


def _plain_and_fused(
    model: Any, config: dict[str, Any], holder: str, dtype: Any
) -> tuple[nn.Module, nn.Module]:
    """The patch embedding as it was saved and as the fusion loads it: the plain one first."""
    built = model(model.config_class(**config)).to(dtype)
    built.save_pretrained("model")
    loaded = model.from_pretrained("model", dtype=dtype, fusion_config=FUSION)
    return built.get_submodule(holder), loaded.get_submodule(holder)


def _timed(order: Order, fused: nn.Module, projection: Projection) -> Answer:
    import torch

    from qwenprof.harness.clock import clock_for
    from qwenprof.harness.memory import affordable_peak_bytes
    from qwenprof.harness.plan import Allowance
    from qwenprof.harness.sampler import Sampler
    from qwenprof.stages._timed_row import timing_columns
    from qwenprof.stages._variants import FUSED, Layer

    layer = Layer(
        forward=lambda patches: fused(patches.flatten(1)),
        parameters=lambda: list(fused.parameters()),
    )
    sampler = Sampler(clock_for(torch.device(order.device)))
    allowance = Allowance(case_s=order.case_s, limit_s=order.case_s)
    answer = Answer()
    for direction in order.directions:
        call = projection.call(FUSED, layer, direction)
        timing = sampler.measure(call, allowance)
        peak = affordable_peak_bytes(call, order.device, timing, allowance)
        cells = projection.errors(FUSED, direction) | {"peak_bytes": peak}
        row = timing_columns(timing) | cells
        answer.directions[direction] = Timed(
            row=row, bias=projection.conv.bias is not None, series=timing.series("")
        )
    return answer


def main() -> None:
    """Carry out the order in the present folder, and leave the answer there."""
    order = msgspec.json.decode(Path(ORDER).read_bytes(), type=Order)
    Path(ANSWER).write_bytes(msgspec.json.encode(_carried_out(order)))


if __name__ == "__main__":
    main()
