"""Two real processes at one run, and a process that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from luopan.artifacts import read_manifest, verify

SCRIPT = Path(__file__).with_name("fake_stages.py")
RECIPE = """\
name: trial
stages:
  first: {kind: make, text: one}
  slow: {kind: join, source: first, steps: 20, seconds_per_step: 0.1}
"""


def start(tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    recipe = tmp_path / "trial.yaml"
    recipe.write_text(RECIPE)
    command = [sys.executable, str(SCRIPT), str(recipe), str(tmp_path / "runs"), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_lines(log: Path, count: int) -> None:
    for _ in range(600):
        if log.exists() and len(log.read_text().splitlines()) >= count:
            return
        time.sleep(0.02)
    raise AssertionError(f"{log} never had {count} lines")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "trial" / "slow.partial" / "log.txt"


def test_a_second_process_is_turned_away_and_harms_nothing(tmp_path: Path, log: Path) -> None:
    one = start(tmp_path)
    wait_for_lines(log, 2)
    other = start(tmp_path, "first.text=two", "--fresh", "first")
    _, error = other.communicate(timeout=60)
    assert other.returncode == 2
    assert "another process is working here" in error and str(one.pid) in error
    assert "Traceback" not in error
    output, error = one.communicate(timeout=60)
    assert one.returncode == 0, error
    assert "slow (join): started" in output
    run = tmp_path / "runs" / "trial"
    assert [line.split()[-1] for line in (run / "slow" / "log.txt").read_text().splitlines()] == [str(one.pid)] * 20
    assert (run / "slow" / "joined" / "text.txt").read_text() == "one"
    for stage in ("first", "slow"):
        verify(run / stage)


def test_killed_and_resumed(tmp_path: Path, log: Path) -> None:
    one = start(tmp_path)
    wait_for_lines(log, 3)
    one.kill()
    one.communicate()
    assert not (tmp_path / "runs" / "trial" / "slow").exists()
    other = start(tmp_path, "slow.steps=20")
    output, error = other.communicate(timeout=60)
    assert other.returncode == 0, error
    assert "first: done already" in output and "slow (join): going on where it stopped" in output
    manifest = read_manifest(tmp_path / "runs" / "trial" / "slow")
    assert manifest.metrics["resumed_at"] >= 3
    assert manifest.seconds >= 1.9, "the time before the kill counts: 20 steps of 0.1 s were done in all"
    assert len((tmp_path / "runs" / "trial" / "slow" / "log.txt").read_text().splitlines()) == 20


def test_ctrl_c_leaves_with_130_and_the_run_goes_on(tmp_path: Path, log: Path) -> None:
    one = start(tmp_path)
    wait_for_lines(log, 2)
    one.send_signal(signal.SIGINT)
    _, error = one.communicate(timeout=60)
    assert one.returncode == 130
    assert "interrupted in stage slow" in error and "same command" in error and "Traceback" not in error
    output, error = start(tmp_path).communicate(timeout=60)
    assert "going on where it stopped" in output


def test_a_mistake_and_a_failure_of_ours(tmp_path: Path) -> None:
    one = start(tmp_path, "slow.steps=many")
    _, error = one.communicate(timeout=60)
    assert one.returncode == 2
    assert error.startswith('error: override "slow.steps=many": stages.slow.steps: expected a whole number')
    assert not (tmp_path / "runs").exists()
    one = start(tmp_path, "slow.fails_at=0")
    _, error = one.communicate(timeout=60)
    assert one.returncode == 3
    assert "failure of luopan: RuntimeError: step 0 fails" in error and "Traceback" not in error
    log = Path(error.split("The traceback is in ")[1].split(";")[0])
    assert "RuntimeError: step 0 fails" in log.read_text()
    log.unlink()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_runs_folder(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir(mode=0o555)
    one = start(tmp_path)
    _, error = one.communicate(timeout=60)
    assert one.returncode == 2
    assert "cannot be written to" in error and "Traceback" not in error
