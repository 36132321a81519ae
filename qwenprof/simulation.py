"""The real stages and a real model on a simulated GPU, for tests and benchmarks.

    record = simulated_run(simulated_gpu(rate_factor=0.2))

The model is transformers' own Qwen3-VL tower, so narrow that a CPU computes it in milliseconds.
All times in the record are virtual, and the record says that it is simulated: it shows what the
stages and rules make of a fault that is known, and nothing about any real device. Peak memory is
the process's own and means nothing.

By default those stages run whose answer a roofline can change. compare-patch-embed can be asked
for, but on such a device a convolution is a matrix product, whatever backend PyTorch names; it
computes slow paths for real, which costs more than all the others, and with more than 60 virtual
seconds for all stages it starts a compiler and another process, whose times are real ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from qwenprof.runner import Experiment, Silent, chosen, run_experiment

if TYPE_CHECKING:
    from torch import nn

    from qwenprof.harness.sampler import Rules
    from qwenprof.harness.simulated_torch import SimulatedGpu
    from qwenprof.record.record import Facts, Record, StageResult
    from qwenprof.stages.stage import Stage
    from qwenprof.workload.loading import Subject
    from qwenprof.workload.workload import Workload

STAGES = ("matmul", "batch-sweep", "attention-sweep", "per-layer")
NAME = "simulated GPU"
SIZE = "simulated"
BUDGET_S = 80.0
SYNC_S = 50e-6  # until the host, asleep, has noticed: the driver's own wait and Python's way back
NARROW = {
    "depth": 6,
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_heads": 4,
    "deepstack_visual_indexes": [1, 3],
    "out_hidden_size": 128,
}
WORKLOAD: Mapping[str, Any] = {
    "device": "cpu",
    "size": SIZE,
    "dtype": "bf16",
    "frames": 1,
    "short_edge": 64,
}

Plant = Callable[["Subject"], None]


def simulated_gpu(*, noise: float = 0.0, seed: int = 0, **faults: Any) -> SimulatedGpu:
    """A GPU for the narrow tower.

    Args:
        noise: relative standard deviation of every kernel's time.
        seed: of the noise.
        faults: fields of `Faults`.
    """
    from qwenprof.harness.simulated import SimulatedDevice
    from qwenprof.harness.simulated_torch import Faults, SimulatedGpu

    device = SimulatedDevice(sync_s=SYNC_S, noise=noise, seed=seed)
    return SimulatedGpu(device=device, faults=Faults(**faults))


def simulated_run(
    gpu: SimulatedGpu,
    stages: Sequence[str] = STAGES,
    *,
    plant: Plant | None = None,
    workload: Mapping[str, Any] | None = None,
    throttled_from: str | None = None,
    budget_s: float = BUDGET_S,
) -> Record:
    """Run stages on a simulated GPU.

    Args:
        gpu: the device, with its faults.
        stages: their names; what they require is run too.
        plant: changes the model before anything is measured, for a fault of the model's own.
        workload: fields of the workload other than the default, such as dtype or seed.
        throttled_from: the stage from whose start on the device is throttled, as by its faults'
            `throttled_factor`. For another moment set `throttled_from_s` of the faults.
        budget_s: virtual seconds for all stages.

    Returns:
        The record. Everything in it but `created` and the memory follows from the arguments,
        noise included, which `gpu.device` has a seed for.
    """
    with simulated_experiment(gpu, plant=plant, workload=workload) as experiment:
        observer = _Throttling(gpu, throttled_from) if throttled_from else Silent()
        return run_experiment(experiment, chosen(stages), None, budget_s, (), observer)


@contextmanager
def simulated_experiment(
    gpu: SimulatedGpu, *, plant: Plant | None = None, workload: Mapping[str, Any] | None = None
) -> Iterator[Experiment]:
    """The experiment for `run_experiment`, and the context that it must run in."""
    from qwenprof.workload.loading import load
    from qwenprof.workload.workload import Workload

    with narrow_size(), known_peak(gpu), gpu.running():
        planned = Workload(**{**WORKLOAD, **(workload or {})})

        def planted() -> Subject:
            subject = load(planned)
            if plant:
                plant(subject)
            return subject

        yield Experiment(
            facts=_facts(planned),
            device="cpu",
            dtype=planned.dtype,
            load=planted,
            clock=gpu.device,
            gauge=gpu,
            rules=_rules(),
            device_facts=_device_facts(gpu),
        )


@contextmanager
def narrow_size() -> Iterator[None]:
    """Qwen3-VL has a size "simulated" for a while: its smallest one made narrow."""
    from qwenprof.workload.workload import families

    sizes: Any = families()["qwen3-vl"].sizes
    smallest = next(iter(sizes.values()))
    sizes[SIZE] = replace(smallest, vision={**smallest.vision, **NARROW})
    try:
        yield
    finally:
        del sizes[SIZE]


@contextmanager
def known_peak(gpu: SimulatedGpu) -> Iterator[None]:
    """What the matmul stage may hold the device against: its own specification."""
    import torch

    from qwenprof.stages import matmul

    before = matmul.KNOWN
    peak = gpu.specification.flop_per_s[torch.bfloat16] * 1e-12
    own = matmul.Known(pattern=NAME, peak=peak, source="specification of the simulated GPU")
    matmul.KNOWN = (*before, own)  # type: ignore[assignment]
    try:
        yield
    finally:
        matmul.KNOWN = before


def wait_in_every_block(subject: Subject) -> None:
    """Plant: every attention asks for one number of its result, as a check for NaN does."""

    def ask(_: nn.Module, args: tuple[Any, ...]) -> None:
        args[0].sum().item()

    for attention in subject.require_vision().tower.attentions().values():
        attention.get_submodule("proj").register_forward_pre_hook(ask)


@dataclass(frozen=True)
class _Throttling:
    """An observer that begins to throttle the device when a stage begins."""

    gpu: SimulatedGpu
    name: str

    def started(self, stage: Stage) -> None:
        if stage.name == self.name:
            now_s = self.gpu.device.now_s()
            self.gpu.faults = replace(self.gpu.faults, throttled_from_s=now_s)

    def said(self, text: str) -> None: ...

    def finished(self, stage: Stage, result: StageResult) -> None: ...


def _rules() -> Rules:
    """Without noise nothing has to be repeated, with some a little; warming up is never needed."""
    from qwenprof.harness.sampler import Rules

    return Rules(
        min_samples=6,
        max_samples=12,
        min_sampling_s=0.0,
        warmup_calls=1,
        warmup_s=0.0,
        warmup_agreement=1.0,
        min_sample_s=0.0,
    )


def _facts(workload: Workload) -> Facts:
    summary = str(workload).replace(" on cpu,", f" on a {NAME},")
    return workload.facts() | {"device": "simulated", "summary": summary}


def _device_facts(gpu: SimulatedGpu) -> Facts:
    """What the device should be, not its faults: those are what a run is to find out."""
    specification = gpu.specification
    rates = {
        f"flop_per_s_{str(dtype).removeprefix('torch.')}": rate
        for dtype, rate in specification.flop_per_s.items()
    }
    bandwidth = {"bytes_per_s": specification.bytes_per_s}
    return {"type": "simulated", "name": NAME, **rates, **bandwidth}
