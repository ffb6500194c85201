"""Answers of a sampler that is not the policy: scored again by the trainer, the sampler's log-probabilities kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from rl_toys import PAD, STOP, TEMPERATURE, tiny_policy

from luopan.generate.engine import Engine
from luopan.model.decoder import Decoder
from luopan.rl.correction import gaps
from luopan.rl.feed import OnPolicyFeed
from luopan.rl.groups import GroupCollector
from luopan.rl.rollouts import Rollout
from luopan.rl.scoring import token_logprobs
from luopan.rl.stale import StalePolicy
from luopan.tokens.batch import Doc
from luopan.train.losses import policy_loss, token_scores

MakeFeed = Callable[..., OnPolicyFeed]


def scorer(model: Decoder) -> Callable[[Sequence[Doc]], list[list[float]]]:
    return lambda docs: token_logprobs(
        model, docs, temperature=TEMPERATURE, max_length=40, pad_id=PAD, precision="fp32"
    )


def sampled_by_another(policy: Decoder, make_feed: MakeFeed) -> tuple[OnPolicyFeed, Decoder]:
    """A feed whose answers are another model's, scored again by the policy."""
    other = tiny_policy(seed=4)
    feed = make_feed(other, trainer=scorer(policy))
    return feed, other


def test_the_old_logprobs_are_the_trainers_and_the_samplers_are_kept(policy: Decoder, make_feed: MakeFeed) -> None:
    feed, other = sampled_by_another(policy, make_feed)
    (batch,) = feed.micro_batches(0)
    for model, name in ((policy, "old_logprobs"), (other, "sampled_logprobs")):
        with torch.no_grad():
            scores = token_scores(model, batch, TEMPERATURE)
        torch.testing.assert_close(batch.per_token[name].flatten()[scores.places], scores.logprobs, atol=1e-4, rtol=0)
    assert feed.figures["logprob_gap"] > 0.1


def test_the_loss_weighs_what_the_policy_would_say_more_often(policy: Decoder, make_feed: MakeFeed) -> None:
    feed, _ = sampled_by_another(policy, make_feed)
    (batch,) = feed.micro_batches(0)
    term = policy_loss(policy, batch, temperature=TEMPERATURE, importance_cap=2.0)
    with torch.no_grad():
        scores = token_scores(policy, batch, TEMPERATURE)
    said = batch.per_token["sampled_logprobs"].flatten()[scores.places]
    weights = (scores.logprobs - said).exp().clamp(max=2.0)
    assert 0 < (weights == 2.0).float().mean() < 1
    expected = -(weights * batch.per_document["advantage"][scores.document]).sum()  # every ratio is 1
    assert term.total.item() == pytest.approx(expected.item(), rel=1e-4)
    total, count = term.metrics["importance_weight"]
    assert (total / count).item() == pytest.approx(weights.mean().item(), rel=1e-4)


def test_a_sampler_in_step_needs_no_weight(policy: Decoder, make_feed: MakeFeed) -> None:
    feed = make_feed(policy, trainer=scorer(policy))
    (batch,) = feed.micro_batches(0)
    assert feed.figures["logprob_gap_max"] < 1e-4
    plain = policy_loss(policy, batch, temperature=TEMPERATURE)
    weighed = policy_loss(policy, batch, temperature=TEMPERATURE, importance_cap=2.0)
    torch.testing.assert_close(weighed.total, plain.total, atol=1e-3, rtol=1e-4)


def test_the_log_keeps_the_samplers_logprobs_and_the_version(policy: Decoder, make_feed: MakeFeed) -> None:
    feed, other = sampled_by_another(policy, make_feed)
    feed.micro_batches(0)
    records = [json.loads(line) for line in (feed.folder / "step-000000.jsonl").read_text().splitlines()]
    prompt, answer = records[0]["prompt_ids"], records[0]["answers"][0]
    doc = Doc([*prompt, *answer["tokens"]], [-100] * len(prompt) + answer["tokens"])
    assert answer["logprobs"] == pytest.approx(scorer(other)([doc])[0][len(prompt) :], abs=1e-4)
    assert {record["policy"] for record in records} == {0}


def test_gaps_by_hand() -> None:
    rollouts = [
        Rollout((4, 5), (-1.0, -2.0), "", "stop", 1.0, sampled_logprobs=(-1.5, -2.0)),
        Rollout((4,), (-1.0,), "", "stop", 1.0, sampled_logprobs=(-0.75,)),
    ]
    assert gaps(rollouts) == {"logprob_gap": pytest.approx(0.25), "logprob_gap_max": pytest.approx(0.5)}


def test_older_weights_sample_and_their_age_is_told(policy: Decoder, make_feed: MakeFeed, tmp_path: Path) -> None:
    """The second generation is answered by the first one's weights, though the policy has moved on."""
    stale = StalePolicy(policy, behind=1, updates=1, folder=tmp_path / "rollouts")
    feed = make_feed(policy, stale=stale, trainer=scorer(policy))
    assert isinstance(feed.collector, GroupCollector)
    feed.collector.engine = Engine(stale.model, eos_ids=[STOP], pad_id=PAD)
    feed.micro_batches(0)
    assert (feed.figures["policy_lag"], feed.figures["logprob_gap_max"]) == (0, pytest.approx(0, abs=1e-4))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.05)
    (batch,) = feed.micro_batches(1)
    assert feed.figures["policy_lag"] == 1 and feed.figures["logprob_gap_max"] > 1e-3
    with torch.no_grad():
        scores = token_scores(stale.model, batch, TEMPERATURE)
    said = batch.per_token["sampled_logprobs"].flatten()[scores.places]
    torch.testing.assert_close(said, scores.logprobs, atol=1e-4, rtol=0)
    records = [json.loads(line) for line in (feed.folder / "step-000001.jsonl").read_text().splitlines()]
    assert {(record["step"], record["policy"]) for record in records} == {(1, 0)}
    feed.micro_batches(2)
    assert feed.figures["policy_lag"] == 0 and feed.figures["logprob_gap_max"] < 1e-4
