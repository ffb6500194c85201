"""Divergence from before: equal to torch's over the whole vocabulary, by hand for two kept tokens, bounded by it."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from luopan.objectives.anchor import kept_divergence, top_logprobs


def problem(n: int = 7, width: int = 5, vocab: int = 11) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    hidden, weight, before = torch.randn(n, width), torch.randn(vocab, width), torch.randn(n, vocab)
    return hidden.requires_grad_(), weight.requires_grad_(), before


@pytest.mark.parametrize("piece", [2, 256])
def test_over_the_whole_vocabulary_it_is_torchs_divergence(piece: int) -> None:
    hidden, weight, before = problem()
    found = kept_divergence(hidden, weight, *top_logprobs(before, 11), piece=piece)
    wanted = F.kl_div((hidden @ weight.T).log_softmax(-1), before.log_softmax(-1), log_target=True, reduction="sum")
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
    for own, peer in zip(*(torch.autograd.grad(value, (hidden, weight)) for value in (found, wanted))):
        torch.testing.assert_close(own, peer, rtol=1e-4, atol=1e-5)


def test_two_kept_tokens_by_hand() -> None:
    """Before (1/2, 1/4, 1/8, 1/8), now 1/4 each; kept are the first two, the rest is a lump of 1/4 and 1/2."""
    before = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
    now = torch.zeros(1, 4)
    found = kept_divergence(now, torch.eye(4), *top_logprobs(before, 2))
    assert float(found) == pytest.approx(0.5 * math.log(2) + 0.25 * math.log(1) + 0.25 * math.log(0.5))


def test_fewer_kept_tokens_see_less_and_an_unchanged_model_nothing() -> None:
    hidden, weight, before = problem()
    sizes = [kept_divergence(hidden, weight, *top_logprobs(before, k)).item() for k in (1, 3, 6, 11)]
    assert sizes == sorted(sizes) and sizes[0] > 0
    same = kept_divergence(hidden, weight, *top_logprobs(hidden @ weight.T, 3))
    assert float(same) == pytest.approx(0, abs=1e-5)
    assert all(grad.abs().max() < 1e-5 for grad in torch.autograd.grad(same, (hidden, weight)))


def test_the_softcap_and_no_places() -> None:
    hidden, weight, before = problem()
    capped = 3 * torch.tanh(hidden @ weight.T / 3)
    wanted = F.kl_div(capped.log_softmax(-1), before.log_softmax(-1), log_target=True, reduction="sum")
    assert float(kept_divergence(hidden, weight, *top_logprobs(before, 11), softcap=3.0)) == pytest.approx(
        float(wanted), rel=1e-5
    )
    assert float(kept_divergence(hidden[:0], weight, *(part[:0] for part in top_logprobs(before, 3)))) == 0
