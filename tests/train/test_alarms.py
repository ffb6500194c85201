"""Each fault is put into the lines of metrics once: one alarm, at the right time, and no alarm without it."""

from __future__ import annotations

import json
import sys
import types

import psutil
import pytest
import torch

from luopan.train import alarms
from luopan.train.alarms import GpuNow, GpuReader, Monitor, open_gpu
from luopan.train.config import TrainConfig

GIB = 2**30


def config(**changes) -> TrainConfig:
    return TrainConfig(learning_rate=1e-2, max_steps=100, **changes)


class Host:
    """The memory of a process, set by the test."""

    def __init__(self) -> None:
        self.used = GIB

    def __call__(self) -> int:
        return self.used


def line(pace: float = 1000.0, wait: float = 0.0, seconds: float = 2.0) -> dict:
    return {"tokens_per_second": pace, "feed_seconds": wait * seconds, "window_seconds": seconds}


def kinds(monitor: Monitor, lines) -> list[tuple[int, str]]:
    """(place of the line, kind) of every alarm."""
    return [(place, alarm.kind) for place, one in enumerate(lines) for alarm in monitor.look(one).alarms]


def test_a_run_as_usual_raises_none() -> None:
    monitor = Monitor(config(), "cpu", memory=Host())
    noise = [line(1000 + 200 * (-1) ** n, 0.09) for n in range(100)]
    assert kinds(monitor, noise) == [] and monitor.look(noise[0]).figures == {"memory_bytes": GIB, "alarms": 0.0}


def test_slower_than_its_own_past_three_windows_in_a_row() -> None:
    monitor = Monitor(config(), "cpu", memory=Host())
    lines = [line(1000)] * 10 + [line(690)] * 2 + [line(1000)] + [line(690)] * 30
    assert kinds(monitor, lines) == [(15, "slow")], "two slow windows are noise, the third is an alarm, told once"


def test_an_alarm_says_what_and_what_to_do_and_counts_in_the_figures() -> None:
    monitor = Monitor(config(), "cpu", memory=Host())
    kinds(monitor, [line(1000)] * 10 + [line(500)] * 2)
    look = monitor.look(line(500))
    assert look.alarms[0].text.startswith(
        "WARNING: 500 tokens/s, 50% of this run's usual 1,000. Look for other programs"
    )
    assert "\n" not in look.alarms[0].text and look.figures["alarms"] == 1.0


def test_a_slow_first_window_does_not_lower_the_bar_and_a_rise_is_fine() -> None:
    monitor = Monitor(config(), "cpu", memory=Host())
    assert kinds(monitor, [line(10)] + [line(1000)] * 8 + [line(5000)] * 30) == []
    assert monitor.paces[0] == 1000


def test_slow_does_not_become_usual() -> None:
    monitor = Monitor(config(), "cpu", memory=Host())
    kinds(monitor, [line(1000)] * 10 + [line(500)] * 100)
    assert monitor.look(line(500)).figures["alarms"] == 1.0 and monitor.look(line(900)).figures["alarms"] == 0.0


def test_an_alarm_comes_again_only_after_ten_quiet_windows() -> None:
    monitor = Monitor(config(), "cpu", memory=Host())
    slow, fine = [line(500)] * 3, line(1000)
    assert kinds(monitor, [fine] * 10 + slow + [fine] * 5 + slow) == [(12, "slow")]
    assert kinds(monitor, [fine] * 10 + slow) == [(12, "slow")]


def test_waiting_for_data_three_windows_in_a_row() -> None:
    monitor = Monitor(config(), "cpu", memory=Host())
    lines = [line(wait=0.2)] * 2 + [line(wait=0.05)] + [line(wait=0.12)] * 5
    assert kinds(monitor, lines) == [(5, "data")]
    assert "prefetch" in Monitor.waiting(monitor, 0.3)  # type: ignore[operator]


def test_rollouts_in_the_feed_are_no_waiting() -> None:
    assert kinds(Monitor(config(), "cpu", feed_computes=True, memory=Host()), [line(wait=0.9)] * 20) == []


def test_short_lines_are_put_together_so_that_their_noise_is_no_alarm() -> None:
    monitor = Monitor(config(), "cpu", memory=Host())
    lines = [line(1000 if n % 10 else 1, 0.5 if n % 10 == 0 else 0.0, seconds=0.1) for n in range(300)]
    assert kinds(monitor, lines) == [] and monitor.windows in (27, 28, 29, 30)


def test_without_window_seconds_the_time_between_lines_counts() -> None:
    monitor = Monitor(config(), "cpu", memory=Host())
    lines = [{"tokens_per_second": 9.0, "feed_seconds": 1.0, "seconds": 2.0 * n} for n in range(1, 6)]
    assert kinds(monitor, lines) == [(3, "data")], "the first line has nothing before it"


