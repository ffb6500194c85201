"""GRPO and its kin: worked by hand, and against TRL's own loss methods on the same tensors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from trl_policy import CASES, RLOO, Case, Draw, compared, draw, ours, theirs

from luopan.errors import RecipeError
from luopan.objectives.config import PolicyLossType
from luopan.objectives.importance import truncated_weights
from luopan.objectives.kl import divergence
from luopan.objectives.policy import grpo

BY_HAND: list[PolicyLossType] = ["dapo", "grpo", "dr_grpo", "bnpo"]


def by_hand(loss_type: PolicyLossType) -> tuple[float, float]:
    """Three tokens: sequence 0 has two (advantage 1), sequence 1 has one (advantage -2); ratios 1, 1.5, 0.5."""
    ratios = torch.tensor([1.0, 1.5, 0.5])
    term = grpo(
        ratios.log(),
        torch.zeros(3),
        torch.tensor([1.0, 1.0, -2.0]),
        torch.tensor([0, 0, 1]),
        2,
        epsilon=0.2,
        epsilon_high=0.28,
        loss_type=loss_type,
        max_completion_length=10,
    )
    return term.total.item(), term.weight.item()


def test_the_clipped_objective_by_hand() -> None:
    # -min(1, 1) = -1; -min(1.5, 1.28) = -1.28; -min(-2 * 0.5, -2 * 0.8) = 1.6
    assert by_hand("dapo") == pytest.approx((-1 - 1.28 + 1.6, 3))
    assert by_hand("bnpo") == pytest.approx((-1 - 1.28 + 1.6, 3))
    assert by_hand("grpo") == pytest.approx(((-1 - 1.28) / 2 + 1.6, 2))
    assert by_hand("dr_grpo") == pytest.approx((-1 - 1.28 + 1.6, 20))


def test_metrics_by_hand() -> None:
    ratios = torch.tensor([1.0, 1.5, 0.5, 0.5])
    term = grpo(
        ratios.log(),
        torch.zeros(4),
        torch.tensor([1.0, 1.0, -2.0, 1.0]),
        torch.tensor([0, 0, 1, 1]),
        2,
        entropies=torch.tensor([1.0, 2.0, 3.0, 4.0]),
    )
    got = {name: (total / count).item() for name, (total, count) in term.metrics.items()}
    assert got["clip_ratio/high"] == 0.25
    assert got["clip_ratio/low"] == 0.25  # the last token is below the clip too, but its advantage pulls it back
    assert got["clip_ratio"] == 0.5
    assert got["ratio"] == pytest.approx(3.5 / 4)
    assert got["ratio_max"] == pytest.approx(1.5)
    assert got["entropy"] == 2.5


def test_the_clip_cuts_the_gradient() -> None:
    logprobs = torch.tensor([1.0, 1.5, 0.5, 0.5]).log().requires_grad_()
    grpo(logprobs, torch.zeros(4), torch.tensor([1.0, 1.0, -2.0, 1.0]), torch.tensor([0, 0, 1, 1]), 2).total.backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-1.0, 0.0, 0.0, -0.5])  # -ratio * advantage where not cut


TWO_AND_ONE = torch.tensor([0, 0, 1])


def three_tokens(ratios: list[float], **knobs: Any) -> tuple[float, float]:
    """Advantages 1, 1 and -2 in two sequences; the old log-probabilities are all ln 1/2."""
    old = torch.full((3,), 0.5).log()
    term = grpo(torch.tensor(ratios).log() + old, old, torch.tensor([1.0, 1.0, -2.0]), TWO_AND_ONE, 2, **knobs)
    return term.total.item(), term.weight.item()


def test_gspo_by_hand() -> None:
    # The first sequence's ratio is the root of 0.9 * 1.6 = 1.2^2, clipped to 1.1 in both tokens; the second's is 0.5.
    knobs: dict[str, Any] = {"importance_sampling_level": "sequence", "epsilon": 0.1}
    assert three_tokens([0.9, 1.6, 0.5], loss_type="grpo", **knobs) == pytest.approx((-1.1 + 2 * 0.9, 2))
    assert three_tokens([0.9, 1.6, 0.5], loss_type="dapo", **knobs) == pytest.approx((-2 * 1.1 + 2 * 0.9, 3))


def test_rloo_by_hand() -> None:
    # An answer is one action: the first one's ratio is 0.9 * 1.3 = 1.17, the second's 0.5 is clipped to 0.8.
    assert three_tokens([0.9, 1.3, 0.5], loss_type="rloo") == pytest.approx((-1.17 + 2 * 0.8, 2))


def test_delta_by_hand() -> None:
    # A bad answer that has become three times likelier: without delta it weighs 3, with it 2 and has no gradient.
    assert three_tokens([1.0, 1.0, 3.0]) == pytest.approx((-2 + 6, 3))
    assert three_tokens([1.0, 1.0, 3.0], delta=2.0) == pytest.approx((-2 + 4, 3))
    logprob = torch.tensor([3.0]).log().requires_grad_()
    term = grpo(logprob, torch.zeros(1), torch.tensor([-2.0]), torch.zeros(1, dtype=torch.long), 1, delta=2.0)
    term.total.backward()
    assert logprob.grad is not None and logprob.grad.tolist() == [0.0]
    assert term.metrics["clip_ratio/high"][0].item() == 1


def test_cispo_by_hand() -> None:
    # Weights 0.5, 1.5 and, capped, 2; log-probabilities ln of half of the ratios. No token is without gradient.
    logs = torch.tensor([0.25, 0.75, 1.25]).log()
    expected = -(0.5 * logs[0] + 1.5 * logs[1]) + 2 * 2 * logs[2]
    assert three_tokens([0.5, 1.5, 2.5], loss_type="cispo", epsilon_high=2.0) == pytest.approx((expected.item(), 3))
    logprobs = torch.tensor([0.5, 1.5, 2.5]).log().requires_grad_()
    term = grpo(logprobs, torch.zeros(3), torch.tensor([1.0, 1.0, -2.0]), TWO_AND_ONE, 2, loss_type="cispo",
                epsilon_high=2.0)  # fmt: skip
    term.total.backward()
    assert logprobs.grad is not None and logprobs.grad.tolist() == pytest.approx([-0.5, -1.5, 4.0])
    assert (term.metrics["clip_ratio/high"][0] / term.metrics["clip_ratio/high"][1]).item() == pytest.approx(1 / 3)


def test_ratios_of_sequences_are_counted_once() -> None:
    old = torch.zeros(3)
    new = torch.tensor([0.9, 1.6, 0.5]).log()
    term = grpo(new, old, torch.tensor([1.0, 1.0, -2.0]), TWO_AND_ONE, 2, importance_sampling_level="sequence")
    got = {name: (total / count).item() for name, (total, count) in term.metrics.items()}
    assert got["ratio"] == pytest.approx((1.2 + 0.5) / 2)
    assert (got["clip_ratio/low"], got["clip_ratio/high"]) == (0.5, pytest.approx(0.0))
    assert got["kl_sampled"] == pytest.approx(sum(r - math.log(r) - 1 for r in (0.9, 1.6, 0.5)) / 3)


def test_another_samplers_tokens_are_weighted_and_the_weight_is_capped() -> None:
    weights = truncated_weights(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.4, 0.1]).log(), cap=2.0)
    assert weights.tolist() == pytest.approx([1.25, 2.0])
    common = (torch.zeros(2), torch.zeros(2), torch.tensor([1.0, -1.0]), torch.tensor([0, 1]), 2)
    term = grpo(*common, importance_weights=weights)
    assert term.total.item() == pytest.approx(-1.25 + 2.0)
    # The divergence is of the policy itself: no weight.
    reference = torch.full((2,), math.log(2))
    both = grpo(*common, importance_weights=weights, beta=0.5, reference_logprobs=reference)
    assert both.total.item() == pytest.approx(0.75 + 2 * 0.5 * (1 - math.log(2)))
    with pytest.raises(RecipeError, match="1 or more"):
        truncated_weights(torch.zeros(1), torch.zeros(1), cap=0.9)


# ---- divergence ----


def test_kl_term_by_hand() -> None:
    # d = log pi_ref - log pi = ln 2: k3 = e^d - d - 1 = 1 - ln 2
    common = (torch.zeros(1), torch.zeros(1), torch.zeros(1), torch.zeros(1, dtype=torch.long), 1)
    expected = {"k1": -math.log(2), "k2": math.log(2) ** 2 / 2, "k3": 1 - math.log(2)}
    for estimator, value in expected.items():
        term = grpo(*common, beta=0.5, reference_logprobs=torch.tensor([math.log(2)]), kl_estimator=estimator)  # type: ignore[arg-type]
        assert term.total.item() == pytest.approx(0.5 * value)
        assert term.metrics["kl"][0].item() == pytest.approx(value)
    # A ratio of 3 weighs k3 unless it is told not to.
    new = (torch.tensor([math.log(3)]), *common[1:])
    distance = math.exp(math.log(2 / 3)) - math.log(2 / 3) - 1
    for corrected, factor in ((None, 3.0), (True, 3.0), (False, 1.0)):
        knobs: dict[str, Any] = {"beta": 1.0, "use_bias_correction_kl": corrected}
        term = grpo(*new, reference_logprobs=torch.tensor([math.log(2)]), **knobs)
        assert term.total.item() == pytest.approx(factor * distance)


def expected_gradient(estimator: str, corrected: bool | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(what the loss makes of all tokens of a vocabulary of 5, each as often as the policy says it; the gradients of
    KL(policy || reference) and of KL(reference || policy)), to the logits."""
    torch.manual_seed(3)
    logits, reference = torch.randn(5, requires_grad=True), torch.randn(5).log_softmax(0)
    logs = logits.log_softmax(0)
    terms = [
        grpo(logs[[token]], logs[[token]].detach(), torch.zeros(1), torch.zeros(1, dtype=torch.long), 1, beta=1.0,
             reference_logprobs=reference[[token]], kl_estimator=estimator, use_bias_correction_kl=corrected).total  # type: ignore[arg-type]
        for token in range(5)
    ]  # fmt: skip
    mean = (torch.stack(terms) * logs.detach().exp()).sum()
    forward, backward = (logs.exp() * (logs - reference)).sum(), (reference.exp() * (reference - logs)).sum()
    got, own, other = (torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (mean, forward, backward))
    return got, own, other


