"""Guessing ahead changes how many passes an answer takes, and nothing else."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from generate_toys import tiny_model
from transformers import PreTrainedTokenizerFast

from luopan.errors import RecipeError
from luopan.generate.config import SamplingParams
from luopan.generate.engine import Engine
from luopan.generate.speculation import NgramDraft, Speculation
from luopan.generate.text import TextGenerator
from luopan.model.decoder import Decoder

# Every test of this file, by either way of decoding.
pytestmark = pytest.mark.usefixtures("way")


@pytest.fixture(scope="module")
def draft() -> Decoder:
    """Near the model, so that some guesses are right and some wrong."""
    changed = copy.deepcopy(tiny_model())
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    return changed


def prompts(count: int) -> list[list[int]]:
    """With repetitions, so that n-grams find something."""
    draw = random.Random(5)
    made = []
    for _ in range(count):
        piece = [draw.randrange(384) for _ in range(draw.randint(3, 8))]
        made.append((piece * 4)[: draw.randint(10, 30)])
    return made


PARAMS = [
    SamplingParams(temperature=0, max_new_tokens=40),
    SamplingParams(temperature=0.7, top_k=20, max_new_tokens=40, seed=3),
    SamplingParams(max_new_tokens=33, seed=8, repetition_penalty=1.2, stop_token_ids=tuple(range(0, 384, 30))),
    SamplingParams(temperature=0.4, max_new_tokens=25, seed=1, top_logprobs=2),
]


@pytest.mark.parametrize("kind", ["ngram", "draft"])
@pytest.mark.parametrize("requests", [1, 3])
def test_the_tokens_are_the_same(model: Decoder, draft: Decoder, kind: str, requests: int) -> None:
    speculation = Speculation(draft if kind == "draft" else None, tokens=3, ngram=2, requests=3)
    guessed = accepted = steps = said = 0
    for params in PARAMS:
        for start in range(0, 12, requests):
            group = prompts(12)[start : start + requests]
            plain = Engine(model, eos_ids=[7]).generate(group, params)
            session = Engine(model, eos_ids=[7], speculation=speculation).session()
            numbers = [session.add(prompt, params, key=key) for key, prompt in enumerate(group)]
            heard: dict[int, list[int]] = {}
            while session.unfinished:
                session.step(lambda number, token, _, to=heard: to.setdefault(number, []).append(token))
                steps += 1
            for number, expected in zip(numbers, plain):
                done = session.finished[number]
                assert done.tokens == expected.tokens == heard[number]
                assert done.finish_reason == expected.finish_reason
                assert done.logprobs == pytest.approx(expected.logprobs, abs=1e-4)
                assert (done.top_logprobs is None) == (expected.top_logprobs is None)
                said += len(done.tokens)
            guessed += session.guessed
            accepted += session.accepted
    assert 0 < accepted < guessed, "both right and wrong guesses must have been met"
    if requests == 1:
        assert steps <= said - accepted + 12 * len(PARAMS)


def test_a_perfect_draft_is_always_right(model: Decoder) -> None:
    params = SamplingParams(temperature=0.9, max_new_tokens=41, seed=2)
    session = Engine(model, eos_ids=[], speculation=Speculation(model, tokens=4)).session()
    session.add([1, 2, 3], params)
    steps = 0
    while session.unfinished:
        session.step()
        steps += 1
    assert session.accepted == session.guessed == 32 and steps == 9  # the prompt's token, then five at a time


def test_a_listener_may_stop_in_the_middle_of_a_guess(model: Decoder) -> None:
    params = SamplingParams(temperature=0, max_new_tokens=30)
    expected = Engine(model, eos_ids=[]).generate([[4, 5, 6]], params)[0].tokens
    for place in range(1, 12):
        heard: list[int] = []

        def listen(number: int, token: int, logprob: float, heard: list[int] = heard, place: int = place) -> bool:
            heard.append(token)
            return len(heard) == place

        engine = Engine(model, eos_ids=[], speculation=Speculation(model, tokens=4))
        done = engine.generate([[4, 5, 6]], params, on_token=listen)[0]
        assert done.tokens == heard == expected[:place] and done.finish_reason == "stop"


def test_it_rests_while_many_run_and_a_prompt_cache_stays_true(model: Decoder) -> None:
    engine = Engine(model, eos_ids=[], speculation=Speculation(tokens=4, ngram=2, requests=1))
    session = engine.session()
    many = prompts(3)
    params = SamplingParams(temperature=0, max_new_tokens=20)
    numbers = [session.add(prompt, params) for prompt in many]
    session.step(), session.step()
    assert session.guessed == 0
    while session.unfinished:
        session.step()
    # The next turn takes over what the slots hold, wrong guesses must not be among it.
    for number, prompt in zip(numbers, many):
        longer = [*prompt, *session.finished[number].tokens, 9, 9]
        again = session.add(longer, params)
        while session.unfinished:
            session.step()
        assert session.finished[again].tokens == Engine(model, eos_ids=[]).generate([longer], params)[0].tokens


def test_ngrams_are_found_where_they_stood_last() -> None:
    draft = NgramDraft(tokens=3, ngram=3, requests=1)
    pick = None  # never asked
    assert draft.propose(0, [1, 2, 3, 4, 5, 9, 1, 2, 3], 10, pick) == [4, 5, 9]  # type: ignore[arg-type]
    assert draft.propose(0, [1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3], 2, pick) == [5, 1]  # type: ignore[arg-type]
    assert draft.propose(0, [7, 2, 3, 4, 1, 2, 3], 1, pick) == [4]  # type: ignore[arg-type]
    assert draft.propose(0, [1, 2, 3, 4], 5, pick) == []  # type: ignore[arg-type]
    assert draft.propose(0, [1, 1, 1, 1], 0, pick) == []  # type: ignore[arg-type]


def test_settings_that_cannot_work_are_refused(model: Decoder) -> None:
    with pytest.raises(RecipeError, match="tokens is 0"):
        Engine(model, eos_ids=[], speculation=Speculation(tokens=0))
    with pytest.raises(RecipeError, match="draft model has 300 tokens, the model 384"):
        Engine(model, eos_ids=[], speculation=Speculation(tiny_model(vocab_size=300)))


def test_a_bound_answer_is_the_same(model: Decoder, tokenizer: PreTrainedTokenizerFast) -> None:
    """A constraint hears each token once, guessed or not."""
    schema = '{"type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["cat", "mat"]}}}'
    plain = TextGenerator(model, tokenizer)
    for speculation in (Speculation(model, tokens=3), Speculation(tokens=3, ngram=2)):
        ahead = TextGenerator(model, tokenizer, speculation=speculation)
        for seed in range(6):
            params = SamplingParams(json_schema=schema, max_new_tokens=40, seed=seed)
            one, other = plain.batch(["cat mat cat mat"], params)[0], ahead.batch(["cat mat cat mat"], params)[0]
            assert (one.tokens, one.finish_reason) == (other.tokens, other.finish_reason)
