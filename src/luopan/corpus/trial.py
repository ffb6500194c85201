"""Trying thresholds: the steps that look at one document at a time, over a sample, under two configurations.

Answers what a change of a threshold does before the whole corpus is made again: the funnel before and after, and the
documents whose verdict changed. Limits: duplicates, decontamination and caps need the whole corpus and are not tried.
`trial_sample.py` draws the sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from luopan.corpus.batch import DocumentBatch
from luopan.corpus.chain import LOCAL, local_steps
from luopan.corpus.config import CurateConfig
from luopan.corpus.document import Document, Rejected
from luopan.corpus.trial_sample import Drawn, draw

__all__ = ["Change", "Drawn", "Passed", "Trial", "compare", "draw", "passed"]

BATCH_DOCUMENTS = 256


@dataclass
class Passed:
    """What the steps made of a sample under one configuration, by the documents' ids."""

    left: dict[str, list[int]] = field(default_factory=dict)  # step -> [documents, bytes] after it
    kept: dict[str, str] = field(default_factory=dict)  # id -> text as it stays
    rejected: dict[str, Rejected] = field(default_factory=dict)

    def verdict(self, id: str) -> tuple[str, str] | None:
        """(step, rule) that took the document, None if it stays."""
        item = self.rejected.get(id)
        return None if item is None else (item.step, item.rule)


@dataclass(frozen=True)
class Change:
    """A document with another verdict; `before` and `after` are why it was rejected, None where it stays."""

    id: str
    source: str
    before: Rejected | None
    after: Rejected | None
    text: str


@dataclass(frozen=True)
class Trial:
    """Two configurations on one sample. `unmatched` pieces stand in one of them only (documents were cut elsewhere)."""

    drawn: Drawn
    before: Passed
    after: Passed
    changes: list[Change]
    other_texts: int  # stay under both, with another text
    unmatched: int

    @property
    def one_sided(self) -> bool:
        """True where no change is tried."""
        return self.before is self.after

    @property
    def steps(self) -> list[str]:
        """Every step of either configuration, in order."""
        return [step for step in ("read", *LOCAL) if step in self.before.left or step in self.after.left]

    @property
    def newly_rejected(self) -> list[Change]:
        """Stay before, do not after."""
        return [change for change in self.changes if change.before is None]

    @property
    def newly_kept(self) -> list[Change]:
        """Stay after, did not before."""
        return [change for change in self.changes if change.after is None]

    @property
    def other_reason(self) -> list[Change]:
        """Rejected by another rule."""
        return [change for change in self.changes if change.before is not None and change.after is not None]


def compare(drawn: Drawn, before: CurateConfig, after: CurateConfig) -> Trial:
    """The sample under two configurations (or one: where they are the same, nothing changes)."""
    old = passed(drawn.documents, before)
    new = old if after == before else passed(drawn.documents, after)
    ids = dict.fromkeys([*old.kept, *old.rejected, *new.kept, *new.rejected])
    changes, other_texts, unmatched = [], 0, 0
    for id in ids:
        if not all(id in side.kept or id in side.rejected for side in (old, new)):
            unmatched += 1
        elif old.verdict(id) != new.verdict(id):
            changes.append(change(id, old, new))
        elif id in old.kept and old.kept[id] != new.kept[id]:
            other_texts += 1
    return Trial(drawn, old, new, changes, other_texts, unmatched)


def change(id: str, old: Passed, new: Passed) -> Change:
    """The change of one document, with the text that a person would judge: as it stays, or as it was rejected."""
    was, now = old.rejected.get(id), new.rejected.get(id)
    text = old.kept.get(id) or new.kept.get(id) or (was.text if was else "") or (now.text if now else "") or ""
    either = was or now
    assert either is not None
    return Change(id, either.source, was, now, text)


def passed(documents: Sequence[Document], config: CurateConfig) -> Passed:
    """What the local steps of a configuration make of documents; each source has its own steps."""
    result = Passed()
    by_source: dict[str, list[Document]] = {}
    for document in documents:
        by_source.setdefault(document.source, []).append(document)
    chains = {name: local_steps(config.steps_for(name)) for name in by_source}
    used = {step for chain in chains.values() for step, _, _ in chain}
    names = [name for name in LOCAL if name in used]
    result.left = {"read": [0, 0], **{name: [0, 0] for name in names}}
    for source, own in by_source.items():
        for start in range(0, len(own), BATCH_DOCUMENTS):
            batch = DocumentBatch.of(own[start : start + BATCH_DOCUMENTS])
            steps = {name: (function, block) for name, function, block in chains[source]}
            count(result.left["read"], batch)
            for name in names:
                if name in steps:
                    function, block = steps[name]
                    outcome = function(batch, block)
                    result.rejected.update((item.id, item) for item in outcome.rejected)
                    batch = outcome.batch
                count(result.left[name], batch)
            result.kept.update(zip(batch.ids, batch.texts))
    return result


def count(total: list[int], batch: DocumentBatch) -> None:
    total[0] += len(batch)
    total[1] += sum(len(text.encode("utf-8", "surrogatepass")) for text in batch.texts)
