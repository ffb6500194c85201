"""What a session draws, counted, against probabilities that are computed without it.

The expected probabilities of every text of two tokens come from the model's logits without a cache and transformers'
own processors (what those lack, the penalties of the OpenAI API, by their formula). Draws are real requests of a real
session. At a significance of 1e-6 a right sampler fails one test in 20,000 runs of this file; that a wrong one is seen
is tested too.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from transformers.generation.logits_process import (
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from luopan.generate.config import SamplingParams
from luopan.generate.constraint import constraints_for
from luopan.generate.engine import Engine
from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder

V, DRAWS, SEEDS, SIGNIFICANCE = 16, 10_000, (0, 1), 1e-6
PROMPT = [3, 1, 4, 1, 5]

COMBINATIONS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.6},
    {"temperature": 1.7},
    {"top_k": 5},
    {"top_p": 0.7},
    {"min_p": 0.15},
    {"typical_p": 0.6},
    {"repetition_penalty": 1.6},
    {"frequency_penalty": 1.5},
    {"presence_penalty": -1.2},
    {"logit_bias": {2: 1.5, 7: -3.0}},
    {"bad_words_ids": ((6,), (15, 14))},
    {"min_new_tokens": 2, "stop_token_ids": (9, 12)},
    {"stop_token_ids": (9, 12)},
    {"temperature": 0.8, "top_k": 12, "top_p": 0.9, "min_p": 0.02},
    {"temperature": 1.4, "top_k": 13, "top_p": 0.95, "min_p": 0.01, "typical_p": 0.9, "repetition_penalty": 1.2,
     "frequency_penalty": 0.7, "presence_penalty": 0.3, "logit_bias": {1: 2.0, 11: -1.0}, "bad_words_ids": ((4, 4),)},
]  # fmt: skip


@pytest.fixture(scope="module")
def small() -> Decoder:
    """16 tokens, so that texts of two can be counted."""
    return Decoder(ModelConfig(
        vocab_size=V, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, initializer_range=0.15,
    )).eval()  # fmt: skip


def theirs(params: SamplingParams, ids: Tensor, logits: Tensor) -> Tensor:
    """The probabilities [B, V] of what comes after ids [B, T], by transformers."""
    scores = logits.clone()
    if params.logit_bias:
        scores = SequenceBiasLogitsProcessor([[[i], value] for i, value in params.logit_bias])(ids, scores)
    if params.repetition_penalty != 1:
        scores = RepetitionPenaltyLogitsProcessor(params.repetition_penalty)(ids, scores)
    counts = torch.nn.functional.one_hot(ids[:, len(PROMPT) :], V).sum(1)
    scores = scores - params.frequency_penalty * counts - params.presence_penalty * (counts > 0)
    if params.bad_words_ids:
        scores = NoBadWordsLogitsProcessor([list(words) for words in params.bad_words_ids], V + 1)(ids, scores)
    if params.min_new_tokens:
        ends = list(params.stop_token_ids)
        scores = MinNewTokensLengthLogitsProcessor(len(PROMPT), params.min_new_tokens, ends)(ids, scores)
    scores = TemperatureLogitsWarper(params.temperature)(ids, scores)
    if params.top_k is not None:
        scores = TopKLogitsWarper(params.top_k)(ids, scores)
    if params.top_p < 1:
        scores = TopPLogitsWarper(params.top_p)(ids, scores)
    if params.min_p > 0:
        scores = MinPLogitsWarper(params.min_p)(ids, scores)
    if params.typical_p < 1:
        scores = TypicalLogitsWarper(params.typical_p)(ids, scores)
    return scores.softmax(-1)


@torch.no_grad()
def expected_pairs(model: Decoder, params: SamplingParams) -> Tensor:
    """[V, V]: the probability of each text of two tokens; one that ended after its first is on the diagonal."""
    prompt = torch.tensor([PROMPT])
    first = theirs(params, prompt, model(prompt)[:, -1])[0]  # [V]
    after = torch.cat([prompt.expand(V, -1), torch.arange(V)[:, None]], 1)
    second = theirs(params, after, model(after)[:, -1])  # [V, V]
    for end in params.stop_token_ids:
        second[end] = torch.nn.functional.one_hot(torch.tensor(end), V).float()
    return first[:, None] * second


class Draws:
    """How often a session said each text of two tokens, [V, V] for each seed; drawn once for several tests."""

    def __init__(self, model: Decoder) -> None:
        self.model, self._made = model, dict[SamplingParams, list[Tensor]]()

    def of(self, params: SamplingParams) -> list[Tensor]:
        if params not in self._made:
            self._made[params] = [self._draw(params, seed) for seed in SEEDS]
        return self._made[params]

    def _draw(self, params: SamplingParams, seed: int) -> Tensor:
        engine = Engine(self.model, eos_ids=[], max_batch=1000)
        done = engine.generate([PROMPT] * DRAWS, params.model_copy(update={"max_new_tokens": 2}), seed=seed)
        said = torch.tensor([[one.tokens[0], one.tokens[-1]] for one in done])
        return torch.bincount(said[:, 0] * V + said[:, 1], minlength=V * V).view(V, V)


@pytest.fixture(scope="module")
def draws(small: Decoder) -> Draws:
    return Draws(small)


def p_value(counts: Tensor, probabilities: Tensor) -> float:
    """Of Pearson's test, bins with fewer than five expected put together; 0 where something impossible was drawn."""
    counts, expected = counts.flatten().double(), probabilities.flatten().double() * counts.sum()
    if bool((counts[expected == 0] > 0).any()):
        return 0.0
    order = expected.argsort()
    rare = int((expected[order].cumsum(0) < 5).sum()) + 1  # at least five together
    rare = max(rare, int((expected < 5).sum()))
    put = [torch.cat([row[order[:rare]].sum()[None], row[order[rare:]]]) for row in (counts, expected)]
    statistic = float(((put[0] - put[1]) ** 2 / put[1]).sum())
    return float(chi2.sf(statistic, len(put[0]) - 1))


