"""Beam search against transformers, token for token, and what it promises by itself."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from luopan.errors import DataError, RecipeError
from luopan.generate.beam import beam_search
from luopan.generate.config import SamplingParams
from luopan.generate.engine import Engine
from luopan.generate.text import TextGenerator
from luopan.model import hf
from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder

EOS = 7
STOPS = (11, *range(12, 40, 4))  # many, so that beams end at different times


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Decoder, Any]:
    """A model of few words, so that beams end at different times, and the same in transformers."""
    folder = tmp_path_factory.mktemp("beams")
    model = Decoder(
        ModelConfig(
            vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=96, initializer_range=0.15,
        )
    ).eval()  # fmt: skip
    hf.save(model, folder)
    return model, transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.mark.parametrize("num_beams", [1, 2, 5])
@pytest.mark.parametrize("length_penalty", [1.0, 0.0, 2.0, -1.0])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_beams_are_those_of_transformers(
    pair: tuple[Decoder, Any], num_beams: int, length_penalty: float, early_stopping: bool
) -> None:
    model, theirs = pair
    draw = random.Random(4)
    engine, reasons = Engine(model, eos_ids=[EOS]), set()
    settings: dict[str, Any] = {"length_penalty": length_penalty, "early_stopping": early_stopping}
    for _ in range(8):
        prompt = [draw.randrange(8, 40) for _ in range(draw.randint(1, 20))]
        params = SamplingParams(max_new_tokens=12, stop_token_ids=STOPS)
        ours = beam_search(engine, prompt, params, num_beams=num_beams, num_return_sequences=num_beams, **settings)
        ids = torch.tensor([prompt])
        if num_beams == 1:
            settings = {}  # transformers decodes greedily then, and refuses both
        found = theirs.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12, num_beams=num_beams,
            num_return_sequences=num_beams, eos_token_id=[EOS, *STOPS], pad_token_id=0, return_dict_in_generate=True,
            output_scores=True, **settings,
        )  # fmt: skip
        for row, beam in enumerate(ours):
            tokens = beam.completion.tokens
            expected = found.sequences[row, len(prompt) :].tolist()
            assert tokens == expected[: len(tokens)] and set(expected[len(tokens) :]) <= {0, EOS}
            if num_beams > 1:
                assert beam.score == pytest.approx(float(found.sequences_scores[row]), rel=1e-5, abs=1e-5)
                score = sum(beam.completion.logprobs) / len(tokens) ** length_penalty
                assert beam.score == pytest.approx(score, rel=1e-5, abs=1e-4)
            assert (beam.completion.finish_reason == "stop") is (tokens[-1] in (EOS, *STOPS))
            reasons.add(beam.completion.finish_reason)
    assert "stop" in reasons or num_beams == 1 or length_penalty > 0  # long beams win then


def test_one_beam_is_greedy_and_wide_ones_are_likelier(model: Decoder) -> None:
    engine, prompt = Engine(model, eos_ids=[EOS]), [3, 1, 4, 1, 5]
    greedy = engine.generate([prompt], SamplingParams(temperature=0, max_new_tokens=15))[0]
    params = SamplingParams(max_new_tokens=15)
    (one,) = beam_search(engine, prompt, params, num_beams=1)
    assert one.completion.tokens == greedy.tokens
    wide = beam_search(engine, prompt, params, num_beams=16, num_return_sequences=3)
    assert wide[0].score > one.score and [b.score for b in wide] == sorted((b.score for b in wide), reverse=True)


def test_what_has_no_effect_is_refused(model: Decoder) -> None:
    engine = Engine(model, eos_ids=[EOS])
    for settings, values, message in (
        ({"num_beams": 0}, {}, "num_beams is 0"),
        ({"num_beams": 2, "num_return_sequences": 3}, {}, "from 1 to num_beams"),
        ({}, {"top_k": 5}, "top_k has no effect"),
        ({}, {"temperature": 0.7}, "temperature has no effect"),
    ):
        with pytest.raises(RecipeError, match=message):
            beam_search(engine, [1], SamplingParams(**values), **settings)
    with pytest.raises(DataError, match="empty"):
        beam_search(engine, [], SamplingParams())


def test_a_generator_searches_and_draws_several(tokenizer: Any, model: Decoder, scripted: Callable[..., Any]) -> None:
    speaker = TextGenerator(model, tokenizer)
    found = speaker.beam_search("the cat", num_beams=3, num_return_sequences=2, max_new_tokens=8)
    assert len(found) == 2 and found[0].score is not None and found[0].score >= (found[1].score or 0)
    assert found[0].text == str(tokenizer.decode(found[0].tokens, skip_special_tokens=True))
    drawn = speaker.best_of("the cat", 5, max_new_tokens=8, seed=1)
    means = [sum(reply.logprobs) / len(reply.logprobs) for reply in drawn]
    assert len({tuple(reply.tokens) for reply in drawn}) > 1 and means == sorted(means, reverse=True)
    longest = speaker.best_of("the cat", 5, max_new_tokens=8, seed=1, judge=lambda reply: len(reply.text))[0]
    assert len(longest.text) == max(len(reply.text) for reply in drawn)
    with pytest.raises(RecipeError, match="all answers are the same"):
        speaker.best_of("the cat", 2, temperature=0)