@pytest.mark.parametrize(("growth", "alarm"), [(0.01, True), (0.0, False), (0.0001, False)])
def test_memory_that_creeps_up_and_memory_that_does_not(growth: float, alarm: bool) -> None:
    host = Host()
    monitor = Monitor(config(), "cpu", memory=host)
    found = []
    for n in range(120):
        host.used = int(GIB * (1 + growth * n))
        found += [(n, one.kind) for one in monitor.look(line()).alarms]
    assert found == ([(39, "memory")] if alarm else [])


def test_memory_that_steps_up_once_for_an_evaluation_is_no_creep() -> None:
    host = Host()
    monitor = Monitor(config(), "cpu", memory=host)
    for n in range(120):
        host.used = GIB if n < 60 else 3 * GIB
        assert not monitor.look(line()).alarms


def test_when_memory_will_be_full_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(available=18 * GIB))
    host = Host()
    monitor = Monitor(config(), "cpu", memory=host)
    for n in range(40):  # 1 GiB per 100 windows of 36 s: 18 GiB last 18 h
        host.used = int(GIB * (1 + n / 100))
        look = monitor.look(line(seconds=36.0))
    assert "full in about 18.0 h" in look.alarms[0].text


class Nvml:
    """Stands in for pynvml: what a GPU says, set by the test."""

    NVML_TEMPERATURE_GPU, NVML_TEMPERATURE_THRESHOLD_SLOWDOWN, NVML_CLOCK_SM = 0, 1, 1

    def __init__(self) -> None:
        self.temperature, self.clock, self.reasons = 60, 1900, 0x4

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        assert uuid == "GPU-1"
        return "handle"

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:
        if self.temperature < 0:
            raise RuntimeError("NVML_ERROR_GPU_IS_LOST")
        return self.temperature

    def nvmlDeviceGetTemperatureThreshold(self, handle: str, kind: int) -> int:
        return 90

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:
        return self.clock

    def nvmlDeviceGetMaxClockInfo(self, handle: str, kind: int) -> int:
        return 2000

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: str) -> int:
        return self.reasons


def with_gpu() -> tuple[Monitor, Nvml]:
    nvml = Nvml()
    return Monitor(config(), "cpu", memory=Host(), gpu=GpuReader(nvml, "GPU-1")), nvml


@pytest.mark.parametrize(
    ("fault", "alarm", "words"),
    [
        ({"temperature": 87}, "gpu_hot", "87 C and slows down at 90"),
        ({"reasons": 0x20}, "gpu_throttled", "because of heat"),
        ({"reasons": 0x40 | 0x4}, "gpu_throttled", "because of heat"),
        ({"reasons": 0x80}, "gpu_throttled", "power supply"),
        ({"clock": 1100}, "gpu_clock", "1100 of 2000 MHz"),
    ],
)
def test_a_gpu_that_is_hot_throttled_or_slow(fault: dict, alarm: str, words: str) -> None:
    monitor, nvml = with_gpu()
    assert kinds(monitor, [line()] * 5) == [], "a power cap is how a busy GPU runs"
    for name, value in fault.items():
        setattr(nvml, name, value)
    found = [one for _ in range(20) for one in monitor.look(line()).alarms]
    assert [one.kind for one in found] == [alarm] and words in found[0].text
    figures = monitor.look(line()).figures
    assert figures["gpu_clock_mhz"] == nvml.clock and figures["gpu_temperature"] == nvml.temperature


def test_a_gpu_that_stops_answering_does_not_stop_training() -> None:
    monitor, nvml = with_gpu()
    nvml.temperature = -1
    assert monitor.look(line()).figures == {"memory_bytes": GIB, "alarms": 0.0} and monitor.gpu is None


def test_a_gpu_alarm_of_short_lines_is_told_once() -> None:
    monitor, nvml = with_gpu()
    nvml.temperature = 95
    assert kinds(monitor, [line(seconds=0.1)] * 100) == [(0, "gpu_hot")]


def test_without_the_package_or_a_gpu_there_is_no_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_gpu(torch.device("cpu")) is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert open_gpu(torch.device("cuda")) is None


def test_the_reader_is_found_by_the_uuid_of_torchs_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Nvml())
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: types.SimpleNamespace(uuid="1"))
    reader = open_gpu(torch.device("cuda"))
    assert reader is not None and reader.read() == GpuNow(60, 90, 1900, 2000, 4)


def test_switched_off_it_says_nothing() -> None:
    monitor = Monitor(config(health_alarms=False), "cpu", memory=lambda: 1 // 0)
    assert monitor.look(line()) == alarms.Look({}, ())


def test_state_goes_on_and_another_machine_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    first = Monitor(config(), "cpu", memory=Host())
    kinds(first, [line(1000)] * 10 + [line(500)] * 2)
    state = json.loads(json.dumps(first.state()))
    again = Monitor(config(), "cpu", memory=Host())
    again.restore(state)
    assert kinds(again, [line(500)] * 3) == [(0, "slow")], "two slow windows were before the stop"
    monkeypatch.setattr(alarms, "world_size", lambda: 8)
    other = Monitor(config(), "cpu", memory=Host())
    other.restore(state)
    assert kinds(other, [line(100)] * 20) == []
