"""A seccomp filter that lets through the calls a computing Python needs, and answers everything else with EPERM.

A list of what is allowed, not of what is forbidden: sockets, ptrace, mount, bpf, keyctl, unshare, perf, io_uring,
System V memory, execve and calls that do not exist yet need no line here. Calls that are useful and dangerous
(clone, kill, ioctl, fcntl, prctl) are judged by an argument. Written as classic BPF through prctl; x86_64 and aarch64.

Limits: the filter sees registers, not memory, so `clone3` (flags in memory) is reported as missing and the C library
takes `clone`. What the kernel itself does wrong in an allowed call is beyond it.
"""

from __future__ import annotations

import ctypes
import platform
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

_X86_64 = """
read 0 write 1 readv 19 writev 20 pread64 17 pwrite64 18 close 3 fstat 5 newfstatat 262 stat 4 lstat 6 statx 332
lseek 8 mmap 9 mprotect 10 munmap 11 brk 12 mremap 25 madvise 28 rt_sigaction 13 rt_sigprocmask 14 rt_sigreturn 15
rt_sigpending 127 rt_sigtimedwait 128 rt_sigsuspend 130 sigaltstack 131 access 21 faccessat 269 faccessat2 439
pipe 22 pipe2 293 select 23 pselect6 270 poll 7 ppoll 271 epoll_create1 291 epoll_ctl 233 epoll_wait 232
epoll_pwait 281 eventfd2 290 dup 32 dup2 33 dup3 292 pause 34 nanosleep 35 clock_nanosleep 230 getitimer 36
setitimer 38 alarm 37 getpid 39 getppid 110 gettid 186 getuid 102 geteuid 107 getgid 104 getegid 108 getresuid 118
getresgid 120 getgroups 115 getpgrp 111 getpgid 121 getsid 124 flock 73 fsync 74 fdatasync 75 truncate 76
ftruncate 77 getdents64 217 getcwd 79 chdir 80 fchdir 81 rename 82 renameat 264 renameat2 316 mkdir 83 mkdirat 258
rmdir 84 creat 85 link 86 linkat 265 symlink 88 symlinkat 266 unlink 87 unlinkat 263 readlink 89 readlinkat 267
chmod 90 fchmod 91 fchmodat 268 umask 95 gettimeofday 96 time 201 times 100 clock_gettime 228 clock_getres 229
getrusage 98 sysinfo 99 uname 63 getrlimit 97 sched_yield 24 sched_getaffinity 204 futex 202 set_robust_list 273
set_tid_address 218 rseq 334 membarrier 324 getrandom 318 open 2 openat 257 utimensat 280 copy_file_range 326
sendfile 40 fallocate 285 fadvise64 221 exit 60 exit_group 231 restart_syscall 219 getcpu 309 close_range 436
wait4 61 waitid 247 fcntl 72 clone 56 clone3 435 fork 57 vfork 58 kill 62 tgkill 234 ioctl 16 prctl 157 prlimit64 302
"""
_AARCH64 = """
read 63 write 64 readv 65 writev 66 pread64 67 pwrite64 68 close 57 fstat 80 newfstatat 79 statx 291 lseek 62
mmap 222 mprotect 226 munmap 215 brk 214 mremap 216 madvise 233 rt_sigaction 134 rt_sigprocmask 135 rt_sigreturn 139
rt_sigpending 136 rt_sigtimedwait 137 rt_sigsuspend 133 sigaltstack 132 faccessat 48 faccessat2 439 pipe2 59
pselect6 72 ppoll 73 epoll_create1 20 epoll_ctl 21 epoll_pwait 22 eventfd2 19 dup 23 dup3 24 nanosleep 101
clock_nanosleep 115 getitimer 102 setitimer 103 getpid 172 getppid 173 gettid 178 getuid 174 geteuid 175 getgid 176
getegid 177 getresuid 148 getresgid 150 getgroups 158 getpgid 155 getsid 156 flock 32 fsync 82 fdatasync 83
truncate 45 ftruncate 46 getdents64 61 getcwd 17 chdir 49 fchdir 50 renameat 38 renameat2 276 mkdirat 34 linkat 37
symlinkat 36 unlinkat 35 readlinkat 78 fchmod 52 fchmodat 53 umask 166 gettimeofday 169 times 153 clock_gettime 113
clock_getres 114 getrusage 165 sysinfo 179 uname 160 getrlimit 163 sched_yield 124 sched_getaffinity 123 futex 98
set_robust_list 99 set_tid_address 96 rseq 293 membarrier 283 getrandom 278 openat 56 utimensat 88
copy_file_range 285 sendfile 71 fallocate 47 fadvise64 223 exit 93 exit_group 94 restart_syscall 128 getcpu 168
close_range 436 wait4 260 waitid 95 fcntl 25 clone 220 clone3 435 kill 129 tgkill 131 ioctl 29 prctl 167 prlimit64 261
"""

