"""Four micro-batches of eight documents train like one batch of thirty-two, for every objective.

The micro-batches differ in documents' lengths and in how many tokens each trains, so a loop that averages averages
gives something else; the last test shows that the difference would be seen.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder
from luopan.model.policy_value import PolicyAndValue, value_from_policy
from luopan.objectives.base import LossTerm
from luopan.tokens.batch import Batch, Doc, collate
from luopan.train.config import TrainConfig
from luopan.train.distill_loss import distill_loss, sampled_distill_loss, top_columns
from luopan.train.loop import FitResult, fit
from luopan.train.losses import causal_lm_loss, kto_loss, policy_loss, preference_loss
from luopan.train.online_loss import online_preference_loss
from luopan.train.ppo_loss import ppo_loss
from luopan.train.progress import SilentProgress

VOCAB, LENGTH, DOCUMENTS = 40, 32, 32
TOLERANCE = 2e-6  # weights are about 0.1, fp32 resolves 1e-8 there; the sums are over thousands of terms


def from_teacher(model: Decoder, batch: Batch, **knobs: float) -> LossTerm:
    """Distillation from another model of the same vocabulary."""
    teacher = tiny_model()
    teacher.reset_parameters(6)
    return distill_loss(model, batch, teacher=teacher.eval().requires_grad_(False), **knobs)  # type: ignore[arg-type]


LOSSES: dict[str, Callable[..., LossTerm]] = {
    "causal_lm": causal_lm_loss,
    "dpo sigmoid": functools.partial(preference_loss, beta=0.3),
    "dpo sigmoid + nll": functools.partial(preference_loss, beta=0.3, nll_coef=0.5),
    "dpo ipo": functools.partial(preference_loss, beta=0.3, loss_type="ipo"),
    "dpo hinge": functools.partial(preference_loss, beta=0.3, loss_type="hinge"),
    "dpo robust": functools.partial(preference_loss, beta=0.3, loss_type="robust", label_smoothing=0.1),
    "dpo apo_zero": functools.partial(preference_loss, beta=0.3, loss_type="apo_zero"),
    "dpo apo_down": functools.partial(preference_loss, beta=0.3, loss_type="apo_down"),
    "exo_pair": functools.partial(preference_loss, beta=0.3, loss_type="exo_pair", label_smoothing=1e-3),
    "nca_pair": functools.partial(preference_loss, beta=0.3, loss_type="nca_pair"),
    "sppo_hard": functools.partial(preference_loss, beta=0.3, loss_type="sppo_hard"),
    "orpo": functools.partial(preference_loss, beta=0.3, loss_type="orpo"),
    "simpo": functools.partial(preference_loss, beta=0.3, loss_type="simpo"),
    "sigmoid + sft": functools.partial(
        preference_loss, beta=0.3, loss_type=("sigmoid", "sft"), loss_weights=(1.0, 0.3)
    ),
    "kto": functools.partial(kto_loss, beta=0.3, undesirable_weight=1.5),
    "grpo dapo": functools.partial(policy_loss, loss_type="dapo", epsilon=0.2),
    "grpo dapo + kl": functools.partial(policy_loss, loss_type="dapo", epsilon=0.2, beta=0.1),
    "grpo grpo": functools.partial(policy_loss, loss_type="grpo", epsilon=0.2),
    "grpo bnpo": functools.partial(policy_loss, loss_type="bnpo", epsilon=0.2),
    "grpo, kl k1": functools.partial(policy_loss, beta=0.1, kl_estimator="k1"),
    "grpo, kl k2": functools.partial(policy_loss, beta=0.1, kl_estimator="k2"),
    "grpo, sampler corrected": functools.partial(policy_loss, importance_cap=1.1),
    "gspo": functools.partial(policy_loss, loss_type="grpo", importance_sampling_level="sequence", delta=1.5),
    "cispo": functools.partial(policy_loss, loss_type="cispo", epsilon_high=1.1),
    "rloo": functools.partial(policy_loss, loss_type="rloo", epsilon=0.5),
    "reinforce++": functools.partial(policy_loss, token_advantages=True),
    "grpo dr_grpo": functools.partial(policy_loss, loss_type="dr_grpo", epsilon=0.2, max_completion_length=LENGTH),
    "online dpo": functools.partial(online_preference_loss, beta=0.3),
    "ppo": functools.partial(ppo_loss, cliprange=0.2, vf_coef=0.5, cliprange_value=0.2),
    "distill jsd": functools.partial(from_teacher, beta=0.4, temperature=1.5),
    "distill forward": functools.partial(from_teacher, beta=0.0),
    "distill top k": functools.partial(distill_loss, teacher=None, beta=1.0),
    "distill sampled": functools.partial(sampled_distill_loss, temperature=0.8),
}


def tiny_model(name: str = "") -> Decoder:
    """What the objective of this name trains."""
    config = ModelConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=True,
    )
    model = Decoder(config)
    model.reset_parameters(5)
    # The pair has of a decoder what the loop asks for.
    return cast(Decoder, PolicyAndValue(model, value_from_policy(model, 6))) if name == "ppo" else model


def documents(step: int) -> list[Doc]:
    """32 documents, 16 pairs; the later ones are longer and train a larger share of their tokens."""
    rng = np.random.default_rng(step)
    docs = []
    for n in range(DOCUMENTS):
        length = 4 + n * (LENGTH - 4) // DOCUMENTS
        prompt = int(rng.integers(1, length - 1))
        ids = rng.integers(0, VOCAB, length)
        docs.append(
            Doc(
                ids.tolist(),
                np.where(np.arange(length) < prompt, -100, ids).tolist(),
                per_token={
                    "old_logprobs": (-np.log(VOCAB) + rng.normal(0, 0.2, length)).tolist(),
                    "sampled_logprobs": (-np.log(VOCAB) + rng.normal(0, 0.2, length)).tolist(),
                    "reference_logprobs": (-np.log(VOCAB) + rng.normal(0, 0.2, length)).tolist(),
                    **{name: rng.normal(0, 0.5, length).tolist() for name in ("advantages", "old_values", "returns")},
                    **what_a_teacher_says(length, step, n),
                },
                fields={
                    "pair": n // 2,
                    "is_chosen": n % 2 == 0,
                    "idle": n // 2 % 4 == 3,
                    "label": n % 4 == 0,
                    "mismatched": n % 2 == 1,
                    "reference_logprob": float(-(length - prompt) * np.log(VOCAB) + rng.normal()),
                    "advantage": float(rng.normal()),
                },
            )
        )
    return docs


def what_a_teacher_says(length: int, step: int, n: int) -> dict[str, Any]:
    """Of each token its log-probability, and the two likeliest of its place."""
    rng = np.random.default_rng([step, n])
    first = rng.integers(0, VOCAB, length)
    ids = torch.from_numpy(np.stack([first, (first + 1) % VOCAB], 1))
    logprobs = torch.from_numpy(np.log(np.stack([rng.uniform(0.3, 0.6, length), rng.uniform(0.1, 0.3, length)], 1)))
    return {"teacher_logprobs": (-np.log(VOCAB) + rng.normal(0, 0.5, length)).tolist(), **top_columns(ids, logprobs)}


class CutFeed:
    """The same documents each step, cut into so many micro-batches, two documents to a row."""

    def __init__(self, pieces: int) -> None:
        self.pieces = pieces

    def micro_batches(self, step: int) -> list[Batch]:
        docs, size = documents(step), DOCUMENTS // self.pieces
        groups = [docs[start : start + size] for start in range(0, DOCUMENTS, size)]
        return [collate([g[i : i + 2] for i in range(0, size, 2)], 2 * LENGTH, 0) for g in groups]


def train(loss: Callable[..., LossTerm], pieces: int, folder: Path, name: str = "") -> tuple[torch.Tensor, FitResult]:
    """All weights after three updates. The large epsilon keeps Adam from blowing rounding errors up to its step."""
    model = tiny_model(name)
    config = TrainConfig(
        learning_rate=1e-2,
        max_steps=3,
        adam_epsilon=1e-2,
        lr_scheduler_type="constant",
        logging_steps=1,
        gradient_accumulation_steps=pieces,
    )
    result = fit(model, CutFeed(pieces), loss, config, folder, device="cpu", seed=0, progress=SilentProgress())
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]), result


@pytest.mark.parametrize("name", LOSSES)
def test_four_times_eight_equals_one_times_thirty_two(name: str, tmp_path: Path) -> None:
    whole, one = train(LOSSES[name], 1, tmp_path / "whole", name)
    cut, four = train(LOSSES[name], 4, tmp_path / "cut", name)
    start = torch.cat([parameter.detach().flatten() for parameter in tiny_model(name).parameters()])
    assert (whole - start).abs().max() > 100 * TOLERANCE, "nothing was learned: the comparison would say nothing"
    assert (whole - cut).abs().max() <= TOLERANCE
    assert one.tokens == four.tokens
    timed = {"seconds", "feed_seconds", "tokens_per_second", "memory_bytes", "alarms"}
    assert {k: v for k, v in four.last.items() if k not in timed} == pytest.approx(
        {k: v for k, v in one.last.items() if k not in timed}, rel=2e-4, abs=1e-5
    )


@pytest.mark.parametrize("name", ["causal_lm", "grpo dapo"])
def test_a_mean_of_means_would_be_seen(name: str, tmp_path: Path) -> None:
    def averaged(model: Decoder, batch: Batch) -> LossTerm:
        term = LOSSES[name](model, batch)
        return LossTerm(term.total / term.weight, torch.ones_like(term.weight), term.metrics)

    whole, _ = train(averaged, 1, tmp_path / "whole")
    cut, _ = train(averaged, 4, tmp_path / "cut")
    assert (whole - cut).abs().max() > 100 * TOLERANCE
