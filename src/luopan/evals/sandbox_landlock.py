"""Landlock: a process gives up all files but those named, and TCP, for good.

The second wall behind a private view of the files, and the first one where there are no namespaces. What the kernel's
version of it does not know yet (ABI 1 of 2021 knows no truncation, network or signals) stays allowed by it.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Sequence
from functools import cache
from pathlib import Path

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same number on every architecture
_PATH_BENEATH, _VERSION = 1, 1
_EXECUTE, _READ_FILE, _READ_DIR = 1, 4, 8
_FILE_RIGHTS = 1 | 2 | 4 | 1 << 14 | 1 << 15
_RIGHTS_OF_ABI = (13, 14, 15, 15, 16)
"""How many rights to files ABI 1, 2, … knows."""


def version() -> int:
    """The kernel's Landlock ABI, 0 where there is none."""
    return max(0, _libc().syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint(_VERSION)))


def restrict(readable: Sequence[Path], writable: Sequence[Path]) -> None:
    """Leave this process (which must have no_new_privs) only these paths and what is beneath. OSError if refused."""
    abi = version()
    if not abi:
        raise OSError("no Landlock")
    everything = (1 << _RIGHTS_OF_ABI[min(abi, len(_RIGHTS_OF_ABI)) - 1]) - 1
    # Its scope of signals would also stop the one that the kernel sends to a child whose parent has died.
    tcp, scopes = (3 if abi >= 4 else 0), (1 if abi >= 6 else 0)
    rules = struct.pack("QQQ", everything, tcp, scopes)[: 24 if abi >= 6 else 16 if abi >= 4 else 8]
    ruleset = _call(_CREATE, ctypes.c_char_p(rules), ctypes.c_size_t(len(rules)), ctypes.c_uint(0))
    try:
        for path in readable:
            _allow(ruleset, path, _EXECUTE | _READ_FILE | _READ_DIR)
        for path in writable:
            _allow(ruleset, path, everything & ~_EXECUTE)
        _call(_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint(0))
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        wanted = rights if path.is_dir() else rights & _FILE_RIGHTS
        rule = struct.pack("=Qi", wanted, place)
        _call(_ADD, ctypes.c_int(ruleset), ctypes.c_int(_PATH_BENEATH), ctypes.c_char_p(rule), ctypes.c_uint(0))
    finally:
        os.close(place)


def _call(number: int, *arguments: object) -> int:
    result: int = _libc().syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"Landlock: {os.strerror(ctypes.get_errno())}")
    return result


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
