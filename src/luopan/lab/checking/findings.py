"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "note", "bad", "skipped"]
MARKS = {"ok": "✓", "note": "!", "bad": "✗", "skipped": "–"}


@dataclass(frozen=True)
class Finding:
    """`bad` would ruin or end the run, `note` is worth a thought; `advice` says what to do."""

    check: str
    status: Status
    detail: str = ""
    advice: str = ""
    stage: str = ""

    @property
    def text(self) -> str:
        where = f"{self.stage}: " if self.stage else ""
        advice = f" → {self.advice}" if self.advice else ""
        return f"{MARKS[self.status]} {self.check:<22} {where}{self.detail}{advice}"
