"""The cases of the diagnosis: what is planted where, and what has to be named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import _plants as plants

from qwenprof.record.record import Record
from qwenprof.runner import Experiment, Silent, chosen, run_experiment
from qwenprof.workload.loading import Subject, load
from qwenprof.workload.workload import Workload, families

NOBODY = "nobody"
CONV = "patch_embed.proj"
STAGES = (
    "matmul",
    "batch-sweep",
    "breakdown",
    "per-layer",
    "compare-patch-embed",
    "dispatch",
)
EVERY_STAGE = (*STAGES, "attention-sweep")
FAULT_DEPTH = 8


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run with one fault in it, or with none.

    rules: any of them has to find the problem; none for a control.
    culprit: the part that has to be named; "" where the rule names nobody.
    also_true: rules that may find a problem too, since the fault makes theirs.
    depth: blocks of the tower, which is as wide as published; None for as many as published.
    """

    name: str
    rules: tuple[str, ...]
    culprit: str = ""
    also_true: tuple[str, ...] = ()
    plant: plants.Plant | None = None
    depth: int | None = FAULT_DEPTH
    stages: tuple[str, ...] = STAGES
    budget_s: float = 14.0
    options: dict[str, Any] = field(default_factory=dict)
    simulated: Callable[[int], Record] | None = None

    @property
    def is_control(self) -> bool:
        return not self.rules


def cases() -> list[Case]:
    """All of them: faults on the CPU, faults on the simulated device, controls."""
    return [*PLANTED, *_simulated_faults(), *_controls()]


def run(case: Case, seed: int) -> Record:
    """The record of a case."""
    if case.simulated is not None:
        return case.simulated(seed)
    with cut(case.options.get("family", "qwen3-vl"), case.options["size"], case.depth) as size:
        workload = Workload(**{**case.options, "size": size, "seed": seed})
        subject = load(workload)
        experiment = Experiment(
            facts=workload.facts(),
            device="cpu",
            dtype=workload.dtype,
            load=lambda: subject,
            around=_around(case, subject),
        )
        return run_experiment(experiment, chosen(case.stages), None, case.budget_s, (), Silent())


def _around(case: Case, subject: Subject) -> Callable[[], AbstractContextManager[None]]:
    plant = case.plant
    return nullcontext if plant is None else lambda: plant(subject)


@contextmanager
def cut(family: str, size: str, depth: int | None) -> Iterator[str]:
    """A size of the published width with fewer blocks, for a while."""
    if depth is None:
        yield size
        return
    sizes: Any = families()[family].sizes
    published = sizes[size]
    vision = dict(published.vision) | {"depth": depth}
    if "deepstack_visual_indexes" in vision:
        vision["deepstack_visual_indexes"] = [1, 3]
    if "fullatt_block_indexes" in vision:
        vision["fullatt_block_indexes"] = [depth - 1]
    name = f"{size}-{depth}-blocks"
    sizes[name] = replace(published, vision=vision)
    try:
        yield name
    finally:
        del sizes[name]


QWEN3 = {"family": "qwen3-vl", "size": "4b", "dtype": "bf16", "short_edge": 224}
QWEN25 = {"family": "qwen2.5-vl", "size": "3b", "dtype": "bf16", "short_edge": 224}
PUBLISHED_IMAGE = {"short_edge": 336}
SLOW_HOST_S, AUTOTUNE_S = 1e-3, 0.5

