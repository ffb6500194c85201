"""DPO and its relatives: worked by hand, and against TRL's own loss method on the same log-probabilities."""

from __future__ import annotations

import math
from collections import defaultdict
from types import SimpleNamespace
from typing import get_args

import pytest
import torch

from luopan.errors import RecipeError
from luopan.objectives.config import PreferenceLossType
from luopan.objectives.preference import dpo

KINDS = [("sigmoid", 0.0), ("sigmoid", 0.1), ("ipo", 0.0), ("hinge", 0.0), ("robust", 0.2)]
KINDS += [("apo_zero", 0.0), ("apo_down", 0.0)]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# One pair: c = -10 - -12 = 2, r = -9 - -8 = -1, so D = 3; with beta 0.5: b*c = 1, b*r = -0.5, b*D = 1.5.
PAIR = [torch.tensor([x]) for x in (-10.0, -9.0, -12.0, -8.0)]
LENGTHS = {"chosen_lengths": torch.tensor([4]), "rejected_lengths": torch.tensor([2])}


@pytest.mark.parametrize(
    ("loss_type", "smoothing", "expected"),
    [
        ("sigmoid", 0.0, math.log(1 + math.exp(-1.5))),
        ("sigmoid", 0.1, 0.9 * math.log(1 + math.exp(-1.5)) + 0.1 * math.log(1 + math.exp(1.5))),
        ("robust", 0.2, (0.8 * math.log(1 + math.exp(-1.5)) - 0.2 * math.log(1 + math.exp(1.5))) / 0.6),
        ("hinge", 0.0, 0.0),  # 1 - 1.5 is below zero
        ("ipo", 0.0, (2 / 4 - -1 / 2 - 1.0) ** 2),  # 1/(2 * 0.5) = 1: exactly at the target
        ("apo_zero", 0.0, 1 - sigmoid(1.0) + sigmoid(-0.5)),
        ("apo_down", 0.0, sigmoid(1.0) + 1 - sigmoid(1.5)),
    ],
)
def test_by_hand(loss_type: PreferenceLossType, smoothing: float, expected: float) -> None:
    term = dpo(*PAIR, beta=0.5, label_smoothing=smoothing, loss_type=loss_type, **LENGTHS)
    assert term.total.item() == pytest.approx(expected, abs=1e-6)
    assert term.weight.item() == 1
    assert term.metrics["rewards/chosen"][0].item() == pytest.approx(1.0)
    assert term.metrics["rewards/rejected"][0].item() == pytest.approx(-0.5)
    assert term.metrics["rewards/margins"][0].item() == pytest.approx(1.5)
    assert term.metrics["rewards/accuracies"][0].item() == 1.0


def test_every_loss_type_is_compared() -> None:
    assert {kind for kind, _ in KINDS} == set(get_args(PreferenceLossType))


@pytest.mark.parametrize(("loss_type", "smoothing"), KINDS)
@pytest.mark.filterwarnings("ignore")
def test_equals_trl(loss_type: PreferenceLossType, smoothing: float) -> None:
    """Our loss and its gradient equal those of `DPOTrainer._compute_loss` on the same token log-probabilities."""
    torch.manual_seed(0)
    pairs, length = 6, 9
    mask = torch.arange(length) < torch.randint(2, length + 1, (2 * pairs, 1))  # completion: chosen, then rejected
    mask[:, 0] = False  # the first token is the prompt
    policy = (-3 * torch.rand(2 * pairs, length - 1) * mask[:, 1:]).requires_grad_()
    reference = -3 * torch.rand(2 * pairs, length - 1) * mask[:, 1:]

    theirs = trl_dpo(policy, reference, mask, 0.3, loss_type, smoothing)
    (gradient,) = torch.autograd.grad(theirs, policy)

    chosen, rejected = policy.sum(1).chunk(2)
    reference_chosen, reference_rejected = reference.sum(1).chunk(2)
    chosen_lengths, rejected_lengths = mask.sum(1).chunk(2)
    term = dpo(
        chosen,
        rejected,
        reference_chosen,
        reference_rejected,
        beta=0.3,
        label_smoothing=smoothing,
        loss_type=loss_type,
        chosen_lengths=chosen_lengths,
        rejected_lengths=rejected_lengths,
    )
    ours = term.total / term.weight
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, policy)[0], gradient)


