"""What answers are credited with: by groups, by the batch, by tokens, less the KL, and never for an ungraded one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from rl_toys import TEMPERATURE

from luopan.model.decoder import Decoder
from luopan.rl.credit import Credit, advantages, token_advantages
from luopan.rl.feed import Collected, OnPolicyFeed
from luopan.rl.rollouts import Rollout
from luopan.tokens.batch import Doc
from luopan.train.losses import policy_loss

MakeFeed = Callable[..., OnPolicyFeed]


def answers(*rewards: float | None, tokens: int = 2) -> tuple[Rollout, ...]:
    return tuple(Rollout((4,) * tokens, (-0.5,) * tokens, "", "stop", reward) for reward in rewards)


def credited(groups: Any, credit: Credit | None = None, penalties: Any = None) -> list[tuple[float, ...]]:
    return advantages(groups, credit or Credit(), penalties)


def test_advantages_by_hand() -> None:
    # mean 0.25, deviations -.25 -.25 .75 -.25, Bessel std = sqrt(0.75 / 3) = 0.5
    (values,) = credited([answers(0.0, 0.0, 1.0, 0.0)])
    assert values == pytest.approx((-0.25 / 0.5001, -0.25 / 0.5001, 0.75 / 0.5001, -0.25 / 0.5001))
    (centred,) = credited([answers(0.0, 0.0, 1.0, 0.0)], Credit(scale_rewards="none"))
    assert centred == pytest.approx((-0.25, -0.25, 0.75, -0.25))


def test_an_ungraded_answer_has_no_advantage_and_moves_no_mean() -> None:
    (values,) = credited([answers(1.0, None, 0.0, None)])
    (alone,) = credited([answers(1.0, 0.0)])
    assert values == pytest.approx((alone[0], 0.0, alone[1], 0.0))
    assert alone[0] == pytest.approx(0.5 / (math.sqrt(0.5) + 1e-4))


def test_a_group_with_one_graded_answer_or_none_is_worth_nothing() -> None:
    assert credited([answers(None, 1.0, None), answers(None, None, None)]) == [(0, 0, 0), (0, 0, 0)]


def test_batch_scale_divides_every_group_by_the_same_number() -> None:
    groups = [answers(1.0, 0.0), answers(0.2, 0.0)]
    first, second = credited(groups, Credit(scale_rewards="batch"))
    std = math.sqrt(sum((x - 0.3) ** 2 for x in (1.0, 0.0, 0.2, 0.0)) / 3)
    assert first[0] == pytest.approx(0.5 / (std + 1e-4)) and second[0] == pytest.approx(0.1 / (std + 1e-4))


def test_leave_one_out() -> None:
    (values,) = credited([answers(1.0, 0.0, 0.5, None)], Credit("rloo"))
    assert values == pytest.approx((0.75, -0.75, 0.0, 0.0))


def test_the_kl_in_the_reward_counts_for_the_whole_answer() -> None:
    credit = Credit("rloo", beta=0.5)
    # log pi - log pi_ref of 0.2 and 0.4, times beta
    taken = credit.penalties(torch.tensor([-0.5, -0.5]), torch.tensor([-0.7, -0.9]))
    assert taken.tolist() == pytest.approx([0.1, 0.2])
    (values,) = credited([answers(1.0, 0.0)], credit, [[taken, torch.zeros(2)]])
    assert values == pytest.approx((0.7, -0.7))


def test_a_batch_is_compared_with_itself_by_tokens() -> None:
    credit = Credit("reinforce_pp", beta=1.0)
    groups = [answers(1.0, tokens=2), answers(None, tokens=3), answers(0.0, tokens=1)]
    penalties = [[torch.tensor([0.2, 0.1])], [torch.full((3,), 9.0)], [torch.tensor([0.3])]]
    returns = (0.7, 0.9, -0.3)
    mean = sum(returns) / 3
    std = math.sqrt(sum((value - mean) ** 2 for value in returns) / 2)
    expected = [(value - mean) / (std + 1e-4) for value in returns]
    (first,), (ungraded,), (last,) = token_advantages(groups, credit, penalties)
    assert first == pytest.approx(expected[:2], rel=1e-5) and last == pytest.approx(expected[2:], rel=1e-5)
    assert ungraded == (0, 0, 0)
    assert credited(groups, credit, penalties) == [
        (pytest.approx(sum(expected[:2]) / 2, rel=1e-5),), (0.0,), (pytest.approx(expected[2], rel=1e-5),),
    ]  # fmt: skip


def test_with_a_baseline_the_groups_mean_comes_off_first() -> None:
    groups = [answers(1.0, 0.0, tokens=1), answers(0.4, 0.6, tokens=1)]
    values = [value for group in credited(groups, Credit("reinforce_pp_baseline")) for value in group]
    std = math.sqrt(2 * (0.5**2 + 0.1**2) / 3)
    assert values == pytest.approx([x / (std + 1e-4) for x in (0.5, -0.5, -0.1, 0.1)], rel=1e-5)


def test_nothing_graded_is_worth_nothing() -> None:
    for name in ("group", "rloo", "reinforce_pp", "reinforce_pp_baseline"):
        assert credited([answers(None, None)], Credit(name)) == [(0.0, 0.0)]  # type: ignore[arg-type]


# ---- in the feed ----


def tokens_apart(docs: Sequence[Doc]) -> list[list[float]]:
    """A reference under which each token of an answer is less likely, by as many hundredths of a nat as its number."""
    return [
        [value - id_ / 100 if value else 0.0 for value, id_ in zip(doc.per_token["old_logprobs"], doc.input_ids)]
        for doc in docs
    ]


def collected(feed: OnPolicyFeed) -> tuple[Collected, list[Doc]]:
    found = feed.collector.collect(0, 0, {})
    return found, [doc for unit in found.units for doc in unit]


def test_an_answer_pays_for_its_kl(policy: Decoder, make_feed: MakeFeed) -> None:
    feed = make_feed(policy, advantage="rloo", reward_beta=0.5, reference=tokens_apart)
    _, docs = collected(feed)
    by_prompt: dict[tuple[int, ...], list[tuple[float, float]]] = {}
    for doc in docs:
        start = len(doc) - doc.num_trained
        net = parity_of(doc) - 0.5 * sum(distances(doc))
        by_prompt.setdefault(tuple(doc.input_ids[:start]), []).append((net, doc.fields["advantage"]))
        assert set(doc.per_token) == {"old_logprobs"}  # the loss has no use for the reference
    assert len(by_prompt) > 1
    for answers_ in by_prompt.values():
        total = sum(net for net, _ in answers_)
        for net, got in answers_:
            assert got == pytest.approx(net - (total - net) / (len(answers_) - 1), abs=1e-5)


def test_the_kl_in_the_reward_is_a_figure(policy: Decoder, make_feed: MakeFeed) -> None:
    # All groups are alive here, so that all answers that were sampled are documents.
    feed = make_feed(policy, advantage="reinforce_pp", reward_beta=0.5, reference=tokens_apart)
    found, docs = collected(feed)
    apart = [distance for doc in docs for distance in distances(doc)]
    assert found.figures["kl"] == pytest.approx(sum(apart) / len(apart), rel=1e-4)


def test_the_reference_is_asked_for_the_loss_or_the_reward(policy: Decoder, make_feed: MakeFeed) -> None:
    found, docs = collected(make_feed(policy, reference=tokens_apart))
    assert all("reference_logprobs" in doc.per_token for doc in docs) and "kl" not in found.figures


def test_without_groups_no_answer_is_dead(policy: Decoder, make_feed: MakeFeed) -> None:
    """One answer to each prompt, credited by tokens; the loss reads it from where the answer stands."""
    feed = make_feed(policy, advantage="reinforce_pp", num_generations=1, reward_beta=0.5, reference=tokens_apart)
    _, docs = collected(feed)
    assert len(docs) == 6
    returns = []
    for doc in docs:
        tokens = doc.num_trained
        earned = parity_of(doc)
        returns += [earned - 0.5 * sum(distances(doc)[place:]) for place in range(tokens)]
    values = torch.tensor(returns)
    expected = (values - values.mean()) / (values.std() + 1e-4)
    got = [value for doc in docs for value in list(doc.per_token["advantages"])[-doc.num_trained :]]
    torch.testing.assert_close(torch.tensor(got), expected, atol=1e-4, rtol=1e-4)
    (batch,) = feed.micro_batches(0)
    term = policy_loss(policy, batch, temperature=TEMPERATURE, token_advantages=True)
    assert term.total.item() == pytest.approx(-float(expected.sum()), abs=1e-3)  # every ratio is 1
    flat = policy_loss(policy, batch, temperature=TEMPERATURE)
    gradients = [torch.autograd.grad(one.total, list(policy.parameters()))[0] for one in (term, flat)]
    assert (gradients[0] - gradients[1]).abs().max() > 1e-3


def parity_of(doc: Doc) -> float:
    return float(doc.input_ids[len(doc) - doc.num_trained] % 2 == 0)


def distances(doc: Doc) -> list[float]:
    return [id_ / 100 for id_ in list(doc.input_ids)[len(doc) - doc.num_trained :]]
