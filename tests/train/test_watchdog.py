"""A step that does not end is told once, with the stacks of all threads; on request the process ends with 74."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from luopan.train.config import TrainConfig
from luopan.train.watchdog import Watchdog


def config(**changes) -> TrainConfig:
    return TrainConfig(**{"learning_rate": 1e-2, "max_steps": 100, "stuck_after_seconds": 60.0, **changes})


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def dog(folder: Path, **changes) -> tuple[Watchdog, Clock, list[str], list[int]]:
    clock, notes, codes = Clock(), [], []
    one = Watchdog(folder, config(**changes), notes.append, clock=clock, leave=codes.append)
    return one, clock, notes, codes


def test_silence_is_told_once_per_standstill(tmp_path: Path) -> None:
    one, clock, notes, codes = dog(tmp_path)
    clock.now += 59
    one.look()
    assert not notes
    clock.now += 1
    one.look()
    one.look()
    assert len(notes) == 1 and "\n" not in notes[0]
    assert "no step has ended for 60 s" in notes[0] and "stacks.txt" in notes[0] and "stuck_after_seconds" in notes[0]
    one.beat()
    clock.now += 61
    one.look()
    assert len(notes) == 2 and not codes
    assert (tmp_path / "stacks.txt").read_text().count("no step has ended") == 2


def test_the_stacks_name_every_thread(tmp_path: Path) -> None:
    one, clock, _, _ = dog(tmp_path)
    leave = threading.Event()

    def a_loader_that_waits() -> None:
        leave.wait(30)

    thread = threading.Thread(target=a_loader_that_waits)
    thread.start()
    clock.now += 100
    one.look()
    leave.set()
    thread.join()
    text = (tmp_path / "stacks.txt").read_text()
    assert "a_loader_that_waits" in text and "test_the_stacks_name_every_thread" in text


def test_a_pause_is_no_standstill_and_ends_with_a_beat(tmp_path: Path) -> None:
    one, clock, notes, _ = dog(tmp_path)
    with pytest.raises(ValueError), one.paused():
        clock.now += 1000
        one.look()
        raise ValueError
    clock.now += 59
    one.look()
    assert not notes
    clock.now += 2
    one.look()
    assert notes


def test_abort_leaves_with_74_after_the_stacks(tmp_path: Path) -> None:
    one, clock, notes, codes = dog(tmp_path, stuck_action="abort")
    one.path = tmp_path / "no folder" / "stacks.txt"  # a disk that cannot be written to does not hinder it
    clock.now += 60
    one.look()
    assert codes == [74] and "The process ends now" in notes[0]


def test_with_null_nothing_watches(tmp_path: Path) -> None:
    one, clock, notes, _ = dog(tmp_path, stuck_after_seconds=None)
    with one:
        assert one.thread is None
        clock.now += 1e9
        one.look()
    assert not notes


def test_the_thread_watches_and_ends(tmp_path: Path) -> None:
    notes: list[str] = []
    with Watchdog(tmp_path, config(stuck_after_seconds=0.2), notes.append) as one:
        for _ in range(10):
            time.sleep(0.05)
            one.beat()
        assert not notes
        time.sleep(0.6)
    assert len(notes) == 1 and one.thread is not None and not one.thread.is_alive()


def test_a_process_that_is_really_stuck_ends(tmp_path: Path) -> None:
    script = (
        "import sys, threading\n"
        "from pathlib import Path\n"
        "from luopan.train.config import TrainConfig\n"
        "from luopan.train.watchdog import Watchdog\n"
        "config = TrainConfig(learning_rate=1, max_steps=1, stuck_after_seconds=0.3, stuck_action='abort')\n"
        "def stuck_here():\n"
        "    lock = threading.Lock(); lock.acquire(); lock.acquire()\n"
        "with Watchdog(Path(sys.argv[1]), config, print):\n"
        "    stuck_here()\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, timeout=60)
    assert done.returncode == 74
    assert "stuck_here" in (tmp_path / "stacks.txt").read_text()
