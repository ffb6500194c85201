"""Promise: answers that share their prompt in a row train like answers that each bring their own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder
from luopan.objectives.base import LossTerm
from luopan.tokens.batch import Batch, collate
from luopan.tokens.example import IGNORE, Example, share_prefix
from luopan.train.config import TrainConfig
from luopan.train.loop import fit
from luopan.train.losses import causal_lm_loss, policy_loss, preference_loss, sequence_logprobs
from luopan.train.progress import SilentProgress

VOCAB, LENGTH = 50, 128
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "gqa": {"num_key_value_heads": 2},
    "nope": {"no_rope_layer_interval": 2},
    "nope-all": {"no_rope_layer_interval": 1},
    "qk-norm": {"qk_norm": True, "num_key_value_heads": 1},
    "window": {"sliding_window": 9, "full_attention_interval": 2},
    "sinks": {"sliding_window": 9, "attention_sinks": True, "full_attention_interval": 2},
    "softcap": {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    "yarn": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}},
    "experts": {"num_experts": 4, "num_experts_per_tok": 2},
}
LOSSES: dict[str, Callable[..., LossTerm]] = {
    "causal_lm": causal_lm_loss,
    "dpo": functools.partial(preference_loss, beta=0.3),
    "apo_zero + nll": functools.partial(preference_loss, beta=0.3, loss_type="apo_zero", nll_coef=0.5),
    "grpo": functools.partial(policy_loss, loss_type="dapo", epsilon=0.2, beta=0.1),
}


def _model(shape: str) -> Decoder:
    config = ModelConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        initializer_range=0.2,
        **SHAPES[shape],
    )
    return Decoder(config)


def groups(step: int, answers: int, count: int = 6) -> list[list[Example]]:
    """Groups of whole answers to one prompt each; the last token of the prompt is trained in one group of them."""
    rng = np.random.default_rng(step)
    made = []
    for n in range(count):
        prompt = rng.integers(0, VOCAB, rng.integers(1, 25))
        group = []
        for answer in range(answers):
            ids = np.concatenate([prompt, rng.integers(0, VOCAB, rng.integers(1, 20))])
            first = max(1, len(prompt) - (n == 3))
            old = {
                name: np.where(np.arange(len(ids)) < first, 0.0, rng.normal(-4.0, 0.2, len(ids)))
                for name in ("old_logprobs", "reference_logprobs")
            }
            labels = np.where(np.arange(len(ids)) < first, IGNORE, ids)
            fields = {"pair": n, "is_chosen": answer == 0, "reference_logprob": -30.0, "advantage": float(rng.normal())}
            group.append(Example(ids, labels, per_token=old, fields=fields))
        made.append(group)
    return made


def _batches(made: list[list[Example]], pieces: int = 1) -> tuple[list[Batch], list[Batch]]:
    """Two groups to a row, prompts shared; and every answer alone in a row."""
    shared, alone = [], []
    size = len(made) // pieces
    for start in range(0, len(made), size):
        part = made[start : start + size]
        rows = [[doc for group in part[i : i + 2] for doc in share_prefix(group)] for i in range(0, size, 2)]
        shared.append(collate(rows, max(sum(map(len, row)) for row in rows) + 3, 0))
        alone.append(collate([[doc] for group in part for doc in group], 50, 0))
    return shared, alone


def _gradients(model: Decoder, term: LossTerm) -> dict[str, Tensor]:
    model.zero_grad()
    (term.total / term.weight).backward()
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("answers", [2, 5])
@pytest.mark.parametrize("shape", SHAPES)
def test_hidden_states_losses_and_gradients(shape: str, answers: int) -> None:
    model = _model(shape)
    made = groups(1, answers)
    (shared,), (alone,) = _batches(made)
    assert shared.num_tokens < 0.9 * alone.num_tokens
    ours, theirs = (model.hidden(b.input_ids, b.position_ids, b.layout) for b in (shared, alone))
    for document in range(alone.num_documents):
        own = ours[shared.document_ids == document]
        torch.testing.assert_close(own, theirs[alone.document_ids == document][-len(own) :], rtol=1e-4, atol=1e-5)
    assert shared.targets().ids.equal(alone.targets().ids)
    torch.testing.assert_close(sequence_logprobs(model, shared), sequence_logprobs(model, alone), rtol=1e-5, atol=1e-5)
    for name, loss in LOSSES.items():
        if answers != 2 and ("dpo" in name or "apo" in name):
            continue
        one, other = (loss(model, batch) for batch in (shared, alone))
        torch.testing.assert_close(one.total, other.total, rtol=1e-5, atol=1e-5)
        assert one.weight == other.weight
        gradients, expected = _gradients(model, one), _gradients(model, other)
        assert gradients.keys() == expected.keys()
        for parameter, grad in expected.items():
            atol = 1e-5 * max(1.0, float(grad.abs().max()))
            torch.testing.assert_close(gradients[parameter], grad, rtol=1e-4, atol=atol, msg=f"{name} {parameter}")


@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_recompute_changes_nothing(recompute: str) -> None:
    model = _model("window")
    (shared,), _ = _batches(groups(2, 2))
    plain = _gradients(model, LOSSES["dpo"](model, shared))
    model.recompute = recompute  # type: ignore[assignment]
    for name, grad in _gradients(model, LOSSES["dpo"](model, shared)).items():
        torch.testing.assert_close(grad, plain[name], rtol=1e-5, atol=1e-6)


def test_what_stands_beside_them_changes_nothing() -> None:
    model = _model("window")
    made = groups(3, 3)
    (shared,), _ = _batches(made)
    turned = [[doc for group in reversed(made[i : i + 2]) for doc in share_prefix(group)] for i in (0, 2, 4)]
    other = collate(turned, shared.input_ids.shape[1], 0)
    sums = sequence_logprobs(model, shared).view(3, 2, 3)
    torch.testing.assert_close(sequence_logprobs(model, other).view(3, 2, 3).flip(1), sums, rtol=1e-5, atol=1e-5)


def _train(loss: Callable[..., LossTerm], pieces: int, share: bool, folder: Path) -> Tensor:
    class Feed:
        def micro_batches(self, step: int) -> list[Batch]:
            return _batches(groups(step, 2, count=8), pieces)[0 if share else 1]

    model = _model("gqa")
    config = TrainConfig(
        learning_rate=1e-2,
        max_steps=3,
        adam_epsilon=1e-2,
        lr_scheduler_type="constant",
        logging_steps=1,
        gradient_accumulation_steps=pieces,
    )
    fit(model, Feed(), loss, config, folder, device="cpu", seed=0, progress=SilentProgress())
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("name", LOSSES)
def test_accumulation(name: str, tmp_path: Path) -> None:
    whole = _train(LOSSES[name], 1, True, tmp_path / "whole")
    cut = _train(LOSSES[name], 4, True, tmp_path / "cut")
    alone = _train(LOSSES[name], 1, False, tmp_path / "alone")
    start = torch.cat([parameter.detach().flatten() for parameter in _model("gqa").parameters()])
    assert (whole - start).abs().max() > 1e-3, "nothing was learned: the comparison would say nothing"
    torch.testing.assert_close(cut, whole, rtol=0, atol=5e-6)
    torch.testing.assert_close(alone, whole, rtol=0, atol=5e-6)


def test_the_promise_can_be_broken() -> None:
    """Without the prefix the same rows differ clearly: what the tests above compare is not blind."""
    model = _model("plain")
    row = share_prefix(groups(1, 2)[0])
    cut = [row[0], replace(row[1], prefix=0)]
    shared, broken = (sequence_logprobs(model, collate([docs], LENGTH, 0)) for docs in (row, cut))
    torch.testing.assert_close(shared[0], broken[0])
    assert (shared[1] - broken[1]).abs() > 1e-2