def test_which_estimator_has_which_gradient() -> None:
    """Exactly, over all tokens: the defaults have the gradient of KL(policy || reference)."""
    for estimator in ("k1", "k2", "k3"):
        got, own, _ = expected_gradient(estimator, None)
        torch.testing.assert_close(got, own, atol=1e-6, rtol=1e-5)
    got, own, other = expected_gradient("k3", False)
    torch.testing.assert_close(got, other, atol=1e-6, rtol=1e-5)
    assert (own - other).abs().max() > 0.01


def test_k1_in_the_loss_has_no_gradient_in_the_mean() -> None:
    """Why it is refused there without a weight."""
    logits, reference = torch.randn(5, requires_grad=True), torch.randn(5).log_softmax(0)
    logs = logits.log_softmax(0)
    mean = (divergence(logs, reference, "k1") * logs.detach().exp()).sum()
    (gradient,) = torch.autograd.grad(mean, logits)
    assert gradient.abs().max() < 1e-6


@pytest.mark.parametrize("case", [*CASES, RLOO], ids=lambda case: case.name)
def test_equals_trl(case: Case) -> None:
    """Values and gradients of TRL's own methods over random draws."""
    for seed in range(5):
        found = compared(case, seed)
        assert float(found.their_gradient.abs().max()) > 1e-3
        assert max(found.apart) < 1e-5, seed


