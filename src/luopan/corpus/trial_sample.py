"""The sample that thresholds are tried on: documents of all sources, spread over their splits, always the same.

What a small source or split cannot give goes to the others. Limit: of a long split only the beginning is looked at.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from luopan.corpus.document import Document, Rejected
from luopan.corpus.select import key
from luopan.corpus.source_config import SourceConfig
from luopan.errors import DataError

SPLIT_BYTES = 4 << 20  # small splits: a sample is drawn from many places
MOST_SPLITS = 16  # of each source that are read, and as many more where those have too few documents
MOST_CHARACTERS = 16 << 20  # of a split that are read
ROUNDS = 4
REASONS = 5

Read = Callable[[Any], Iterable[Document | Rejected]]
K = TypeVar("K", bound=Hashable)


@dataclass
class Unread:
    """Rows and files that cannot be read: how many for each reason, and the first place of each."""

    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    first: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, item: Rejected) -> None:
        at = (item.step, item.rule)
        self.counts[at] = self.counts.get(at, 0) + 1
        self.first.setdefault(at, item.reason())

    def merge(self, other: Unread) -> None:
        for at, count in other.counts.items():
            self.counts[at] = self.counts.get(at, 0) + count
            self.first.setdefault(at, other.first[at])

    def reasons(self) -> list[str]:
        """In words, the most frequent first, as a corpus that is made says it."""
        worst = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))[:REASONS]
        return [f"{count:,} × {step}/{rule}, such as {self.first[step, rule]}" for (step, rule), count in worst]

    def __len__(self) -> int:
        return sum(self.counts.values())


@dataclass
class Looked:
    """What a split gave: the documents chosen, how many were seen, whether it was read to its end."""

    documents: list[Document]
    seen: int
    whole: bool
    unread: Unread

    @property
    def spare(self) -> int:
        """Documents that were seen and not chosen."""
        return self.seen - len(self.documents)

    def more(self, quota: int) -> bool:
        """True if what was not looked at may hold further documents."""
        return not self.whole and len(self.documents) >= quota


@dataclass(frozen=True)
class Drawn:
    """A sample of documents, in the order of their sources; `seen` documents were looked through, `whole` if those are
    all that there are. `unread` rows and files beside them cannot be read, for `reasons`.
    """

    documents: list[Document]
    unread: int = 0
    seen: int = 0
    whole: bool = False
    reasons: tuple[str, ...] = ()


def draw(
    sources: Sequence[SourceConfig],
    count: int,
    plan: Callable[[Sequence[SourceConfig], int], Sequence[Any]] | None = None,
    read: Read | None = None,
) -> Drawn:
    """About `count` documents, spread over the sources by size and chosen by hash of the id: always the same.

    `plan` and `read` are `splits.plan_splits` and `splits.read_split`. DataError, with the reasons, if there is no
    document.
    """
    if plan is None or read is None:
        from luopan.corpus import splits

        plan, read = plan or splits.plan_splits, read or splits.read_split
    by_source: dict[str, list[Any]] = {}
    for split in plan(sources, SPLIT_BYTES):
        by_source.setdefault(split.source.name, []).append(split)
    sizes = weights({name: sum(split.bytes for split in own) for name, own in by_source.items()})
    quotas = {name: max(1, round(count * sizes[name] / sum(sizes.values()))) for name in by_source}
    parts = {name: of_source(own, quotas[name], read) for name, own in by_source.items()}
    missing = sum(quotas.values()) - sum(len(each.documents) for each in parts.values())
    room = {name: missing if part.more(quotas[name]) else part.spare for name, part in parts.items()}
    for name, more in shared(missing, room, sizes).items():
        parts[name] = of_source(by_source[name], quotas[name] + more, read)
    unread = Unread()
    for part in parts.values():
        unread.merge(part.unread)
    documents = [document for part in parts.values() for document in part.documents]
    if not documents:
        raise nothing_read(unread)
    seen, whole = sum(part.seen for part in parts.values()), all(part.whole for part in parts.values())
    return Drawn(documents, len(unread), seen, whole, tuple(unread.reasons()))


def nothing_read(unread: Unread) -> DataError:
    """What to say where no document could be read."""
    lines = "".join(f"\n    {line}" for line in unread.reasons())
    hint = "Mend or convert what is named above; text has to be UTF-8." if lines else "The source is empty."
    if any(rule == "column" for _, rule in unread.counts):
        hint = f"--text-column NAME says which column holds the text. {hint}"
    return DataError(f"no document could be read{':' if lines else ''}{lines}", hint=hint)


def of_source(splits: Sequence[Any], quota: int, read: Read) -> Looked:
    """`quota` documents of a source's splits, or as many as are found in those that are looked at."""
    places = spread(range(len(splits)), min(MOST_SPLITS, quota))
    wanted = {at: quota * (n + 1) // len(places) - quota * n // len(places) for n, at in enumerate(places)}
    looked: dict[int, Looked] = {}
    due = dict(wanted)
    for _ in range(ROUNDS):
        for at in due:
            looked[at] = smallest_of(read(splits[at]), wanted[at])
        missing = quota - sum(len(each.documents) for each in looked.values())
        room = {at: each.spare for at, each in looked.items() if each.spare}
        due = shared(missing, room, {})
        if missing and not due:
            others = spread([at for at in range(len(splits)) if at not in looked], min(MOST_SPLITS, missing))
            due = shared(missing, dict.fromkeys(others, missing), {})
        if not due:
            break
        for at, more in due.items():
            wanted[at] = wanted.get(at, 0) + more
    unread = Unread()
    for at in sorted(looked):
        unread.merge(looked[at].unread)
    documents = [document for at in sorted(looked) for document in looked[at].documents]
    whole = len(looked) == len(splits) and all(each.whole for each in looked.values())
    return Looked(documents, sum(each.seen for each in looked.values()), whole, unread)


def shared(amount: int, room: Mapping[K, int], sizes: Mapping[K, float]) -> dict[K, int]:
    """`amount` parted by `sizes` (1 where none is given) among those that have `room`, none getting more than that."""
    result: dict[K, int] = {}
    order = sorted(room, key=lambda name: room[name] / sizes.get(name, 1.0))
    for place, name in enumerate(order):
        rest = sum(sizes.get(other, 1.0) for other in order[place:])
        give = min(room[name], -(-amount * sizes.get(name, 1.0) // rest))
        if give > 0:
            result[name] = int(give)
            amount -= result[name]
    return result


def weights(sizes: Mapping[str, int]) -> dict[str, float]:
    """The sizes, where those that are not known (packaged texts, datasets) count as much as the mean of the others."""
    known = [size for size in sizes.values() if size]
    mean = sum(known) / len(known) if known else 1.0
    return {name: size or mean for name, size in sizes.items()}


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` items, evenly over the sequence."""
    if len(items) <= count:
        return list(items)
    return [items[(2 * number + 1) * len(items) // (2 * count)] for number in range(count)]


def smallest_of(stream: Iterable[Document | Rejected], count: int) -> Looked:
    """The `count` documents with the smallest hashes of their ids, in the stream's order."""
    heap: list[tuple[int, int, Document]] = []
    unread, seen, characters = Unread(), 0, 0
    whole = True
    for place, item in enumerate(stream):
        if isinstance(item, Rejected):
            unread.add(item)
            continue
        seen += 1
        entry = (-key("trial", item.id), place, item)
        if len(heap) < count:
            heapq.heappush(heap, entry)
        elif entry > heap[0]:
            heapq.heapreplace(heap, entry)
        characters += len(item.text)
        if characters > MOST_CHARACTERS:
            whole = False
            break
    return Looked([item for _, _, item in sorted(heap, key=lambda entry: entry[1])], seen, whole, unread)
