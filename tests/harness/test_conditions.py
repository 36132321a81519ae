"""The state of the machine, from gauges that say what they are told to say."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from qwenprof.harness import conditions as module
from qwenprof.harness.conditions import (
    Conditions,
    CoreTime,
    NvmlGauge,
    Reading,
    core_time,
    cores_busy_elsewhere,
    gauge_for,
    nvml_gauge,
    throttling,
)

PATIENCE_S = 30.0  # until a test that waits for a thread gives up; never reached

IDLE, APPLICATION_CLOCKS, SOFTWARE_POWER_CAP, HARDWARE_THERMAL = 0x01, 0x02, 0x04, 0x40


def reading(**changed: Any) -> Reading:
    values = {"sm_clock_mhz": 1980.0, "power_w": 300.0, "temperature_c": 60.0, "reasons": 0}
    return Reading(**(values | changed))


@dataclass
class Gauge:
    """Gives these readings, then the last one for ever; tells when all have been taken."""

    readings: Sequence[Reading | None] = (reading(),)
    others: Sequence[int | None] = (0, 0)
    taken: int = 0
    asked: int = 0
    exhausted: threading.Event = field(default_factory=threading.Event)

    def read(self) -> Reading | None:
        answer = self.readings[min(self.taken, len(self.readings) - 1)]
        self.taken += 1
        if self.taken >= len(self.readings):
            self.exhausted.set()
        return answer

    def neighbours(self) -> int | None:
        self.asked += 1
        return self.others[self.asked - 1]


def watched(
    gauge: Gauge | None,
    load: Callable[[], float | None] = lambda: 0.0,
    core_time: Callable[[], CoreTime | None] = lambda: None,
) -> Conditions:
    """Conditions that have seen every reading of the gauge."""
    seen = Conditions(gauge, poll_s=0.001, load=load, core_time=core_time)
    with seen:
        if gauge:
            assert gauge.exhausted.wait(PATIENCE_S)
    return seen


class TestRow:
    def test_without_a_gauge_nothing_is_known_and_nothing_is_zero(self) -> None:
        # GIVEN a device that cannot be asked WHEN it was watched
        row = watched(None, load=lambda: None).row()
        # THEN everything but the count of readings is null
        assert row.pop("readings") == 0
        assert set(row.values()) == {None}

    def test_readings_are_condensed(self) -> None:
        # GIVEN three readings, the last of which goes on for ever
        readings = [
            reading(sm_clock_mhz=1200.0, power_w=500.0, temperature_c=70.0),
            reading(sm_clock_mhz=1980.0, power_w=690.0, temperature_c=75.0),
            reading(sm_clock_mhz=1980.0, power_w=600.0, temperature_c=80.0),
        ]
        row = watched(Gauge(readings=readings)).row()
        # THEN clocks are told by their median and minimum, power and heat by their maximum
        assert row["sm_clock_mhz_median"] == 1980.0
        assert row["sm_clock_mhz_min"] == 1200.0
        assert row["power_w_max"] == 690.0
        assert row["temperature_c_max"] == 80.0
        assert row["throttled_share"] == 0.0
        assert row["throttle_reasons"] is None
        assert row["flags"] is None

    def test_a_reading_that_failed_is_no_reading(self) -> None:
        # GIVEN a driver that refuses to answer now and then
        seen = watched(Gauge(readings=[reading(), None, None, reading(power_w=1.0)]))
        # THEN the others count
        assert all(seen.readings)
        assert len(seen.readings) >= 1
        assert seen.row()["power_w_max"] == 300.0

    def test_before_it_was_entered_nothing_is_known(self) -> None:
        row = Conditions(Gauge()).row()
        assert row["other_gpu_processes"] is None
        assert row["cores_busy_elsewhere"] is None

    def test_what_was_seen_before_an_error_is_kept(self) -> None:
        # GIVEN a stage that fails while it is watched
        gauge = Gauge()
        seen = Conditions(gauge, poll_s=0.001, load=lambda: 0.0)

        def fail() -> None:
            assert gauge.exhausted.wait(PATIENCE_S)
            raise RuntimeError("broken")

        with pytest.raises(RuntimeError, match="broken"), seen:
            fail()
        # THEN the watching has ended and its row is there
        taken = gauge.taken
        assert seen.row()["power_w_max"] == 300.0
        assert not [t for t in threading.enumerate() if t.name == "qwenprof-nvml"]
        assert gauge.taken == taken


class TestThrottling:
    @pytest.mark.parametrize(
        ("reasons", "names"),
        [
            (0, []),
            (IDLE | APPLICATION_CLOCKS, []),
            (SOFTWARE_POWER_CAP, ["software power cap"]),
            (SOFTWARE_POWER_CAP | IDLE, ["software power cap"]),
            (HARDWARE_THERMAL | 0x08, ["hardware slowdown", "hardware thermal slowdown"]),
            (0x20 | 0x80 | 0x100, ["software thermal slowdown", "hardware power brake"]),
        ],
    )
    def test_the_bits_that_slow_a_busy_gpu_down_have_names(
        self, reasons: int, names: list[str]
    ) -> None:
        assert throttling(reasons) == names

    def test_it_is_flagged_with_its_reasons_and_its_share(self) -> None:
        # GIVEN a GPU that hits two limits at once, among other bits, for ever
        seen = watched(
            Gauge(readings=[reading(reasons=SOFTWARE_POWER_CAP | HARDWARE_THERMAL | IDLE)])
        )
        # THEN both are named
        assert seen.row()["throttle_reasons"] == "hardware thermal slowdown, software power cap"
        assert seen.row()["throttled_share"] == 1.0
        assert seen.flags() == [
            "throttled: hardware thermal slowdown, software power cap in 100% of the readings"
        ]

    def test_its_share_is_of_the_readings(self) -> None:
        seen = watched(Gauge())
        seen.readings[:] = [reading(reasons=SOFTWARE_POWER_CAP), reading(), reading(), reading()]
        assert seen.row()["throttled_share"] == 0.25


class TestNeighbours:
    @pytest.mark.parametrize(
        ("others", "known"),
        [
            ((0, 0), 0),
            ((2, 1), 2),
            ((0, 3), 3),
            ((None, 1), 1),
            ((1, None), 1),
            ((None, None), None),
        ],
    )
    def test_the_most_that_was_seen_counts_and_unknown_is_not_none(
        self, others: tuple[int | None, ...], known: int | None
    ) -> None:
        # GIVEN so many other processes before and after WHEN the device was watched
        gauge = Gauge(others=others)
        row = watched(gauge).row()
        # THEN they were counted twice and never in between
        assert row["other_gpu_processes"] == known
        assert gauge.asked == 2

    def test_they_are_flagged(self) -> None:
        assert watched(Gauge(others=(0, 2))).flags() == ["shared_gpu: 2 other processes on the GPU"]

    def test_a_busy_host_is_flagged(self) -> None:
        assert watched(None, load=lambda: 3.25).flags() == [
            "busy_host: 3.2 cores busy with something else"
        ]
        assert watched(None, load=lambda: 0.1).flags() == []


class NVMLError(Exception):
    """As in pynvml."""


@dataclass
class Nvml:
    """What of pynvml is used; `broken` names the functions that fail."""

    broken: set[str] = field(default_factory=set)
    pids: Sequence[int] = ()
    reasons: int = 0
    asked_uuid: str = ""

    NVMLError = NVMLError
    NVML_CLOCK_SM = 1
    NVML_TEMPERATURE_GPU = 0

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's own names
        self._check("nvmlInit")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        self._check("nvmlDeviceGetHandleByUUID")
        self.asked_uuid = uuid
        return "handle"

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:  # noqa: N802
        self._check("nvmlDeviceGetClockInfo")
        assert (handle, kind) == ("handle", self.NVML_CLOCK_SM)
        return 1755

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:  # noqa: N802
        self._check("nvmlDeviceGetPowerUsage")
        return 412_500

    def nvmlDeviceGetTemperature(self, handle: str, kind: int) -> int:  # noqa: N802
        self._check("nvmlDeviceGetTemperature")
        return 71

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: str) -> int:  # noqa: N802
        self._check("nvmlDeviceGetCurrentClocksThrottleReasons")
        return self.reasons

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:  # noqa: N802
        self._check("nvmlDeviceGetComputeRunningProcesses")
        return [types.SimpleNamespace(pid=pid) for pid in self.pids]

    def _check(self, name: str) -> None:
        if name in self.broken:
            raise NVMLError(f"{name}: not supported")


class TestNvml:
    def test_a_reading_is_in_plain_units(self) -> None:
        # GIVEN NVML, which tells milliwatts WHEN it is read THEN that is watts
        gauge = NvmlGauge(Nvml(reasons=SOFTWARE_POWER_CAP), "handle")
        assert gauge.read() == Reading(
            sm_clock_mhz=1755.0, power_w=412.5, temperature_c=71.0, reasons=SOFTWARE_POWER_CAP
        )

    def test_what_a_device_does_not_tell_is_none(self) -> None:
        # GIVEN a device without a power meter THEN the rest is still read
        reading = NvmlGauge(Nvml(broken={"nvmlDeviceGetPowerUsage"}), "handle").read()
        assert reading is not None
        assert (reading.power_w, reading.sm_clock_mhz) == (None, 1755.0)

    def test_a_device_that_tells_nothing_gives_no_reading(self) -> None:
        everything = {
            "nvmlDeviceGetPowerUsage",
            "nvmlDeviceGetClockInfo",
            "nvmlDeviceGetTemperature",
            "nvmlDeviceGetCurrentClocksThrottleReasons",
        }
        assert NvmlGauge(Nvml(broken=everything), "handle").read() is None

    def test_a_refusal_in_the_middle_costs_that_figure_only(self) -> None:
        # GIVEN a driver that stops telling the power after the first reading
        nvml, first = Nvml(), threading.Event()
        gauge = NvmlGauge(nvml, "handle")
        refused = threading.Event()
        answer = nvml.nvmlDeviceGetPowerUsage

        def power(handle: str) -> int:
            if first.is_set():
                refused.set()
                raise NVMLError("GPU is lost")
            first.set()
            return answer(handle)

        nvml.nvmlDeviceGetPowerUsage = power  # type: ignore[method-assign]
        # WHEN the device is watched across that moment
        with Conditions(gauge, poll_s=0.001, load=lambda: 0.0) as seen:
            assert refused.wait(PATIENCE_S)
        # THEN the figure before it is kept
        assert seen.row()["power_w_max"] == 412.5

    def test_this_process_is_no_neighbour(self) -> None:
        assert NvmlGauge(Nvml(pids=[os.getpid(), 1, 2]), "handle").neighbours() == 2
        assert NvmlGauge(Nvml(pids=[os.getpid()]), "handle").neighbours() == 0

    def test_in_a_container_nobody_can_tell_who_is_a_neighbour(self) -> None:
        # GIVEN a driver that lists the host's numbers, among which this process is not
        assert NvmlGauge(Nvml(pids=[1, 2]), "handle").neighbours() is None

    def test_a_driver_that_lists_no_processes_tells_nothing(self) -> None:
        nvml = Nvml(broken={"nvmlDeviceGetComputeRunningProcesses"})
        assert NvmlGauge(nvml, "handle").neighbours() is None

    @pytest.mark.parametrize(
        ("uuid", "asked"), [("1234-ab", "GPU-1234-ab"), ("GPU-1", "GPU-1"), ("MIG-2", "MIG-2")]
    )
    def test_the_device_is_found_by_its_uuid(
        self, uuid: str, asked: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        nvml = Nvml()
        monkeypatch.setitem(sys.modules, "pynvml", nvml)  # type: ignore[arg-type]
        assert nvml_gauge(uuid) is not None
        assert nvml.asked_uuid == asked

    @pytest.mark.parametrize("broken", ["nvmlInit", "nvmlDeviceGetHandleByUUID"])
    def test_without_a_driver_there_is_no_gauge(
        self, broken: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "pynvml", Nvml(broken={broken}))  # type: ignore[arg-type]
        assert nvml_gauge("1234") is None

    def test_without_the_package_there_is_no_gauge(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pynvml", None)  # type: ignore[arg-type]
        assert nvml_gauge("1234") is None


def test_a_cpu_has_no_gauge() -> None:
    assert gauge_for("cpu") is None


def counters(total_s: float, busy_s: float, own_s: float) -> CoreTime:
    """Of a host of eight cores."""
    return CoreTime(total_s=total_s, busy_s=busy_s, own_s=own_s, cores=8)


class TestBusyCores:
    def test_all_three_looks_are_kept_apart(self) -> None:
        # GIVEN a host that is quiet before, and ten seconds in which others take 5 core seconds
        loads, counted = iter([0.0, 1.5]), iter([counters(0, 0, 0), counters(80, 25, 20)])
        # WHEN it is watched, with something at work when it ends
        seen = watched(None, load=lambda: next(loads), core_time=lambda: next(counted))
        row = seen.row()
        # THEN each look has its column, and the mean while it ran is what is flagged
        assert row["cores_busy_elsewhere"] == 0.0
        assert row["cores_busy_elsewhere_meanwhile"] == 0.5
        assert row["cores_busy_elsewhere_after"] == 1.5
        assert seen.flags() == ["busy_host: 0.5 cores busy with something else"]

    def test_a_neighbour_that_came_and_went_is_flagged(self) -> None:
        counted = iter([counters(0, 0, 0), counters(80, 60, 20)])
        seen = watched(None, load=lambda: 0.0, core_time=lambda: next(counted))
        assert seen.flags() == ["busy_host: 4.0 cores busy with something else"]

    def test_what_this_program_does_is_no_neighbour(self) -> None:
        # GIVEN a host on which all that is busy is this process and its children
        counted = iter([counters(100, 50, 10), counters(180, 110, 70)])
        seen = watched(None, core_time=lambda: next(counted))
        assert seen.row()["cores_busy_elsewhere_meanwhile"] == 0.0
        assert seen.flags() == []

    def test_counters_that_tick_differently_never_tell_less_than_nothing(self) -> None:
        assert counters(80, 19.9, 20).busy_elsewhere(counters(0, 0, 0)) == 0.0

    def test_less_than_a_second_has_no_mean(self) -> None:
        counted = iter([counters(0, 0, 0), counters(7.9, 4, 0)])
        seen = watched(None, core_time=lambda: next(counted))
        assert seen.row()["cores_busy_elsewhere_meanwhile"] is None

    @pytest.mark.parametrize("known", [(True, False), (False, True), (False, False)])
    def test_without_both_counters_there_is_no_mean(self, known: tuple[bool, bool]) -> None:
        counted = iter(
            [counters(80 * i, 40 * i, 0) if told else None for i, told in enumerate(known)]
        )
        seen = watched(None, core_time=lambda: next(counted))
        assert seen.row()["cores_busy_elsewhere_meanwhile"] is None

    def test_it_looks_after_an_error_too(self) -> None:
        loads = iter([0.0, 2.0])
        seen = Conditions(None, load=lambda: next(loads), core_time=lambda: None)
        with pytest.raises(RuntimeError, match="broken"), seen:
            raise RuntimeError("broken")
        assert seen.row()["cores_busy_elsewhere_after"] == 2.0


def test_the_load_of_the_host_is_counted_in_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN a host of eight cores, on which others use a quarter of the time that passes
    counted = iter([counters(800, 300, 20), counters(801.6, 300.5, 20.1)])
    monkeypatch.setattr(module, "core_time", lambda: next(counted))
    assert cores_busy_elsewhere(interval_s=0.0) == 2.0


def test_a_load_that_cannot_be_read_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise PermissionError("/proc/stat")

    monkeypatch.setattr(module.psutil, "cpu_times", refuse)
    assert core_time() is None
    assert cores_busy_elsewhere(interval_s=0.0) is None


def test_the_hosts_own_counters_hold_what_this_process_does() -> None:
    # GIVEN the counters of this host WHEN this process works for a tenth of a second of core time
    before = core_time()
    assert before is not None
    end_s = time.process_time() + 0.1
    while time.process_time() < end_s:
        pass
    after = core_time()
    # THEN it is counted as this process's own, and as busy, up to the counters' ticks
    assert after is not None
    assert after.own_s - before.own_s >= 0.08
    assert after.busy_s - before.busy_s >= 0.08
    assert after.total_s >= after.busy_s


def test_work_of_a_child_is_no_neighbours_while_it_runs_and_once_it_has_ended() -> None:
    # GIVEN a child process that has used a tenth of a second of core time and waits
    work = "import sys, time\nwhile time.process_time() < 0.2: pass\nprint('done', flush=True)\n"
    before = core_time()
    with subprocess.Popen(
        [sys.executable, "-c", work + "sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline().strip() == b"done"
        running = core_time()
    ended = core_time()
    # THEN its time is this program's own, before and after it is reaped
    assert before is not None
    assert running is not None
    assert ended is not None
    assert running.own_s - before.own_s >= 0.15
    assert ended.own_s >= running.own_s - 0.02
