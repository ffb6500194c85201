"""Run code that nobody trusts against unit tests, many answers a second.

    with Sandbox() as sandbox:
        outcomes = sandbox.run([Job(code, tests=(test,), entry_point="add")])

The caller's side: it starts a warden (`sandbox_warden`), hands it a socket per job and waits, with a deadline, for the
verdict. The tests run in one confined process and the answer in another (`sandbox_judge`, `sandbox_answer`), so that
the answer cannot reach what decides. Threads may share a Sandbox; so may processes forked from the one that made it.

Limits: what confines is described in docs/evals.md, with what does not. Only Python's own library can be imported. A
time limit in seconds is a promise about this machine: a busy one may fail an answer that another passes.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from luopan.errors import LuopanError
from luopan.evals.sandbox_wire import WireError, frame, receive

Mode = Literal["auto", "process"]
_PATIENCE = 600.0
"""Seconds to wait for a place among other callers' jobs before a job counts as not judged."""

_DYING = 8
"""Places for jobs whose verdict is there and whose namespaces the kernel is still taking down."""

_START = 30.0
_GRACE = 5.0


class SandboxError(LuopanError):
    """This system cannot confine code, or the warden does not start."""


@dataclass(frozen=True)
class Limits:
    """What one answer may use. `memory_bytes` is address space, of each process."""

    cpu_seconds: float = 5.0
    wall_seconds: float = 10.0
    memory_bytes: int = 1 << 29
    file_bytes: int = 8 << 20
    output_bytes: int = 1 << 16
    threads: int = 16
    processes: int = 0


@dataclass(frozen=True)
class Job:
    """Code and what is to hold of it.

    `tests` are sources in a form that `sandbox_checks` knows; `prompt` and `setup` are trusted sources that run beside
    the tests (helpers that they use). With `stop_at_first` checks after the first that fails are not tried.
    """

    code: str
    tests: tuple[str, ...]
    entry_point: str = ""
    prompt: str = ""
    setup: str = ""
    stop_at_first: bool = True
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Outcome:
    """Of `total` checks `passed` did; both None where nothing could be judged. `reason` says the first failure."""

    passed: int | None
    total: int | None
    reason: str = ""
    output: str = ""

    @property
    def share(self) -> float | None:
        return None if self.passed is None or not self.total else self.passed / self.total


class Sandbox:
    """A warden and the way to it. It starts with the first job and again if it should die.

    `without` leaves levels out that this system has ("namespaces", "filters").
    """

    def __init__(self, mode: Mode = "auto", workers: int | None = None, without: Sequence[str] = ()) -> None:
        self.mode, self.workers, self.without = mode, workers or os.cpu_count() or 1, tuple(without)
        self._lock, self._owner = threading.Lock(), os.getpid()
        self._line: socket.socket | None = None
        self._level = ""
        self._finalizer: weakref.finalize[..., Any] | None = None

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def level(self) -> str:
        """What confines here: "namespaces", "filters" or "process". SandboxError where that is not enough."""
        self._connected()
        return self._level

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """The outcomes of all jobs, in order, `workers` at a time. SandboxError if nothing can be run here."""
        self._connected()
        if len(jobs) < 2:
            return [self._run(job) for job in jobs]
        with ThreadPoolExecutor(min(self.workers, len(jobs)), thread_name_prefix="sandbox") as pool:
            return list(pool.map(self._run, jobs))

    def close(self) -> None:
        """End the warden and all that it runs; a copy in a forked process lets go of it only."""
        with self._guard():
            if self._finalizer is not None and self._owner == os.getpid():
                self._finalizer()
            self._line, self._finalizer = None, None

    def _run(self, job: Job) -> Outcome:
        for _ in range(2):  # once more if the warden has died since
            ours, theirs = socket.socketpair()
            with ours:
                try:
                    with theirs:
                        line = self._connected()
                        socket.send_fds(line, [json.dumps(asdict(job.limits)).encode()], [theirs.fileno()])
                except OSError:
                    self._forget(line)
                    continue
                outcome = _converse(ours, job)
            return outcome if outcome.passed is None or _alive(line) else Outcome(None, None, "the warden was ended")
        return Outcome(None, None, "the sandbox's warden does not stay alive")

    def _guard(self) -> threading.Lock:
        """The lock; a new one in a forked process, where a thread that is not there may hold the old one."""
        if self._owner != os.getpid():
            self._lock, self._owner = threading.Lock(), os.getpid()
            self._finalizer = None
        return self._lock

    def _connected(self) -> socket.socket:
        with self._guard():
            if self._line is None:
                self._line, self._level, process = _start(self.mode, self.workers, self.without)
                self._finalizer = weakref.finalize(self, _end, self._line, process, os.getpid())
            return self._line

    def _forget(self, line: socket.socket) -> None:
        with self._guard():
            if self._line is line:
                self._line = None


