"""Votes of blind comparisons: one JSON object per line in a file, and what they add up to.

A vote names the models in the order in which they were shown, what each answered (with the SHA-256 of the text), the
parameters, and the choice. A line is written by one `write` to a file opened for appending, under a lock, and flushed
to the disk: two servers may share the file, and a crash leaves whole lines, or one half line that is passed over.

A model's score is the mean of its votes: 1 for a win, 1/2 for a tie, 0 for a loss; "both bad" is counted, and is no
comparison. The interval is Wilson's at 95% (Wilson 1927) over the votes; with ties it is a little too wide, which is
the cautious side. With three models or more a vote says that one beats each of the others, and nothing of the others.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import ConfigDict, Field, ValidationError, model_validator

from luopan.artifacts import mend_os_errors
from luopan.errors import ArtifactError
from luopan.serve.bounded import Bounded
from luopan.serve.plain_http import Refusal, json_body, plain_router

VOTE_BYTES = 1 << 20
FILE_BYTES = 256 << 20  # a file larger than this is not read; half a million votes
Z = 1.959964  # of a normal distribution: 95% within ±Z

_TEXTS = ("id", "time", "suite", "session")
Name = Annotated[str, Field(min_length=1, max_length=300)]
Json = dict[str, Any]


class Said(Bounded):
    """What one model answered: one text per turn of the prompt."""

    model_config = ConfigDict(extra="forbid")
    model: Name
    texts: list[str] = Field(fail_fast=True, min_length=1, max_length=100)


class Vote(Bounded):
    """A vote as the page sends it. `winner` is a model's name where `vote` is "win"."""

    model_config = ConfigDict(extra="forbid")
    suite: Name
    session: Name
    prompt: Json
    answers: list[Said] = Field(fail_fast=True, min_length=2, max_length=8)
    parameters: Json = Field(default={})
    vote: Literal["win", "tie", "bad"]
    winner: str | None = None
    blind: bool = True

    @model_validator(mode="after")
    def _winner_is_one_of_them(self) -> Vote:
        models = [said.model for said in self.answers]
        if len(set(models)) != len(models):
            raise ValueError("a model cannot be compared with itself")
        if self.winner not in (models if self.vote == "win" else (None,)):
            raise ValueError("winner must be one of the models where the vote is a win, and nothing otherwise")
        return self

    def record(self) -> Json:
        """The line of the file."""
        answers = [
            {"model": said.model, "sha256": hashlib.sha256("\0".join(said.texts).encode()).hexdigest(),
             "texts": said.texts}
            for said in self.answers
        ]  # fmt: skip
        return {
            "id": uuid.uuid4().hex,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            **self.model_dump(include={"suite", "session", "prompt"}),
            "models": [said.model for said in self.answers],
            "answers": answers,
            **self.model_dump(include={"parameters", "vote", "winner", "blind"}),
        }


class VotesFile:
    """The file of votes; `read` goes on where it stopped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = Lock()
        self._offset = 0
        self._votes: list[Json] = []

    def append(self, record: Json) -> None:
        """Write one vote. Raises ArtifactError where the file cannot be written."""
        line = json.dumps(record, ensure_ascii=False).encode("utf-8") + b"\n"
        with self._lock, mend_os_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                _lock_file(descriptor)
                size = os.fstat(descriptor).st_size
                if size and os.pread(descriptor, 1, size - 1) != b"\n":
                    line = b"\n" + line  # a crash left half a line: it stays alone
                if os.write(descriptor, line) != len(line):
                    os.ftruncate(descriptor, size)
                    raise OSError(28, "No space left on device")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def read(self) -> list[Json]:
        """Every vote of the file that is whole; without the answers' texts, which may be long."""
        with self._lock:
            try:
                size = self.path.stat().st_size
            except OSError:
                size = 0
            if size < self._offset:
                self._offset, self._votes = 0, []
            if self._offset < size <= FILE_BYTES:
                with open(self.path, "rb") as file:
                    file.seek(self._offset)
                    for line in file:
                        if not line.endswith(b"\n"):
                            break
                        self._offset += len(line)
                        if (vote := _vote(line)) is not None:
                            self._votes.append(vote)
            return list(self._votes)


