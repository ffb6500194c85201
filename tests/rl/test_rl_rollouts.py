"""Groups and their advantages: what an answer is worth beside its neighbours, and what an ungraded one must not do."""

from __future__ import annotations

import pytest

from luopan.rl.rollouts import Group, Prompt, Rollout, rollout_doc

PROMPT = Prompt((7, 8, 9), lambda text: None, name="sum", thinking=True, question="1+1?")


def answers(*rewards: float | None) -> tuple[Rollout, ...]:
    return tuple(Rollout((4, 5), (-0.5, -0.25), "4 5", "stop", reward) for reward in rewards)


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
