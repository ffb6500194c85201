"""Linux calls the sandbox needs and Python 3.11 does not have: namespaces, mounts, a private root, capabilities.

Everything raises OSError with the name of the call. Nothing here decides anything; `sandbox_walls` does.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Sequence
from functools import cache
from pathlib import Path

NEW_MOUNTS, NEW_HOST, NEW_IPC, NEW_USERS = 0x00020000, 0x04000000, 0x08000000, 0x10000000
NEW_PIDS, NEW_NETWORK = 0x20000000, 0x40000000
READ_ONLY, NO_SUID, NO_DEVICES, NO_EXEC = 1, 2, 4, 8
_REMOUNT, _BIND, _RECURSIVE, _PRIVATE, _RELATIME = 32, 4096, 16384, 1 << 18, 1 << 21
_DETACH = 2
_MOUNT_SETATTR = 442
_EMPTY_CAPABILITIES = bytes(24)
_CAPABILITY_HEADER = struct.pack("Ii", 0x20080522, 0)


def unshare(flags: int) -> None:
    _check("unshare", _libc().unshare(ctypes.c_int(flags)))


def set_namespace(descriptor: int, kind: int) -> None:
    _check("setns", _libc().setns(ctypes.c_int(descriptor), ctypes.c_int(kind)))


def prctl(option: int, value: int) -> None:
    _check("prctl", _libc().prctl(option, *(ctypes.c_ulong(word) for word in (value, 0, 0, 0))))


def drop_capabilities() -> None:
    number = {"x86_64": 126, "aarch64": 91}[platform.machine()]
    header, data = ctypes.c_char_p(_CAPABILITY_HEADER), ctypes.c_char_p(_EMPTY_CAPABILITIES)
    _check("capset", _libc().syscall(number, header, data))


def map_ids(process: str, users: str, groups: str, groups_denied: bool) -> None:
    """Write the ID maps of a process's user namespace ("self" or a number)."""
    folder = Path("/proc") / process
    if groups_denied:
        (folder / "setgroups").write_text("deny", encoding="ascii")
    (folder / "uid_map").write_text(users, encoding="ascii")
    (folder / "gid_map").write_text(groups, encoding="ascii")


def mount_tmpfs(place: Path, options: str, flags: int = NO_SUID | NO_DEVICES | NO_EXEC) -> None:
    _mount("tmpfs", place, "tmpfs", flags, options)


def keep_mounts_private() -> None:
    _mount("none", Path("/"), None, _RECURSIVE | _PRIVATE, None)


def bind(source: Path, place: Path, devices: bool = False) -> None:
    """Show `source` at `place`, read-only with all that is mounted below it."""
    _mount(str(source), place, None, _BIND | _RECURSIVE, None)
    make_read_only(place, devices)


def make_read_only(place: Path, devices: bool = False) -> None:
    flags = READ_ONLY | NO_SUID | (0 if devices else NO_DEVICES)
    attributes = struct.pack("QQQQ", flags, 0, 0, 0)
    name, data = ctypes.c_char_p(os.fsencode(place)), ctypes.c_char_p(attributes)
    arguments = (ctypes.c_int(-100), name, ctypes.c_uint(0x8000), data, ctypes.c_size_t(len(attributes)))
    if _libc().syscall(_MOUNT_SETATTR, *arguments) == 0:
        return
    held = os.statvfs(place).f_flag  # before Linux 5.12: this mount alone; flags that are there must be repeated
    kept = held & (NO_SUID | NO_DEVICES | NO_EXEC | 1024 | 2048) | (_RELATIME if held & 4096 else 0)
    _mount("none", place, None, _REMOUNT | _BIND | flags | kept, None)


def enter_root(root: Path) -> None:
    """Make `root`, a mount point, the root of everything and forget the old one."""
    os.chdir(root)
    number = {"x86_64": 155, "aarch64": 41}[platform.machine()]
    _check("pivot_root", _libc().syscall(number, ctypes.c_char_p(b"."), ctypes.c_char_p(b".")))
    _check("umount2", _libc().umount2(ctypes.c_char_p(b"."), _DETACH))
    os.chdir("/")


def close_all_but(kept: Sequence[int]) -> None:
    """Close every descriptor except 0, 1, 2 and these."""
    low = 3
    for descriptor in sorted({number for number in kept if number > 2}):
        os.closerange(low, descriptor)
        low = descriptor + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX"))


def _mount(source: str, place: Path, kind: str | None, flags: int, options: str | None) -> None:
    text = [None if word is None else ctypes.c_char_p(word.encode()) for word in (source, kind, options)]
    name = ctypes.c_char_p(os.fsencode(place))
    _check(f"mount {place}", _libc().mount(text[0], name, text[1], ctypes.c_ulong(flags), text[2]))


def _check(name: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
