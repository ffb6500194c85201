"""One writer per folder: an advisory lock that the system drops when its holder dies.

A run is locked while a pipeline works on it, so that two commands cannot write into one run. The lock is `flock` on
`.lock` in the folder; the file says who holds it. Limits: Linux and macOS; on a network file system without `flock`
the lock is refused with an error rather than pretended. A child made by `fork` shares its parent's lock.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from luopan.artifacts.files import mend_os_errors
from luopan.errors import ArtifactError, LockedError

LOCK_NAME = ".lock"


class FolderLock:
    """`with FolderLock(folder): …`; the folder is made if missing. Raises `LockedError` naming the holder."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock or raise `LockedError`; never waits."""
        import fcntl

        file = self.path / LOCK_NAME
        with mend_os_errors(file):
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno in {errno.EWOULDBLOCK, errno.EACCES}:
                raise LockedError(
                    f"another process is working here ({holder(self.path)})",
                    where=self.path,
                    hint="Wait for it to end, stop it, or use another run folder with --runs DIR.",
                ) from None
            raise ArtifactError(
                f"this file system cannot lock ({error.strerror})",
                where=self.path,
                hint="Put the runs on a local disk with --runs DIR.",
            ) from error
        self.descriptor = descriptor
        with mend_os_errors(file):
            write_holder(descriptor)

    def release(self) -> None:
        """Give the lock back; the file stays, since removing it would race with the next holder."""
        if self.descriptor is not None:
            descriptor, self.descriptor = self.descriptor, None
            os.ftruncate(descriptor, 0)
            os.close(descriptor)

    def __enter__(self) -> FolderLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def write_holder(descriptor: int) -> None:
    """Say in the lock file who holds it."""
    who = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(who).encode(), 0)


def holder(path: Path) -> str:
    """Who holds the lock of a folder, in words."""
    try:
        who = json.loads((Path(path) / LOCK_NAME).read_text())
        return f"process {who['pid']} on {who['host']} since {who['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "holder unknown"
