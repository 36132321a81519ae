"""The state of the machine while something is measured: clocks, power, heat, neighbours.

An NVIDIA GPU is watched through NVML from one thread at 10 Hz. Processes on the GPU are listed
before and after, never in between, because listing them stalls the driver. The host's cores are
looked at for a moment before and after, and what other processes used of them in between is told
by the kernel's own counters, which costs nothing. What a device cannot tell is None.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import psutil

from qwenprof.harness import statistics

if TYPE_CHECKING:
    from collections.abc import Callable

    from qwenprof.record.record import Row

POLL_S = 0.1
LOAD_S = 0.2  # of one look at the host's cores
SHORTEST_S = 1.0  # a mean over less is made of the counters' ticks of 10 ms
BUSY_CORES = 0.2

# nvml.h, nvmlClocksEventReasons*: the ones that slow a busy GPU down
THROTTLE_REASONS = {
    0x04: "software power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One look at a GPU: MHz, watts, degrees Celsius, and NVML's bit mask of reasons.

    None is what the device does not tell; some have no power meter.
    """

    sm_clock_mhz: float | None
    power_w: float | None
    temperature_c: float | None
    reasons: int | None

    @property
    def throttled(self) -> float | None:
        """1 where something holds the clocks down, 0 where nothing does."""
        return None if self.reasons is None else float(bool(throttling(self.reasons)))


SILENCE = Reading(sm_clock_mhz=None, power_w=None, temperature_c=None, reasons=None)


class Gauge(Protocol):
    """Something that can be asked about the device while it works."""

    def read(self) -> Reading | None:
        """One reading; None where the device has just refused to answer anything."""

    def neighbours(self) -> int | None:
        """How many other processes use the device; None where it cannot tell."""


class NvmlGauge:
    """One NVIDIA GPU through nvidia-ml-py.

    Args:
        nvml: the `pynvml` module, initialised.
        handle: of the device.
    """

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle

    def read(self) -> Reading | None:
        nvml = self._nvml
        milliwatts = self._ask(nvml.nvmlDeviceGetPowerUsage)
        reading = Reading(
            sm_clock_mhz=self._ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM),
            power_w=None if milliwatts is None else milliwatts / 1000,
            temperature_c=self._ask(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
            reasons=self._ask(nvml.nvmlDeviceGetCurrentClocksThrottleReasons),
        )
        return None if reading == SILENCE else reading

    def _ask(self, question: Callable[..., int], *details: Any) -> int | None:
        try:
            return int(question(self._handle, *details))
        except self._nvml.NVMLError:
            return None

    def neighbours(self) -> int | None:
        try:
            running = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
        except self._nvml.NVMLError:
            return None
        pids = [process.pid for process in running]
        # in a container the driver lists the host's numbers: this process is then not to be found
        return len(pids) - 1 if os.getpid() in pids else None


def nvml_gauge(uuid: str) -> NvmlGauge | None:
    """The gauge of the CUDA device with this UUID; None without an NVIDIA driver.

    A UUID, because NVML counts devices without regard to CUDA_VISIBLE_DEVICES.
    """
    try:
        import pynvml as nvml

        nvml.nvmlInit()
        name = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
        return NvmlGauge(nvml, nvml.nvmlDeviceGetHandleByUUID(name))
    except (ImportError, OSError):
        return None
    except nvml.NVMLError:
        return None


def gauge_for(device: str) -> Gauge | None:
    """What can be asked about this device while it works; None for all but NVIDIA's."""
    import torch

    kind = torch.device(device)
    if kind.type != "cuda" or torch.version.hip:
        return None
    return nvml_gauge(str(torch.cuda.get_device_properties(kind.index or 0).uuid))


@dataclass(frozen=True, kw_only=True)
class CoreTime:
    """Seconds that the host's cores have counted since the machine started, all cores together.

    total_s: whatever they did. busy_s: not idle, whoever was at work, other virtual machines too.
    own_s: of them this process and its children, those that have ended too.
    cores: how many there are.
    """

    total_s: float
    busy_s: float
    own_s: float
    cores: int

    def busy_elsewhere(self, before: CoreTime, shortest_s: float = 0.0) -> float | None:
        """Cores that others kept busy since then; None where less than `shortest_s` passed."""
        passed_s = (self.total_s - before.total_s) / self.cores
        if passed_s <= shortest_s:
            return None
        others_s = (self.busy_s - before.busy_s) - (self.own_s - before.own_s)
        return round(max(0.0, others_s / passed_s), 2)


