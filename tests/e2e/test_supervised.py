"""`luopan run --supervise`: a child that is killed while it trains is started again and ends with the same weights."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from luopan.artifacts import read_manifest

pytestmark = pytest.mark.e2e
SETTINGS = ("--until", "pretrain", "pretrain.max_steps=150", "pretrain.save_steps=10")


def with_text(smoke: Path, runs: Path) -> Path:
    """The folder of a run whose corpus and tokenizer are made."""
    for stage in ("curate", "tokenizer"):
        shutil.copytree(smoke / stage, runs / "smoke" / stage)
    return runs / "smoke"


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


def test_killed_twice_and_the_same_weights_in_the_end(luopan, smoke: Path, tmp_path: Path, start) -> None:
    with_text(smoke, tmp_path / "alone")
    luopan("run", "smoke", "--runs", str(tmp_path / "alone"), *SETTINGS)
    run = with_text(smoke, tmp_path / "killed")
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


def test_the_deadline_saves_and_the_next_sitting_goes_on(luopan, smoke: Path, tmp_path: Path) -> None:
    run = with_text(smoke, tmp_path)
    arguments = ("run", "smoke", "--runs", str(tmp_path), "--until", "pretrain", "pretrain.max_steps=100000")
    stopped = luopan(*arguments, "--stop-after", "12s", code=75)
    assert "stopped by the deadline after step" in stopped.stderr and "error:" not in stopped.stderr
    saved = checkpoints(run)
    step = int(saved[-1].removeprefix("step-"))
    assert f"after step {step} of 100000" in stopped.stderr
    again = luopan(*arguments, "--stop-after", "12s", code=75)
    assert f"Going on from step {step} of 100000" in again.stderr
