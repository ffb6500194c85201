"""DPO and its relatives: worked by hand, and against TRL's own loss method on the same log-probabilities."""

from __future__ import annotations

import math
from collections import defaultdict
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch

from luopan.errors import RecipeError
from luopan.objectives.config import PreferenceLossType, check_preference
from luopan.objectives.kto import kto
from luopan.objectives.preference import dpo

KINDS = [("sigmoid", 0.0), ("sigmoid", 0.1), ("ipo", 0.0), ("hinge", 0.0), ("robust", 0.2)]
KINDS += [("apo_zero", 0.0), ("apo_down", 0.0), ("exo_pair", 1e-3), ("nca_pair", 0.0), ("sppo_hard", 0.0)]


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
    assert {kind for kind, _ in KINDS} | elsewhere == set(get_args(PreferenceLossType))


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


def trl_odds_loss() -> Any:
    from trl.experimental.orpo import ORPOTrainer

    return ORPOTrainer.odds_ratio_loss


@pytest.mark.filterwarnings("ignore")
def test_orpo_and_simpo_are_trls() -> None:
    """On mean log-probabilities: ORPO's second term and CPOTrainer's "simpo"."""
    from trl.experimental.cpo import CPOTrainer

    torch.manual_seed(1)
    lengths = torch.randint(2, 9, (2, 7))
    means = -2 * torch.rand(2, 7) - 0.05
    sums = (means * lengths).requires_grad_()
    knobs = {"chosen_lengths": lengths[0], "rejected_lengths": lengths[1]}
    found = sums / lengths
    stand_in = SimpleNamespace(beta=0.3, accelerator=SimpleNamespace(device="cpu"), is_peft_model=False)
    ratio = trl_odds_loss()(stand_in, found[0], found[1])[0]
    theirs = (-found[0] - ratio).sum()
    ours = dpo(sums[0], sums[1], beta=0.3, loss_type="orpo", **knobs).total
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    gradients = [torch.autograd.grad(loss, sums, retain_graph=True)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)
    trainer = SimpleNamespace(
        beta=0.3,
        loss_type="simpo",
        simpo_gamma=0.7,
        label_smoothing=0.0,
        alpha=0.0,
        accelerator=SimpleNamespace(device="cpu"),
    )
    theirs = CPOTrainer.cpo_loss(trainer, found[0], found[1])[0].sum()
    ours = dpo(sums[0], sums[1], beta=0.3, loss_type="simpo", simpo_gamma=0.7, **knobs).total
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


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


@pytest.mark.filterwarnings("ignore")
def test_kto_is_trls_where_a_batch_is_one_group() -> None:
    """`KTOTrainer._compute_loss`, given a model that answers with these log-probabilities."""
    from trl import KTOTrainer

    torch.manual_seed(2)
    labels = torch.tensor([True, False, True, True, False, True, False])
    policy = (-3 * torch.rand(7, 5)).requires_grad_()
    reference, mixed = -3 * torch.rand(7, 5), torch.randn(7)
    zeros = torch.zeros(7, 5)
    outputs = SimpleNamespace(
        log_probs=policy, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool(), log_sum_sq_probs=zeros
    )
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True), aux_loss_enabled=False, precompute_ref_logps=True, calculate_KL=True,
        beta=0.3, desirable_weight=1.0, undesirable_weight=1.5, loss_type="kto", _total_train_tokens=0, _tp_size=1,
        accelerator=SimpleNamespace(device="cpu", gather_for_metrics=lambda x: x, gather=lambda x: x),
        _metrics={"train": defaultdict(list)}, _compute_kl_logps=lambda model, batch: mixed,
    )  # fmt: skip
    inputs = {
        "input_ids": torch.zeros(7, 6, dtype=torch.long), "attention_mask": torch.ones(7, 6, dtype=torch.long),
        "completion_mask": torch.ones(7, 6, dtype=torch.long), "label": labels, "ref_logps": reference.sum(1),
        "ref_KL_logps": torch.zeros(7),
    }  # fmt: skip
    theirs = KTOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, return_outputs=False)
    group = torch.zeros(7, dtype=torch.int64)
    term = kto(
        policy.sum(1) - reference.sum(1), labels, group, mixed, group, num_groups=1, beta=0.3, undesirable_weight=1.5
    )
    ours = term.total / term.weight
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad(ours, policy)[0], torch.autograd.grad(theirs, policy)[0], atol=1e-5, rtol=1e-5
    )
