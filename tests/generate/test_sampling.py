"""The distribution that is drawn from, against transformers' own warpers, and the draw itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from luopan.errors import RecipeError
from luopan.generate.config import SamplingParams, sampling_params
from luopan.generate.sampling import argmax, draw, keep_top_p, uniforms, warp
from luopan.objectives.logprobs import token_logprobs

COMBINATIONS = [
    {"temperature": 0.7},
    {"top_k": 1},
    {"top_k": 40},
    {"top_k": 10_000},
    {"top_p": 0.9},
    {"top_p": 0.01},
    {"min_p": 0.05},
    {"min_p": 1.0},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.7, "temperature": 1.5},
    {"temperature": 0.6, "top_k": 50, "top_p": 0.8, "min_p": 0.02, "repetition_penalty": 1.1},
]


@pytest.mark.parametrize("values", COMBINATIONS, ids=str)
@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])  # flat (the nucleus is large), usual, peaked
def test_warp_equals_transformers(values: dict, spread: float) -> None:
    torch.manual_seed(0)
    logits = spread * torch.randn(6, 700)
    occurred = torch.randint(700, (6, 20))
    params = SamplingParams(**values)

    expected = RepetitionPenaltyLogitsProcessor(params.repetition_penalty)(occurred, logits.clone())
    expected = TemperatureLogitsWarper(params.temperature)(occurred, expected)
    if params.top_k is not None:
        expected = TopKLogitsWarper(params.top_k)(occurred, expected)
    if params.top_p < 1:
        expected = TopPLogitsWarper(params.top_p)(occurred, expected)
    if params.min_p > 0:
        expected = MinPLogitsWarper(params.min_p)(occurred, expected)

    seen = torch.zeros(6, 700, dtype=torch.bool).scatter_(1, occurred, True)
    got = warp(logits, params, seen)
    assert torch.equal(got.isinf(), expected.isinf())
    torch.testing.assert_close(got, expected)


def test_nucleus_by_hand() -> None:
    logits = torch.tensor([[0.5, 0.1, 0.3, 0.1]]).log()
    assert keep_top_p(logits, 0.75).isfinite().tolist() == [[True, False, True, False]]  # 0.5 + 0.3 reaches 0.75
    assert keep_top_p(logits, 0.4).isfinite().tolist() == [[True, False, False, False]]


def test_draw_by_hand() -> None:
    logits = torch.tensor([[0.25, 0.0, 0.75]]).log().expand(6, 3)  # cumulative sums 0.25, 0.25, 1
    uniform = torch.tensor([[0.0], [0.2], [0.25], [0.3], [0.99], [1 - 2.0**-24]])
    tokens, logprobs = draw(logits, uniform)
    assert tokens.tolist() == [0, 0, 2, 2, 2, 2]  # never 1, whose probability is zero, not even on the border
    assert logprobs.exp().tolist() == pytest.approx([0.25, 0.25, 0.75, 0.75, 0.75, 0.75])


def test_draw_never_takes_a_filtered_token() -> None:
    torch.manual_seed(0)
    logits = 3 * torch.randn(4096, 50)
    logits[:, -7:] = -torch.inf
    logits[:, 0] = -torch.inf
    for value in (0.0, 0.5, 1 - 2.0**-24):
        tokens, logprobs = draw(logits, torch.full((4096, 1), value))
        assert logprobs.isfinite().all() and int(tokens.min()) > 0 and int(tokens.max()) < 43


def test_draw_has_the_right_frequencies() -> None:
    torch.manual_seed(0)
    logits = 2 * torch.randn(1, 20)
    grid = (torch.arange(100_000) + 0.5)[:, None] / 100_000
    tokens, logprobs = draw(logits.expand(100_000, 20), grid)
    shares = torch.bincount(tokens, minlength=20) / 100_000
    torch.testing.assert_close(shares, logits.softmax(-1)[0], atol=2e-5, rtol=0)
    torch.testing.assert_close(logprobs, token_logprobs(logits.expand(100_000, 20), tokens), atol=1e-5, rtol=1e-5)


def test_argmax_reports_the_models_own_logprob() -> None:
    torch.manual_seed(0)
    logits = torch.randn(5, 30)
    tokens, logprobs = argmax(logits)
    assert torch.equal(tokens, logits.argmax(-1))
    torch.testing.assert_close(logprobs, token_logprobs(logits, tokens))


def test_uniforms_are_a_function_of_seed_request_and_place() -> None:
    first = uniforms(1, 2, 1000)
    assert first.dtype == np.float32 and first.min() >= 0 and first.max() < 1
    assert np.array_equal(first[:10], uniforms(1, 2, 10))  # the n-th does not depend on how many are asked for
    others = [uniforms(2, 1, 1000), uniforms(1, 3, 1000), uniforms(-1, 2, 1000), uniforms(2**64 + 2, 2, 1000)]
    for other in others:
        assert abs(np.corrcoef(first, other)[0, 1]) < 0.12
    # Philox 4x64-10 with key (1, 2): a change here changes what every seed means.
    assert first[:3].tolist() == pytest.approx(PHILOX_1_2, abs=1e-7)


PHILOX_1_2 = [0.309314907, 0.356956184, 0.036904514]


def test_uniforms_are_uniform() -> None:
    values = np.concatenate([uniforms(0, request, 100) for request in range(1000)])
    counts = np.histogram(values, bins=50, range=(0, 1))[0]
    assert ((counts - 2000) ** 2 / 2000).sum() < 100  # chi square, 49 degrees of freedom: P < 1e-4
    firsts = np.array([uniforms(seed, 0, 1)[0] for seed in range(2000)])
    assert abs(firsts.mean() - 0.5) < 0.03


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": 0.0, "top_k": 5}, "top_k has no effect at temperature 0"),
        ({"temperature": 0.0, "top_p": 0.9, "min_p": 0.1}, "top_p, min_p has no effect"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_k": 0}, "top_k"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"stop": ["a", ""]}, "empty stop string"),
        ({"max_tokens": 5}, "max_tokens"),
    ],
)
def test_parameters_that_cannot_work_are_refused(values: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        sampling_params(**values)


def test_parameters_say_what_they_are() -> None:
    assert sampling_params(stop="x").stop == ("x",)
    assert sampling_params(temperature=0).greedy and not sampling_params(temperature=0).plain
    assert sampling_params(temperature=0.7).plain and not sampling_params(top_k=3).plain
