"""How far a stage is, for the person in front of it: a live bar on a terminal, a plain line now and then elsewhere.

Rooms get a `Progress` and never print themselves. Nothing here imports torch.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, TextIO

SHOWN = ("loss", "learning_rate", "reward", "accuracy", "tokens_per_second", "megabytes_per_second")
LABELS = {"learning_rate": "lr", "tokens_per_second": "tok/s", "megabytes_per_second": "MB/s"}


class Progress(Protocol):
    """Told by the loop (and by any stage with a long count) how far it is."""

    def start(self, stage: str, total: int | None) -> None:
        """A new count begins; `total` None where the end is not known."""

    def update(self, step: int, **figures: float) -> None:
        """`step` of the total are done; figures (loss, learning_rate, …) stay on show until given anew."""

    def note(self, text: str) -> None:
        """Something the user must see, kept on the screen."""

    def finish(self) -> None:
        """The count is over."""


class SilentProgress:
    """Shows nothing; keeps the notes (for tests and for library use)."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def start(self, stage: str, total: int | None) -> None:
        pass

    def update(self, step: int, **figures: float) -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)

    def finish(self) -> None:
        pass


class Pace:
    """Where a count stands, how fast it goes and when it will end."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.start("", None)

    def start(self, stage: str, total: int | None) -> None:
        self.stage, self.total = stage, total
        self.step = 0
        self.figures: dict[str, float] = {}
        self.began: tuple[int, float] | None = None

    def update(self, step: int, figures: dict[str, float]) -> None:
        if self.began is None:  # the first report after a resume is not at 0: the pace counts from there
            self.began = (step, self.clock())
        self.step = step
        self.figures.update(figures)

    def seconds_left(self) -> float | None:
        """Seconds until the end at the pace so far; None while that is not known."""
        if self.began is None or self.total is None or self.step <= self.began[0]:
            return None
        return (self.clock() - self.began[1]) / (self.step - self.began[0]) * (self.total - self.step)

    def figures_text(self) -> str:
        """The figures worth a look, such as "loss 2.314  lr 3.0e-04  21,034 tok/s"."""
        return "  ".join(figure_text(name, self.figures[name]) for name in SHOWN if name in self.figures)


class PlainProgress:
    """One line about every `seconds` to a file or pipe."""

    def __init__(self, stream: TextIO | None = None, seconds: float = 10.0, clock=time.monotonic) -> None:
        self.stream = stream or sys.stderr
        self.seconds = seconds
        self.clock = clock
        self.pace = Pace(clock)
        self.last_line = clock()

    def start(self, stage: str, total: int | None) -> None:
        self.pace.start(stage, total)
        self.last_line = self.clock()

    def update(self, step: int, **figures: float) -> None:
        self.pace.update(step, figures)
        if self.clock() - self.last_line >= self.seconds:
            self.line()

    def note(self, text: str) -> None:
        self.say(text)

    def finish(self) -> None:
        if self.pace.began is not None:
            self.line()
        self.pace.start("", None)

    def line(self) -> None:
        """Print where the count stands."""
        self.last_line = self.clock()
        pace = self.pace
        of = f"/{pace.total}" if pace.total is not None else ""
        left = pace.seconds_left()
        ending = f"  {duration_text(left)} left" if left is not None and pace.step != pace.total else ""
        self.say(f"{pace.stage}: {pace.step}{of}  {pace.figures_text()}{ending}".rstrip())

    def say(self, text: str) -> None:
        """Print a line; a closed pipe at the other end is no reason to stop training."""
        with suppress(BrokenPipeError, ValueError):
            print(text, file=self.stream, flush=True)


class RichProgress:
    """A live bar with loss, learning rate, tokens/s and the time left."""

    def __init__(self, console: Any = None, clock=time.monotonic) -> None:
        from rich.console import Console

        self.console = console or Console(stderr=True)
        self.clock = clock
        self.pace = Pace(clock)
        self.bar: Any = None
        self.task: Any = None
        self.drawn = 0.0

    def start(self, stage: str, total: int | None) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self.finish()
        self.pace.start(stage, total)
        self.bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TextColumn("[dim]{task.fields[left]}"),
            console=self.console,
            refresh_per_second=4,
        )
        self.task = self.bar.add_task(stage, total=total, figures="", left="")
        self.bar.start()

    def update(self, step: int, **figures: float) -> None:
        self.pace.update(step, figures)
        # Drawing is throttled: a step of a tiny model takes milliseconds and a redraw would cost as much.
        if self.bar is not None and (self.clock() - self.drawn > 0.2 or step == self.pace.total):
            self.draw()

    def draw(self) -> None:
        """Put the pace on the bar."""
        self.drawn = self.clock()
        left = self.pace.seconds_left()
        text = f"{duration_text(left)} left" if left is not None and self.pace.step != self.pace.total else ""
        self.bar.update(self.task, completed=self.pace.step, figures=self.pace.figures_text(), left=text)

    def note(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False)

    def finish(self) -> None:
        if self.bar is not None:
            self.draw()
            self.bar.stop()
            self.bar = None


def make_progress(stream: TextIO | None = None) -> Progress:
    """The live bar where `stream` (standard error if not given) is a terminal, plain lines where it is not."""
    stream = stream or sys.stderr
    if stream.isatty():
        from rich.console import Console

        return RichProgress(Console(file=stream))
    return PlainProgress(stream)


def figure_text(name: str, value: float) -> str:
    """One figure for the eye."""
    label = LABELS.get(name, name)
    if name == "tokens_per_second":
        return f"{value:,.0f} {label}"
    if name == "megabytes_per_second":
        return f"{value:.1f} {label}"
    if name == "learning_rate":
        return f"{label} {value:.1e}"
    return f"{label} {value:.3f}"


def duration_text(seconds: float) -> str:
    """Seconds as 45s, 3m20s or 2h05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
