"""`luopan run --supervise`: runs the run as a child process and starts it again when it crashes.

| child ends with | then |
|---|---|
| 0, 1, 2, 75, 130 | the same code: done, findings, a mistake of the user's, the deadline, interrupted |
| 3, 74, a signal (out of memory: SIGKILL), anything else | started again after 1, 2, 4, … up to 300 seconds |
| the third time at the same stage and step | given up, code 3, with where and why |

Steps are read from the stage's `metrics.jsonl` and checkpoints, so the supervisor knows only files and needs neither
torch nor the child's help. Every restart is a line in `runs/NAME/restarts.jsonl`. SIGTERM and SIGINT are passed on, and
what the child makes of them is the answer. `--fresh STAGE` is left out of a restart once that stage was begun anew.

Limits: a step is known to `logging_steps` only, so "the same step" means the same line. Killed with SIGKILL, the
supervisor leaves its child running; the lock of the run keeps a second one away.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from luopan.artifacts import mend_os_errors
from luopan.errors import RecipeError
from luopan.pipeline.folders import read_note

RESTARTS_NAME = "restarts.jsonl"
FINAL_CODES = (0, 1, 2, 75, 130)
LONGEST_WAIT = 300.0
SAME_PLACE_LIMIT = 3
GAVE_UP, TIME_IS_UP, STOPPED = 3, 75, 130


@dataclass(frozen=True)
class Place:
    """How far a run is: the stage that is being made ("" if none) and its last known step."""

    stage: str
    step: int

    def __str__(self) -> str:
        return f"stage {self.stage}, step {self.step}" if self.stage else "before the first stage"


@dataclass(frozen=True)
class Restart:
    """A line of restarts.jsonl: how the child ended, where, and after how many seconds it is started again."""

    time: str
    exit_code: int
    reason: str
    stage: str
    step: int
    restart: int
    wait_seconds: float


@dataclass
class Supervisor:
    """Starts `command(seconds left)` until it ends for good. `clock` and `sleep` are for tests.

    `command` gives the words to run; it is asked anew for each start, with the seconds left until `stop_after` is over
    (None without one), and with whether this is a restart.
    """

    command: Callable[[float | None, bool], Sequence[str]]
    folder: Path
    note: Callable[[str], None]
    max_restarts: int = 100
    stop_after: float | None = None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    child: subprocess.Popen[bytes] | None = None
    asked: int | None = None  # the signal that we were sent
    failures: dict[Place, int] = field(default_factory=dict)

    def run(self) -> int:
        """Returns the exit code."""
        began, restarts, in_a_row = self.clock(), 0, 0
        last: Place | None = None
        with self.passing_on_signals():
            while True:
                left = None if self.stop_after is None else self.stop_after - (self.clock() - began)
                if left is not None and left <= 0:
                    self.note("The time given with --stop-after is up. Run the same command again to go on.")
                    return TIME_IS_UP
                code = self.start(self.command(left, restarts > 0))
                if code in FINAL_CODES or self.asked is not None:
                    return code if code in FINAL_CODES else STOPPED
                place = where(self.folder)
                in_a_row = 1 if place != last else in_a_row + 1
                last = place
                if self.hopeless(place, code, restarts):
                    return GAVE_UP
                restarts += 1
                wait = min(2.0 ** (in_a_row - 1), LONGEST_WAIT)
                self.record(Restart(now(), code, reason(code), place.stage, place.step, restarts, wait))
                self.note(f"The run ended with {reason(code)} ({place}). Restart {restarts} in {wait:.0f} s.")
                self.rest(wait)
                if self.asked is not None:
                    return STOPPED

    def start(self, command: Sequence[str]) -> int:
        """Run the child to its end; its exit code, negative for a signal."""
        if self.asked is not None:
            return STOPPED
        # A session of its own: Ctrl-C on the terminal reaches the child once, through us. Twice would mean "at once".
        self.child = subprocess.Popen(list(command), start_new_session=True)
        if self.asked is not None:  # the signal came between the two lines above
            self.child.send_signal(self.asked)
        return self.child.wait()

    def hopeless(self, place: Place, code: int, restarts: int) -> bool:
        """Whether another start would help nobody; says why."""
        self.failures[place] = self.failures.get(place, 0) + 1
        if self.failures[place] >= SAME_PLACE_LIMIT:
            self.note(
                f"error: given up: the run failed {SAME_PLACE_LIMIT} times at the same place ({place}), the last time "
                f"with {reason(code)}.\n  Look at the messages above and at {self.folder / RESTARTS_NAME}; what was "
                "saved is kept, and the same command goes on from there once the cause is gone."
            )
            return True
        if restarts >= self.max_restarts:
            self.note(
                f"error: given up after {restarts} restarts (--max-restarts); the last end: {reason(code)}, {place}."
            )
            return True
        return False

    def rest(self, seconds: float) -> None:
        """Wait, in short pieces: a signal ends it."""
        until = self.clock() + seconds
        while self.asked is None and (left := until - self.clock()) > 0:
            self.sleep(min(left, 0.5))

    def record(self, restart: Restart) -> None:
        """A line in restarts.jsonl; a full disk must not end the supervision."""
        try:
            with mend_os_errors(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                with open(self.folder / RESTARTS_NAME, "a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(restart), ensure_ascii=False) + "\n")
                    file.flush()
                    os.fsync(file.fileno())
        except Exception as error:
            self.note(f"WARNING: the restart could not be noted: {error}")

    @contextmanager
    def passing_on_signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM go to the child; after it no other is started."""

        def handle(number: int, frame: FrameType | None) -> None:
            self.asked = number
            if self.child is not None and self.child.poll() is None:
                self.child.send_signal(number)

        previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, old in previous.items():
                signal.signal(number, old if old is not None else signal.SIG_DFL)


