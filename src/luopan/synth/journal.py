"""Every reply is kept as soon as it is there, under a hash of its request: what is asked once is never asked again.

A pipeline is a function of its settings, its seed and the replies, so a run that was killed simply goes through its
pipeline again, hears what it heard before from the journal, and asks for the rest. The journal is `replies.jsonl`; a
line that a crash has cut is passed over, and that request is made once more.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from luopan.artifacts import mend_os_errors, stable_hash
from luopan.synth.speaker import Ask, Reply, Request, Speaker
from luopan.train.tracking import append_whole

NAME = "replies.jsonl"
COUNTS = ("prompt_tokens", "completion_tokens")


@dataclass(frozen=True)
class Heard:
    """A reply with the name it is kept under, who said it and when."""

    reply: Reply
    key: str
    speaker: str
    date: str

    @property
    def text(self) -> str:
        return self.reply.text


@dataclass
class Journal:
    """The replies of a folder. One process writes."""

    folder: Path
    known: dict[str, dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        self.known = {record["key"]: record for record in read_journal(self.folder)}
        self._begun = False

    def heard(self, key: str) -> Heard | None:
        """What is kept of a request."""
        record = self.known.get(key)
        if record is None:
            return None
        reply = Reply(**{name: record[name] for name in asdict(Reply()) if name in record})
        return Heard(reply, key, record["speaker"], record["date"])

    def keep(self, key: str, ask: Ask, speaker: str, reply: Reply) -> Heard:
        """Write a reply down; a fault that may pass is not, so that it is asked again by the next run."""
        date = datetime.now(UTC).isoformat(timespec="seconds")
        if reply.fault and not reply.lasting:
            return Heard(reply, key, speaker, date)
        record = {"key": key, "purpose": ask.purpose, "speaker": speaker, "date": date, **asdict(reply)}
        path = self.folder / NAME
        with mend_os_errors(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            # A line of its own, whatever a crash has left behind.
            cut = not self._begun and _is_cut(path)
            append_whole(path, ("\n" * cut + json.dumps(record, ensure_ascii=False) + "\n").encode())
        self._begun = True
        self.known[key] = record
        return Heard(reply, key, speaker, date)

    def bill(self) -> list[list[Any]]:
        """[speaker, purpose, calls, refused, tokens read, tokens written] over all sittings."""
        found: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
        for record in self.known.values():
            line = found[record["speaker"], record["purpose"]]
            for place, value in enumerate((1, bool(record["fault"]), *(record[name] for name in COUNTS))):
                line[place] += value
        return [[*names, *counts] for names, counts in sorted(found.items())]


def _is_cut(path: Path) -> bool:
    """Whether the last line of a file has no end."""
    if not path.is_file() or not path.stat().st_size:
        return False
    with open(path, "rb") as file:
        file.seek(-1, 2)
        return file.read() != b"\n"


def read_journal(folder: Path) -> list[dict[str, Any]]:
    """What is kept, without lines that a crash has cut."""
    path, found = folder / NAME, []
    if not path.is_file():
        return []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and {"key", "speaker", "purpose", "date", "fault", *COUNTS} <= record.keys():
            found.append(record)
    return found


@dataclass
class Asker:
    """Asks a speaker what the journal does not know. `pause` is called between batches: it may raise, and the run
    ends with all replies kept. `asked`: requests of this sitting, `remembered`: those that were not made again."""

    speaker: Speaker
    journal: Journal
    pause: Callable[[int], None] = lambda asked: None
    asked: int = 0
    remembered: int = 0

    def ask(self, asks: Sequence[Ask]) -> list[Heard]:
        """The replies, in order. The same request twice is one. FeedUnavailable."""
        requests = [self.speaker.request(ask) for ask in asks]
        keys = [key_of(request) for request in requests]
        new = {key: place for place, key in enumerate(keys) if self.journal.heard(key) is None}
        self.remembered += len(set(keys)) - len(new)
        passing: dict[str, Heard] = {}
        order = list(new.items())
        for start in range(0, len(order), self.speaker.together):
            self.pause(self.asked)
            batch = order[start : start + self.speaker.together]

            def heard(number: int, reply: Reply, batch: list[tuple[str, int]] = batch) -> None:
                key, place = batch[number]
                passing[key] = self.journal.keep(key, asks[place], self.speaker.name, reply)
                self.asked += 1

            self.speaker.answer([requests[place] for _, place in batch], heard)
        return [passing.get(key) or self._known(key) for key in keys]

    def _known(self, key: str) -> Heard:
        found = self.journal.heard(key)
        assert found is not None
        return found


def key_of(request: Request) -> str:
    """What a request is remembered by."""
    return stable_hash(request)[:32]


def seed_of(*parts: Any) -> int:
    """A seed for one request, below 2**31: some servers take no more."""
    return int(stable_hash(list(parts))[:8], 16) & 0x7FFFFFFF
