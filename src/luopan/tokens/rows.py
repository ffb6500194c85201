"""Rows of a pretraining run: the data order applied to token shards.

Each piece of a document carries the number of its source (`SOURCE`), so that the loss can be told by source.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from luopan.errors import DataError
from luopan.tokens.batch import Batch, Doc, collate
from luopan.tokens.order import DataOrder, Weights
from luopan.tokens.shards import TokenShards

SOURCE = "source"  # per document in a batch: the number of its source, in the order of `TokenRows.names`


class TokenRows:
    """Row n of a run over several shard folders, every token trained.

    The pieces of different documents in a row do not see each other. Raises DataError for sources of different
    vocabularies.
    """

    def __init__(
        self, sources: Mapping[str, TokenShards], weights: Weights | None, sequence_length: int, seed: int
    ) -> None:
        sizes = {name: source.vocab_size for name, source in sources.items()}
        if len(set(sizes.values())) > 1:
            raise DataError(f"the token sources have different vocabularies: {sizes}")
        self.sources = dict(sources)
        self.names = tuple(self.sources)
        self.order = DataOrder({name: s.lengths for name, s in sources.items()}, weights, sequence_length, seed)

    def row(self, n: int) -> list[Doc]:
        """The documents, or parts of them, in row `n`: exactly `sequence_length` tokens."""
        plan = self.order.row(n)
        shards = self.sources[plan.source]
        pieces = (shards.document(piece.document, piece.start, piece.stop) for piece in plan.pieces)
        fields = {SOURCE: self.names.index(plan.source)}
        return [Doc(ids, ids, fields=fields) for ids in pieces]

    def batch(self, numbers: Iterable[int], pad_id: int = 0) -> Batch:
        """The given rows as a batch. There is no padding in it; `pad_id` is what padding would be."""
        return collate([self.row(n) for n in numbers], self.order.sequence_length, pad_id)
