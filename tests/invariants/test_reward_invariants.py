"""The promises of training, for reward models: cut otherwise it is the same, and resumed the same to the bit."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from luopan.errors import Interrupted, LuopanError
from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder
from luopan.model.reward import add_score
from luopan.tokens.batch import Batch, collate
from luopan.tokens.example import Example, share_prefix
from luopan.train.checkpoint import steps_saved
from luopan.train.config import TrainConfig
from luopan.train.loop import fit
from luopan.train.progress import SilentProgress
from luopan.train.reward_loss import reward_loss

VOCAB, LENGTH, PAIRS = 40, 24, 16
TOLERANCE = 2e-6  # weights are about 0.1
LOSS = functools.partial(reward_loss, center_rewards_coefficient=0.1)


def tiny_model() -> Decoder:
    config = ModelConfig(
        vocab_size=VOCAB, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=LENGTH,
    )  # fmt: skip
    model = Decoder(config)
    model.reset_parameters(5)
    add_score(model, seed=5)
    return model


def pairs(step: int) -> list[list[Example]]:
    """Pairs of unequal lengths with margins, the later ones longer."""
    rng = np.random.default_rng(step)
    found = []
    for n in range(PAIRS):
        prompt = rng.integers(0, VOCAB, 2 + n // 3).tolist()
        both = []
        for is_chosen in (True, False):
            answer = rng.integers(0, VOCAB, int(rng.integers(1, 9))).tolist()
            fields = {"pair": n, "is_chosen": is_chosen, "margin": 0.1 * n}
            both.append(Example([*prompt, *answer], [-100] * len(prompt) + answer, fields=fields))
        found.append(both)
    return found


class Cut:
    """The same pairs each step in so many micro-batches; `stop` is the step in which the user interrupts."""

    def __init__(self, pieces: int, share: bool = False, stop: int | None = None) -> None:
        self.pieces, self.share, self.stop = pieces, share, stop

    def micro_batches(self, step: int) -> list[Batch]:
        if step == self.stop:
            raise Interrupted("stopped")
        rows = [share_prefix(both) if self.share else both for both in pairs(step)]
        size = PAIRS // self.pieces
        return [collate(rows[start : start + size], 2 * LENGTH, 0) for start in range(0, PAIRS, size)]


def train(folder: Path, feed: Cut, loss: Any = LOSS, **settings: Any) -> torch.Tensor:
    model = tiny_model()
    chosen = {"learning_rate": 1e-2, "adam_epsilon": 1e-2, "lr_scheduler_type": "constant", "max_steps": 3, **settings}
    config = TrainConfig(**chosen, gradient_accumulation_steps=feed.pieces)
    fit(model, feed, loss, config, folder, device="cpu", seed=0, progress=SilentProgress())
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_pieces_and_shared_prompts_change_nothing(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", Cut(1))
    start = torch.cat([parameter.detach().flatten() for parameter in tiny_model().parameters()])
    assert (whole - start).abs().max() > 100 * TOLERANCE, "nothing was learned: the comparison would say nothing"
    assert (whole - train(tmp_path / "cut", Cut(4))).abs().max() <= TOLERANCE
    assert (whole - train(tmp_path / "shared", Cut(2, share=True))).abs().max() <= TOLERANCE

    def other(model: Decoder, batch: Batch) -> Any:
        return reward_loss(model, batch, center_rewards_coefficient=0.2)

    assert (whole - train(tmp_path / "other", Cut(1), other)).abs().max() > 100 * TOLERANCE, "a difference is seen"


def test_interrupted_and_resumed_is_the_same_to_the_bit(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"max_steps": 8, "save_steps": 2, "lr_scheduler_type": "cosine", "ema_decay": 0.9}
    alone = train(tmp_path / "alone", Cut(2), **settings)
    with pytest.raises(LuopanError):
        train(tmp_path / "killed", Cut(2, stop=5), **settings)
    assert 0 < steps_saved(tmp_path / "killed" / "checkpoints")[-1] < 8
    assert torch.equal(train(tmp_path / "killed", Cut(2), **settings), alone)