def trl_dpo(
    policy: torch.Tensor, reference: torch.Tensor, mask: torch.Tensor, beta: float, loss_type: str, smoothing: float
) -> torch.Tensor:
    """TRL's own `_compute_loss`, given a model that answers with the log-probabilities `policy`.

    TRL's "sigmoid" knows no label smoothing; its "aot" has the smoothed form, which for a single pair is cDPO.
    """
    from trl import DPOTrainer

    def run(rows: torch.Tensor, kind: str) -> torch.Tensor:
        log_probs, reference_rows = policy[rows], reference[rows]
        zeros = torch.zeros_like(log_probs)
        outputs = SimpleNamespace(
            log_probs=log_probs, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool(), log_sum_sq_probs=zeros
        )
        reference_chosen, reference_rejected = reference_rows.sum(1).chunk(2)
        accelerator = SimpleNamespace(device="cpu", gather_for_metrics=lambda x: x, gather=lambda x: x)
        trainer = SimpleNamespace(
            model=SimpleNamespace(training=True),
            accelerator=accelerator,
            aux_loss_enabled=False,
            ld_alpha=None,
            precompute_ref_logps=True,
            f_divergence_type="reverse_kl",
            loss_types=[kind],
            loss_weights=[1.0],
            beta=beta,
            label_smoothing=smoothing,
            use_weighting=False,
            _tp_size=1,
            _total_train_tokens=0,
            _metrics={"train": defaultdict(list)},
        )
        inputs = {
            "input_ids": torch.zeros(mask[rows].shape, dtype=torch.long),
            "attention_mask": torch.ones(mask[rows].shape, dtype=torch.long),
            "completion_mask": mask[rows].long(),
            "ref_chosen_logps": reference_chosen,
            "ref_rejected_logps": reference_rejected,
        }
        return DPOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, return_outputs=False)

    pairs = len(policy) // 2
    if loss_type == "sigmoid" and smoothing:
        return torch.stack([run(torch.tensor([i, pairs + i]), "aot") for i in range(pairs)]).mean()
    return run(torch.arange(2 * pairs), loss_type)


def test_loss_is_a_sum_over_pairs() -> None:
    torch.manual_seed(0)
    sides = [-torch.rand(5) * 9 for _ in range(4)]
    whole = dpo(*sides, beta=0.1)
    parts = [dpo(*(side[part] for side in sides), beta=0.1) for part in (slice(0, 2), slice(2, 5))]
    assert whole.total.item() == pytest.approx(sum(part.total.item() for part in parts), rel=1e-6)
    assert whole.weight.item() == 5


def test_nll_of_the_chosen_is_added_and_reported() -> None:
    nll = torch.tensor([0.7], requires_grad=True)
    plain, mixed = dpo(*PAIR, beta=0.5, nll=nll), dpo(*PAIR, beta=0.5, nll=nll, nll_coef=2.0)
    assert (mixed.total - plain.total).item() == pytest.approx(1.4)
    assert mixed.metrics["nll_loss"][0].item() == pytest.approx(0.7)
    mixed.total.backward()
    assert nll.grad is not None and nll.grad.item() == 2.0


def test_gradient_raises_chosen_and_lowers_rejected() -> None:
    sides = [side.clone().requires_grad_(i < 2) for i, side in enumerate(PAIR)]
    dpo(*sides, beta=0.5).total.backward()
    # d/dD of -log s(0.5 D) at D = 3 is -0.5 (1 - s(1.5)).
    assert sides[0].grad is not None and sides[1].grad is not None
    assert sides[0].grad.item() == pytest.approx(-0.5 * (1 - sigmoid(1.5)))
    assert sides[1].grad.item() == pytest.approx(0.5 * (1 - sigmoid(1.5)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beta": 0.0}, "beta"),
        ({"beta": math.nan}, "beta"),
        ({"beta": 0.1, "loss_type": "dpo"}, "unknown"),
        ({"beta": 0.1, "loss_type": "hinge", "label_smoothing": 0.1}, "no effect"),
        ({"beta": 0.1, "loss_type": "ipo", "label_smoothing": 0.1}, "no effect"),
        ({"beta": 0.1, "loss_type": "robust"}, "without label_smoothing"),
        ({"beta": 0.1, "label_smoothing": 0.5}, "label_smoothing"),
        ({"beta": 0.1, "loss_type": "ipo"}, "lengths"),
        ({"beta": 0.1, "nll_coef": 1.0}, "negative log-likelihood"),
        ({"beta": 0.1, "nll_coef": -1.0}, "nll_coef"),
    ],
)
def test_knobs_that_cannot_work_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        dpo(*PAIR, **arguments)
