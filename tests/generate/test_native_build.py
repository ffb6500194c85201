"""The library of the compiled pass: made once, made anew where it is damaged, and left out where it cannot be had."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SAY = """
from luopan.generate.native import build
print(build.reason())
"""

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


def asked(cache: Path, code: str = SAY, **environment: str) -> str:
    """What a fresh process says."""
    given = {**os.environ, "XDG_CACHE_HOME": str(cache), **environment}
    done = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_it_is_made_once_and_made_anew_where_it_is_damaged(tmp_path: Path) -> None:
    assert asked(tmp_path) == "None"
    (file,) = (tmp_path / "luopan" / "native").iterdir()
    made = file.stat().st_mtime_ns
    assert asked(tmp_path) == "None" and file.stat().st_mtime_ns == made
    file.write_bytes(b"")  # as after a crash of the machine
    assert asked(tmp_path) == "None" and file.stat().st_size > 10_000
    file.chmod(0o666)
    before = file.stat().st_ino
    assert asked(tmp_path) == "None"
    assert file.stat().st_ino != before, "what others may write is not run"


def test_without_openmp_in_the_process_it_is_another_file(tmp_path: Path) -> None:
    without = SAY.replace("print", "build._has_openmp = lambda: False\nprint")
    assert asked(tmp_path, without) == "None" and asked(tmp_path) == "None"
    assert len(list((tmp_path / "luopan" / "native").iterdir())) == 2


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"LUOPAN_NATIVE": "0"}, "LUOPAN_NATIVE=0"),
        ({"CC": "/bin/false"}, "/bin/false failed"),
        ({"XDG_CACHE_HOME": "/proc/none"}, "/proc/none"),
    ],
)
def test_where_it_cannot_be_had_it_says_why(tmp_path: Path, environment: dict[str, str], said: str) -> None:
    assert said in asked(tmp_path, **environment)
