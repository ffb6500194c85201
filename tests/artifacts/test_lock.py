"""Two processes never hold one folder, and a dead holder's lock is free."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from luopan.artifacts import FolderLock, versions
from luopan.errors import LockedError

HOLD = """
import sys, time
from pathlib import Path
from luopan.artifacts import FolderLock
with FolderLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_second_holder_is_told_who_the_first_is(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "q"
    with FolderLock(folder), pytest.raises(LockedError, match=f"process {os.getpid()} on .* since 20"):
        FolderLock(folder).acquire()
    with FolderLock(folder):
        pass


def test_lock_between_processes_and_after_a_kill(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match=f"process {holder.pid} "):
            FolderLock(tmp_path).acquire()
    finally:
        holder.kill()
        holder.wait()
    with FolderLock(tmp_path):
        pass


def test_versions_name_what_matters() -> None:
    found = versions()
    assert {"python", "platform", "torch", "luopan"} <= set(found)
    assert all(isinstance(value, str) for value in found.values())


def test_importing_this_room_does_not_import_torch() -> None:
    code = "import sys, luopan.artifacts; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
