"""A model of a few thousand weights and feeds for it, shared by the tests of this room."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder
from luopan.tokens.batch import Batch, Doc, collate
from luopan.train.config import TrainConfig

VOCAB, LENGTH = 32, 16


def tiny_model(seed: int = 0, **changes) -> Decoder:
    settings = {
        "vocab_size": VOCAB,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
    }
    model = Decoder(ModelConfig(**{**settings, **changes}))
    model.reset_parameters(seed)
    return model


def config(**changes) -> TrainConfig:
    settings = {"learning_rate": 1e-2, "max_steps": 4, "logging_steps": 1, "lr_scheduler_type": "constant"}
    return TrainConfig(**{**settings, **changes})


def batch(step: int, rows: int = 4, documents_per_row: int = 2) -> Batch:
    """Random tokens, every one of them trained, so that each row has LENGTH - documents_per_row targets."""
    ids = np.random.default_rng(step).integers(0, VOCAB, (rows, documents_per_row, LENGTH // documents_per_row))
    return collate([[Doc(doc.tolist(), doc.tolist()) for doc in row] for row in ids], LENGTH, 0)


class RandomFeed:
    """One micro-batch per step."""

    def micro_batches(self, step: int) -> list[Batch]:
        return [batch(step)]


def step_folders(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())
