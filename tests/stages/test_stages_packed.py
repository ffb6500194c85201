"""Packed rows as a feed: every row once an epoch, pairs that stay whole and apart."""

from __future__ import annotations

import pytest
import torch

from luopan.errors import DataError, TrainingError
from luopan.stages.packed import PackedFeed
from luopan.stages.preference_data import Answer, pair_rows
from luopan.tokens.example import Example
from luopan.train.config import TrainConfig
from luopan.train.losses import pair_documents


def doc(first: int, length: int) -> Example:
    ids = [first, *range(1, length)]
    return Example(ids, [-100, *ids[1:]])


def answer(first: int, length: int) -> Answer:
    return Answer(doc(first, length), 1)


def rows(count: int) -> list[list[Example]]:
    return [[doc(100 + i, 3)] for i in range(count)]


def cut(per_device: int, accumulation: int = 1) -> TrainConfig:
    return TrainConfig(
        learning_rate=1e-3,
        max_steps=9,
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=accumulation,
    )


def firsts(feed: PackedFeed, steps: range) -> list[int]:
    return [int(i) for step in steps for batch in feed.micro_batches(step) for i in batch.input_ids[:, 0]]


def test_every_row_once_an_epoch_in_a_fresh_order() -> None:
    feed = PackedFeed(rows(6), 4, 0, cut(3), seed=2)
    epochs = [firsts(feed, range(2 * e, 2 * e + 2)) for e in range(3)]
    assert all(sorted(epoch) == list(range(100, 106)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert epochs[0] == firsts(PackedFeed(rows(6), 4, 0, cut(3), seed=2), range(2))
    assert epochs != [firsts(PackedFeed(rows(6), 4, 0, cut(3), seed=3), range(2 * e, 2 * e + 2)) for e in range(3)]


@pytest.mark.parametrize(
    ("per_device", "accumulation", "world"), [(1, 4, 1), (4, 1, 2), (1, 4, 2), (2, 2, 3), (1, 4, 4)]
)
def test_accumulation_and_ranks_cut_a_step_without_loss(per_device: int, accumulation: int, world: int) -> None:
    alone = PackedFeed(rows(9), 4, 0, cut(4), seed=2)
    parts = [
        PackedFeed(rows(9), 4, 0, cut(per_device, accumulation), seed=2, rank=rank, world_size=world)
        for rank in range(world)
    ]
    for step in range(5):
        together = [firsts(part, range(step, step + 1)) for part in parts]
        assert [n for part in together for n in part] == firsts(alone, range(step, step + 1))
        assert max(map(len, together)) - min(map(len, together)) <= 1
        sizes = [batch.input_ids.shape[0] for part in parts for batch in part.micro_batches(step)]
        assert max(sizes) <= per_device


def test_what_a_step_reads_is_said_for_all_ranks() -> None:
    feed = PackedFeed(rows(9), 4, 0, cut(4), seed=2, rank=1, world_size=2)
    whole = firsts(PackedFeed(rows(9), 4, 0, cut(4), seed=2), range(3, 4))
    assert feed.describe(3) == [f"packed row {first - 100}: [{first}, 1, 2]" for first in whole]


def test_more_ranks_than_rows_are_refused() -> None:
    feed = PackedFeed(rows(9), 4, 0, cut(2), seed=2, rank=0, world_size=3)
    with pytest.raises(TrainingError, match="step 0 has 2 rows for 3 processes"):
        feed.micro_batches(0)


def test_pairs_share_a_row_and_are_numbered_within_it() -> None:
    pairs = [(answer(10 * i, 4 + i), answer(10 * i + 1, 3)) for i in range(1, 6)]
    packed = pair_rows(pairs, 24, share=True)  # nothing is common, so nothing is shared
    assert sum(len(row) for row in packed) == 10 and len(packed) == 3  # 50 tokens
    for row in packed:
        assert sum(len(example) for example in row) <= 24
        for number, (chosen, rejected) in enumerate(zip(row[0::2], row[1::2])):
            assert rejected.input_ids[0] == chosen.input_ids[0] + 1
            assert chosen.fields == {"pair": number, "is_chosen": True}
            assert rejected.fields == {"pair": number, "is_chosen": False}
    with pytest.raises(DataError, match="does not fit"):
        pair_rows([(answer(1, 9), answer(2, 9))], 17, share=False)


def test_pairs_stay_apart_where_a_batch_holds_a_row_twice() -> None:
    packed = pair_rows([(answer(10, 3), answer(11, 3)), (answer(20, 3), answer(21, 3))], 12, share=False)
    assert len(packed) == 1
    feed = PackedFeed(packed, 12, 0, cut(3), seed=0, count_pairs=True)
    (batch,) = feed.micro_batches(0)
    pair, is_chosen = batch.per_document["pair"], batch.per_document["is_chosen"]
    assert pair.dtype == torch.int64 and len(set(pair.tolist())) == 6  # three times the row, two pairs each
    chosen, rejected = pair_documents(pair, is_chosen)
    first = [int(batch.input_ids[batch.document_ids == number][0]) for number in range(batch.num_documents)]
    assert [(first[c], first[r]) for c, r in zip(chosen.tolist(), rejected.tolist())] == 3 * [(10, 11), (20, 21)]