def test_trls_bnpo_changes_with_accumulation() -> None:
    """Its bnpo is the mean of the micro-batches' means, so a recipe may not ask for it: ours of a cut step is TRL's of
    the whole one."""
    whole, case = draw(0), Case("bnpo", {"loss_type": "bnpo"})
    halves = [
        Draw(*(getattr(whole, name)[rows] for name in Draw.__dataclass_fields__)) for rows in (slice(0, 3), slice(3, 8))
    ]
    accumulated = torch.stack([theirs(case, half, current_gradient_accumulation_steps=2) for half in halves]).sum()
    assert abs((accumulated - theirs(case, whole)).item()) > 1e-2
    tokens = [half.mask.sum() for half in halves]
    cut = torch.stack([ours(case, half) * n for half, n in zip(halves, tokens)]).sum() / sum(tokens)
    assert cut.item() == pytest.approx(theirs(case, whole).item(), rel=1e-5)


def test_trl_scales_the_kl_of_sequences_by_the_sequences_ratio() -> None:
    """Whose gradient is not the divergence's, as its own documentation says; ours weighs it with each token's ratio."""
    case = Case("GSPO + KL", {"loss_type": "grpo", "importance_sampling_level": "sequence"}, beta=1.0)
    assert max(compared(case).apart) > 0.01
    unweighted = Case(case.name, {**case.knobs, "use_bias_correction_kl": False}, beta=1.0)
    assert max(compared(unweighted).apart) < 1e-5


