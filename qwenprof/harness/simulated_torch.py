"""A simulated GPU under real torch code: results from the CPU, times from a roofline.

For tests and benchmarks. It makes faults that no CPU has (a slow or throttled GPU, a hidden
synchronisation, a launch-bound model, a first call that tunes itself) happen in real models,
with the truth known. Its numbers say nothing about any real device.

Every operator that reaches PyTorch's dispatcher runs for real on the CPU, so that what follows
from its result follows, and is one kernel on a `SimulatedDevice`: it takes its FLOP at the
dtype's rate or its bytes at the bandwidth, whichever is longer, and a launch. FLOP are those of
`work_counter`; bytes are its tensor arguments and results, once each. An operator whose result
decides what the host does next (`item`, `nonzero`, a mask as an index) makes the host wait for
the device, as on a GPU; what asks for lengths does on request.

Not simulated: memory, caches, libraries that split an operator into several kernels or tune
themselves other than as told, several streams, copies between host and device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from math import inf
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode

from qwenprof.harness.conditions import Reading
from qwenprof.harness.simulated import SimulatedDevice
from qwenprof.harness.work_counter import computes, cpu_attention, tensors

THERMAL_SLOWDOWN = 0x20  # nvml.h, nvmlClocksEventReasonSwThermalSlowdown
LARGEST_REAL_COPY_BYTES = 64 * 1024**2
ONLY_ROWS = {"index_select", "embedding", "index", "gather"}  # read what they return, no more


@dataclass(frozen=True, kw_only=True)
class Specification:
    """What the simulated device can do when nothing is wrong with it.

    flop_per_s: dtype -> rate of matrix products; a dtype that is missing runs at the least rate.
    """

    flop_per_s: Mapping[torch.dtype, float]
    bytes_per_s: float
    sm_clock_mhz: float = 1000.0


# slow, so that a narrow tower keeps it busy: what its kernels take is to a launch as on a real GPU
SMALL = Specification(
    flop_per_s={torch.bfloat16: 0.06e12, torch.float16: 0.06e12, torch.float32: 0.03e12},
    bytes_per_s=15e9,
)


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What is wrong with it, and with the host.

    rate_factor: of every rate, all the time.
    throttled_from_s: virtual seconds on the device's timeline from which on it is throttled.
    throttled_factor: of every rate then.
    host_operator_s: host seconds that every operator costs beside its launch.
    autotune_s: host seconds that a matrix product or convolution spends the first time that it
        meets these shapes and dtypes.
    lengths_wait: whether the host has to ask the device for lists and lengths (`tolist`, `cpu`,
        `numpy`, `repeat_interleave`). If not, it is taken to have those numbers already.
        transformers' attention asks for such a list in every block:
        https://github.com/huggingface/transformers/issues/47649.
    """

    rate_factor: float = 1.0
    throttled_from_s: float = inf
    throttled_factor: float = 0.4
    host_operator_s: float = 0.0
    autotune_s: float = 0.0
    lengths_wait: bool = False


