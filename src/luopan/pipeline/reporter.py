"""What the person in front of a run sees: which stage is done, made or resumed, its figures before and after, the cost.

`QuietReporter` shows nothing (for Python use and tests), `ConsoleReporter` prints; live progress within a stage is
`luopan.train.progress`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from luopan.artifacts import Manifest
from luopan.train.progress import Progress, SilentProgress, duration_text, make_progress

if TYPE_CHECKING:
    from luopan.pipeline.run import RunResult

ROWS_SHOWN = 14


class Reporter(Protocol):
    """Told by the pipeline what happens to each stage."""

    def begin(self, name: str, path: Path, stages: Sequence[str]) -> None:
        """The run is locked and starts."""

    def skipped(self, stage: str, manifest: Manifest) -> None:
        """The stage is done already."""

    def started(self, stage: str, kind: str, *, resumed: bool, reason: str) -> None:
        """The stage begins, or goes on; `reason` says why it is made again, "" if it is made for the first time."""

    def progress(self, stage: str) -> Progress:
        """Where the stage says how far it is."""

    def finished(self, stage: str, manifest: Manifest) -> None:
        """The stage is whole."""

    def end(self, result: RunResult) -> None:
        """Every stage that was asked for is done."""


class QuietReporter:
    """Shows nothing; keeps what happened in `events`."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.reasons: dict[str, str] = {}

    def begin(self, name: str, path: Path, stages: Sequence[str]) -> None:
        self.events.append(("begin", name))

    def skipped(self, stage: str, manifest: Manifest) -> None:
        self.events.append(("skipped", stage))

    def started(self, stage: str, kind: str, *, resumed: bool, reason: str) -> None:
        self.events.append(("resumed" if resumed else "started", stage))
        self.reasons[stage] = reason

    def progress(self, stage: str) -> Progress:
        return SilentProgress()

    def finished(self, stage: str, manifest: Manifest) -> None:
        self.events.append(("finished", stage))

    def end(self, result: RunResult) -> None:
        self.events.append(("end", str(result.path)))


class ConsoleReporter:
    """Prints to the terminal or a pipe with `rich`; a pipe gets plain text without colour."""

    def __init__(self, console: Any = None) -> None:
        self.console = console or make_console()

    def begin(self, name: str, path: Path, stages: Sequence[str]) -> None:
        self._say(f"run {name} in {path}: {', '.join(stages)}", "bold")

    def skipped(self, stage: str, manifest: Manifest) -> None:
        self._say(f"{stage}: done already ({duration_text(manifest.seconds)}, {manifest.created})", "dim")

    def started(self, stage: str, kind: str, *, resumed: bool, reason: str) -> None:
        what = "going on where it stopped" if resumed else f"made again: {reason}" if reason else "started"
        self._say(f"{stage}: {what}" if kind == stage else f"{stage} ({kind}): {what}", "bold")

    def progress(self, stage: str) -> Progress:
        return make_progress()

    def finished(self, stage: str, manifest: Manifest) -> None:
        rows = figure_rows(manifest.metrics)
        if rows:
            self.console.print(self._table(rows[:ROWS_SHOWN]))
        if len(rows) > ROWS_SHOWN:
            self._say(f"  and {len(rows) - ROWS_SHOWN} more figures in {stage}/manifest.json", "dim")
        memory = manifest.metrics.get("peak_memory_bytes")
        size = f", {size_text(memory)} of memory" if isinstance(memory, int | float) else ""
        self._say(f"{stage}: done in {duration_text(manifest.seconds)}{size}", "green")

    def end(self, result: RunResult) -> None:
        worked = [name for name, outcome in result.outcomes.items() if outcome.state != "done"]
        if not worked:
            self._say(f"nothing to do: {_stages(len(result.outcomes))} done already", "bold")
        else:
            rest = len(result.outcomes) - len(worked)
            already = f", {rest} done already" if rest else ""
            cost = f"{duration_text(result.seconds)}, peak memory {size_text(result.peak_memory_bytes)}"
            self._say(f"{_stages(len(worked))} done{already}; {cost}", "bold")
        page = result.path / "report.html"
        if page.exists() and any(outcome.manifest.kind == "report" for outcome in result.outcomes.values()):
            self._say(f"report: {page}", "bold")
            for name, outcome in result.outcomes.items():
                closing = result.path / name / "closing.txt"
                if outcome.manifest.kind == "report" and closing.is_file():
                    self._say(closing.read_text(encoding="utf-8").rstrip(), "")

    def _table(self, rows: Sequence[tuple[str, str, str, str]]) -> Any:
        from rich.table import Table

        table = Table(box=None, padding=(0, 2), show_edge=False)
        table.add_column("", style="dim")
        for title in ("before", "after", "change"):
            table.add_column(title, justify="right")
        for row in rows:
            table.add_row(*row)
        return table

    def _say(self, text: str, style: str) -> None:
        self.console.print(text, style=style, markup=False)


def make_console(*, stderr: bool = False) -> Any:
    """A console that does not squeeze tables into 80 columns where there is no terminal to be as wide as."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True, stderr=stderr)
    return console if console.is_terminal else Console(highlight=False, soft_wrap=True, stderr=stderr, width=200)


def _stages(count: int) -> str:
    return f"{count} stage{'s' if count != 1 else ''}"


def figure_rows(metrics: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """(figure, before, after, change) as text, for every number in a stage's `before` and `after`."""
    before, after = (dict(_numbers(metrics.get(side) or {})) for side in ("before", "after"))
    rows = []
    for name in dict.fromkeys([*after, *before]):
        one, other = before.get(name), after.get(name)
        change = "" if one is None or other is None else number_text(other - one, sign="+")
        rows.append((name.replace("_", " "), number_text(one), number_text(other), change))
    return rows


def _numbers(figures: Any, path: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(figures, Mapping):
        for key, value in figures.items():
            yield from _numbers(value, f"{path} / {key}" if path else str(key))
    elif isinstance(figures, int | float) and not isinstance(figures, bool):
        yield path, figures


def number_text(value: float | None, sign: str = "") -> str:
    """A number for the eye: 12,345 or 0.01234; "" for none. `sign="+"` shows the plus of a difference."""
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:{sign},}"
    return f"{value:{sign},.4g}" if abs(value) < 1e4 else f"{value:{sign},.0f}"


def size_text(size: float) -> str:
    """Bytes as 812 MB or 1.24 GB (decimal units)."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
