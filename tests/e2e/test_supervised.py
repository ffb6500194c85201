"""`luopan run --supervise`: a child that is killed while it trains is started again and ends with the same weights."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from luopan.artifacts import read_manifest

pytestmark = pytest.mark.e2e
SETTINGS = ("--until", "pretrain", "pretrain.max_steps=150", "pretrain.save_steps=10")


def wait_for(found) -> None:
    end = time.monotonic() + 200
    while not found():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def checkpoints(run: Path) -> list[str]:
    return sorted(path.name for path in run.glob("pretrain.partial/checkpoints/step-*"))


def holder(run: Path) -> int:
    """The process that works on the run: the supervisor's child."""
    return int(json.loads((run / ".lock").read_text())["pid"])


def test_killed_twice_and_the_same_weights_in_the_end(luopan, tmp_path: Path, start) -> None:
    luopan("run", "smoke", "--runs", str(tmp_path / "alone"), *SETTINGS)
    run = tmp_path / "killed" / "smoke"
    supervised = start(["run", "smoke", "--runs", str(tmp_path / "killed"), "--supervise", *SETTINGS])
    for seen in ("step-000020", "step-000070"):
        wait_for(lambda seen=seen: any(name >= seen for name in checkpoints(run)))
        child = holder(run)
        assert child != supervised.pid
        os.kill(child, signal.SIGKILL)
        wait_for(lambda child=child: holder_or_none(run) not in (child, None))
    output, _ = supervised.communicate(timeout=300)
    assert supervised.returncode == 0, output
    lines = [json.loads(line) for line in (run / "restarts.jsonl").read_text().splitlines()]
    assert [(line["exit_code"], line["stage"], line["restart"]) for line in lines] == [
        (-9, "pretrain", 1),
        (-9, "pretrain", 2),
    ]
    assert lines[0]["step"] >= 20 and lines[1]["step"] >= 70
    alone = read_manifest(tmp_path / "alone" / "smoke" / "pretrain")
    assert read_manifest(run / "pretrain").content == alone.content


def holder_or_none(run: Path) -> int | None:
    try:
        return holder(run)
    except (OSError, ValueError):
        return None


def test_the_deadline_saves_and_the_next_sitting_goes_on(luopan, tmp_path: Path, start) -> None:
    arguments = ("run", "smoke", "--runs", str(tmp_path), "--until", "pretrain", "pretrain.max_steps=100000")
    stopped = luopan(*arguments, "--stop-after", "20s", code=75)
    assert "stopped by the deadline after step" in stopped.stderr and "error:" not in stopped.stderr
    saved = checkpoints(tmp_path / "smoke")
    step = int(saved[-1].removeprefix("step-"))
    assert f"after step {step} of 100000" in stopped.stderr
    again = luopan(*arguments, "--stop-after", "15s", code=75)
    assert f"Going on from step {step} of 100000" in again.stderr