@dataclass(kw_only=True)
class SimulatedGpu:
    """The virtual device and what torch's operators cost on it; also its own Gauge.

    waits: how often an operator made the host wait for the device.
    operators: how many operators were charged.
    """

    device: SimulatedDevice = field(default_factory=SimulatedDevice)
    specification: Specification = SMALL
    faults: Faults = Faults()
    waits: int = 0
    operators: int = 0
    _tuned: set[tuple[Any, ...]] = field(default_factory=set)

    @contextmanager
    def running(self) -> Iterator[None]:
        """The context in which operators of this thread are charged to the device."""
        with _HostCopies(self), _Operators(self):
            yield

    def charge(self, operator: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Let the device run one operator, and the host wait for it where it must."""
        self.operators += 1
        flops = _flops(operator, args, kwargs, result)
        moved = _moved_bytes(operator, args, kwargs, result)
        self.device.host_work(self.faults.host_operator_s)
        if flops:
            self._tune(operator, args)
        rate = self._flop_per_s(tensors((args, kwargs, result))) if flops else inf
        least_s = max(flops / rate, moved / self.specification.bytes_per_s)
        self.device.kernel(least_s / self._factor())
        if decides(operator, args, kwargs) and not self._is_known(operator):
            self.wait()

    def wait(self) -> None:
        """Make the host wait for the device, as a copy to the host does."""
        self.waits += 1
        self.device.synchronize()

    def read(self) -> Reading:
        """The clock, and whether something holds it down now."""
        return Reading(
            sm_clock_mhz=self.specification.sm_clock_mhz * self._factor(),
            power_w=None,
            temperature_c=None,
            reasons=THERMAL_SLOWDOWN if self._is_throttled() else 0,
        )

    def neighbours(self) -> int:
        return 0

    def _is_known(self, operator: Any) -> bool:
        name = operator._schema.name
        return name == "aten::repeat_interleave" and not self.faults.lengths_wait

    def _factor(self) -> float:
        faults = self.faults
        return faults.rate_factor * (faults.throttled_factor if self._is_throttled() else 1.0)

    def _is_throttled(self) -> bool:
        return self.device.mark() >= self.faults.throttled_from_s

    def _flop_per_s(self, operands: Iterable[torch.Tensor]) -> float:
        rates = self.specification.flop_per_s
        known = [rates[each.dtype] for each in operands if each.dtype in rates]
        return min(known or rates.values())

    def _tune(self, operator: Any, args: Any) -> None:
        key = (operator, *((each.shape, each.dtype) for each in tensors(args)))
        if self.faults.autotune_s and key not in self._tuned:
            self._tuned.add(key)
            self.device.host_work(self.faults.autotune_s)


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs every operator for real, but for a few that are dear and that nobody looks at.

    A matrix product with `out=` and a very large copy, which the harness runs by the hundred to
    learn the device's rates, leave their target as it was.
    """

    def __init__(self, gpu: SimulatedGpu) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._gpu = gpu

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if _is_composite(func):
            with self:
                return func.decompose(*args, **kwargs)
        result = _unlooked_at(func, args, kwargs)
        if result is None:
            result = func(*args, **kwargs)
        if computes(func):
            self._gpu.charge(func, args, kwargs, result)
        return result


class _HostCopies(TorchFunctionMode):
    """Sees what never reaches the dispatcher for a tensor that is on the CPU already."""

    def __init__(self, gpu: SimulatedGpu) -> None:
        super().__init__()
        self._gpu = gpu

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if self._gpu.faults.lengths_wait and func in _copies_to_the_host():
            self._gpu.wait()
        return func(*args, **(kwargs or {}))


@cache
def _copies_to_the_host() -> frozenset[Any]:
    tensor = torch.Tensor
    return frozenset((tensor.tolist, tensor.cpu, tensor.numpy))


@cache
def _is_composite(operator: Any) -> bool:
    """Whether an operator is nothing but others, which in inference mode nobody has undone yet."""
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    has_kernel: Callable[[str, Any], bool] = torch._C._dispatch_has_kernel_for_dispatch_key
    return key in operator.py_kernels or has_kernel(operator.name(), key)


def decides(operator: Any, args: Any, kwargs: Any) -> bool:
    """Whether the host needs the operator's result before it can go on."""
    name = operator._schema.name.removeprefix("aten::")
    if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
        return any(each is not None and each.dtype == torch.bool for each in args[1])
    if name == "repeat_interleave":
        return kwargs.get("output_size") is None
    decisive = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
    return any(tag in operator.tags for tag in decisive)


def _unlooked_at(operator: Any, args: Any, kwargs: Any) -> Any:
    """The target of an operator that need not run; None for every other."""
    aten = torch.ops.aten
    if operator is aten.mm.out:
        return kwargs["out"]
    if operator is aten.copy_.default and args[0].nbytes > LARGEST_REAL_COPY_BYTES:
        return args[0]
    return None


def _flops(operator: Any, args: Any, kwargs: Any, result: Any) -> float:
    count = _formulas().get(operator._overloadpacket)
    return count(*args, **kwargs, out_val=result) if count else 0


@cache
def _formulas() -> Mapping[Any, Callable[..., int]]:
    """FLOP of an operator from its arguments, as torch's counter has them."""
    shape_wrapper: Any = flop_counter.shape_wrapper
    own = {name: shape_wrapper(count) for name, count in cpu_attention().items()}
    return {**flop_counter.flop_registry, **own}


def _moved_bytes(operator: Any, args: Any, kwargs: Any, result: Any) -> int:
    results = list(tensors(result))
    if operator._schema.name.removeprefix("aten::") in ONLY_ROWS:
        return 2 * sum(each.nbytes for each in results)
    every = {id(each): each for each in (*tensors((args, kwargs)), *results)}
    return sum(each.nbytes for each in every.values())
