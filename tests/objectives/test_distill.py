"""Distillation: by hand, against TRL's own loss, and against the whole vocabulary where the k likeliest are known."""

from __future__ import annotations

import math

import pytest
import torch

from luopan.errors import RecipeError
from luopan.objectives.distill import generalised_jsd, sampled_reverse_kl, top_k_events, top_k_jsd

HALF, MOST = (0.5, 0.5), (0.8, 0.2)


def logits(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows).log()


@pytest.mark.parametrize(
    ("beta", "expected"),
    [
        # student (1/2, 1/2), teacher (4/5, 1/5)
        (0.0, 0.8 * math.log(1.6) + 0.2 * math.log(0.4)),  # KL(t || s)
        (1.0, 0.5 * math.log(0.625) + 0.5 * math.log(2.5)),  # KL(s || t)
        # the mixture at beta 1/2 is (0.65, 0.35)
        (
            0.5,
            0.5 * (0.8 * math.log(0.8 / 0.65) + 0.2 * math.log(0.2 / 0.35))
            + 0.5 * (0.5 * math.log(0.5 / 0.65) + 0.5 * math.log(0.5 / 0.35)),
        ),
        # at beta 1/4 the teacher has a quarter of it: (0.575, 0.425)
        (
            0.25,
            0.25 * (0.8 * math.log(0.8 / 0.575) + 0.2 * math.log(0.2 / 0.425))
            + 0.75 * (0.5 * math.log(0.5 / 0.575) + 0.5 * math.log(0.5 / 0.425)),
        ),
    ],
)
def test_two_tokens_by_hand(beta: float, expected: float) -> None:
    found = generalised_jsd(logits(HALF), logits(MOST), beta=beta)
    assert found.tolist() == pytest.approx([expected], abs=1e-6)


def test_temperature_by_hand() -> None:
    """At temperature 2 the teacher's odds 4 : 1 are 2 : 1."""
    found = generalised_jsd(logits(HALF), logits(MOST), beta=0.0, temperature=2.0)
    assert found.item() == pytest.approx(2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3), abs=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
