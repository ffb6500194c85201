"""How many documents and bytes are left after each step, by source, and which rules took the rest.

Each split of the sources has a funnel of its own; `merge` adds them up, in any order to the same sums.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from luopan.corpus.document import Rejected

EXAMPLES = 3  # of each rule, shown in the data card


class Funnel:
    """Counts as documents pass; `to_json` is written beside the corpus."""

    def __init__(self, steps: Sequence[str]) -> None:
        self.left: dict[str, dict[str, list[int]]] = {step: defaultdict(lambda: [0, 0]) for step in steps}
        self.counts: dict[str, dict[str, int]] = {step: defaultdict(int) for step in steps}
        self.taken: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
        self.examples: dict[tuple[str, str], list[str]] = defaultdict(list)
        self.notes: list[str] = []

    def passed(self, step: str, source: str, size: int, documents: int = 1) -> None:
        """`documents` of `size` bytes in all are left after `step`."""
        count = self.left[step][source]
        count[0] += documents
        count[1] += size

    def counted(self, step: str, counts: Mapping[str, int]) -> None:
        """Further figures of a step: e-mail addresses replaced, lines dropped."""
        for name, count in counts.items():
            self.counts[step][name] += count

    def rejected(self, rejected: Rejected) -> None:
        """One more that was left out."""
        at = (rejected.step, rejected.rule)
        self.taken[at][0] += 1
        self.taken[at][1] += rejected.bytes
        if len(self.examples[at]) < EXAMPLES:
            self.examples[at].append(rejected.reason())

    def note(self, text: str) -> None:
        """Something the user should know that is no document."""
        if text not in self.notes:
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

    def merge(self, other: Mapping[str, Any]) -> None:
        """Add what another funnel's `to_json` says; examples of earlier ones go first."""
        for row in other["steps"]:
            for source, count in row["sources"].items():
                self.passed(row["step"], source, count["bytes"], count["documents"])
            self.counted(row["step"], row["counts"])
        for row in other["rejected"]:
            at = (row["step"], row["rule"])
            self.taken[at][0] += row["documents"]
            self.taken[at][1] += row["bytes"]
            self.examples[at].extend(row["examples"][: EXAMPLES - len(self.examples[at])])
        for text in other["notes"]:
            self.note(text)

    def to_json(self) -> dict[str, Any]:
        """{steps: [{step, documents, bytes, sources, counts}], rejected: [{step, rule, …, examples}], notes}."""
        steps = []
        for step, sources in self.left.items():
            documents, size = self.total(step)
            by_source = {source: {"documents": count[0], "bytes": count[1]} for source, count in sources.items()}
            counts = dict(sorted(self.counts[step].items()))
            steps.append({"step": step, "documents": documents, "bytes": size, "sources": by_source, "counts": counts})
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
