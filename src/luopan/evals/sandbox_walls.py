"""The walls around tested code, from what this system offers, and in which order they go up.

`enter` is called once by the warden: it finds the strongest level that works. "namespaces": a root of its own with
Python's library read-only and nothing else, no network, no other user's anything, and per job PID namespaces and a
small folder in memory to write to. "filters": no namespaces, but Landlock (files) and seccomp (calls). "process":
neither, only limits; a caller must ask for that by name. `confine` is called by each process that runs code, last.

Limits: these walls are as good as the kernel. Memory is limited per process, not in total, which is the same thing as
long as a job may not start processes (the default).
"""

from __future__ import annotations

import os
import platform
import resource
import signal
import sys
import sysconfig
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luopan.evals import sandbox_landlock as landlock
from luopan.evals import sandbox_linux as linux
from luopan.evals import sandbox_seccomp as seccomp

PYTHON = Path("/python")
"""Where the library stands in the private root, so that its path tells nothing of this machine."""

WORK = Path("/tmp")
_SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
_STRANGER = 0x70000001
"""A user ID that nobody has, for jobs of a warden that root has started: root's own is exempt from limits."""

_DUMPABLE, _NO_NEW_PRIVILEGES, _DEATH_SIGNAL, _SUBREAPER = 4, 38, 1, 36


class NoWalls(Exception):
    """This system cannot confine code; the message says what is missing."""


@dataclass(frozen=True)
class Walls:
    """What the warden has found: the level, and whether jobs run as a user of their own."""

    level: str
    own_user: bool = False
    home: int = -1
    """A descriptor of the warden's own PID namespace, to return to after each job."""

    @property
    def namespaces(self) -> bool:
        return self.level == "namespaces"


def enter(mode: str, without: Sequence[str] = ()) -> Walls:
    """Put up what lasts for all jobs, the levels `without` left out. NoWalls if what remains is too little for the mode
    ("auto" or "process")."""
    missing: list[str] = []
    linux_here = sys.platform == "linux"
    if linux_here:
        linux.prctl(_SUBREAPER, 1)
    filtered = linux_here and seccomp.architecture() is not None
    if filtered:
        try:
            if "namespaces" in without:
                raise OSError("not wanted")
            _try_in_a_child()
            return _enter_namespaces()
        except OSError as error:
            missing.append(f"namespaces ({error.strerror or error})")
        if landlock.version() and "filters" not in without:
            return Walls("filters")
        missing.append("Landlock")
    else:
        missing.append(f"namespaces and seccomp ({sys.platform}, {platform.machine()})")
    if mode != "process":
        raise NoWalls(f"this system has no {' and no '.join(missing)}")
    return Walls("process")


def wall_in_job(walls: Walls, limits: dict[str, Any]) -> None:
    """What a job has to itself, before it starts the answer's process: a folder to write to, another PID namespace."""
    os.setsid()
    if not walls.namespaces:
        return
    linux.unshare(linux.NEW_MOUNTS)
    owner = 1 if walls.own_user else 0
    room = f"size={limits['file_bytes']},nr_inodes=1000,mode=700,uid={owner},gid={owner}"
    linux.mount_tmpfs(WORK, room)
    os.chdir(WORK)
    linux.unshare(linux.NEW_PIDS)


def confine(walls: Walls, limits: dict[str, Any], cpu_seconds: float) -> None:
    """Give up everything that this process does not need. There is no way back."""
    strict = walls.level != "process"
    if walls.namespaces:
        _become_nobody(walls)
    elif sys.platform == "linux":
        linux.prctl(_DEATH_SIGNAL, signal.SIGKILL)
        with suppress(OSError):
            linux.drop_capabilities()
    _set_limits(walls, limits, cpu_seconds)
    arch = seccomp.architecture() if sys.platform == "linux" else None
    if arch is None:
        return
    linux.prctl(_DUMPABLE, 0)
    linux.prctl(_NO_NEW_PRIVILEGES, 1)
    if strict and landlock.version():
        landlock.restrict(*_files(walls))
    processes = walls.namespaces and limits["processes"] > 0
    seccomp.install(seccomp.program(arch, os.getpid(), processes, files=walls.level != "filters"))