def test_values_and_gradients_are_trls(beta: float, temperature: float) -> None:
    from trl.experimental.gkd import GKDTrainer

    torch.manual_seed(0)
    student = (2 * torch.randn(2, 5, 23)).requires_grad_()
    teacher = 2 * torch.randn(2, 5, 23)
    labels = torch.tensor([[-100, -100, 1, 1, 1], [-100, 1, 1, 1, -100]])
    theirs = GKDTrainer.generalized_jsd_loss(student, teacher, labels=labels, beta=beta, temperature=temperature)
    kept = labels != -100
    ours = generalised_jsd(student[kept], teacher[kept], beta=beta, temperature=temperature).mean()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    grads = [torch.autograd.grad(loss, student)[0] for loss in (ours, theirs)]
    assert float(grads[1].abs().max()) > 1e-3
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_of_all_tokens_it_is_the_whole(beta: float) -> None:
    torch.manual_seed(1)
    student, teacher = torch.randn(4, 9), torch.randn(4, 9)
    values, ids = teacher.log_softmax(-1).topk(9)
    whole = generalised_jsd(student, teacher, beta=beta)
    for rest in ("bucket", "renormalise"):
        torch.testing.assert_close(top_k_jsd(student, ids, values, beta=beta, rest=rest), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_the_bucket_bounds_it_from_below_and_grows_with_k(beta: float) -> None:
    torch.manual_seed(2)
    student, teacher = 2 * torch.randn(16, 40), 2 * torch.randn(16, 40)
    whole = generalised_jsd(student, teacher, beta=beta)
    before = torch.zeros(16)
    for k in (1, 4, 16, 30):
        values, ids = teacher.log_softmax(-1).topk(k)
        found = top_k_jsd(student, ids, values, beta=beta)
        assert bool((found <= whole + 1e-4).all()) and bool((found >= before - 1e-4).all())
        before = found


def test_the_two_rests_by_hand() -> None:
    """Of three tokens the teacher names the first two, 0.6 and 0.2; the student says 0.5, 0.25, 0.25."""
    student = logits((0.5, 0.25, 0.25))
    ids, named = torch.tensor([[0, 1]]), torch.tensor([[0.6, 0.2]]).log()
    bucket = 0.6 * math.log(0.6 / 0.5) + 0.2 * math.log(0.2 / 0.25) + 0.2 * math.log(0.2 / 0.25)
    assert top_k_jsd(student, ids, named, beta=0.0).item() == pytest.approx(bucket, abs=1e-6)
    # 3/4 and 1/4 against 2/3 and 1/3
    alone = 0.75 * math.log(0.75 * 3 / 2) + 0.25 * math.log(0.25 * 3)
    assert top_k_jsd(student, ids, named, beta=0.0, rest="renormalise").item() == pytest.approx(alone, abs=1e-6)


def test_only_the_bucket_teaches_what_to_leave_over() -> None:
    student = logits((0.5, 0.25, 0.25)).requires_grad_()
    ids, named = torch.tensor([[0, 1]]), torch.tensor([[0.6, 0.2]]).log()
    (bucket,) = torch.autograd.grad(top_k_jsd(student, ids, named, beta=0.0).sum(), student)
    (alone,) = torch.autograd.grad(top_k_jsd(student, ids, named, beta=0.0, rest="renormalise").sum(), student)
    assert bucket[0, 2].item() == pytest.approx(0.25 - 0.2, abs=1e-6)  # s - t of the lump
    assert alone[0, 2].item() == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("rest", ["bucket", "renormalise"])
def test_a_place_with_fewer_tokens_is_that_place_alone(beta: float, rest: str) -> None:
    torch.manual_seed(3)
    student = torch.randn(2, 11, requires_grad=True)
    values, ids = torch.randn(2, 11).log_softmax(-1).topk(4)
    padded = ids.clone()
    padded[1, 2:] = -1
    both = top_k_jsd(student, padded, values, beta=beta, rest=rest)  # type: ignore[arg-type]
    short = top_k_jsd(student[1:], ids[1:, :2], values[1:, :2], beta=beta, rest=rest)  # type: ignore[arg-type]
    torch.testing.assert_close(both[1:], short)
    (grad,) = torch.autograd.grad(both.sum(), student)
    torch.testing.assert_close(grad[1:], torch.autograd.grad(short.sum(), student)[0][1:])
    assert bool(grad.isfinite().all())


def test_probabilities_that_round_to_one_leave_a_finite_loss() -> None:
    student = torch.tensor([[0.0, 0.0, 0.0]], requires_grad=True)
    found = top_k_jsd(student, torch.tensor([[0, 1]]), torch.tensor([[0.0, -30.0]]), beta=1.0)
    assert math.isfinite(found.item())
    assert bool(torch.autograd.grad(found.sum(), student)[0].isfinite().all())


def test_events_sum_to_one() -> None:
    torch.manual_seed(4)
    values, ids = torch.randn(3, 12).log_softmax(-1).topk(5)
    for rest in ("bucket", "renormalise"):
        for side in top_k_events(torch.randn(3, 12), ids, values, rest=rest):
            torch.testing.assert_close(side.exp().sum(1), torch.ones(3))


def test_policy_gradient_by_hand() -> None:
    logprobs = torch.tensor([0.5, 0.25]).log().requires_grad_()
    term = sampled_reverse_kl(logprobs, logprobs.detach(), torch.tensor([0.25, 0.5]).log())
    (term.total / term.weight).backward()
    # worth: log(1/2) and log 2; the gradient is -worth / 2 tokens
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([math.log(2) / 2, -math.log(2) / 2])
    assert term.metrics["kl"][0].item() == pytest.approx(0.0, abs=1e-6)


def test_policy_gradient_is_that_of_the_reverse_kl_in_the_mean() -> None:
    """Over all tokens, each weighed by how often the student says it, it is the exact gradient of KL(s || t)."""
    torch.manual_seed(5)
    student, teacher = torch.randn(1, 6, requires_grad=True), torch.randn(1, 6).log_softmax(-1)
    own = student.log_softmax(-1)[0]
    worth = (teacher[0] - own).detach()
    (exact,) = torch.autograd.grad(generalised_jsd(student, teacher, beta=1.0).sum(), student, retain_graph=True)
    mean = torch.zeros_like(exact)
    for token in range(6):
        one = own[token : token + 1]
        term = sampled_reverse_kl(one, one.detach(), teacher[0, token : token + 1])
        assert -term.metrics["kl"][0].item() == pytest.approx(worth[token].item(), abs=1e-6)
        mean += own[token].exp().detach() * torch.autograd.grad(term.total, student, retain_graph=True)[0]
    torch.testing.assert_close(mean, exact, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("beta", "temperature", "named"), [(-0.1, 1.0, "beta"), (1.5, 1.0, "beta"), (0.5, 0.0, "temp")]
)
def test_impossible_settings_are_refused(beta: float, temperature: float, named: str) -> None:
    with pytest.raises(RecipeError, match=named):
        generalised_jsd(logits(HALF), logits(MOST), beta=beta, temperature=temperature)
