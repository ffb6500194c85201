"""Promise: what an update learns from a generation does not depend on how it is cut into micro-batches, rows and ranks,
and the reference that it is held to never changes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from luopan.generate.config import SamplingParams
from luopan.generate.engine import Engine
from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder
from luopan.rl.feed import OnPolicyFeed, UpdatePlan
from luopan.rl.groups import GroupCollector, RolloutSettings
from luopan.rl.rewards import Answer, Part, Rewards, each
from luopan.rl.rollouts import Prompt
from luopan.rl.scoring import token_logprobs
from luopan.train.config import TrainConfig
from luopan.train.loop import fit
from luopan.train.losses import policy_loss
from luopan.train.progress import SilentProgress

VOCAB, STOP, PAD, TEMPERATURE = 40, 1, 0, 0.9
LOSSES: dict[str, dict[str, Any]] = {
    "dapo": {"loss_type": "dapo"},
    "grpo": {"loss_type": "grpo"},
    "dr_grpo": {"loss_type": "dr_grpo", "max_completion_length": 9},
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence"},
    "cispo": {"loss_type": "cispo", "epsilon_high": 4.0},
    "with a reference": {"loss_type": "dapo", "beta": 0.2},
}


def model(seed: int) -> Decoder:
    config = ModelConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    found = Decoder(config)
    found.reset_parameters(seed)
    return found


def odd(answer: Answer) -> float | None:
    """By the first token; every fifth answer or so cannot be graded."""
    return None if answer.tokens[0] % 5 == 0 else float(answer.tokens[0] % 2)


def feed_over(policy: Decoder, folder: Path, reference: Decoder | None = None, **plan: Any) -> OnPolicyFeed:
    column = None
    if reference is not None:
        column = partial(
            token_logprobs, reference, temperature=TEMPERATURE, max_length=40, pad_id=PAD, precision="fp32"
        )
    collector = GroupCollector(
        engine=Engine(policy, eos_ids=[STOP], pad_id=PAD),
        decode=lambda tokens, prompt: "",
        prompts=[Prompt((2, 3 + i, *range(4, 5 + i % 4)), lambda text: None, name=f"p{i}") for i in range(12)],
        rewards=Rewards((Part("odd", 1.0, each(odd)),), truncation="keep"),
        settings=RolloutSettings(5, 4, SamplingParams(max_new_tokens=9, temperature=TEMPERATURE), "group", 1, 3),
        folder=folder,
        reference=column,
    )
    return OnPolicyFeed(collector, UpdatePlan(max_length=40, pad_id=PAD, seed=3, **plan), folder)


def gradient(policy: Decoder, feeds: list[OnPolicyFeed], knobs: dict[str, Any]) -> tuple[float, torch.Tensor]:
    """The mean loss of update 0 and its gradient, over all micro-batches of all feeds."""
    policy.zero_grad()
    total = weight = 0.0
    for batch in (batch for feed in feeds for batch in feed.micro_batches(0)):
        term = policy_loss(policy, batch, temperature=TEMPERATURE, **knobs)
        term.total.backward()
        total, weight = total + float(term.total.detach()), weight + float(term.weight)
    grads = [p.grad.flatten() for p in policy.parameters() if p.grad is not None]
    return total / weight, torch.cat(grads) / weight


@pytest.mark.parametrize("name", LOSSES)
def test_micro_batches_rows_and_ranks_change_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, knobs = model(0), LOSSES[name]
    reference = model(1) if knobs.get("beta") else None

    def cut(folder: str, **plan: Any) -> OnPolicyFeed:
        return feed_over(policy, tmp_path / folder, reference, **plan)

    loss, whole = gradient(policy, [cut("whole")], knobs)
    assert float(whole.norm()) > 1e-3
    for number, plan in enumerate(
        ({"micro_batches": 4}, {"share_prompts": True, "one_row": True}, {"share_prompts": True, "micro_batches": 3})
    ):
        other, parts = gradient(policy, [cut(f"plan-{number}", **plan)], knobs)
        assert other == pytest.approx(loss, abs=1e-6) and float((parts - whole).norm()) < 1e-5 * float(whole.norm())

    halves = []
    for rank in (0, 1):  # the ranks one after the other: each packs its share of the same generation
        half = cut(f"rank-{rank}", micro_batches=2)
        half.micro_batches(0)
        known = half._held
        monkeypatch.setattr(
            "luopan.rl.feed.share", lambda rows, rank=rank: rows[len(rows) * rank // 2 : len(rows) * (rank + 1) // 2]
        )
        halves.append(list(half._pack(known[1].units)) if known else [])
        monkeypatch.undo()
    assert all(halves)
    both = [Held(batches) for batches in halves]
    other, parts = gradient(policy, both, knobs)  # type: ignore[arg-type]
    assert other == pytest.approx(loss, abs=1e-6) and float((parts - whole).norm()) < 1e-5 * float(whole.norm())


class Held:
    """Batches that are at hand, as a feed."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def micro_batches(self, step: int) -> list[Any]:
        return self.batches


def test_the_reference_is_what_it_was(tmp_path: Path) -> None:
    policy, reference = model(0), model(0).requires_grad_(False)
    before = {name: value.clone() for name, value in reference.state_dict().items()}
    feed = feed_over(policy, tmp_path / "rollouts", reference, num_iterations=2)
    config = TrainConfig(learning_rate=1e-2, max_steps=4, lr_scheduler_type="constant", logging_steps=1)
    loss = partial(policy_loss, temperature=TEMPERATURE, beta=0.2)
    fit(policy, feed, loss, config, tmp_path, device="cpu", seed=1, progress=SilentProgress())
    assert all(torch.equal(value, before[name]) for name, value in reference.state_dict().items())
    assert all(parameter.grad is None for parameter in reference.parameters())
    assert any(not torch.equal(value, before[name]) for name, value in policy.state_dict().items())
