"""DPO and its relatives: worked by hand, and against TRL's own loss method on the same log-probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import get_args

import pytest
import torch
import trl_losses

from luopan.errors import RecipeError
from luopan.objectives.config import PreferenceLossType, check_preference
from luopan.objectives.kto import kto
from luopan.objectives.preference import dpo


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
        ("nca_pair", 0.0, -math.log(sigmoid(1.0)) - 0.5 * math.log(sigmoid(-1.0)) - 0.5 * math.log(sigmoid(0.5))),
        ("sppo_hard", 0.0, (2 - 1) ** 2 + (-1 + 1) ** 2),  # 1/(2 * 0.5) = 1
        (
            "exo_pair",
            0.1,
            sigmoid(1.5) * math.log(sigmoid(1.5) / 0.9) + sigmoid(-1.5) * math.log(sigmoid(-1.5) / 0.1),
        ),
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
    elsewhere = {"orpo", "simpo", "sft", "kto"}  # other trainers of TRL; below
    assert {kind for kind, _ in trl_losses.PAIRED} | elsewhere == set(get_args(PreferenceLossType))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("loss_type", "smoothing"), trl_losses.PAIRED)
@pytest.mark.filterwarnings("ignore")
def test_equals_trl(loss_type: PreferenceLossType, smoothing: float, seed: int) -> None:
    """Our loss and its gradient equal those of TRL's DPOTrainer on the same token log-probabilities."""
    assert all(apart < 1e-5 for apart in trl_losses.paired(loss_type, smoothing, seed).apart)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("compare", [trl_losses.orpo, trl_losses.simpo, trl_losses.unpaired])
@pytest.mark.filterwarnings("ignore")
def test_equals_the_other_trainers_of_trl(compare: Callable[[int], trl_losses.Both], seed: int) -> None:
    assert all(apart < 1e-5 for apart in compare(seed).apart)


def test_loss_is_a_sum_over_pairs() -> None:
    torch.manual_seed(0)
    sides = [-torch.rand(5) * 9 for _ in range(4)]
    whole = dpo(*sides, beta=0.1)
    parts = [dpo(*(side[part] for side in sides), beta=0.1) for part in (slice(0, 2), slice(2, 5))]
    assert whole.total.item() == pytest.approx(sum(part.total.item() for part in parts), rel=1e-6)
    assert whole.weight.item() == 5


def test_nll_of_the_chosen_is_added_and_reported() -> None:
    plain, mixed = dpo(*PAIR, beta=0.5, **LENGTHS), dpo(*PAIR, beta=0.5, nll_coef=2.0, **LENGTHS)
    # The chosen answer's log-probability is -10 over 4 tokens.
    assert (mixed.total - plain.total).item() == pytest.approx(2 * 2.5)
    assert mixed.metrics["nll_loss"][0].item() == pytest.approx(2.5)


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
        ({"beta": 0.1, "nll_coef": 1.0}, "lengths"),
        ({"beta": 0.1, "nll_coef": -1.0}, "nll_coef"),
    ],
)
def test_knobs_that_cannot_work_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        dpo(*PAIR, **arguments)


# ---- without a reference, and several at once ----

FREE = [torch.tensor([-2.0, -8.0]), torch.tensor([-6.0, -4.0])]  # chosen, rejected; 4 and 2 tokens each below
FREE_LENGTHS = {"chosen_lengths": torch.tensor([4, 4]), "rejected_lengths": torch.tensor([2, 2])}


def test_simpo_orpo_and_sft_by_hand() -> None:
    # m_w = -0.5, -2; m_l = -3, -2
    simpo = dpo(*FREE, beta=2.0, loss_type="simpo", simpo_gamma=0.5, **FREE_LENGTHS)
    expected = [-math.log(sigmoid(2 * 2.5 - 0.5)), -math.log(sigmoid(-0.5))]
    assert simpo.total.item() == pytest.approx(sum(expected), abs=1e-6)

    def odds(mean: float) -> float:
        return mean - math.log(1 - math.exp(mean))

    orpo = dpo(*FREE, beta=0.1, loss_type="orpo", **FREE_LENGTHS)
    expected = [0.5 - 0.1 * math.log(sigmoid(odds(-0.5) - odds(-3.0))), 2.0 - 0.1 * math.log(sigmoid(0.0))]
    assert orpo.total.item() == pytest.approx(sum(expected), abs=1e-6)
    both = dpo(*FREE, beta=2.0, loss_type=("simpo", "sft"), loss_weights=(1.0, 0.5), **FREE_LENGTHS)
    plain = dpo(*FREE, beta=2.0, loss_type="simpo", **FREE_LENGTHS)
    assert both.total.item() == pytest.approx(plain.total.item() + 0.5 * (0.5 + 2.0), abs=1e-6)


def test_losses_that_do_not_go_together_are_refused() -> None:
    for arguments, message in (
        ({"loss_type": ("sigmoid", "sigmoid")}, "twice"),
        ({"loss_type": "sft"}, "never looks at the rejected"),
        ({"loss_type": ("kto", "sigmoid")}, "single answers"),
        ({"loss_type": ("orpo", "sft")}, "holds the term"),
        ({"loss_type": "sigmoid", "loss_weights": (2.0,)}, "only scales it"),
        ({"loss_type": ("sigmoid", "sft"), "loss_weights": (1.0,)}, "2 losses and 1"),
        ({"loss_type": "sigmoid", "simpo_gamma": 0.5}, "no effect without loss_type simpo"),
        ({"loss_type": "exo_pair"}, "infinite"),
    ):
        with pytest.raises(RecipeError, match=message):
            check_preference(beta=0.1, **arguments)
    with pytest.raises(RecipeError, match="a reference has no effect"):
        dpo(*PAIR, beta=0.1, loss_type="simpo", **LENGTHS)
    with pytest.raises(RecipeError, match="needs the reference"):
        dpo(*PAIR[:2], beta=0.1)


# ---- KTO ----


def test_kto_by_hand() -> None:
    # Group 0: mismatched d = 1 and 3, z = 2. Group 1: d = -4, z = 0.
    ratios = torch.tensor([3.0, 1.0, -2.0], requires_grad=True)
    term = kto(
        ratios, torch.tensor([True, False, True]), torch.tensor([0, 0, 1]), torch.tensor([1.0, 3.0, -4.0]),
        torch.tensor([0, 0, 1]), num_groups=2, beta=0.5, undesirable_weight=2.0,
    )  # fmt: skip
    expected = (1 - sigmoid(0.5 * (3 - 2))) + 2 * (1 - sigmoid(0.5 * (2 - 1))) + (1 - sigmoid(0.5 * (-2 - 0)))
    assert term.total.item() == pytest.approx(expected, abs=1e-6) and term.weight.item() == 3
    term.total.backward()
    assert ratios.grad is not None and ratios.grad[0] < 0 < ratios.grad[1]
