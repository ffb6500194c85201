"""How many documents and bytes are left after each step, by source, and which rules took the rest."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from luopan.corpus.document import Rejected

# In the order in which documents pass them. "found" counts files and rows that could not be read, too; "pieces" is what
# long documents were cut into, after normalisation; "train" and "held_out" together are what "capped" left.
STEPS = ("found", "read", "pieces", "filtered", "deduplicated", "capped", "train", "held_out")
EXAMPLES = 3  # of each rule, shown in the data card


class Funnel:
    """Counts as documents pass; `to_json` is written beside the corpus."""

    def __init__(self) -> None:
        self.left: dict[str, dict[str, list[int]]] = {step: defaultdict(lambda: [0, 0]) for step in STEPS}
        self.taken: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
        self.examples: dict[tuple[str, str], list[str]] = defaultdict(list)
        self.notes: list[str] = []

    def passed(self, step: str, source: str, size: int, documents: int = 1) -> None:
        """`documents` of `size` bytes in all are left after `step`."""
        count = self.left[step][source]
        count[0] += documents
        count[1] += size

    def rejected(self, rejected: Rejected) -> None:
        """One more that was left out."""
        at = (rejected.step, rejected.rule)
        self.taken[at][0] += 1
        self.taken[at][1] += rejected.bytes
        if len(self.examples[at]) < EXAMPLES:
            self.examples[at].append(rejected.reason())

    def note(self, text: str) -> None:
        """Something the user should know that is no document."""
        self.notes.append(text)

    def total(self, step: str) -> tuple[int, int]:
        """(documents, bytes) left after `step`, over all sources."""
        counts = self.left[step].values()
        return sum(count[0] for count in counts), sum(count[1] for count in counts)

    def set_aside(self) -> int:
        """Files and rows that could not be read."""
        return sum(count[0] for (step, _), count in self.taken.items() if step == "read")

    def reasons(self, limit: int = 5) -> list[str]:
        """What took the most documents, in words, with one example each."""
        worst = sorted(self.taken.items(), key=lambda item: (-item[1][0], item[0]))[:limit]
        return [f"{count[0]} × {step}/{rule}, such as {self.examples[step, rule][0]}" for (step, rule), count in worst]

    def to_json(self) -> dict[str, Any]:
        """{steps: [{step, documents, bytes, sources}], rejected: [{step, rule, documents, bytes, examples}], notes}."""
        steps = []
        for step in STEPS:
            documents, size = self.total(step)
            by_source = {
                source: {"documents": count[0], "bytes": count[1]} for source, count in self.left[step].items()
            }
            steps.append({"step": step, "documents": documents, "bytes": size, "sources": by_source})
        rejected = [
            {
                "step": step,
                "rule": rule,
                "documents": count[0],
                "bytes": count[1],
                "examples": self.examples[step, rule],
            }
            for (step, rule), count in sorted(self.taken.items())
        ]
        return {"steps": steps, "rejected": rejected, "notes": self.notes}
