"""What came of a pipeline: rows that passed all checks, those that did not with the reason, and how many by check.

Two checks are common to all pipelines: a question that is too like an earlier one (`overlap`), and a row that holds
items of evaluation sets (`luopan.corpus`' decontamination, the same n-grams).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from luopan.artifacts import stable_hash
from luopan.corpus.dedup.hashed import hashed_words
from luopan.corpus.dedup.ngram_index import NgramIndex, index_for
from luopan.corpus.dedup_config import DecontaminateConfig
from luopan.synth.config import Dedup
from luopan.synth.journal import Heard
from luopan.synth.overlap import Overlap

SHOWN = 160  # characters of what was found in a reason


@dataclass(frozen=True)
class Check:
    """Whether a row passes, and why it does not."""

    name: str
    passed: bool
    reason: str = ""


@dataclass
class Tally:
    """Of a check: how many rows came to it, how many passed."""

    seen: int = 0
    passed: int = 0


@dataclass(frozen=True)
class Origin:
    """What all rows of a run have in common."""

    pipeline: str
    version: int
    seed: int
    software: str


@dataclass
class Harvest:
    """Rows are kept, or rejected with a reason, in the order of the pipeline."""

    origin: Origin
    dedup: Dedup | None = None
    evaluations: DecontaminateConfig | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    tallies: dict[str, Tally] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._overlap = Overlap(self.dedup.ngram, self.dedup.max_overlap) if self.dedup else None
        self._index: NgramIndex | None = index_for(self.evaluations) if self.evaluations else None

    def passes(self, row: Mapping[str, Any], checks: Iterable[Check], heard: Iterable[Heard] = ()) -> bool:
        """Whether a row passes its checks, looked at one by one up to the first that fails; then it is set aside."""
        for check in checks:
            tally = self.tallies.setdefault(check.name, Tally())
            tally.seen += 1
            if not check.passed:
                where = self.provenance(heard)
                self.rejected.append({"check": check.name, "reason": check.reason, **row, "provenance": where})
                return False
            tally.passed += 1
        return True

    def keep(self, row: Mapping[str, Any], heard: Iterable[Heard]) -> None:
        """A row for the data set, with where it comes from."""
        self.rows.append({**row, "provenance": self.provenance(heard)})

    def provenance(self, heard: Iterable[Heard]) -> dict[str, Any]:
        """Who said what a row is made of, when, and after which requests (their names in replies.jsonl)."""
        said = list(heard)
        keys = [one.key for one in said]
        return {
            "pipeline": self.origin.pipeline,
            "version": self.origin.version,
            "models": sorted({one.speaker for one in said}),
            "prompt_hash": stable_hash(keys)[:16],
            "requests": keys,
            "date": max((one.date for one in said), default=None),
            "seed": self.origin.seed,
            "software": self.origin.software,
        }

    def know(self, text: str) -> None:
        """A question that was given: new ones have to differ from it."""
        if self._overlap is not None:
            self._overlap.add(text)

    def fresh(self, text: str) -> Iterable[Check]:
        """Whether a question differs from all that came before; if so, it is one of them. Nothing without `dedup`."""
        if self._overlap is None:
            return
        share, twin = self._overlap.nearest(text)
        same = twin is not None and share >= self._overlap.most
        yield Check("duplicate", not same, f"{share:.0%} of its n-grams are those of: {(twin or '')[:SHOWN]}")
        self._overlap.add(text)

    def clean(self, text: str) -> Iterable[Check]:
        """Whether a text holds nothing of the evaluation sets. Nothing without `evaluations`."""
        if self._index is None or self.evaluations is None:
            return
        words = hashed_words([text])
        found = self._index.matches(words)
        reason = ""
        if bad := len(found) > self.evaluations.max_matches:
            first = found[0]
            quote = " ".join(text[words.starts[first.first] : words.ends[first.last]].split())[:SHOWN]
            reason = f"{self._index.sets[first.item]}, {self._index.where[first.item]}: {quote}"
        yield Check("contaminated", not bad, reason)


def ended(heard: Heard, *, what: str = "the answer") -> Iterable[Check]:
    """Whether there is a whole answer: not refused, not cut, not empty."""
    reply = heard.reply
    yield Check("answered", not reply.fault, reply.fault)
    yield Check("ended", reply.ended, f"{what} did not end by itself")
    yield Check("not empty", bool(reply.text), f"{what} is empty")