def tally_router(path: Path) -> APIRouter:
    """GET and POST `/api/compare/votes`; votes go to the file `path`, which is made with the first."""
    router = plain_router()
    file = VotesFile(path)

    @router.post("/api/compare/votes", status_code=201)
    async def vote(request: Request) -> Json:
        body = await json_body(request, VOTE_BYTES)
        try:
            record = Vote.model_validate(body).record()
            json.dumps(record, ensure_ascii=False).encode("utf-8")
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise Refusal(400, f"{place}: {first['msg']}" if place else first["msg"], param=place or None) from error
        except UnicodeEncodeError as error:
            raise Refusal(400, "a text is not valid Unicode", code="invalid_value") from error
        try:
            await run_in_threadpool(file.append, record)
        except (ArtifactError, OSError) as error:
            raise Refusal(500, f"the vote could not be written: {error}", code="not_written") from error
        return {"id": record["id"], "time": record["time"]}

    @router.get("/api/compare/votes")
    def votes(
        suite: Annotated[str, Query(max_length=300)] = "", session: Annotated[str, Query(max_length=300)] = ""
    ) -> Json:
        known = file.read()
        chosen = [v for v in known if suite in ("", v["suite"]) and session in ("", v["session"])]
        suites = sorted({v["suite"] for v in known})
        return {"file": str(path), "suites": suites, "count": len(chosen), **tally(chosen), "votes": chosen[-200:]}

    return router


def tally(votes: Iterable[Json]) -> Json:
    """`models`: each with its score and interval, best first; `pairs`: wins of one over the other, and ties."""
    scores: dict[str, Json] = {}
    pairs: dict[tuple[str, str], list[float]] = {}
    for vote in votes:
        for model in vote["models"]:
            one = scores.setdefault(model, {"model": model, "wins": 0, "losses": 0, "ties": 0, "bad": 0})
            won = vote["winner"] == model
            what = "wins" if won else {"win": "losses", "tie": "ties", "bad": "bad"}[vote["vote"]]
            one[what] += 1
        if vote["vote"] == "bad":
            continue
        for a in vote["models"]:
            for b in vote["models"]:
                if a != b and (vote["vote"] == "tie" or vote["winner"] in (a, b)):
                    cell = pairs.setdefault((a, b), [0, 0, 0])
                    cell[1 if vote["vote"] == "tie" else 0 if vote["winner"] == a else 2] += 1
    for one in scores.values():
        n = one["wins"] + one["losses"] + one["ties"]
        share = (one["wins"] + one["ties"] / 2) / n if n else None
        low, high = wilson(share, n) if share is not None else (None, None)
        one.update(votes=n, score=share, low=low, high=high)
    models = sorted(scores.values(), key=lambda one: (-(one["score"] or 0), one["model"]))
    rows = [{"a": a, "b": b, "wins": w, "ties": t, "losses": x} for (a, b), (w, t, x) in sorted(pairs.items())]
    return {"models": models, "pairs": rows}


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share seen in n trials."""
    if not 0 <= share <= 1 or n <= 0:
        raise ValueError("a share of at least one trial")
    middle = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def _vote(line: bytes) -> Json | None:
    """The line without its texts; None for one that is no vote."""
    try:
        row = json.loads(line)
        answers = [{"model": str(a["model"]), "sha256": str(a["sha256"])} for a in row["answers"]]
        models = [str(model) for model in row["models"]]
        sound = row["vote"] in ("win", "tie", "bad") and len(models) > 1 and isinstance(row["prompt"], dict)
        vote = {name: row[name] for name in (*_TEXTS, "prompt", "vote", "winner")}
        sound = sound and all(isinstance(row[name], str) for name in _TEXTS)  # people edit the file
        sound = sound and row["winner"] in (models if row["vote"] == "win" else (None,))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return {**vote, "models": models, "answers": answers} if sound else None


def _lock_file(descriptor: int) -> None:
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except (ImportError, OSError):
        return  # no such locks here: one `write` in append mode is what there is