def _try_in_a_child() -> None:
    """Whether namespaces work, found out where a failure half way does no harm. OSError if not."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            walls = _enter_namespaces()
            linux.unshare(linux.NEW_PIDS)
            grandchild = os.fork()
            if not grandchild:
                os._exit(0)
            os.waitpid(grandchild, 0)
            linux.set_namespace(walls.home, linux.NEW_PIDS)
            linux.unshare(linux.NEW_MOUNTS)
            linux.mount_tmpfs(WORK, "size=4096")
        except BaseException as error:
            os.write(writer, (str(error) or type(error).__name__).encode()[:500])
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        problem = pipe.read().decode()
    os.waitpid(child, 0)
    if problem:
        raise OSError(problem)


def _enter_namespaces() -> Walls:
    """Returns in a child, the first process of a PID namespace; this process stays behind to watch over it."""
    own_user = _new_user_namespace()
    parent = os.getppid()
    child = os.fork()
    if child:
        _watch(child, parent)
    linux.prctl(_DEATH_SIGNAL, signal.SIGKILL)
    linux.keep_mounts_private()
    home = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    _build_root()
    return Walls("namespaces", own_user, home)


def _watch(child: int, parent: int) -> None:
    """Stay until the child has ended or the parent has, and take all that the child has started along. No return."""
    linux.close_all_but([])
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    while os.waitpid(child, os.WNOHANG) == (0, 0) and os.getppid() == parent:
        signal.sigtimedwait({signal.SIGCHLD}, 0.5)
    with suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    os._exit(0)


def _new_user_namespace() -> bool:
    """Enter new namespaces; True if a second user could be mapped there, which takes root outside."""
    user, group = os.geteuid(), os.getegid()
    warden = os.getpid()
    kinds = linux.NEW_USERS | linux.NEW_MOUNTS | linux.NEW_NETWORK | linux.NEW_IPC | linux.NEW_HOST | linux.NEW_PIDS
    if user:
        linux.unshare(kinds)
        linux.map_ids("self", f"0 {user} 1\n", f"0 {group} 1\n", groups_denied=True)
        return False
    ready, go = os.pipe()
    helper = os.fork()
    if not helper:
        os.close(go)
        try:
            os.read(ready, 1)
            both = f"0 0 1\n1 {_STRANGER} 1\n"
            linux.map_ids(str(warden), both, both, groups_denied=False)
            os._exit(0)
        finally:
            os._exit(1)
    try:
        linux.unshare(kinds)
    finally:
        os.close(ready)
        os.close(go)
        _, status = os.waitpid(helper, 0)
    if status == 0:
        return True
    linux.map_ids("self", "0 0 1\n", "0 0 1\n", groups_denied=True)
    return False


def _build_root() -> None:
    """A root in memory that holds Python's library, the system's and four devices, all of it read-only."""
    library = Path(sysconfig.get_path("stdlib")).resolve()
    shown = {Path(name): Path(name) for name in (*_SYSTEM, *_DEVICES)} | {library: PYTHON}
    sources = [source.resolve() for source in shown]
    places = [Path(name) for name in ("/mnt", "/media", "/srv", "/opt", "/var", "/tmp")]
    free = [p for p in places if p.is_dir() and not any(source.is_relative_to(p) for source in sources)]
    root = free[0]
    linux.mount_tmpfs(root, "size=1m,mode=755", linux.NO_SUID)
    for source, shown_at in shown.items():
        target = root / shown_at.relative_to("/")
        if source.is_symlink():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(os.readlink(source))
        elif source.is_dir():
            target.mkdir(parents=True, exist_ok=True)
            linux.bind(source, target)
        elif source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
            linux.bind(source, target, devices=str(source) in _DEVICES)
    (root / WORK.relative_to("/")).mkdir()
    linux.enter_root(root)
    linux.make_read_only(Path("/"), devices=True)
    _move_library(library)


def _move_library(library: Path) -> None:
    """Tell this Python that its library now stands elsewhere."""
    sys.path[:] = [str(PYTHON), str(PYTHON / "lib-dynload")]
    sys.path_importer_cache.clear()
    sys.prefix = sys.base_prefix = sys.exec_prefix = sys.base_exec_prefix = str(PYTHON)
    for module in list(sys.modules.values()):
        places = getattr(module, "__path__", None)
        if isinstance(places, list):
            places[:] = [str(PYTHON / Path(p).relative_to(library)) for p in places if Path(p).is_relative_to(library)]


def _become_nobody(walls: Walls) -> None:
    if walls.own_user:
        os.setgroups([])
        os.setresgid(1, 1, 1)
        os.setresuid(1, 1, 1)
    # A user namespace for each process: its count of processes and threads is then its own.
    linux.unshare(linux.NEW_USERS)
    linux.drop_capabilities()


def _set_limits(walls: Walls, limits: dict[str, Any], cpu_seconds: float) -> None:
    cpu = max(1, -int(-cpu_seconds // 1))
    wanted = {
        "RLIMIT_CORE": 0,
        "RLIMIT_CPU": cpu,
        "RLIMIT_AS": limits["memory_bytes"],
        "RLIMIT_FSIZE": limits["file_bytes"],
        "RLIMIT_NOFILE": 64,
        "RLIMIT_MEMLOCK": 0,
        "RLIMIT_MSGQUEUE": 0,
        "RLIMIT_SIGPENDING": 64,
        **({"RLIMIT_NPROC": limits["threads"] + limits["processes"]} if walls.namespaces else {}),
    }
    for name, value in wanted.items():
        kind = getattr(resource, name, None)
        if kind is None:
            continue
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        with suppress(ValueError, OSError):  # macOS has no limit of memory
            resource.setrlimit(kind, (value, value))


def _files(walls: Walls) -> tuple[list[Path], list[Path]]:
    """What Landlock leaves: (readable, readable and writable)."""
    devices = [Path(name) for name in _DEVICES]
    if walls.namespaces:
        return [Path("/"), *devices], [WORK, Path("/dev/null")]
    library = Path(sysconfig.get_path("stdlib")).resolve()
    return [*(Path(name) for name in _SYSTEM), library, *devices], [Path("/dev/null")]