_CHANGES = (
    "chmod fchmod fchmodat utimensat truncate rename renameat renameat2 mkdir mkdirat rmdir creat link linkat symlink "
    "symlinkat unlink unlinkat"
)

_LOAD, _JUMP_EQ, _JUMP_GE, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_KILL, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_EPERM, _ENOSYS = 1, 38
_CLONE_THREAD = 0x00010000
_CLONE_NAMESPACES = 0x7E020080
_TERMINAL_QUERIES = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
_OWNER_AND_SIZE = (8, 10, 15, 1026, 1031)  # F_SETOWN, F_SETSIG, F_SETOWN_EX, F_NOTIFY, F_SETPIPE_SZ
_THREAD_NAME = (15, 16)
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER_MODE = 38, 22, 2


@dataclass(frozen=True)
class Architecture:
    """What differs between processors: the kernel's name for it and the numbers of the calls."""

    audit: int
    numbers: dict[str, int]
    foreign: int | None = None
    """Numbers from here on belong to another ABI (x32) of the same processor."""


@cache
def architecture(machine: str | None = None) -> Architecture | None:
    """The tables of this processor (or the one named); None if there are none."""
    name = machine or platform.machine()
    if struct.calcsize("P") != 8:
        return None
    if name in ("x86_64", "AMD64"):
        return Architecture(0xC000003E, _numbers(_X86_64), 0x40000000)
    return Architecture(0xC00000B7, _numbers(_AARCH64)) if name in ("aarch64", "arm64") else None


def program(arch: Architecture, pid: int, processes: bool, files: bool) -> bytes:
    """The filter of the process `pid`.

    With `processes` it may fork and send signals (within its PID namespace); without `files` it may change none, not
    even their modes and times, which Landlock does not guard.
    """
    refused = {*(() if processes else ("fork", "vfork")), *(() if files else _CHANGES.split())}
    numbers = {name: number for name, number in arch.numbers.items() if name not in refused}
    judged = {
        "clone": _clone(processes),
        "clone3": _answer(_ERRNO | _ENOSYS),
        "ioctl": _only(1, _TERMINAL_QUERIES),
        "fcntl": _anything_but(1, _OWNER_AND_SIZE),
        "prctl": _only(0, _THREAD_NAME),
        "prlimit64": _only(0, (0, pid)),
        **({} if processes else {"kill": _only(0, (pid,)), "tgkill": _only(0, (pid,))}),
    }
    code = [_op(_LOAD, 4), _op(_JUMP_EQ, arch.audit, 1, 0), *_answer(_KILL), _op(_LOAD, 0)]
    if arch.foreign is not None:
        code += [_op(_JUMP_GE, arch.foreign, 0, 1), *_answer(_KILL)]
    for name, number in numbers.items():
        block = judged.get(name, _answer(_ALLOW))
        code += [_op(_JUMP_EQ, number, 0, len(block)), *block]
    return b"".join([*code, *_answer(_ERRNO | _EPERM)])


def install(code: bytes) -> None:
    """Put the filter on this process and all it starts, for good. OSError if the kernel will not."""
    libc = _libc()
    data = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(data))
    for option in ((_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (_PR_SET_SECCOMP, _FILTER_MODE, header, 0, 0)):
        number, first, second, *rest = option
        pointer = ctypes.c_char_p(second) if isinstance(second, bytes) else ctypes.c_ulong(second)
        if libc.prctl(number, ctypes.c_ulong(first), pointer, *(ctypes.c_ulong(value) for value in rest)):
            raise OSError(ctypes.get_errno(), "seccomp")


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _numbers(table: str) -> dict[str, int]:
    words = table.split()
    return {name: int(number) for name, number in zip(words[::2], words[1::2])}


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def _answer(action: int) -> list[bytes]:
    return [_op(_RETURN, action)]


def _only(argument: int, values: Iterable[int]) -> list[bytes]:
    """Allow where the lower half of the argument is one of the values (they are ints to the kernel)."""
    block = [_op(_LOAD, 16 + 8 * argument)]
    for value in values:
        block += [_op(_JUMP_EQ, value, 0, 1), *_answer(_ALLOW)]
    return block + _answer(_ERRNO | _EPERM)


def _anything_but(argument: int, values: Iterable[int]) -> list[bytes]:
    block = [_op(_LOAD, 16 + 8 * argument)]
    for value in values:
        block += [_op(_JUMP_EQ, value, 0, 1), *_answer(_ERRNO | _EPERM)]
    return block + _answer(_ALLOW)


def _clone(processes: bool) -> list[bytes]:
    """Threads always, processes where allowed, namespaces never."""
    block = [_op(_LOAD, 16), _op(_JUMP_SET, _CLONE_NAMESPACES, 0, 1), *_answer(_ERRNO | _EPERM)]
    if processes:
        return block + _answer(_ALLOW)
    return [*block, _op(_JUMP_SET, _CLONE_THREAD, 0, 1), *_answer(_ALLOW), *_answer(_ERRNO | _EPERM)]
