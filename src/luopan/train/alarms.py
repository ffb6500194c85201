"""Alarms while a run goes on: it got slower, waits for data, grows in memory, or its GPU is hot or throttled.

The loop gives `Monitor.look` each line of metrics (rank 0's) before it is written. It returns figures to add to the
line (memory, GPU, how many alarms stand) and the alarms that are new, each one line that says what to do. An alarm that
stands is not repeated; it may come again when it has been quiet for ten windows. State goes into the checkpoint.

What is judged are windows of at least a second: lines of short steps are put together first. A window is compared with
the run's own past, never with another machine's: baselines are dropped where the device or the number of processes has
changed since the checkpoint, memory readings always, since a new process starts small.

The GPU is read by nvidia-ml-py (`pynvml`), imported when there is a CUDA device; without it there are no GPU alarms.

Limits: a run that is slow from its first step looks normal to itself. Throughput after a lasting slow-down (longer
documents, more accumulation) stays an alarm until it is back. The GPU part ran against a stand-in only, and looks at
the GPU of rank 0.
"""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import psutil
import torch

from luopan.train.config import TrainConfig
from luopan.train.device import describe_device
from luopan.train.ranks import world_size

SHORTEST_WINDOW = 1.0  # seconds
BASELINE_WINDOWS, WARM_UP_WINDOWS, LEAST_WINDOWS = 101, 1, 5
SLOW_SHARE, SLOW_WINDOWS = 0.7, 3
WAIT_SHARE, WAIT_WINDOWS = 0.1, 3
QUIET_WINDOWS = 10
MEMORY_WINDOWS = 40  # four quarters of ten
LEAST_GROWTH, LEAST_GROWTH_BYTES = 0.1, 64 * 2**20
DEGREES_BELOW_SLOWDOWN = 3
SLOW_CLOCK_SHARE = 0.6

# Bits of nvmlDeviceGetCurrentClocksEventReasons (nvml.h). Its power cap (0x4) is how a busy GPU runs, and no alarm.
THERMAL = 0x20 | 0x40
POWER_BRAKE_OR_HARDWARE = 0x08 | 0x80


@dataclass(frozen=True)
class Alarm:
    """One line for the user: `kind` names the alarm, `text` says what is wrong and what to do."""

    kind: str
    text: str


@dataclass(frozen=True)
class Look:
    """What `Monitor.look` found: figures for the line of metrics, and the alarms that are new."""

    figures: dict[str, float]
    alarms: tuple[Alarm, ...]