@dataclass
class Conditions:
    """Watches a device from entry to exit.

    Args:
        gauge: of the device, or None where there is none to ask.
        poll_s: seconds between two readings.
        load: how many cores the rest of the machine keeps busy, asked on entry and on exit.
        core_time: the host's counters, read between the two, around what is watched.
    """

    gauge: Gauge | None
    poll_s: float = POLL_S
    load: Callable[[], float | None] = lambda: cores_busy_elsewhere()  # noqa: PLW0108 - defined below
    core_time: Callable[[], CoreTime | None] = lambda: core_time()  # noqa: PLW0108 - likewise
    readings: list[Reading] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._busy_before: float | None = None
        self._busy_meanwhile: float | None = None
        self._busy_after: float | None = None
        self._neighbours: int | None = None

    def __enter__(self) -> Conditions:
        self._busy_before = self.load()
        self._neighbours = self.gauge.neighbours() if self.gauge else None
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="qwenprof-nvml", daemon=True)
        if self.gauge:
            self._watcher.start()
        self._entered = self.core_time()
        return self

    def __exit__(self, *_: object) -> None:
        left = self.core_time()
        if left and self._entered:
            self._busy_meanwhile = left.busy_elsewhere(self._entered, SHORTEST_S)
        self._done.set()
        if self.gauge:
            self._watcher.join()
            counts = (self._neighbours, self.gauge.neighbours())
            self._neighbours = max((n for n in counts if n is not None), default=None)
        self._busy_after = self.load()

    def row(self) -> Row:
        """What was seen, as a row of a record.

        cores_busy_elsewhere: cores that other processes kept busy for a moment before.
        cores_busy_elsewhere_meanwhile: the mean from entry to exit; None for less than a second.
        cores_busy_elsewhere_after: the same as the first, for a moment after.
        """
        return {
            "readings": len(self.readings),
            "sm_clock_mhz_median": self._of(lambda r: r.sm_clock_mhz, statistics.median),
            "sm_clock_mhz_min": self._of(lambda r: r.sm_clock_mhz, min),
            "power_w_max": self._of(lambda r: r.power_w, max),
            "temperature_c_max": self._of(lambda r: r.temperature_c, max),
            "throttled_share": self._of(lambda r: r.throttled, _mean),
            "throttle_reasons": ", ".join(self._reasons()) or None,
            "other_gpu_processes": self._neighbours,
            "cores_busy_elsewhere": self._busy_before,
            "cores_busy_elsewhere_meanwhile": self._busy_meanwhile,
            "cores_busy_elsewhere_after": self._busy_after,
            "flags": "; ".join(self.flags()) or None,
        }

    def flags(self) -> list[str]:
        """What disturbs every number that was measured meanwhile."""
        flags = []
        if self._reasons():
            share = self._of(lambda r: r.throttled, _mean)
            flags.append(f"throttled: {', '.join(self._reasons())} in {share:.0%} of the readings")
        if self._neighbours:
            flags.append(f"shared_gpu: {self._neighbours} other processes on the GPU")
        most = self._busy_meanwhile
        if most is None:
            most = max(self._busy_before or 0.0, self._busy_after or 0.0)
        if most > BUSY_CORES:
            flags.append(f"busy_host: {most:.1f} cores busy with something else")
        return flags

    def _watch(self) -> None:
        assert self.gauge is not None
        while not self._done.wait(self.poll_s):
            reading = self.gauge.read()
            if reading:
                self.readings.append(reading)

    def _of(
        self, value: Callable[[Reading], float | None], summary: Callable[[list[float]], float]
    ) -> float | None:
        told = [number for number in map(value, self.readings) if number is not None]
        return summary(told) if told else None

    def _reasons(self) -> list[str]:
        return sorted({name for r in self.readings for name in throttling(r.reasons or 0)})


def throttling(reasons: int) -> list[str]:
    """The names of what holds the clocks down, from NVML's bit mask."""
    return [name for bit, name in THROTTLE_REASONS.items() if reasons & bit]


def cores_busy_elsewhere(interval_s: float = LOAD_S) -> float | None:
    """How many cores other processes keep busy right now; None where that cannot be read.

    Looks for `interval_s` seconds, so that work of a minute ago does not count. This process's
    own threads do not either: those of OpenMP spin on for a while after their work is done.
    """
    before = core_time()
    time.sleep(interval_s)
    after = core_time()
    return after.busy_elsewhere(before) if before and after else None


def core_time() -> CoreTime | None:
    """The host's counters right now; None where they cannot be read.

    Source: proc(5), /proc/stat, in which user time holds that of guests once more.
    """
    try:
        host, cores = psutil.cpu_times(), psutil.cpu_count() or 1
        own_s = _own_s()
    except (OSError, psutil.Error):
        return None
    counted = host._asdict()
    total_s = sum(counted.values()) - counted.get("guest", 0.0) - counted.get("guest_nice", 0.0)
    idle_s = counted.get("idle", 0.0) + counted.get("iowait", 0.0)
    return CoreTime(total_s=total_s, busy_s=total_s - idle_s, own_s=own_s, cores=cores)


def _own_s() -> float:
    """Core seconds of this process, of its children that have ended and of those that have not."""
    own = psutil.Process()
    total_s = sum(own.cpu_times()[:4])
    for child in own.children(recursive=True):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            total_s += sum(child.cpu_times()[:4])
    return total_s


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