def run_code(jobs: Sequence[Job], mode: Mode = "auto", workers: int | None = None) -> list[Outcome]:
    """Run jobs in a sandbox of their own. Keep a `Sandbox` instead where there are more to come."""
    with Sandbox(mode, workers) as sandbox:
        return sandbox.run(jobs)


def _start(mode: Mode, slots: int, without: tuple[str, ...]) -> tuple[socket.socket, str, subprocess.Popen[bytes]]:
    if not hasattr(socket, "send_fds"):
        raise SandboxError("code cannot be run safely on this system", hint="Grade code on Linux.")
    kind = socket.SOCK_DGRAM if sys.platform == "darwin" else socket.SOCK_SEQPACKET
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    package = str(Path(__file__).resolve().parents[2])
    call = (
        f"import sys; sys.path.insert(0, {package!r}); from luopan.evals.sandbox_warden import main; "
        f"main({theirs.fileno()}, {slots + _DYING}, {mode!r}, {without!r})"
    )
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-s", "-S", "-P", "-B", "-X", "utf8", "-c", call],
            env={"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    try:
        ours.settimeout(_START)
        hello = json.loads(ours.recv(4096) or b'{"refused": "its process ended at once"}')
        ours.settimeout(_GRACE)
    except OSError:
        hello = {"refused": "it did not start in time"}
    if "refused" in hello:
        _end(ours, process, os.getpid())
        raise SandboxError(
            f"code cannot be run safely here: {hello['refused']}",
            hint="Run it on a Linux that allows user namespaces, or say `sandbox: process` to run it with time and "
            "memory limits only: it can then read and write what you can.",
        )
    return ours, hello["level"], process


def _end(line: socket.socket, process: subprocess.Popen[bytes], owner: int) -> None:
    if os.getpid() == owner:
        try:
            line.send(b"end")
            process.wait(_GRACE)
        except (OSError, subprocess.TimeoutExpired):
            process.kill()
            process.wait()
    line.close()


def _alive(line: socket.socket) -> bool:
    """Whether somebody is at the other end, who never sends anything but the end."""
    poll = select.poll()
    poll.register(line, select.POLLIN)
    return not poll.poll(0)


def _converse(line: socket.socket, job: Job) -> Outcome:
    """Send a job to its process and wait for what becomes of it."""
    judging = False
    try:
        line.settimeout(_PATIENCE)
        fields = ("code", "tests", "entry_point", "prompt", "setup", "stop_at_first")
        line.sendall(frame({name: getattr(job, name) for name in fields}))
        report = _receive(line)
        if report.get("judging"):
            judging = True
            line.settimeout(job.limits.wall_seconds + _GRACE)
            report = _receive(line)
    except (WireError, OSError) as error:
        if judging:  # only the answer, or what it returned, can have kept the tests from reporting
            late = isinstance(error, TimeoutError)
            return Outcome(0, 1, "the tests were not done in time" if late else "the tests' process has ended")
        return Outcome(None, None, f"the sandbox did not run the code: {error}")
    return _outcome(report, job.stop_at_first)


def _receive(line: socket.socket) -> dict[str, Any]:
    report = receive(line.fileno(), lambda _, count: line.recv(count))
    assert isinstance(report, dict)
    return report


def _outcome(report: dict[str, Any], stop_at_first: bool) -> Outcome:
    if "error" in report:
        return Outcome(None, None, report["error"])
    results: list[str | None] = report["results"]
    failed = [reason for reason in results if reason]
    reasons = [*failed[:1], *([report["stopped"]] if report["stopped"] else [])]
    passed = sum(reason == "" for reason in results)
    return Outcome(passed, max(1, len(results)), "; ".join(reasons), report["output"])