PLANTED = (
    Case(
        name="conv without oneDNN",
        rules=("conv-slow-backend",),
        culprit=CONV,
        plant=plants.conv_without_onednn,
        options=QWEN3,
    ),
    Case(
        name="conv without oneDNN, Qwen2.5-VL",
        rules=("conv-slow-backend",),
        culprit=CONV,
        plant=plants.conv_without_onednn,
        options=QWEN25,
    ),
    Case(
        name="conv as oneDNN runs it, nothing planted",
        rules=("conv-against-linear",),
        culprit=CONV,
        depth=4,  # beside more blocks it costs about as much as a remark is worth
        options=QWEN3,
    ),
    Case(
        name="conv patch by patch in oneDNN",
        rules=("conv-against-linear",),
        culprit=CONV,
        plant=plants.conv_patch_by_patch,
        options=QWEN3,
    ),
    Case(
        name="everything without oneDNN",
        rules=("device-health",),
        plant=plants.everything_without_onednn,
        depth=4,
        budget_s=40.0,
        options=QWEN3,
    ),
    Case(
        name="slow_conv_dilated3d with bias",
        rules=("conv-slow-backend",),
        culprit=CONV,
        plant=plants.slow_dilated_conv,
        options=QWEN3,
    ),
    Case(
        name="merger in fp64",
        rules=("culprit",),
        culprit="merger",
        plant=plants.merger_in_fp64,
        options=QWEN3,
    ),
    Case(
        name="merger in fp64, Qwen2.5-VL",
        rules=("culprit",),
        culprit="merger",
        plant=plants.merger_in_fp64,
        options=QWEN25,
    ),
    Case(
        name="every MLP in fp64",
        rules=("culprit",),
        culprit="blocks.*.mlp",
        plant=plants.every_mlp_in_fp64,
        options=QWEN3,
    ),
    Case(
        name="one block loops over heads",
        rules=("block-unlike-siblings",),
        culprit=f"blocks.{plants.ODD_BLOCK}",
        plant=plants.block_that_loops_over_heads,
        options=QWEN3,
    ),
    Case(
        name="position interpolation loops",
        rules=("culprit",),
        culprit="get_vision_interpolation_indices_and_weights",
        plant=plants.interpolation_that_loops,
        options=QWEN3 | {"frames": 2},
    ),
    Case(
        name="dense block-diagonal mask",
        rules=("attention",),
        also_true=("batching",),  # it attends across samples, so each costs more
        culprit="attention: eager",
        plant=plants.dense_masked_attention,
        depth=4,
        budget_s=40.0,
        stages=EVERY_STAGE,
        options=QWEN3 | {"frames": 8, "attention": "eager"},
    ),
    Case(
        name="processor dominates",
        rules=("input-bound",),
        plant=plants.processor_that_dominates,
        options=QWEN3,
    ),
    Case(
        name="batch does not grow",
        rules=("batching",),
        plant=plants.batch_that_does_not_grow,
        options=QWEN3,
    ),
    Case(
        name="busy neighbour",
        rules=("run-quality",),
        plant=plants.busy_neighbour,
        options=QWEN3,
    ),
)


def _simulated_faults() -> list[Case]:
    """What no CPU has: all times are virtual."""
    from qwenprof.simulation import wait_in_every_block

    return [
        Case(
            name="simulated: slow GPU",
            rules=("device-health",),
            simulated=_on(rate_factor=0.2),
        ),
        Case(
            name="simulated: throttling in mid-run",
            rules=("run-quality",),
            simulated=_on(throttled_from="batch-sweep"),
        ),
        Case(
            name="simulated: a sync in every layer",
            rules=("hidden-sync",),
            culprit="attn",
            simulated=_on(wait_in_every_block),
        ),
        Case(
            name="simulated: launch-bound",
            rules=("launch-bound",),
            simulated=_on(host_operator_s=SLOW_HOST_S),
        ),
        Case(
            name="simulated: first call autotunes",
            rules=("first-call",),
            simulated=_on(autotune_s=AUTOTUNE_S),
        ),
    ]


def _controls() -> list[Case]:
    chosen_ones: tuple[dict[str, Any], ...] = (
        QWEN3 | PUBLISHED_IMAGE,
        QWEN3 | {"dtype": "fp32"},
        QWEN3 | {"size": "2b", "frames": 2},
        QWEN3 | {"size": "8b"},
        QWEN3 | {"attention": "eager"},
        QWEN25,
        QWEN25 | {"dtype": "fp32"},
        QWEN25 | {"size": "7b", "frames": 2},
    )
    controls = [
        Case(
            name=_told(options),
            rules=(),
            depth=None,
            options=options,
            budget_s=20.0,
            stages=EVERY_STAGE,
        )
        for options in chosen_ones
    ]
    return [*controls, Case(name="simulated, healthy", rules=(), simulated=_on())]


def _told(options: dict[str, Any]) -> str:
    parts = [options["family"], options["size"], options["dtype"]]
    parts += [f"{options['frames']} frames"] if "frames" in options else []
    parts += [options["attention"]] if "attention" in options else []
    return "control: " + " ".join(parts)


def _on(
    plant: Any = None, throttled_from: str | None = None, **faults: Any
) -> Callable[[int], Record]:
    from qwenprof.simulation import simulated_gpu, simulated_run

    return lambda seed: simulated_run(
        simulated_gpu(noise=0.02, seed=seed, **faults),
        plant=plant,
        throttled_from=throttled_from,
        workload={"seed": seed},
    )
