"""Groups and their advantages: what an answer is worth beside its neighbours, and what an ungraded one must not do."""

from __future__ import annotations

import math

import pytest

from luopan.rl.groups import rollout_doc
from luopan.rl.rollouts import Group, Prompt, Rollout, advantages

PROMPT = Prompt((7, 8, 9), lambda text: None, name="sum", thinking=True, question="1+1?")


def answers(*rewards: float | None) -> tuple[Rollout, ...]:
    return tuple(Rollout((4, 5), (-0.5, -0.25), "4 5", "stop", reward) for reward in rewards)


def test_advantages_by_hand() -> None:
    # mean 0.25, deviations -.25 -.25 .75 -.25, Bessel std = sqrt(0.75 / 3) = 0.5
    (values,) = advantages([answers(0.0, 0.0, 1.0, 0.0)], "group")
    assert values == pytest.approx((-0.25 / 0.5001, -0.25 / 0.5001, 0.75 / 0.5001, -0.25 / 0.5001))
    (centred,) = advantages([answers(0.0, 0.0, 1.0, 0.0)], "none")
    assert centred == pytest.approx((-0.25, -0.25, 0.75, -0.25))


def test_an_ungraded_answer_has_no_advantage_and_moves_no_mean() -> None:
    (values,) = advantages([answers(1.0, None, 0.0, None)], "group")
    (alone,) = advantages([answers(1.0, 0.0)], "group")
    assert values == pytest.approx((alone[0], 0.0, alone[1], 0.0))
    assert alone[0] == pytest.approx(0.5 / (math.sqrt(0.5) + 1e-4))


def test_a_group_with_one_graded_answer_or_none_is_worth_nothing() -> None:
    assert advantages([answers(None, 1.0, None), answers(None, None, None)], "group") == [(0, 0, 0), (0, 0, 0)]


def test_batch_scale_divides_every_group_by_the_same_number() -> None:
    groups = [answers(1.0, 0.0), answers(0.2, 0.0)]
    first, second = advantages(groups, "batch")
    std = math.sqrt(sum((x - 0.3) ** 2 for x in (1.0, 0.0, 0.2, 0.0)) / 3)
    assert first[0] == pytest.approx(0.5 / (std + 1e-4)) and second[0] == pytest.approx(0.1 / (std + 1e-4))


@pytest.mark.parametrize(
    ("rewards", "dead"),
    [((1.0, 1.0), True), ((0.0, 1.0), False), ((None, 1.0), True), ((None, None), True), ((None, 0.0, 1.0), False)],
)
def test_a_group_is_dead_when_its_graded_rewards_are_equal(rewards: tuple[float | None, ...], dead: bool) -> None:
    assert Group(PROMPT, answers(*rewards), (0.0,) * len(rewards)).dead is dead


def test_the_record_keeps_what_a_reader_needs() -> None:
    record = Group(PROMPT, answers(1.0, None), (0.70711, 0.0)).record(3)
    assert (record["step"], record["task"], record["question"], record["thinking"]) == (3, "sum", "1+1?", True)
    assert [(a["reward"], a["advantage"], len(a["tokens"])) for a in record["answers"]] == [
        (1.0, 0.7071, 2),
        (None, 0.0, 2),
    ]


def test_the_prompt_is_not_trained_and_the_stop_token_is() -> None:
    stop = 1
    rollout = Rollout((4, 5, stop), (-0.5, -0.25, -0.125), "", "stop", 1.0)
    doc = rollout_doc(PROMPT, rollout, 0.75)
    assert list(doc.input_ids) == [7, 8, 9, 4, 5, stop]
    assert list(doc.labels) == [-100, -100, -100, 4, 5, stop]
    assert list(doc.per_token["old_logprobs"]) == [0.0, 0.0, 0.0, -0.5, -0.25, -0.125]
    assert doc.fields == {"advantage": 0.75} and doc.num_trained == 3
