"""What each process of test_distributed_sources.py runs: a training whose loss is told by source.

`python sources_script.py FOLDER LAYOUT`. Of a step's four rows the first two are of one source and the last two of
another, so that of two ranks each sees one source only.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rank_toys import LENGTH, VOCAB, settings, toy_model

from luopan.tokens.batch import Batch, Doc, collate
from luopan.train.config import TrainConfig
from luopan.train.loop import fit
from luopan.train.losses import causal_lm_loss
from luopan.train.progress import SilentProgress
from luopan.train.ranks import processes, rank, world_size
from luopan.train.shares import micro_batch_rows

NAMES = ("web", "code", "never")


def row(number: int) -> list[Doc]:
    """A row whose source and, so that sums and counts matter, length follow from its number."""
    source = number % 4 // 2
    ids = np.random.default_rng(number).integers(0, VOCAB, LENGTH - 5 * source).tolist()
    return [Doc(ids, ids, fields={"source": source})]


class Rows:
    """Rows that follow from the step alone, shared out."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config

    def micro_batches(self, step: int) -> list[Batch]:
        parts = micro_batch_rows(self.config, step, rank(), world_size())
        return [collate([row(n) for n in numbers], LENGTH, 0) for numbers in parts]


def train(folder: Path, layout: str) -> None:
    """Four rows a step, two steps a line of metrics."""
    config = settings(
        max_steps=4, logging_steps=2, adam_epsilon=1e-2, parallel=layout, per_device_train_batch_size=1,
        gradient_accumulation_steps=4,
    )  # fmt: skip
    loss = partial(causal_lm_loss, sources=NAMES)
    fit(toy_model(), Rows(config), loss, config, folder, device="cpu", seed=3, progress=SilentProgress())


def main(folder: Path, layout: str) -> None:
    torch.set_num_threads(1)
    with processes():
        train(folder, layout)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
