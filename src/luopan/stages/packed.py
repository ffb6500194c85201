"""The feed of the stages that train on whole examples: rows packed once, drawn in a fresh order every epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from luopan.tokens.batch import Batch, collate
from luopan.tokens.example import Example
from luopan.tokens.order import PackedOrder
from luopan.train.config import TrainConfig
from luopan.train.ranks import rank as own_rank
from luopan.train.ranks import world_size as ranks_in_all
from luopan.train.shares import micro_batch_rows, step_rows


@dataclass
class PackedFeed:
    """A `train.loop.Feed` over packed rows of at most `length` tokens; a function of (seed, step) alone.
    Without `length` a micro-batch is as wide as its longest row, and rows of about one length come together where
    `group_by_length` asks for it.
    `rank` of `world_size` takes its share.

    `count_pairs`: documents carry a `pair` number within their row, which becomes one within the batch. (A batch that
    spans two epochs may hold a row twice; its pairs must stay apart.)
    """

    prefetchable: ClassVar[bool] = True  # it reads no weights

    rows: Sequence[Sequence[Example]]
    length: int | None
    pad_id: int
    config: TrainConfig
    seed: int
    count_pairs: bool = False
    group_by_length: bool = False
    rank: int = field(default_factory=own_rank)
    world_size: int = field(default_factory=ranks_in_all)

    def __post_init__(self) -> None:
        lengths = [tokens_of(row) for row in self.rows] if self.group_by_length else None
        self._order = PackedOrder(len(self.rows), self.seed, lengths=lengths)

    def micro_batches(self, step: int) -> Sequence[Batch]:
        """The micro-batches of this rank in `step`."""
        return [self._batch(numbers) for numbers in micro_batch_rows(self.config, step, self.rank, self.world_size)]

    def describe(self, step: int) -> list[str]:
        """What all ranks read in `step`: "packed row 17", and how its first document begins, in tokens."""
        rows = [self._order.row(number) for number in step_rows(self.config, step)]
        return [f"packed row {row}: {list(self.rows[row][0].input_ids[:12])}" for row in rows]

    def _batch(self, numbers: Sequence[int]) -> Batch:
        rows = [self.rows[self._order.row(n)] for n in numbers]
        if self.count_pairs:
            rows = [[_in_batch(doc, place) for doc in row] for place, row in enumerate(rows)]
        return collate(rows, self.length or max(map(tokens_of, rows)), self.pad_id)


def tokens_of(row: Sequence[Example]) -> int:
    """The tokens of a row."""
    return sum(len(doc) for doc in row)


def _in_batch(doc: Example, place: int) -> Example:
    """The document with its pair's number in the batch; no row has room for 2^20 pairs."""
    return replace(doc, fields={**doc.fields, "pair": (place << 20) + int(doc.fields["pair"])})
