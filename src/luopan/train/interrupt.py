"""Ctrl-C, SIGTERM and a deadline as a wish to stop after this step, rather than in the middle of one.

`stop_on_signal` surrounds a training: the first signal sets the wish, which the loop reads between steps (`wished`,
`name`), saves, and raises `wish.interrupted(…)`. Where nothing is lost by stopping at once (hooks, evaluation) the loop
opens `with wish.prompt():`, inside which a signal, or the deadline, raises `StopNow` from wherever Python is.
A second Ctrl-C stops without saving. `orderly_sigterm` is for the command line: outside a training a SIGTERM then ends
the program the way Ctrl-C does, through every `finally`.

Exit codes: 130 for signals; 75 for the deadline (EX_TEMPFAIL of sysexits.h: run it again), so that a scheduler can tell
a run that wants another turn from one that was cancelled.

Limits: signals reach the main thread only, between two steps of the interpreter: a long call into C ends first. In
another thread only the deadline works. With several processes, use `prompt` only where no other rank waits for this one
in a collective operation, or exchange what happened afterwards.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType

from luopan.errors import Interrupted, RecipeError

DEADLINE = "the deadline"
SIGNAL_CODE, DEADLINE_CODE = 130, 75
STOPPING = (signal.SIGINT, signal.SIGTERM)


_wish: ContextVar[StopWish | None] = ContextVar("luopan_stop_wish", default=None)


def current_wish() -> StopWish | None:
    """The wish of the training that this code runs in, for what has to wait deep inside of it; None outside of one."""
    return _wish.get()


class StopNow(KeyboardInterrupt):
    """Raised inside `StopWish.prompt`. Nothing that catches `Exception` swallows it."""


class StopWish:
    """Set once the user, or the system's scheduler, has asked the run to stop, or its time is over."""

    def __init__(self, stop_at: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """`stop_at`: seconds of `clock` from which the run should stop; None: no deadline."""
        self.stop_at, self.clock = stop_at, clock
        self.signal_name: str | None = None
        self.at_once = 0  # how many `prompt` are open

    @property
    def late(self) -> bool:
        """Whether the deadline has passed."""
        return self.stop_at is not None and self.clock() >= self.stop_at

    @property
    def wished(self) -> bool:
        return self.name is not None

    @property
    def name(self) -> str | None:
        """What asks to stop: "SIGINT", "SIGTERM", "the deadline"; None if nothing does."""
        return self.signal_name or (DEADLINE if self.late else None)

    def interrupted(self, step: int, max_steps: int, name: str | None = None) -> Interrupted:
        """The error to raise when everything up to `step` is saved. `name`: what another rank was asked by."""
        name = name or self.name or "a request"
        error = Interrupted(
            f"stopped by {name} after step {step} of {max_steps}; everything up to there is saved",
            hint="Run the same command again to go on.",
        )
        error.exit_code = exit_code(name)
        return error

    @contextmanager
    def prompt(self) -> Iterator[None]:
        """Inside, a signal or the deadline raises `StopNow` at once; also on entering, if it came before."""
        self.at_once += 1
        try:
            if self.wished:
                raise StopNow(self.name)
            yield
        finally:
            self.at_once -= 1


def exit_code(name: str) -> int:
    """The exit code of a run that was stopped by `name`."""
    return DEADLINE_CODE if name == DEADLINE else SIGNAL_CODE


@contextmanager
def stop_on_signal(
    note: Callable[[str], None], stop_at: float | None = None, clock: Callable[[], float] = time.monotonic
) -> Iterator[StopWish]:
    """While inside, the first SIGINT or SIGTERM only sets the wish; a second Ctrl-C stops at once.

    `stop_at` (seconds of `time.monotonic`) is a wish to stop from then on. Outside the main thread signals cannot be
    caught. An ignored SIGINT stays ignored (a shell does that to what it starts in the background).
    """
    wish = StopWish(stop_at, clock)
    outer = _wish.set(wish)
    try:
        with _handlers(wish, note):
            yield wish
    finally:
        _wish.reset(outer)


@contextmanager
def _handlers(wish: StopWish, note: Callable[[str], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        asked_before = wish.signal_name is not None
        if asked_before and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not asked_before:
            # At the deadline the alarm below, or the command line's, sends a SIGTERM: the reason is the deadline.
            wish.signal_name = DEADLINE if wish.late and number == signal.SIGTERM else signal.Signals(number).name
            note(stopping_text(wish))
        if wish.at_once:
            raise StopNow(wish.signal_name)

    previous = {number: signal.getsignal(number) for number in STOPPING}
    for number, old in previous.items():
        if old is not signal.SIG_IGN:
            signal.signal(number, handle)
    alarm = deadline_alarm(wish.stop_at, wish.clock)
    try:
        yield
    finally:
        if alarm is not None:
            alarm.cancel()
            alarm.join()  # it must not fire when the handlers are gone
        for number, old in previous.items():
            signal.signal(number, old if old is not None else signal.SIG_DFL)


def stopping_text(wish: StopWish) -> str:
    """What the user is told when the wish arrives."""
    if wish.signal_name == DEADLINE:
        return "Stopping: the time is over; this step is finished and saved first."
    return "Stopping: this step is finished and saved first (Ctrl-C again stops at once, without saving)."


def deadline_alarm(stop_at: float | None, clock: Callable[[], float]) -> threading.Timer | None:
    """A thread that sends this process a SIGTERM at the deadline; None without one.

    Not `setitimer`: its SIGALRM belongs to whoever embeds us (pytest-timeout, for one).
    """
    if stop_at is None:
        return None
    alarm = threading.Timer(max(0.0, stop_at - clock()), os.kill, (os.getpid(), signal.SIGTERM))
    alarm.daemon = True
    alarm.start()
    return alarm


@contextmanager
def orderly_sigterm() -> Iterator[None]:
    """While inside, SIGTERM raises KeyboardInterrupt (once; a second one is ignored while the first unwinds)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous if previous is not None else signal.SIG_DFL)


@contextmanager
def deadline(stop_at: float | None) -> Iterator[None]:
    """For the command line: at `stop_at` the process gets a SIGTERM, and the `Interrupted` that follows code 75."""
    late, alarm = StopWish(stop_at), None
    try:
        alarm = deadline_alarm(stop_at, time.monotonic)
        yield
    except (Interrupted, KeyboardInterrupt) as error:
        if not late.late:
            raise
        if isinstance(error, Interrupted):
            error.exit_code = DEADLINE_CODE
            raise
        stopped = Interrupted("stopped by the deadline; what was done is kept", hint="Run the same command again.")
        stopped.exit_code = DEADLINE_CODE
        raise stopped from error
    finally:
        if alarm is not None:
            alarm.cancel()


def parse_duration(text: str) -> float:
    """Seconds of "3h", "90m", "45s", "1h30m" or "2d"; RecipeError for anything else."""
    units = {"d": 86400, "h": 3600, "m": 60, "s": 1}
    parts = re.findall(r"(\d+(?:\.\d+)?)([dhms])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise RecipeError(f"{text!r} is no length of time", hint="Say it like 3h, 90m, 45s or 1h30m.")
    return sum(float(number) * units[unit] for number, unit in parts)
