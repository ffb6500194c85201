"""What an answer earns: sums of parts, gaps that are no zeros, verifiers that fail or hang, answers that do not end."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest

from luopan.errors import TrainingError
from luopan.rl.rewards import Answer, OutOfTime, Part, Rewards, at_most, each, soft_overlong
from luopan.rl.rollouts import Prompt

ONE, OTHER = Prompt((1,), lambda text: None, name="one"), Prompt((1,), lambda text: None, name="other")


def answer(text: str = "", prompt: Prompt = ONE, *, length: int = 1, ending: str = "stop") -> Answer:
    return Answer(prompt, text, (7,) * length, ending)


def said(name: str = "said", weight: float = 1.0, **more: Any) -> Part:
    """The number that an answer says; "-" cannot be graded."""
    return Part(name, weight, each(lambda one: None if one.text == "-" else float(one.text)), **more)


# ---- sums ----


def test_parts_are_summed_by_weight_and_each_is_told() -> None:
    length = Part("length", -0.5, lambda answers: [float(len(one.tokens)) for one in answers])
    verdicts = Rewards((said(weight=2.0), length))([answer("1", length=3), answer("0.25", length=1)])
    assert verdicts.rewards == [2.0 - 1.5, 0.5 - 0.5]
    assert verdicts.parts == [{"said": 1.0, "length": 3.0}, {"said": 0.25, "length": 1.0}]
    assert verdicts.failures == {}


def test_all_answers_of_a_call_reach_a_part_at_once() -> None:
    calls: list[int] = []

    def count(answers: Any) -> list[float]:
        calls.append(len(answers))
        return [0.0] * len(answers)

    Rewards((Part("one", 1.0, count),))([answer("1")] * 5)
    assert calls == [5]


def test_a_required_part_takes_an_answer_out_and_an_optional_one_counts_as_its_prompts_mean() -> None:
    answers = [answer("1"), answer("-"), answer("4"), answer("8", OTHER), answer("-", OTHER)]
    assert Rewards((said(),))(answers).rewards == [1.0, None, 4.0, 8.0, None]
    verdicts = Rewards((said(required=False),))(answers)
    assert verdicts.rewards == [1.0, 2.5, 4.0, 8.0, 8.0]
    assert [part["said"] for part in verdicts.parts] == [1.0, None, 4.0, 8.0, None]  # told as it was
    assert Rewards((said(required=False),))([answer("-")]).rewards == [0.0]


# ---- verifiers that fail ----


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_finite_number_is_no_reward(value: float) -> None:
    assert Rewards((Part("odd", 1.0, lambda answers: [value, 1.0]),))([answer(), answer()]).rewards == [None, 1.0]


def test_a_verifier_that_raises_costs_its_answer_and_no_other() -> None:
    verdicts = Rewards((said(),))([answer("1"), answer("one"), answer("0")])
    assert verdicts.rewards == [1.0, None, 0.0]
    assert verdicts.failures == {"said": "ValueError: could not convert string to float: 'one'"}


def test_a_part_that_fails_on_all_together_is_asked_about_each() -> None:
    def batch(answers: Any) -> list[float]:
        return [float(one.text) for one in answers]

    def short(answers: Any) -> list[float]:
        return [1.0]

    verdicts = Rewards((Part("batch", 1.0, batch),))([answer("1"), answer("x"), answer("2")])
    assert verdicts.rewards == [1.0, None, 2.0] and "could not convert" in verdicts.failures["batch"]
    assert Rewards((Part("short", 1.0, short),))([answer(), answer()]).failures == {
        "short": "ValueError: 1 scores for 2 answers"
    }


def test_a_verifier_that_hangs_is_stopped_and_grades_nothing() -> None:
    def hang(one: Answer) -> float:
        while one.text == "hang":
            pass
        return 1.0

    began = time.perf_counter()
    verdicts = Rewards((Part("slow", 1.0, each(hang, seconds=0.1)),))([answer(), answer("hang"), answer()])
    assert verdicts.rewards == [1.0, None, 1.0] and time.perf_counter() - began < 2
    assert verdicts.failures == {"slow": "OutOfTime: took longer than 0.1 s"}


def test_the_clock_is_stopped_with_the_block() -> None:
    with at_most(0.05):
        pass
    time.sleep(0.08)  # a clock that runs on would ring here
    with pytest.raises(OutOfTime), at_most(0.05):
        time.sleep(5)


def test_why_a_part_failed_is_said_once() -> None:
    heard: list[str] = []
    rewards = Rewards((said(),), say=heard.append)
    for text in ("1", "one", "two"):
        rewards([answer(text)])
    assert heard == ["WARNING: said could not grade an answer: ValueError: could not convert string to float: 'one'"]
    assert rewards.failed == {"said": "ValueError: could not convert string to float: 'one'"}


def test_an_error_that_the_user_can_mend_ends_the_run() -> None:
    def down(answers: Any) -> list[float]:
        raise TrainingError("the judge does not answer")

    def down_for(one: Answer) -> float:
        raise TrainingError("the judge does not answer")

    for score in (down, each(down_for)):
        with pytest.raises(TrainingError, match="judge"):
            Rewards((Part("judge", 1.0, score),))([answer(), answer()])


# ---- answers that do not end ----


def test_what_becomes_of_answers_that_do_not_end() -> None:
    answers = [answer("1"), answer("1", ending="length"), answer("-", ending="length")]
    assert Rewards((said(),), "mask")(answers).rewards == [1.0, None, None]
    assert Rewards((said(),), "penalise", -2.0)(answers).rewards == [1.0, -2.0, None]
    assert Rewards((said(),), "keep", missing_eos_penalty=0.5)(answers).rewards == [1.0, 0.5, None]


def test_soft_overlong_by_hand() -> None:
    # Lmax 20, Lc 5: free up to 15, then a fifth a token, -1 at 20 and beyond
    values = {0: 0.0, 15: 0.0, 16: -0.2, 19: -0.8, 20: -1.0, 27: -1.0}
    assert {length: soft_overlong(length, 20, 5) for length in values} == pytest.approx(values)


def test_soft_overlong_is_added_to_all_that_count() -> None:
    answers = [answer("1", length=18), answer("1", length=20, ending="length"), answer("-", length=18)]
    verdicts = Rewards((said(),), "penalise", 0.0, overlong=(20, 5))(answers)
    assert verdicts.rewards[:2] == pytest.approx([0.4, -1.0]) and verdicts.rewards[2] is None
    assert [part["soft_overlong"] for part in verdicts.parts] == pytest.approx([-0.6, -1.0, -0.6])
    assert Rewards((said(),), overlong=(20, 5), overlong_weight=0.5)(answers[:1]).rewards == pytest.approx([0.7])
    assert Rewards((said(),), "mask", overlong=(20, 5))(answers).rewards[1] is None
