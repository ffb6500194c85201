"""Verifiers that may hang, in helper processes under a limit of processor time and memory.

Computer algebra, regular expressions and other people's scorers can take for ever on an answer that a model happened to
write, inside C code that no signal interrupts and on threads that get no signals. So they run in a process of our own
(`bounded_worker`), to which a batch is sent at once and which answers row by row. The system ends it when a row has
used its processor time; then the row is None, and a fresh process goes on with the rest. A starved machine makes a row
slower, not wrong: processor time counts, and the wall's clock only at `PATIENCE` times that.

Works from any thread, in forked workers (each process has helpers of its own), and leaves nothing behind: a helper ends
when its parent does. A batch of more than `SHARE` rows is shared between as many helpers as there are cores.
Limits: the memory limit and that of processor time are POSIX's; elsewhere the wall's clock alone holds.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from multiprocessing.connection import Connection, Pipe
from typing import Any

from luopan.evals.verdict import Verdict

LIMIT_S = 5  # seconds of processor time for one answer; those that end take milliseconds
PATIENCE = 12  # times the limit by the wall's clock
START_S = 120.0  # seconds by the wall's clock for a helper to start
SHARE = 16  # rows for which a helper's start, a second, is worth it
MOST = 8  # helpers

Row = tuple[str, str, Mapping[str, Any]]  # verifier, text, args


class Helper:
    """One helper process, started with the first batch and again after it had to be ended."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._line: Connection | None = None

    def grade(self, rows: Sequence[Row], limit_s: int) -> list[Verdict]:
        """A verdict per row, in order."""
        verdicts: list[Verdict] = []
        while len(verdicts) < len(rows):
            if (fault := self._ready()) is not None:
                return verdicts + [Verdict(None, fault)] * (len(rows) - len(verdicts))
            verdicts += self._until_it_ends(rows[len(verdicts) :], limit_s)
        return verdicts

    def _until_it_ends(self, rows: Sequence[Row], limit_s: int) -> list[Verdict]:
        """Verdicts up to the row that cost the helper its life, that row's too."""
        assert self._line is not None
        verdicts: list[Verdict] = []
        try:
            self._line.send((limit_s, list(rows)))
            while len(verdicts) < len(rows):
                if not self._line.poll(limit_s * PATIENCE):
                    self.close()
                    return [*verdicts, Verdict(None, f"no verdict after {limit_s * PATIENCE} s")]
                verdicts.append(self._line.recv())
        except (EOFError, OSError):
            verdicts.append(Verdict(None, self._cause(limit_s)))
        except Exception as error:  # arguments that no pipe can carry
            self.close()
            return [Verdict(None, f"cannot be sent to a helper process: {type(error).__name__}: {error}")] * len(rows)
        return verdicts

    def _cause(self, limit_s: int) -> str:
        """Why the helper is gone; what is left of it is cleared away."""
        assert self._process is not None
        try:
            code = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            code = 0
        self.close()
        if code == -getattr(signal, "SIGXCPU", 0):
            return f"took longer than {limit_s} s of processor time"
        return f"the helper process ended with code {code}"

    def _ready(self) -> str | None:
        """Starts the helper if need be; the reason if it cannot be started."""
        if self._process is not None and self._process.poll() is None:
            return None
        self.close()
        ours, theirs = Pipe()
        with theirs:
            command = [sys.executable, "-m", "luopan.evals.bounded_worker", str(theirs.fileno())]
            self._line, self._process = ours, _start(command, theirs.fileno())
        try:
            if ours.poll(START_S) and ours.recv() == "ready":
                return None
        except (EOFError, OSError):
            pass
        self.close()
        return "the helper process for verifiers does not start"

    def close(self) -> None:
        """Ends the process, if there is one."""
        if self._line is not None:
            self._line.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._line = self._process = None


class Helpers:
    """As many helpers as there are cores, each started when it is first needed."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free: queue.LifoQueue[Helper] = queue.LifoQueue()  # the last one used has its libraries loaded
        for _ in range(count):
            self._free.put(Helper())

    def grade(self, rows: Sequence[Row], limit_s: int) -> list[Verdict]:
        """A verdict per row, in order; rows are dealt out in turn, so that slow ones spread."""
        shares = min(self.count, -(-len(rows) // SHARE))
        if shares == 1:
            return self._share(rows, limit_s)
        with ThreadPoolExecutor(shares) as threads:
            dealt = list(threads.map(lambda at: self._share(rows[at::shares], limit_s), range(shares)))
        return [dealt[at % shares][at // shares] for at in range(len(rows))]

    def _share(self, rows: Sequence[Row], limit_s: int) -> list[Verdict]:
        helper = self._free.get()
        try:
            return helper.grade(rows, limit_s)
        except BaseException:
            helper.close()  # Ctrl-C between a question and its answer: the next batch must not read the old one's
            raise
        finally:
            self._free.put(helper)


def grade_bounded(rows: Sequence[Row], limit_s: int | None = None) -> list[Verdict]:
    """A verdict per row, in order, each within `limit_s` seconds of processor time."""
    return _helpers(os.getpid()).grade(rows, limit_s or LIMIT_S) if rows else []


def _start(command: list[str], line: int) -> subprocess.Popen[bytes]:
    # A session of its own: Ctrl-C is the run's to handle, which still grades what it has sampled.
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return subprocess.Popen(
        command,
        pass_fds=(line,),
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@cache
def _helpers(process: int) -> Helpers:
    """The helpers of this process: a fork must not use those of its parent."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Helpers(min(cores, MOST))
