"""The distribution that is drawn from, against transformers' own warpers, and the draw itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
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

from luopan.errors import RecipeError
from luopan.generate.config import SamplingParams, sampling_params
from luopan.generate.rows import Request, Rows
from luopan.generate.sampling import Knobs, argmax, draw, keep_top_p, uniforms, warp
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
    {"typical_p": 0.9},
    {"typical_p": 0.2, "temperature": 1.4},
    {"temperature": 0.6, "top_k": 50, "top_p": 0.8, "min_p": 0.02, "repetition_penalty": 1.1},
    {"temperature": 0.9, "top_k": 400, "top_p": 0.95, "min_p": 0.001, "typical_p": 0.8, "logit_bias": {3: 5, "9": -80}},
]
CPU = torch.device("cpu")


def theirs(params: SamplingParams, occurred: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """What transformers makes of the logits."""
    expected = logits.clone()
    if params.logit_bias:
        expected = SequenceBiasLogitsProcessor([[[token], float(value)] for token, value in params.logit_bias])(
            occurred, expected
        )
    expected = RepetitionPenaltyLogitsProcessor(params.repetition_penalty)(occurred, expected)
    if not params.greedy:
        expected = TemperatureLogitsWarper(params.temperature)(occurred, expected)
    if params.top_k is not None:
        expected = TopKLogitsWarper(params.top_k)(occurred, expected)
    if params.top_p < 1:
        expected = TopPLogitsWarper(params.top_p)(occurred, expected)
    if params.min_p > 0:
        expected = MinPLogitsWarper(params.min_p)(occurred, expected)
    if params.typical_p < 1:
        expected = TypicalLogitsWarper(params.typical_p)(occurred, expected)
    return expected


def bias_of(params: SamplingParams, vocab_size: int) -> torch.Tensor:
    bias = torch.zeros(vocab_size)
    for token, value in params.logit_bias:
        bias[token] = value
    return bias


@pytest.mark.parametrize("values", COMBINATIONS, ids=str)
@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])  # flat (the nucleus is large), usual, peaked
def test_warp_equals_transformers(values: dict, spread: float) -> None:
    torch.manual_seed(0)
    logits = spread * torch.randn(6, 700)
    occurred = torch.randint(700, (6, 20))
    params = SamplingParams(**values)
    expected = theirs(params, occurred, logits)
    seen = torch.zeros(6, 700, dtype=torch.bool).scatter_(1, occurred, True)
    got = warp(logits, Knobs.of([params] * 6, CPU), seen=seen, bias=bias_of(params, 700))
    assert torch.equal(got.isinf(), expected.isinf())
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])
def test_every_row_has_parameters_of_its_own(spread: float) -> None:
    """All combinations in one batch, a greedy row among them: each as it is alone."""
    torch.manual_seed(0)
    each = [SamplingParams(**values) for values in [*COMBINATIONS, {"temperature": 0, "repetition_penalty": 1.2}]]
    logits, occurred = spread * torch.randn(len(each), 700), torch.randint(700, (len(each), 20))
    seen = torch.zeros(len(each), 700, dtype=torch.bool).scatter_(1, occurred, True)
    bias = torch.stack([bias_of(params, 700) for params in each])
    got = warp(logits, Knobs.of(each, CPU), seen=seen, bias=bias)
    for row, params in enumerate(each):
        expected = theirs(params, occurred[row : row + 1], logits[row : row + 1])
        assert torch.equal(got[row : row + 1].isinf(), expected.isinf()), params
        torch.testing.assert_close(got[row : row + 1], expected)
        alone = warp(logits[row : row + 1], Knobs.of([params], CPU), seen=seen[row : row + 1], bias=bias[row : row + 1])
        assert torch.equal(alone[0], got[row])


def rows_with(requests: list[Request], ends: list[int], vocab_size: int = 12) -> Rows:
    stops = torch.zeros(vocab_size, dtype=torch.bool)
    stops[ends] = True
    rows = Rows(len(requests), vocab_size, stops)
    rows.admit(requests)
    return rows


def test_penalties_of_the_openai_api_by_hand() -> None:
    """frequency: per occurrence, presence: once; both for what was generated, not for the prompt."""
    params = SamplingParams(temperature=0, frequency_penalty=0.5, presence_penalty=0.25)
    rows = rows_with(
        [Request(0, [1, 1, 2], params, 0, 0, 9), Request(1, [1], SamplingParams(temperature=0), 0, 0, 9)], []
    )
    logits = torch.tensor([[0.0, 1.0, 0.4, 0.2] + [-9.0] * 8] * 2)
    said = [rows.take(slice(0, 2), logits)[0].tolist() for _ in range(4)]
    # 1.0; then 1.0 - .75 = .25 < .4; then 1: .25, 2: -.35, so 1 again; then 1: 1 - 1 - .25 < .2
    assert said == [[1, 1], [2, 1], [1, 1], [3, 1]]


def test_bad_words_and_early_ends_are_transformers() -> None:
    torch.manual_seed(0)
    bad = ((4,), (5, 6), (1, 2, 3))
    prompt, steps = [9, 1], 40
    for greedy in (True, False):
        params = SamplingParams(
            temperature=float(not greedy), bad_words_ids=bad, min_new_tokens=20, max_new_tokens=steps,
            stop_token_ids=(8,),
        )  # fmt: skip
        rows = rows_with([Request(0, prompt, params, 3, 0, steps)], [7])
        said: list[int] = []
        for _ in range(steps):
            logits = torch.randn(1, 12)
            logits[:, [2, 3, 6, 7, 8]] += 3
            so_far = torch.tensor([[*prompt, *said]])
            expected = NoBadWordsLogitsProcessor([list(words) for words in bad], 11)(so_far, logits.clone())
            early = MinNewTokensLengthLogitsProcessor(len(prompt), 20, [7, 8])
            expected = early(so_far, expected)
            token, logprob = rows.take(slice(0, 1), logits)
            if greedy:
                assert int(token) == int(expected.argmax())
            own = expected.log_softmax(-1)[0, int(token)]
            assert float(logprob) == pytest.approx(float(own), abs=1e-5)
            ended = bool(rows.ended(slice(0, 1), token))
            assert ended is (int(token) in (7, 8)) and not (ended and len(said) < 20)
            said.append(int(token))
        assert {7, 8} & set(said) and 4 not in said


def test_nucleus_by_hand() -> None:
    logits = torch.tensor([[0.5, 0.1, 0.3, 0.1]]).log()
    for top_p, kept in ((0.75, [True, False, True, False]), (0.4, [True, False, False, False]), (1.0, [True] * 4)):
        assert keep_top_p(logits, torch.tensor([[top_p]])).isfinite().tolist() == [kept]  # 0.5 + 0.3 reaches 0.75


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