def where(folder: Path) -> Place:
    """The stage that was worked on last, and the last step its files know of."""
    partials = [path for path in Path(folder).glob("*.partial") if path.is_dir()]
    if not partials:
        return Place("", 0)
    latest = max(partials, key=lambda path: (float(read_note(path).get("since", 0.0)), path.name))
    steps = [last_step(path) for path in latest.rglob("metrics.jsonl")]
    names = (re.fullmatch(r"step-(\d{6,})", path.name) for path in latest.rglob("step-*"))
    steps += [int(match[1]) for match in names if match]
    return Place(latest.name.removesuffix(".partial"), max(steps, default=0))


def last_step(path: Path) -> int:
    """The step of the last whole line of a metrics file; 0 if there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - 2**16))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            continue
    return 0


def reason(code: int) -> str:
    """How a child ended, in words."""
    if code >= 0:
        return f"exit code {code}" + (" (no step ended: the watchdog)" if code == 74 else "")
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return name + (" (often: out of memory)" if name == "SIGKILL" else "")


def begun_since(folder: Path, stage: str, moment: float) -> bool:
    """Whether a stage was begun, or finished, after `moment` (seconds since 1970): its earlier work is then gone."""
    files = (folder / f"{stage}.partial" / ".stage.json", folder / stage / "manifest.json")
    return any(file.exists() and file.stat().st_mtime >= moment for file in files)


def run_command(
    arguments: Sequence[str], fresh: Sequence[str], folder: Path, began: float
) -> Callable[[float | None, bool], list[str]]:
    """The child's command line: `luopan run` with `arguments`, the time left, and what is still to be made `fresh`."""

    def words(left: float | None, again: bool) -> list[str]:
        todo = [stage for stage in fresh if not (again and begun_since(folder, stage, began))]
        asked = [word for stage in todo for word in ("--fresh", stage)]
        deadline = [] if left is None else ["--stop-after", f"{left:.0f}s"]
        return [sys.executable, "-m", "luopan", "run", *arguments, *asked, *deadline]

    return words


def refuse_under_torchrun() -> None:
    """RecipeError in a process that a launcher started: it starts the ranks again itself, all of them together."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RecipeError(
            "--supervise has no place under torchrun, which starts its processes again by itself",
            hint="Leave it out and give torchrun --max-restarts N.",
        )


def now() -> str:
    """UTC in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
