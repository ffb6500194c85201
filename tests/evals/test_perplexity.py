"""Perplexity of answers: equal to transformers' loss with masked labels, and an estimate of a divergence."""

from __future__ import annotations

import math

import pytest
import torch
from evals_models import tiny_model, tiny_tokenizer, uniform_model
from transformers import AutoModelForCausalLM

from luopan.errors import DataError
from luopan.evals.perplexity import Perplexity, answer_perplexity
from luopan.generate.config import SamplingParams
from luopan.generate.engine import Engine
from luopan.model.hf import save

PROMPTS, ANSWERS = [[5, 9, 30], [7, 8, 9, 10]], [[40, 41, 2], [11]]


def test_equals_the_masked_loss_of_transformers(tmp_path):
    model = tiny_model()
    save(model, tmp_path, architecture="auto")
    peer = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    nats = 0.0
    for prompt, answer in zip(PROMPTS, ANSWERS):
        labels = torch.tensor([[-100] * len(prompt) + answer])
        nats += float(peer(torch.tensor([prompt + answer]), labels=labels).loss) * len(answer)
    found = answer_perplexity(model, PROMPTS, ANSWERS)
    assert found.tokens == 4 and found.nats == pytest.approx(nats, rel=1e-5)
    assert found.value == pytest.approx(math.exp(nats / 4), rel=1e-5)


def test_a_model_that_knows_nothing_wavers_among_all_tokens():
    assert answer_perplexity(uniform_model(), PROMPTS, ANSWERS).value == pytest.approx(len(tiny_tokenizer()), rel=1e-4)


def test_a_rise_by_hand():
    assert Perplexity(20.0, 10).rise(Perplexity(20.3, 10)) == pytest.approx(math.exp(0.03) - 1)
    assert Perplexity(20.0, 10).rise(Perplexity(20.0, 10)) == 0
    assert Perplexity(20.0, 10).value == pytest.approx(math.exp(2))


def test_the_difference_on_own_answers_estimates_the_divergence():
    """Answers of one token, so that the divergence of the two distributions can be written down."""
    model, other = tiny_model(scale=0.1), tiny_model(seed=1, scale=0.1)
    prompt = [5, 9, 30]
    with torch.inference_mode():
        p, q = (m.logits(m.hidden(torch.tensor([prompt]))[0, -1]).log_softmax(-1) for m in (model, other))
    wanted = float((p.exp() * (p - q)).sum())
    drawn = Engine(model, eos_ids=[]).generate([prompt] * 4000, SamplingParams(max_new_tokens=1), seed=0)
    answers = [completion.tokens for completion in drawn]
    before, after = (answer_perplexity(m, [prompt] * 4000, answers) for m in (model, other))
    assert after.loss - before.loss == pytest.approx(wanted, abs=0.1 * wanted)


def test_nothing_to_score_is_said_plainly():
    with pytest.raises(DataError, match="no answer"):
        answer_perplexity(tiny_model(), [[1]], [[]])