class Monitor:
    """Watches the lines of one run. With `health_alarms: false` it returns nothing."""

    def __init__(
        self,
        config: TrainConfig,
        device: torch.device | str,
        *,
        feed_computes: bool = False,
        memory: Callable[[], int] | None = None,
        gpu: GpuReader | None = None,
    ) -> None:
        """`feed_computes`: the feed works on the device (rollouts), so that time in it is no waiting.

        `memory` and `gpu` are for tests: how many bytes this process uses, and what reads the GPU.
        """
        self.on, self.device, self.feed_computes = config.health_alarms, torch.device(device), feed_computes
        self.memory = memory or process_memory
        self.gpu = gpu if gpu is not None or not self.on else open_gpu(self.device)
        self.place = f"{describe_device(self.device)} x {world_size()}"
        self.part: dict[str, float] = {"tokens": 0.0, "feed": 0.0, "seconds": 0.0}  # of the window not yet long enough
        self.elapsed: float | None = None  # `seconds` of the line before
        self.windows = 0
        self.paces: list[float] = []  # tokens per second of good windows
        self.rows: dict[str, int] = {}  # windows in a row that looked bad, by kind of alarm
        self.standing: dict[str, int] = {}  # alarms told, and for how many windows each has been quiet
        self.used: list[float] = []  # bytes, one reading per window
        self.used_seconds: list[float] = []

    def look(self, line: Mapping[str, Any]) -> Look:
        """A line of metrics with tokens_per_second, feed_seconds and window_seconds (the time of its steps alone).

        Without window_seconds the difference of `seconds` to the line before stands for it.
        """
        if not self.on:
            return Look({}, ())
        found: dict[str, str] = {}
        gpu_figures, gpu_found = self.look_at_gpu()
        used = float(self.memory())
        window = self.window_of(line)
        if window is not None:
            self.windows += 1
            pace, wait, seconds = window
            for kind, text in (
                ("slow", self.slow(pace)),
                ("data", self.waiting(wait)),
                ("memory", self.growing(used, seconds)),
            ):
                if text:
                    found[kind] = text
            found |= gpu_found
            new = self.tell(found)
        else:
            new = self.tell(gpu_found, only_new=True)
        figures = {"memory_bytes": used, **gpu_figures, "alarms": float(self.count_standing())}
        return Look(figures, tuple(Alarm(kind, f"WARNING: {text}") for kind, text in new.items()))

    def window_of(self, line: Mapping[str, Any]) -> tuple[float, float, float] | None:
        """(tokens per second, share of waiting, seconds) since the last window; None while that is too short."""
        elapsed = float(line.get("seconds") or 0.0)
        seconds = line.get("window_seconds")
        if seconds is None:
            seconds = max(0.0, elapsed - self.elapsed) if self.elapsed is not None else 0.0
        self.elapsed = elapsed
        part = self.part
        part["seconds"] += float(seconds)
        part["tokens"] += float(line.get("tokens_per_second") or 0.0) * float(seconds)
        part["feed"] += float(line.get("feed_seconds") or 0.0)
        if part["seconds"] < SHORTEST_WINDOW:
            return None
        self.part = {"tokens": 0.0, "feed": 0.0, "seconds": 0.0}
        return part["tokens"] / part["seconds"], min(1.0, part["feed"] / part["seconds"]), part["seconds"]

    # ---- what is looked at ----

    def slow(self, pace: float) -> str | None:
        """Throughput below 70% of the median of earlier good windows, three windows in a row."""
        if self.windows <= WARM_UP_WINDOWS:  # compilation, first allocations
            return None
        usual = statistics.median(self.paces) if len(self.paces) >= LEAST_WINDOWS else None
        bad = usual is not None and pace < SLOW_SHARE * usual
        if not bad:
            self.paces = [*self.paces, pace][-BASELINE_WINDOWS:]
        if not self.often(bad, "slow", SLOW_WINDOWS) or usual is None:
            return None
        return (
            f"{pace:,.0f} tokens/s, {pace / usual:.0%} of this run's usual {usual:,.0f}. Look for other programs on "
            "the machine (top, nvidia-smi) and at the clock and temperature."
        )

    def waiting(self, share: float) -> str | None:
        """More than a tenth of the time spent waiting for the feed, three windows in a row."""
        if not self.often(not self.feed_computes and share > WAIT_SHARE, "data", WAIT_WINDOWS):
            return None
        return (
            f"{share:.0%} of the time goes into waiting for data. Use prefetch: true, put the data on a local disk, or "
            "leave the loader a core of its own."
        )

    def growing(self, used: float, seconds: float) -> str | None:
        """Memory that rose in each quarter of the last forty windows, by a tenth in all: something keeps growing."""
        self.used = [*self.used, used][-MEMORY_WINDOWS:]
        self.used_seconds = [*self.used_seconds, seconds][-MEMORY_WINDOWS:]
        if len(self.used) < MEMORY_WINDOWS:
            return None
        quarter = MEMORY_WINDOWS // 4
        levels = [statistics.median(self.used[at : at + quarter]) for at in range(0, MEMORY_WINDOWS, quarter)]
        growth = levels[-1] - levels[0]
        rises = all(later > 1.01 * earlier for earlier, later in pairwise(levels))
        # Where blocks are of many sizes glibc's heap grows for hundreds of steps, ever more slowly; a leak stays even.
        rises = rises and levels[3] - levels[2] > 0.8 * (levels[1] - levels[0])
        if not rises or growth < max(LEAST_GROWTH * levels[0], LEAST_GROWTH_BYTES):
            return None
        rate = growth / (sum(self.used_seconds) * 3 / 4)  # bytes per second: between the middles of first and last
        hours = psutil.virtual_memory().available / rate / 3600
        return (
            f"memory of this process grows steadily, now {used / 2**30:.1f} GiB and full in about {hours:.1f} h. A "
            "hook or the feed keeps what it should drop; until that is mended, stop and start the run now and then."
        )

    def look_at_gpu(self) -> tuple[dict[str, float], dict[str, str]]:
        """Figures of the GPU and what is wrong with it; nothing where it cannot be read."""
        if self.gpu is None:
            return {}, {}
        try:
            now = self.gpu.read()
        except Exception:  # a driver that stops answering must not stop training
            self.gpu = None
            return {}, {}
        found = {}
        if now.temperature >= now.slowdown_temperature - DEGREES_BELOW_SLOWDOWN:
            found["gpu_hot"] = (
                f"the GPU is at {now.temperature:.0f} C and slows down at {now.slowdown_temperature:.0f}. Check "
                "fans and airflow, or lower its power limit (nvidia-smi -pl)."
            )
        if now.reasons & (THERMAL | POWER_BRAKE_OR_HARDWARE):
            why = "heat" if now.reasons & THERMAL else "its power supply (hardware slowdown or power brake)"
            found["gpu_throttled"] = (
                f"the GPU throttles itself because of {why}: {now.clock:.0f} of {now.highest_clock:.0f} MHz. "
                "See nvidia-smi -q -d PERFORMANCE; check cooling and power cables."
            )
        elif self.often(now.clock < SLOW_CLOCK_SHARE * now.highest_clock, "gpu_clock", SLOW_WINDOWS):
            found["gpu_clock"] = (
                f"the GPU runs at {now.clock:.0f} of {now.highest_clock:.0f} MHz. Look for a locked clock or a low "
                "power limit (nvidia-smi -q -d CLOCK,POWER)."
            )
        figures = {"gpu_temperature": now.temperature, "gpu_clock_mhz": now.clock, "gpu_throttle_reasons": now.reasons}
        return {name: float(value) for name, value in figures.items()}, found

    # ---- saying it once ----

    def often(self, bad: bool, kind: str, least: int) -> bool:
        """Whether it has been bad for `least` windows in a row."""
        self.rows[kind] = self.rows.get(kind, 0) + 1 if bad else 0
        return self.rows[kind] >= least

    def tell(self, found: Mapping[str, str], *, only_new: bool = False) -> dict[str, str]:
        """Those of the alarms found that do not stand yet. `only_new`: no window has passed, so nothing gets quiet."""
        new = {kind: text for kind, text in found.items() if kind not in self.standing}
        if not only_new:
            quiet = {kind: count + 1 for kind, count in self.standing.items() if kind not in found}
            self.standing = {kind: count for kind, count in quiet.items() if count < QUIET_WINDOWS}
        self.standing |= dict.fromkeys(found, 0)
        return new

    def count_standing(self) -> int:
        """Alarms whose cause was there in the last window."""
        return sum(quiet == 0 for quiet in self.standing.values())

    def state(self) -> dict[str, Any]:
        """For a checkpoint: JSON."""
        return {
            "place": self.place,
            "windows": self.windows,
            # Copies: a checkpoint is written while the loop goes on.
            "paces": list(self.paces),
            "rows": dict(self.rows),
            "standing": dict(self.standing),
            "part": dict(self.part),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint; on another device, or with other processes, the run gets to know itself anew."""
        if state.get("place") != self.place:
            return
        self.windows, self.paces = state["windows"], list(state["paces"])
        self.rows, self.standing, self.part = dict(state["rows"]), dict(state["standing"]), dict(state["part"])


def process_memory() -> int:
    """Bytes of host memory that this process uses now."""
    return int(psutil.Process().memory_info().rss)


@dataclass(frozen=True)
class GpuNow:
    """Degrees Celsius, MHz, and nvml.h's bits for why the clock is not higher."""

    temperature: float
    slowdown_temperature: float
    clock: float
    highest_clock: float
    reasons: int


class GpuReader:
    """One GPU through nvidia-ml-py (`pynvml`)."""

    def __init__(self, nvml: Any, uuid: str) -> None:
        nvml.nvmlInit()
        self.nvml, self.handle = nvml, nvml.nvmlDeviceGetHandleByUUID(uuid)

    def read(self) -> GpuNow:
        """Its state now; raises pynvml's errors."""
        nvml, handle = self.nvml, self.handle
        # Renamed in driver 535; old versions of the package know the old name only.
        reasons = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
        reasons = reasons or nvml.nvmlDeviceGetCurrentClocksThrottleReasons
        return GpuNow(
            temperature=nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
            slowdown_temperature=nvml.nvmlDeviceGetTemperatureThreshold(
                handle, nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN
            ),
            clock=nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
            highest_clock=nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM),
            reasons=int(reasons(handle)),
        )


def open_gpu(device: torch.device) -> GpuReader | None:
    """The reader for a CUDA device; None for other devices, and where the package or the driver will not do."""
    if device.type != "cuda":
        return None
    try:
        nvml = importlib.import_module("pynvml")
        uuid = str(torch.cuda.get_device_properties(device).uuid)
        reader = GpuReader(nvml, uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")
        reader.read()
    except Exception:  # no package, no rights, a virtual GPU without sensors: training needs none of it
        return None
    return reader
