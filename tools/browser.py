#!/usr/bin/env python3
"""Find a Chromium for the tests of the page, or bring one; prints where it is.

    python3 tools/browser.py            find one
    python3 tools/browser.py --bring    find one, else install Debian's (needs root and apt-get)

In this order: $LUOPAN_BROWSER, chromium or chrome on the PATH, the one that Playwright downloaded. Exit code 1 and the
reason on standard error where there is none. Needs nothing but Python; asks Playwright where it is installed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bring", action="store_true", help="install Debian's chromium where there is no browser")
    arguments = parser.parse_args()
    found, why = find()
    if found is None and arguments.bring:
        why = bring()
        found, still = find()
        why = why or still
    if found is None:
        print(f"no browser for the tests of the page: {why}", file=sys.stderr)
        return 1
    print(found)
    return 0


def find() -> tuple[str | None, str]:
    """(where a browser is, why there is none)."""
    if named := os.environ.get("LUOPAN_BROWSER"):
        return (named, "") if Path(named).is_file() else (None, f"LUOPAN_BROWSER names {named}, which is not there")
    for name in NAMES:
        if path := shutil.which(name):
            return path, ""
    if path := playwrights_own():
        return path, ""
    return None, f"none of {', '.join(NAMES)} on the PATH, and Playwright has downloaded none (set LUOPAN_BROWSER)"


def playwrights_own() -> str | None:
    """The browser that `playwright install chromium` put into its cache, newest first."""
    cache = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or Path.home() / ".cache" / "ms-playwright")
    patterns = ("chromium-*/chrome-linux*/chrome", "chromium-*/chrome-mac*/Chromium.app/Contents/MacOS/Chromium")
    found = sorted(path for pattern in patterns for path in cache.glob(pattern))
    return str(found[-1]) if found else None


def bring() -> str:
    """Install Debian's chromium; "" or the reason why it could not be done."""
    if shutil.which("apt-get") is None:
        return "there is no apt-get here: install Chromium by hand"
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "installing one needs root: apt-get install chromium"
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update", "-q"],
        ["apt-get", "install", "-y", "-q", "--no-install-recommends", "chromium"],
    ):
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        except subprocess.TimeoutExpired:
            return f"{' '.join(command)} took longer than 600 s"
        if done.returncode and command[1] == "install":
            last = (done.stderr or done.stdout).strip().splitlines()[-1:]
            return f"{' '.join(command)} failed: {''.join(last)}"
    return ""


if __name__ == "__main__":
    sys.exit(main())
