"""Multiple choice: hand-worked decisions, the harness's formula, tokens split as it splits them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from evals_models import tiny_model, tiny_tokenizer, uniform_model

from luopan.errors import DataError
from luopan.evals.multiple_choice import Question, decide, multiple_choice, stderr
from luopan.evals.pairs import pair_encoder


def test_hand_worked_decision():
    question = Question("Q", ("ab", "abcdef", "abcd"), answer=1)
    answered = decide(question, [-4.0, -6.0, -8.0])
    # Summed: -4 is best. Per character: -2, -1, -2.
    assert (answered.chosen, answered.chosen_normalised) == (0, 1)
    tie = decide(question, [-2.0, -6.0, -4.0])
    assert (tie.chosen, tie.chosen_normalised) == (0, 0)


def test_a_model_that_knows_nothing_takes_the_fewest_tokens_and_the_most_characters_per_token():
    tokenizer = tiny_tokenizer()
    question = Question("The river", ("zq zq zq", "the", "the morning light"), answer=2)
    (answered,) = multiple_choice(uniform_model(), tokenizer, [question]).answers
    tokens = [len(tokenizer(" " + choice).input_ids) for choice in question.choices]
    assert answered.logprobs == pytest.approx([-n * math.log(len(tokenizer)) for n in tokens], rel=1e-5)
    per_character = [n / len(choice) for n, choice in zip(tokens, question.choices)]
    assert answered.chosen == int(np.argmin(tokens)) and answered.chosen_normalised == int(np.argmin(per_character))


def test_equals_the_harness_formula():
    """lm-evaluation-harness 0.4: log-likelihood of " " + choice, for acc_norm over len(choice)."""
    model, tokenizer = tiny_model(128), tiny_tokenizer()
    choices = [("box", "lamp and cart", "stone"), ("a cart", "nobody", "the red box is"), ("4 7 1", "light", "北京 é")]
    questions = [
        Question(f"The code of the {name} is", options, answer=at % 3)
        for at, (name, options) in enumerate(zip(["red box", "yard", "river"] * 6, choices * 6))
    ]
    questions = [Question(q.context + " here" * at, q.choices, (q.answer + at) % 3) for at, q in enumerate(questions)]
    acc, acc_norm = [], []
    for question in questions:
        logprobs = []
        for choice in question.choices:
            context = tokenizer(question.context, add_special_tokens=False).input_ids
            whole = tokenizer(question.context + " " + choice, add_special_tokens=False).input_ids
            with torch.no_grad():
                rows = torch.log_softmax(model(torch.tensor([whole]))[0, :-1].double(), -1)
            logprobs.append(sum(rows[at - 1, whole[at]].item() for at in range(len(context), len(whole))))
        acc.append(float(np.argmax(logprobs) == question.answer))
        lengths = np.array([float(len(choice)) for choice in question.choices])
        acc_norm.append(float(np.argmax(np.array(logprobs) / lengths) == question.answer))
    found = multiple_choice(model, tokenizer, questions)
    assert (found.n, found.accuracy, found.accuracy_normalised) == (18, np.mean(acc), np.mean(acc_norm))
    assert 0 < found.accuracy < 1 and found.accuracy != found.accuracy_normalised
    # Its standard error: the sample's standard deviation over the root of n.
    assert found.stderr == pytest.approx(np.std(acc, ddof=1) / math.sqrt(18))
    assert found.stderr_normalised == pytest.approx(np.std(acc_norm, ddof=1) / math.sqrt(18))
    assert found.chance == pytest.approx(1 / 3)
    assert found.to_json()["accuracy"] == found.accuracy and "answers" not in found.to_json()


def test_space_at_the_end_of_a_context_goes_with_the_choice():
    encode_pair, tokenizer = pair_encoder(tiny_tokenizer()), tiny_tokenizer()
    both, start = encode_pair("The code ", " of")
    assert tokenizer.decode(both[:start]) == "The code" and tokenizer.decode(both[start:]) == "  of"
    assert both == tokenizer("The code  of", add_special_tokens=False).input_ids
    both, start = encode_pair("", "of")
    assert both == [tokenizer.eos_token_id, *tokenizer("of", add_special_tokens=False).input_ids] and start == 1


def test_a_long_context_loses_its_beginning_and_is_counted():
    model, tokenizer = tiny_model(32), tiny_tokenizer()
    tail = "The code of the red box is"
    long = Question("nobody saw the stone " * 20 + tail, ("4 7 1", "light"), 0)
    short = Question("nobody saw", ("4 7 1", "light"), 0)
    found = multiple_choice(model, tokenizer, [long, short])
    assert found.truncated == 1
    whole = tokenizer(long.context + " light", add_special_tokens=False).input_ids[-32:]
    with torch.no_grad():
        rows = torch.log_softmax(model(torch.tensor([whole]))[0].double(), -1)
    n = len(tokenizer(" light", add_special_tokens=False).input_ids)
    expected = sum(rows[at - 1, whole[at]].item() for at in range(32 - n, 32))
    assert found.answers[0].logprobs[1] == pytest.approx(expected, rel=1e-4)
    with pytest.raises(DataError, match="longer than the model's context"):
        multiple_choice(model, tokenizer, [Question("a", ("x y z " * 40, "b"), 0)])


@pytest.mark.parametrize(
    ("choices", "answer", "complaint"),
    [
        (("a",), 0, "at least two"),
        (("a", "b"), 2, "answer is 2"),
        (("a", "b"), -1, "answer is -1"),
        (("a", ""), 0, "empty"),
    ],
)
def test_a_question_that_cannot_be_scored_is_an_error(choices, answer, complaint):
    with pytest.raises(DataError, match=complaint):
        Question("q", choices, answer, id="q1")


def test_no_questions_and_single_ones():
    with pytest.raises(DataError, match="no questions"):
        multiple_choice(tiny_model(), tiny_tokenizer(), [])
    assert math.isnan(stderr([True]))
