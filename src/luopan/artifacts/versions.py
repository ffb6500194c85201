"""Which software made an artifact. Reads package metadata only: importing torch to learn its version takes seconds."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = ("luopan", "torch", "transformers", "tokenizers", "safetensors", "numpy", "pyarrow")


def versions() -> dict[str, str]:
    """Python, platform and package versions, and the git commit where this code runs from a checkout."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    commit = git_commit(Path(__file__).resolve().parents[3])
    if commit:
        found["git"] = commit
    return found


def git_commit(root: Path) -> str | None:
    """The commit of the checkout at `root` ("…-dirty" if it was changed), or None if it is not one."""
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
