"""The warden: a small process that starts a confined pair of processes per job, and ends them when their time is up.

It is started once, with an empty environment and one socket, and imports nothing but Python's library, so that a fork
of it takes a millisecond. It never sees a job: the caller hands over a socket, and the job's own process reads from it
only after the answer's process has been started. So no answer can find the tests, or another answer, in its memory.

    caller ── socket ── warden ── fork ── tests' process (PID namespace) ── fork ── answer's process (PID namespace)
       └──────────── a socket per job ───────────┘                 └─ a channel ─┘
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from luopan.evals import sandbox_answer, sandbox_linux, sandbox_walls, sandbox_wire
from luopan.evals.sandbox_judge import Line, Over, alarm, judge, obituary

GRACE = 1.0
"""Seconds after its own limit at which a tests' process is killed that has not stopped by itself."""

_ALREADY_THERE = (
    "abc ast array bisect cmath collections collections.abc contextlib copy csv dataclasses datetime decimal enum "
    "fractions functools hashlib heapq io itertools json math numbers operator pprint queue random re statistics "
    "string struct textwrap threading time traceback types typing unicodedata uuid"
)


@dataclass
class Running:
    """A job's first process and when to kill it."""

    pid: int
    deadline: float


def main(control: int, slots: int, mode: str, without: Sequence[str] = ()) -> None:
    """Serve the control socket until it is closed or the parent has gone."""
    line = socket.socket(fileno=control)
    for name in _ALREADY_THERE.split():
        importlib.import_module(name)
    try:
        walls = sandbox_walls.enter(mode, without)
    except sandbox_walls.NoWalls as problem:
        line.send(json.dumps({"refused": str(problem)}).encode())
        return
    except Exception as problem:
        line.send(json.dumps({"refused": f"{type(problem).__name__}: {problem}"}).encode())
        return
    os.environ.clear()
    gc.collect()
    gc.freeze()  # a collection in a child would touch, and so copy, every page
    line.send(json.dumps({"level": walls.level}).encode())
    _Warden(line, slots, os.getppid(), walls).serve()


class _Warden:
    def __init__(self, line: socket.socket, slots: int, parent: int, walls: sandbox_walls.Walls) -> None:
        self.line, self.slots, self.parent, self.walls = line, slots, parent, walls
        self.running: dict[int, Running] = {}
        self.waiting: deque[tuple[int, dict[str, Any]]] = deque()
        self.bell, ring = socket.socketpair()
        self.bell.setblocking(False)
        ring.setblocking(False)
        self.ring = ring
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's to handle; it then closes the socket
        signal.set_wakeup_fd(ring.fileno(), warn_on_full_buffer=False)

    def serve(self) -> None:
        while os.getppid() == self.parent:
            soonest = min((job.deadline for job in self.running.values()), default=float("inf"))
            patience = min(max(0.0, soonest - time.monotonic()), 2.0)
            ready = select.select([self.line, self.bell], [], [], patience)[0]
            if self.bell in ready:
                with suppress(BlockingIOError):
                    self.bell.recv(4096)
            self.reap()
            if self.line in ready and not self.take():
                break
            while self.waiting and len(self.running) < self.slots:
                self.start(*self.waiting.popleft())
        for job in self.running.values():
            self.kill(job.pid)

    def take(self) -> bool:
        """Receive one job's socket and limits; False if nobody will send any more."""
        message, descriptors, _, _ = socket.recv_fds(self.line, 4096, 1)
        if not message or message == b"end":
            return False
        self.waiting.append((descriptors[0], json.loads(message)))
        return True

    def reap(self) -> None:
        now = time.monotonic()
        for job in self.running.values():
            if job.deadline <= now:
                self.kill(job.pid)
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if self.running.pop(pid, None) and not self.walls.namespaces:
                self.kill(pid)  # what is left of its group

    def kill(self, pid: int) -> None:
        """End a job with all it has started: its PID namespace ends with its first process."""
        for end in (os.kill,) if self.walls.namespaces else (os.killpg, os.kill):
            with suppress(ProcessLookupError, PermissionError):
                end(pid, signal.SIGKILL)

    def start(self, job_socket: int, limits: dict[str, Any]) -> None:
        if self.walls.namespaces:
            sandbox_linux.unshare(sandbox_linux.NEW_PIDS)
        pid = os.fork()
        if not pid:
            try:
                _run_job(self.walls, job_socket, limits)
            finally:
                os._exit(0)
        if self.walls.namespaces:
            sandbox_linux.set_namespace(self.walls.home, sandbox_linux.NEW_PIDS)
        os.close(job_socket)
        self.running[pid] = Running(pid, time.monotonic() + limits["wall_seconds"] + GRACE)


def _run_job(walls: sandbox_walls.Walls, job_socket: int, limits: dict[str, Any]) -> None:
    """A job's first process: start the answer's process, then become the tests' process."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        sandbox_walls.wall_in_job(walls, limits)
        ours, theirs = socket.socketpair()
        printed, printing = os.pipe()
        answer = os.fork()
        if not answer:
            _become_answer(walls, limits, theirs.fileno(), printing)
        theirs.close()
        os.close(printing)
        sandbox_linux.close_all_but([job_socket, ours.fileno(), printed])
        sandbox_walls.confine(walls, {**limits, "processes": 0}, limits["wall_seconds"] + 1)
        job = sandbox_wire.receive(job_socket)
    except Exception as error:
        sandbox_wire.send(job_socket, {"error": f"the sandbox failed: {type(error).__name__}: {error}"})
        return
    line = Line(ours.fileno(), printed, limits["output_bytes"])
    try:
        alarm(limits["wall_seconds"])
        report = judge(job, line, lambda: sandbox_wire.send(job_socket, {"judging": True}))
        signal.setitimer(signal.ITIMER_REAL, 0)
    except Over as over:
        report = {"results": [], "stopped": str(over)}
    if report.get("stopped") == "":
        report["stopped"] = obituary(answer, limits)
    sandbox_wire.send(job_socket, {**report, "output": line.drain()})


def _become_answer(walls: sandbox_walls.Walls, limits: dict[str, Any], channel: int, printing: int) -> None:
    """Never returns: runs the answer's side with nothing open but the channel and its output."""
    try:
        os.dup2(printing, 1)
        os.dup2(printing, 2)
        sandbox_linux.close_all_but([channel])
        sandbox_walls.confine(walls, limits, limits["cpu_seconds"])
        sandbox_answer.serve(channel)
    finally:
        os._exit(0)
