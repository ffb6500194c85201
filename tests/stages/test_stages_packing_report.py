"""What is said of rows and steps, and that rows of about one length come together."""

from __future__ import annotations

import numpy as np

from luopan.stages.packed import PackedFeed
from luopan.stages.packing_report import measure_packing, packing_notes, packing_table
from luopan.tokens.example import IGNORE, Example
from luopan.tokens.order import PackedOrder
from luopan.tokens.packing import pack
from luopan.train.config import TrainConfig


def conversation(length: int, trained: int) -> Example:
    return Example(list(range(1, length + 1)), [IGNORE] * (length - trained) + [1] * trained)


def config(steps: int, batch: int) -> TrainConfig:
    return TrainConfig(learning_rate=1e-3, max_steps=steps, per_device_train_batch_size=batch)


def test_the_figures_of_a_packed_training_by_hand() -> None:
    docs = [conversation(60, 20), conversation(40, 10), conversation(50, 30), conversation(25, 5)]
    rows = pack(docs, 100)  # 60 + 40, 50 + 25
    found = measure_packing(rows, config(steps=4, batch=1), 100)
    assert (found.rows, found.conversations, found.tokens, found.trained, found.positions) == (2, 4, 175, 65, 200)
    assert (found.fill, found.trained_share) == (0.875, 65 / 175)
    assert (found.steps, found.epochs, found.tokens_per_step, found.conversations_per_step) == (4, 2.0, 87.5, 2.0)
    assert found.steps_unpacked == 8
    cells = {row[0]: row[1] for row in packing_table(found, 100).rows}
    assert cells["steps without packing, at the same batch size"] == "8"
    assert cells["positions that hold a token"] == "87.5%"


def test_few_updates_of_many_conversations_are_warned_of() -> None:
    docs = [conversation(10, 5) for _ in range(4000)]
    rows = pack(docs, 100)
    crowded = measure_packing(rows, config(steps=100, batch=4), 100)
    assert crowded.conversations_per_step == 40
    (note,) = packing_notes(crowded)
    assert note.level == "warning" and "100 updates of 40 conversations" in note.text and "1,000" in note.text
    assert packing_notes(measure_packing(rows, config(steps=100, batch=1), 100)) == []
    alone = pack(docs, 100, packing=False)
    assert packing_notes(measure_packing(alone, config(steps=100, batch=40), None)) == []  # nothing was packed


def test_rows_of_about_one_length_come_together_whatever_the_batch() -> None:
    lengths = np.random.default_rng(0).integers(10, 1000, size=5000)
    order = PackedOrder(5000, seed=3, lengths=lengths)
    drawn = [order.row(n) for n in range(10_000)]
    assert sorted(drawn[:5000]) == sorted(drawn[5000:]) == list(range(5000))  # each row once an epoch
    assert drawn[:5000] != drawn[5000:]

    def padding(rows: list[int], batch: int) -> float:
        parts = [lengths[rows[i : i + batch]] for i in range(0, len(rows), batch)]
        return 1 - sum(part.sum() for part in parts) / sum(part.max() * len(part) for part in parts)

    plain = PackedOrder(5000, seed=3)
    shuffled = [plain.row(n) for n in range(5000)]
    for batch in (8, 16, 32):
        assert padding(drawn[:5000], batch) < 0.04 < 0.35 < padding(shuffled, batch)
    means = [lengths[drawn[i : i + 32]].mean() for i in range(0, 4096, 32)]
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.3  # long and short batches in random order


def test_without_a_length_a_batch_is_as_wide_as_its_longest_row() -> None:
    rows = [[conversation(length, 5)] for length in (10, 30, 20, 40)]
    feed = PackedFeed(rows, None, 0, config(steps=2, batch=2), 0, rank=0, world_size=1)
    for step in range(2):
        (batch,) = feed.micro_batches(step)
        lengths = [int((row >= 0).sum()) for row in batch.document_ids]
        assert batch.input_ids.shape == (2, max(lengths))
