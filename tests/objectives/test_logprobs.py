"""Cross-entropy and log-probabilities against values worked by hand and against torch's own."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy, log_softmax

from luopan.errors import RecipeError
from luopan.objectives.base import merge_metrics
from luopan.objectives.causal_lm import causal_lm
from luopan.objectives.logprobs import sum_by_document, token_entropies, token_logprobs

# softmax of [0, ln 3] is [1/4, 3/4]; of [0, 0] it is [1/2, 1/2].
LOGITS = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0]])


def test_causal_lm_by_hand() -> None:
    term = causal_lm(LOGITS, torch.tensor([0, 1]))
    assert term.total.item() == pytest.approx(math.log(4) + math.log(2), rel=1e-6)
    assert term.weight.item() == 2


def test_causal_lm_is_a_sum_so_it_splits_exactly() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(7, 5), torch.randint(5, (7,))
    whole = causal_lm(logits, targets)
    parts = [causal_lm(logits[:2], targets[:2]), causal_lm(logits[2:], targets[2:])]
    assert whole.total.item() == pytest.approx(sum(part.total.item() for part in parts), rel=1e-6)
    assert whole.weight.item() == sum(part.weight.item() for part in parts)
    assert (whole.total / whole.weight).item() == pytest.approx(cross_entropy(logits, targets).item(), rel=1e-6)


def test_causal_lm_of_nothing_is_zero_with_a_gradient() -> None:
    logits = torch.zeros(0, 5, requires_grad=True)
    term = causal_lm(logits, torch.zeros(0, dtype=torch.long))
    term.total.backward()
    assert term.total.item() == 0 and term.weight.item() == 0


def test_causal_lm_of_half_precision_is_computed_in_fp32() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(64, 50).bfloat16(), torch.randint(50, (64,))
    term = causal_lm(logits, targets)
    assert term.total.dtype == torch.float32
    assert term.total.item() == pytest.approx(cross_entropy(logits.float(), targets, reduction="sum").item(), rel=1e-6)


def test_token_logprobs_by_hand() -> None:
    got = token_logprobs(LOGITS, torch.tensor([1, 0]))
    assert got.tolist() == pytest.approx([math.log(0.75), math.log(0.5)])
    # Half the temperature doubles the logits: [0, ln 9] gives [1/10, 9/10].
    cold = token_logprobs(LOGITS, torch.tensor([1, 0]), temperature=0.5)
    assert cold.tolist() == pytest.approx([math.log(0.9), math.log(0.5)])


def test_token_logprobs_equal_log_softmax() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(9, 31).bfloat16(), torch.randint(31, (9,))
    expected = log_softmax(logits.float() / 0.7, -1).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(token_logprobs(logits, targets, 0.7), expected)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_token_logprobs_refuse_a_temperature_that_is_no_distribution(temperature: float) -> None:
    with pytest.raises(RecipeError, match="temperature"):
        token_logprobs(LOGITS, torch.tensor([0, 0]), temperature)


def test_entropy_by_hand() -> None:
    got = token_entropies(LOGITS)
    assert got.tolist() == pytest.approx([0.25 * math.log(4) + 0.75 * math.log(4 / 3), math.log(2)])


def test_sum_by_document_by_hand() -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 8.0], requires_grad=True)
    sums = sum_by_document(values, torch.tensor([0, 2, 0, 2]), 4)
    assert sums.tolist() == [5.0, 0.0, 10.0, 0.0]
    (sums * torch.tensor([1.0, 10.0, 100.0, 1000.0])).sum().backward()
    assert values.grad is not None and values.grad.tolist() == [1.0, 100.0, 1.0, 100.0]


def test_metrics_merge_as_sums_and_maxima() -> None:
    one = torch.tensor(1.0)
    merged = merge_metrics(
        [{"x": (one * 2, one), "r_max": (one * 5, one)}, {"x": (one * 4, one * 3), "r_max": (one * 3, one)}, {}]
    )
    assert (merged["x"][0].item(), merged["x"][1].item()) == (6, 4)
    assert (merged["r_max"][0].item(), merged["r_max"][1].item()) == (5, 1)
