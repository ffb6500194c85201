"""Errors that a user can mend.

Every error says what was wrong, where (file and line, or row) and what to do about it. The command line prints them
without a traceback and exits with `exit_code`; everything else that escapes is a fault of ours (exit code 3).
"""

from __future__ import annotations


class LuopanError(Exception):
    """A mistake that the user can mend: `where` is "file:line" or a row, `hint` is what to do."""

    exit_code = 2

    def __init__(self, message: str, *, where: object | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = None if where is None else str(where)
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}\n  {self.hint}" if self.hint else text


class RecipeError(LuopanError):
    """The recipe or an override is wrong."""


class DataError(LuopanError):
    """A document, row or conversation cannot be used."""


class ModelError(LuopanError):
    """A model folder or configuration cannot be used, or a target format cannot express it."""


class ArtifactError(LuopanError):
    """A folder that should be whole is missing, damaged or cannot be written."""


class DiskFullError(ArtifactError):
    """There is not enough room to write; nothing half written is left behind."""


class LockedError(LuopanError):
    """Another process is working on this run."""


class TrainingError(LuopanError):
    """Training cannot go on (a loss that is not a number, nothing to learn in a batch)."""


class Interrupted(LuopanError):
    """The user stopped the run; what was done is saved."""

    exit_code = 130


class FeedUnavailable(LuopanError):
    """What a training learns from cannot be had at present (an endpoint is away). The loop saves before it passes it
    on, so the run can go on later; 75 is EX_TEMPFAIL of sysexits.h: run it again."""

    exit_code = 75
