"""Killed with SIGKILL somewhere in training and run again == never killed, weights bitwise, for every such stage."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("smoke")]

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}


def command(runs: Path, stage: str) -> list[str]:
    return [sys.executable, "-m", "luopan", "run", "smoke", "--until", stage, "--runs", str(runs)]


def weights(run: Path, stage: str) -> str:
    return hashlib.sha256((run / stage / "model" / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "stage", ["pretrain", "grpo", *(pytest.param(one, marks=pytest.mark.slow) for one in ("sft", "preference"))]
)
def test_killed_and_resumed_equals_never_killed(smoke: Path, tmp_path: Path, stage: str) -> None:
    run = tmp_path / "smoke"
    shutil.copytree(smoke, run)
    shutil.rmtree(run / stage)
    process = subprocess.Popen(
        command(tmp_path, stage),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
        start_new_session=True,
    )
    checkpoints = run / f"{stage}.partial" / "checkpoints"
    deadline = time.monotonic() + 120
    while not list(checkpoints.glob("step-*")):
        assert process.poll() is None and time.monotonic() < deadline, "ended before the first checkpoint"
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (run / stage).exists(), "it was killed too late to prove anything"
    done = subprocess.run(command(tmp_path, stage), capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step" in done.stdout + done.stderr
    assert weights(run, stage) == weights(smoke, stage)
