"""Who is told how far a corpus is."""

from __future__ import annotations

from typing import Protocol


class Watcher(Protocol):
    """Is told how far the work is (`luopan.train.progress.Progress` is one)."""

    def start(self, stage: str, total: int | None) -> None: ...

    def update(self, step: int, **figures: float) -> None: ...

    def note(self, text: str) -> None: ...


class Unwatched:
    """Nobody looks."""

    def start(self, stage: str, total: int | None) -> None:
        pass

    def update(self, step: int, **figures: float) -> None:
        pass

    def note(self, text: str) -> None:
        pass
