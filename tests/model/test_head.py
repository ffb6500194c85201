"""The head in pieces: the same values and gradients as all logits at once, and never all of them in memory."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from luopan.model import head
from luopan.model.head import linear_cross_entropy, linear_logprobs

N, C, V = 10, 8, 33


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "piece_rows", lambda vocab, device: 4)


def tensors(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, C, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(V, C, generator=generator, dtype=dtype, requires_grad=True)
    return hidden, weight, torch.randint(0, V, (N,), generator=generator)


def whole_logits(hidden: torch.Tensor, weight: torch.Tensor, softcap: float | None) -> torch.Tensor:
    logits = hidden @ weight.t()
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("z_loss_coef", [0.0, 0.05])
@pytest.mark.parametrize("upstream", [1.0, -0.5])
def test_cross_entropy_equals_all_logits_at_once(softcap: float | None, z_loss_coef: float, upstream: float) -> None:
    hidden, weight, targets = tensors()
    total, squares = linear_cross_entropy(hidden, weight, targets, softcap=softcap, z_loss_coef=z_loss_coef)
    got = torch.autograd.grad(total * upstream, (hidden, weight))
    logits = whole_logits(hidden, weight, softcap)
    lse = logits.logsumexp(-1)
    expected = F.cross_entropy(logits, targets, reduction="sum") + z_loss_coef * lse.square().sum()
    torch.testing.assert_close(total, expected)
    assert not squares.requires_grad
    if z_loss_coef:
        torch.testing.assert_close(squares, lse.square().sum().detach())
    for one, other in zip(got, torch.autograd.grad(expected * upstream, (hidden, weight)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_equal_all_logits_at_once(softcap: float | None, temperature: float) -> None:
    hidden, weight, targets = tensors()
    upstream = torch.linspace(-1, 2, N)
    got, entropies = linear_logprobs(hidden, weight, targets, temperature=temperature, softcap=softcap, entropy=True)
    gradients = torch.autograd.grad((got * upstream).sum(), (hidden, weight))
    every = F.log_softmax(whole_logits(hidden, weight, softcap) / temperature, -1)
    expected = every.gather(1, targets[:, None]).squeeze(1)
    torch.testing.assert_close(got, expected)
    assert entropies is not None and not entropies.requires_grad
    torch.testing.assert_close(entropies, -(every.exp() * every).sum(-1))
    for one, other in zip(gradients, torch.autograd.grad((expected * upstream).sum(), (hidden, weight)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_target_that_is_all_but_impossible_keeps_its_loss() -> None:
    """exp(-200) is 0 in fp32; the loss must still be 200."""
    hidden, weight = torch.tensor([[200.0]]), torch.tensor([[0.0], [1.0]])
    total, _ = linear_cross_entropy(hidden, weight, torch.tensor([0]))
    assert float(total) == pytest.approx(200.0)


def test_nothing_to_learn_gives_zero_and_zero_gradients() -> None:
    hidden, weight, targets = tensors()
    total, _ = linear_cross_entropy(hidden[:0], weight, targets[:0])
    scores, _ = linear_logprobs(hidden[:0], weight, targets[:0])
    gradients = torch.autograd.grad(total + scores.sum(), (hidden, weight), allow_unused=True)
    assert float(total.detach()) == 0.0 and scores.shape == (0,)
    assert all(gradient is None or not gradient.any() for gradient in gradients)


def test_a_frozen_head_or_body_gets_no_gradient() -> None:
    hidden, weight, targets = tensors()
    linear_cross_entropy(hidden, weight.detach(), targets)[0].backward()
    assert hidden.grad is not None and weight.grad is None
    hidden.grad = None
    linear_cross_entropy(hidden.detach(), weight, targets)[0].backward()
    assert hidden.grad is None and weight.grad is not None


def test_no_piece_is_larger_than_it_should_be(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    log_softmax_ = head.log_softmax_
    monkeypatch.setattr(head, "log_softmax_", lambda x: (seen.append(tuple(x.shape)), log_softmax_(x))[1])
    monkeypatch.setattr(head, "KEPT_BYTES", 0)
    hidden, weight, targets = tensors()
    linear_cross_entropy(hidden, weight, targets)[0].backward()
    linear_logprobs(hidden, weight, targets)[0].sum().backward()
    assert seen == [(4, V), (4, V), (2, V)] * 3  # once for the loss; forward and again backward for log-probabilities


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_what_is_kept_for_the_backward_pass_changes_no_bit(monkeypatch: pytest.MonkeyPatch, temperature: float) -> None:
    def gradients(kept: int, seen: list[int]) -> list[torch.Tensor]:
        original = head.log_softmax_
        with monkeypatch.context() as patch:
            patch.setattr(head, "KEPT_BYTES", kept)
            patch.setattr(head, "log_softmax_", lambda x: (seen.append(len(x)), original(x))[1])
            hidden, weight, targets = tensors()
            scores, _ = linear_logprobs(hidden, weight, targets, temperature=temperature)
            total = (scores * torch.arange(10.0)).sum()
            # Twice: the first pass writes over what was kept.
            first = torch.autograd.grad(total, (hidden, weight), retain_graph=True)
            return [scores.detach(), *first, *torch.autograd.grad(total, (hidden, weight))]

    kept: list[int] = []
    again: list[int] = []
    for one, other in zip(gradients(4 * 10 * V, kept), gradients(4 * 10 * V - 1, again), strict=True):
        assert torch.equal(one, other)
    assert kept == [4, 4, 2] * 2 and again == [4, 4, 2] * 3  # the second backward pass computes again


def test_autocast_computes_in_bf16_and_keeps_gradients_in_fp32() -> None:
    hidden, weight, targets = tensors()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, _ = linear_cross_entropy(hidden, weight, targets)
        scores, _ = linear_logprobs(hidden, weight, targets)
    exact = F.cross_entropy(hidden @ weight.t(), targets, reduction="sum")
    assert total.dtype == scores.dtype == torch.float32
    assert 0 < abs(float(total - exact)) < 0.05 * float(exact)
    torch.testing.assert_close(-scores.sum(), total)
    for gradient in torch.autograd.grad(total - scores.sum(), (hidden, weight)):
        assert gradient.dtype == torch.float32 and bool(gradient.isfinite().all())


@pytest.mark.parametrize(("vocab", "rows"), [(4096, 1024), (16384, 512), (49152, 256), (262144, 256), (100, 1024)])
def test_rows_of_a_piece_on_the_cpu(vocab: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert head.piece_rows(vocab, "cpu") == rows