@pytest.mark.parametrize("loss_type", [*BY_HAND, "cispo", "rloo"])
def test_loss_does_not_change_with_accumulation(loss_type: PolicyLossType) -> None:
    torch.manual_seed(0)
    lengths = [3, 1, 5, 2]
    sequence = torch.tensor([i for i, length in enumerate(lengths) for _ in range(length)])
    new, old, advantages = -torch.rand(11), -torch.rand(11), torch.randn(4)[sequence]

    def term(rows: torch.Tensor, first: int, count: int) -> tuple[float, float]:
        part = grpo(
            new[rows],
            old[rows],
            advantages[rows],
            sequence[rows] - first,
            count,
            loss_type=loss_type,
            epsilon_high=1.2 if loss_type == "cispo" else None,
            max_completion_length=5,
        )
        return part.total.item(), part.weight.item()

    whole = term(sequence >= 0, 0, 4)
    halves = [term(sequence < 2, 0, 2), term(sequence >= 2, 2, 2)]
    assert sum(x for x, _ in halves) / sum(w for _, w in halves) == pytest.approx(whole[0] / whole[1], rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": 0.0}, "epsilon"),
        ({"epsilon_high": -0.1}, "epsilon_high"),
        ({"beta": -1.0}, "beta"),
        ({"beta": 0.1}, "reference model"),
        ({"reference_logprobs": torch.zeros(1)}, "no effect"),
        ({"loss_type": "dr_grpo"}, "max_completion_length"),
        ({"loss_type": "ppo"}, "unknown"),
        ({"importance_sampling_level": "word"}, "unknown"),
        ({"kl_estimator": "k4"}, "unknown"),
        ({"delta": 1.1}, "above the other clip, 1.2"),
        ({"loss_type": "cispo"}, "needs epsilon_high"),
        ({"loss_type": "cispo", "epsilon_high": 0.2}, "needs epsilon_high"),
        ({"loss_type": "cispo", "epsilon_high": 5.0, "epsilon": 0.2}, "no effect with loss_type 'cispo'"),
        ({"loss_type": "cispo", "epsilon_high": 5.0, "delta": 4.0}, "no effect with loss_type 'cispo'"),
        ({"loss_type": "rloo", "delta": 4.0}, "no effect with loss_type 'rloo'"),
        ({"loss_type": "rloo", "importance_sampling_level": "sequence"}, "no effect with loss_type 'rloo'"),
        ({"loss_type": "rloo", "beta": 0.1}, "KL in the reward"),
        ({"beta": 0.1, "kl_estimator": "k1", "use_bias_correction_kl": False}, "zero in the mean"),
        ({"beta": 0.1, "kl_estimator": "k2", "use_bias_correction_kl": True}, "which it has by itself"),
    ],
)
def test_knobs_that_cannot_work_are_refused(arguments: dict, message: str) -> None:
    common = (torch.zeros(1), torch.zeros(1), torch.zeros(1), torch.zeros(1, dtype=torch.long), 1)
    with pytest.raises(RecipeError, match=message):
        grpo(*common, **arguments)