@pytest.mark.parametrize("values", COMBINATIONS, ids=str)
def test_draws_have_the_probabilities_of_transformers(draws: Draws, values: dict[str, Any]) -> None:
    params = SamplingParams.model_validate(values)
    expected = expected_pairs(draws.model, params)
    assert float(expected.sum()) == pytest.approx(1, abs=1e-5)
    counts = draws.of(params)
    for count in (*counts, sum(counts)):
        assert p_value(count, expected) > SIGNIFICANCE
    assert not torch.equal(counts[0], counts[1])


@pytest.mark.parametrize(
    ("values", "others"),
    [
        ({}, {"temperature": 1.08}),
        ({"temperature": 0.6}, {"temperature": 0.63}),
        ({"temperature": 1.7}, {"temperature": 1.95}),
        ({"top_k": 5}, {"top_k": 6}),
        ({"top_p": 0.7}, {"top_p": 0.75}),
        ({"min_p": 0.15}, {"min_p": 0.16}),
        ({"typical_p": 0.6}, {"typical_p": 0.65}),
        ({"repetition_penalty": 1.6}, {"repetition_penalty": 1.4}),
        ({"frequency_penalty": 1.5}, {"frequency_penalty": 1.0}),
        ({"presence_penalty": -1.2}, {"presence_penalty": -1.4}),
        ({"logit_bias": {2: 1.5, 7: -3.0}}, {"logit_bias": {2: 1.3, 7: -3.0}}),
        ({"bad_words_ids": ((6,), (15, 14))}, {"bad_words_ids": ((6,),)}),
        ({"min_new_tokens": 2, "stop_token_ids": (9, 12)}, {"stop_token_ids": (9, 12)}),
    ],
    ids=str,
)
def test_a_wrong_distribution_is_seen(draws: Draws, values: dict[str, Any], others: dict[str, Any]) -> None:
    """The test above can fail: had these parameters the effect of the others, a little off, it would."""
    counts = sum(draws.of(SamplingParams.model_validate(values)))
    assert isinstance(counts, Tensor)
    assert p_value(counts, expected_pairs(draws.model, SamplingParams.model_validate(others))) < SIGNIFICANCE


@torch.no_grad()
def test_a_constrained_draw_is_the_softmax_of_what_is_allowed(
    model: Decoder, tokenizer: PreTrainedTokenizerFast
) -> None:
    """One or two letters from a to f: enumerated and weighed here, with Python's idea of the regex."""
    pytest.importorskip("llguidance")
    params = SamplingParams(regex="[a-f]{1,2}", temperature=1.2, max_new_tokens=4)
    texts = [tokenizer.decode([i]) for i in range(len(tokenizer))]
    short = [i for i, text in enumerate(texts) if len(text) == 1 and text in "abcdef"]
    long = [i for i, text in enumerate(texts) if len(text) == 2 and set(text) <= set("abcdef")]
    eos = tokenizer.eos_token_id
    assert len(short) == 6 and long

    def shares(ids: list[int], allowed: list[int]) -> dict[int, float]:
        logits = model(torch.tensor([ids]))[0, -1, allowed] / 1.2
        return dict(zip(allowed, logits.softmax(-1).tolist()))

    expected: dict[tuple[int, ...], float] = {}
    for one, chance in shares(PROMPT, short + long).items():
        if one in long:
            expected[(one,)] = chance
        else:
            expected |= {(one, two): chance * p for two, p in shares([*PROMPT, one], [*short, eos]).items()}
    engine = Engine(model, eos_ids=[eos], max_batch=1000)
    place = {said: number for number, said in enumerate(expected)}
    counts = torch.zeros(len(expected))
    for seed in SEEDS:
        bound = [constraints_for(tokenizer, params, opened=False, chat=False) for _ in range(4000)]
        for done in engine.generate([PROMPT] * 4000, params, seed=seed, constraints=bound):
            counts[place[tuple(done.tokens)]] += 1
            assert done.finish_reason == "stop"
    assert p_value(counts, torch.tensor(list(expected.values()))) > SIGNIFICANCE
    flat = torch.full((len(expected),), 1 / len(expected))
    assert p_value(counts, flat) < SIGNIFICANCE
