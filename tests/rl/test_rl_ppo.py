"""From graded answers to PPO's columns: by hand, aligned with the tokens, and the same however answers are packed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rl_toys import VOCAB, tiny_policy

from luopan.errors import ModelError
from luopan.model.decoder import Decoder
from luopan.model.policy_value import PolicyAndValue, value_from_policy
from luopan.model.reward import add_score
from luopan.rl.ppo import PpoSettings, carried, with_returns
from luopan.rl.scoring import token_values
from luopan.tokens.batch import Doc, collate
from luopan.train.losses import token_scores
from luopan.train.ppo_loss import batch_values, ppo_loss


def answer(prompt: int, tokens: list[int], logprobs: list[float]) -> Doc:
    return Doc([2] * prompt + tokens, [-100] * prompt + tokens, per_token={"old_logprobs": [0.0] * prompt + logprobs})


def test_columns_by_hand() -> None:
    # Answer one: two tokens, reward 1, k1 0.5 and -0.5 at a price of 0.1: rewards -0.05, 1.05. Values 0.2, 0.4.
    # lam 0: advantages -0.05 + 0.4 - 0.2 = 0.15 and 1.05 - 0.4 = 0.65; returns 0.35 and 1.05.
    # Answer two: one token, reward 0, no divergence, value 0.1: advantage -0.1, return 0.
    docs = [answer(2, [5, 6], [-1.0, -2.0]), answer(1, [7], [-1.5])]
    values = [[9.0, 9.0, 0.2, 0.4], [9.0, 0.1]]
    reference = [[9.0, 9.0, -1.5, -1.5], [9.0, -1.5]]
    found, figures = with_returns(docs, [1.0, 0.0], values, reference, PpoSettings(lam=0.0), 0.1)
    assert found[0].per_token["old_values"] == [0.0, 0.0, 0.2, 0.4]
    assert found[0].per_token["returns"] == pytest.approx([0.0, 0.0, 0.35, 1.05])
    raw = np.array([0.15, 0.65, -0.1])
    white = (raw - raw.mean()) / np.sqrt(raw.var(ddof=1) + 1e-8)
    assert found[0].per_token["advantages"] == pytest.approx([0.0, 0.0, *white[:2]])
    assert found[1].per_token["advantages"] == pytest.approx([0.0, white[2]])
    assert found[0].per_token["old_logprobs"] == [0.0, 0.0, -1.0, -2.0]
    assert figures["kl"] == pytest.approx(0.0) and figures["kl_coef"] == 0.1
    assert figures["reward_less_kl"] == pytest.approx(0.5)
    assert figures["value"] == pytest.approx(0.7 / 3) and figures["return"] == pytest.approx(1.4 / 3)
    spread = np.array([0.35, 1.05, 0.0])
    missed = spread - np.array([0.2, 0.4, 0.1])
    assert figures["explained_variance"] == pytest.approx(1 - missed.var() / spread.var())


def test_without_a_reference_only_the_score_counts() -> None:
    docs = [answer(1, [5, 6], [-1.0, -2.0]), answer(1, [7], [-1.5])]
    found, figures = with_returns(
        docs, [1.0, -1.0], [[0.0] * 3, [0.0] * 2], None, PpoSettings(lam=1.0, kl_coef=0.0), 0.0
    )
    assert found[0].per_token["returns"] == [0.0, 1.0, 1.0] and found[1].per_token["returns"] == [0.0, -1.0]
    assert "kl" not in figures and "kl_coef" not in figures


def test_whitened_rewards_keep_their_mean() -> None:
    docs = [answer(1, [5], [-1.0]), answer(1, [7], [-1.5])]
    settings = PpoSettings(whiten_rewards=True)
    found, _ = with_returns(docs, [4.0, 2.0], [[0.0] * 2] * 2, None, settings, 0.0)
    # Mean 3, standard deviation sqrt(2) with Bessel.
    assert [doc.per_token["returns"][1] for doc in found] == pytest.approx([3 + 2**-0.5, 3 - 2**-0.5])


def test_a_fixed_coefficient_carries_nothing() -> None:
    assert carried(PpoSettings(), 0.05, 3.0, 100) == {}
    adaptive = PpoSettings(kl_target=2.0, kl_horizon=1000)
    assert carried(adaptive, 0.05, 9.0, 100) == {"kl_coef": pytest.approx(0.05 * 1.02)}


def test_values_are_read_at_the_token_before_and_do_not_hang_on_packing() -> None:
    value = value_from_policy(tiny_policy(), seed=1).eval()
    docs = [answer(3, [5, 6, 7], [-1.0] * 3), answer(2, [8, 9], [-1.0] * 2)]

    def of(some: list[Doc]) -> list[list[float]]:
        score = lambda batch: batch_values(value, batch)  # noqa: E731
        return token_values(score, some, device=torch.device("cpu"), max_length=16, pad_id=0, precision="fp32")

    together, alone = of(docs), of(docs[:1]) + of(docs[1:])
    for one, other in zip(together, alone, strict=True):
        assert one == pytest.approx(other, abs=1e-6)
    with torch.no_grad():
        states = value.hidden(torch.tensor([docs[0].input_ids]))[0]
        wanted = (states @ value.score.weight.T).squeeze(-1)  # type: ignore[union-attr, operator]
    assert together[0][3:] == pytest.approx(wanted[2:5].tolist(), abs=1e-5)
    assert together[0][:3] == [0.0] * 3


def test_before_the_first_update_the_loss_is_what_was_sampled() -> None:
    """With the sampling weights the ratio is one, so the policy's loss is minus the mean advantage: 0."""
    policy = tiny_policy()
    pair = PolicyAndValue(policy, value_from_policy(policy, seed=1))
    tokens = [[5, 6, 7], [8, 9]]
    bare = [answer(3, one, [0.0] * len(one)) for one in tokens]
    batch = collate([bare], 16, 0)
    with torch.no_grad():
        scores = token_scores(policy, batch)
        values, _ = batch_values(pair.value, batch)
    docs = [answer(3, tokens[0], scores.logprobs[:3].tolist()), answer(3, tokens[1], scores.logprobs[3:].tolist())]
    columns = [[0.0] * 3 + values[:3].tolist(), [0.0] * 3 + values[3:].tolist()]
    found, _ = with_returns(docs, [1.0, 0.0], columns, None, PpoSettings(), 0.0)
    term = ppo_loss(pair, collate([found], 16, 0), entropy=True)
    figures = {name: (total / count).item() for name, (total, count) in term.metrics.items()}
    assert figures["ratio"] == pytest.approx(1.0, abs=1e-5) and figures["clip_ratio"] == 0.0
    assert figures["policy_loss"] == pytest.approx(0.0, abs=1e-5)
    target = torch.tensor([doc.per_token["returns"][i] for doc in found for i in range(3, len(doc))])
    assert figures["value_loss"] == pytest.approx(0.5 * (values - target).square().mean().item(), rel=1e-4)
    term.total.backward()
    missing = [name for name, p in pair.named_parameters() if p.grad is None or not p.grad.any()]
    assert not missing


def test_a_value_model_is_its_own() -> None:
    policy = tiny_policy()
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    value = value_from_policy(policy, seed=1)
    with torch.no_grad():
        for parameter in value.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.state_dict().items())
    assert policy.lm_head is None or policy.lm_head is not value.lm_head
    with pytest.raises(ModelError, match="score"):
        PolicyAndValue(policy, policy)


def test_a_value_model_reads_the_policys_tokens() -> None:
    policy = tiny_policy()
    other = Decoder(policy.config.model_copy(update={"vocab_size": VOCAB + 1}))
    add_score(other)
    with pytest.raises(ModelError, match=f"{VOCAB + 1} tokens"):
        PolicyAndValue(policy, other)
