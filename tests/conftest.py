"""One run of the smoke recipe, made by the command line in a subprocess and shared by the end-to-end tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

Luopan = Callable[..., "subprocess.CompletedProcess[str]"]
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "160", "NO_COLOR": "1"}
COMMAND = [sys.executable, "-m", "luopan"]

# A shell starts what it puts in the background with Ctrl-C ignored, and the product keeps to that: the tests that press
# it would fail there without having found anything.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Matrices this small are slower on several threads, ten times so where the cores are shared."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def luopan() -> Luopan:
    """Runs `luopan …` and returns the finished process; `code` is the exit code that is expected."""

    def call(
        *arguments: str, cwd: Path | None = None, code: int | None = 0, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*COMMAND, *arguments], cwd=cwd, input=stdin, capture_output=True, text=True, env=ENVIRONMENT, timeout=400
        )
        if code is not None:
            assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stdout + done.stderr or code is None
        return done

    return call


@pytest.fixture(scope="session")
def start() -> Callable[[Sequence[str]], subprocess.Popen[str]]:
    """Starts `luopan …` in the background, in a process group of its own."""

    def call(arguments: Sequence[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*COMMAND, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=ENVIRONMENT,
            start_new_session=True,
        )

    return call


@pytest.fixture(scope="session")
def smoke(luopan: Luopan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished smoke run. Tests copy it before they change anything."""
    runs = tmp_path_factory.mktemp("runs")
    luopan("run", "smoke", "--runs", str(runs))
    return runs / "smoke"
