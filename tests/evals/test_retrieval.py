"""Retrieval: what the prompts hold, how answers are judged, and that a model which looks back scores."""

from __future__ import annotations

import re

import pytest
from evals_models import tiny_model, tiny_tokenizer

from luopan.errors import DataError
from luopan.evals import retrieval
from luopan.evals.retrieval import make_needles, retrieval_accuracy, said
from luopan.generate.engine import Completion


def test_a_prompt_states_the_code_early_and_asks_at_the_end():
    tokenizer = tiny_tokenizer()
    needles = make_needles(tokenizer, 12, length=600, facts=3, seed=1)
    for needle in needles:
        text = tokenizer.decode(needle.prompt)
        asked = re.search(r"(?:code of|code has) the ([a-z ]+)[?.]$", text)
        assert asked is not None
        stated = re.findall(rf"code of the {asked[1]} is ([0-9 ]+)\.", ". ".join(text.split(". ")[:3]) + ".")
        assert stated == [needle.answer] and text.count(needle.answer) == 1
        assert len(needle.others) == 2 and needle.answer not in needle.others
        # Filled to the last sentence: the answer still fits, not much is left over.
        assert 540 < len(needle.prompt) <= 600 - len(tokenizer(" 0 0 0").input_ids)
        assert needle.distance > 400
    assert len({needle.answer for needle in needles}) > 8


def test_the_same_arguments_give_the_same_prompts():
    tokenizer = tiny_tokenizer()
    assert make_needles(tokenizer, 3, length=400) == make_needles(tokenizer, 3, length=400)
    assert make_needles(tokenizer, 3, length=400) != make_needles(tokenizer, 3, length=400, seed=1)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (" 4 7 1.", True),
        ("4 7 1", True),
        ("  4  7 1 and so on", True),
        (" 4 7 1 2", False),
        (" 4 7 12", False),
        (" 4 7", False),
        (" 14 7 1", False),
        (" The code is 4 7 1", False),
        ("", False),
    ],
)
def test_judging(answer, right):
    assert said(answer, "4 7 1") is right


class Oracle:
    """Answers with the code that `choose` picks."""

    def __init__(self, choose):
        self.choose = choose

    def __call__(self, model, **options):
        return self

    def generate(self, prompts, params):
        assert params.temperature == 0
        needles = make_needles(tiny_tokenizer(), len(prompts), length=400)
        assert [needle.prompt for needle in needles] == prompts
        texts = [f" {self.choose(at, needle)}." for at, needle in enumerate(needles)]
        return [Completion(tiny_tokenizer()(text).input_ids, [], "length") for text in texts]


def test_figures(monkeypatch):
    def choose(at, needle):
        return needle.answer if at < 6 else needle.others[0] if at < 9 else "x"

    monkeypatch.setattr(retrieval, "Engine", Oracle(choose))
    found = retrieval_accuracy(tiny_model(), tiny_tokenizer(), cases=10, length=400)
    assert (found["accuracy"], found["other_code"], found["n"], found["chance"]) == (0.6, 0.3, 10, 0.25)
    assert found["stderr"] == pytest.approx((0.6 * 0.4 / 9) ** 0.5)
    assert found["distance"] > 200


def test_a_real_engine_runs_it():
    found = retrieval_accuracy(tiny_model(400), tiny_tokenizer(), cases=4, length=400)
    assert found["accuracy"] == 0 and found["n"] == 4


def test_what_does_not_fit_is_an_error():
    with pytest.raises(DataError, match="4 facts and a question need"):
        make_needles(tiny_tokenizer(), 1, length=40)
    with pytest.raises(DataError, match="cases is 0"):
        make_needles(tiny_tokenizer(), 0, length=400)
    with pytest.raises(DataError, match="context is 64"):
        retrieval_accuracy(tiny_model(64), tiny_tokenizer(), cases=1, length=400)
