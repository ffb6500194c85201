"""Learning from pairs of answers: direct preference optimisation and its relatives, with and without a reference.

The policy itself is the reward model. With c = log pi(y_w)/pi_ref(y_w) for the chosen answer, summed over its tokens,
r the same for the rejected one, D = c - r, m_w and m_l the policy's mean log-probability per token, s = sigmoid, and
e = label_smoothing:

  sigmoid    -(1-e) log s(bD) - e log s(-bD)               Rafailov et al. 2023, arXiv:2305.18290 (e > 0: cDPO)
  robust     [-(1-e) log s(bD) + e log s(-bD)] / (1-2e)    Chowdhury et al. 2024, arXiv:2403.00409
  hinge      max(0, 1 - bD)                                Zhao et al. 2023 (SLiC), arXiv:2305.10425
  ipo        (c/|y_w| - r/|y_l| - 1/(2b))^2                Azar et al. 2023, arXiv:2310.12036, on per-token means
  exo_pair   q log(q/(1-e)) + (1-q) log((1-q)/e)           Ji et al. 2024, arXiv:2402.00856, eq. 16, q = s(bD)
  nca_pair   -log s(bc) - .5 log s(-bc) - .5 log s(-br)    Chen et al. 2024, arXiv:2402.05369
  sppo_hard  (c - 1/(2b))^2 + (r + 1/(2b))^2               Wu et al. 2024, arXiv:2405.00675, the winner's share 1
  apo_zero   1 - s(bc) + s(br)                             D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 7
  apo_down   s(bc) + 1 - s(bD)                             the same, eq. 8
  orpo       -m_w - b log s(o_w - o_l)                     Hong et al. 2024, arXiv:2403.07691, o = m - log(1 - e^m)
  simpo      -log s(b (m_w - m_l) - gamma)                 Meng et al. 2024, arXiv:2405.14734
  sft        -m_w                                          Pang et al. 2024, arXiv:2404.19733, eq. 2; to be added

The last three need no reference. Where TRL 1.16 gives other values for the same tensors, and why we do not:

- `sigmoid` there ignores label_smoothing without a word; here it is cDPO (as in TRL's `aot` for a single pair).
- `sft` there is the mean over all tokens of a micro-batch, so that how a batch is cut changes how much an answer
  weighs; here each answer's own mean counts once, as in the paper.
- `orpo`'s first term there is the mean over prompts and answers of a micro-batch; here over the answer alone.
- `orpo` there has a gradient of NaN where an answer's mean log-probability rounds to 0; here it is finite.

A falling loss and a growing margin do not say that answers get better: a policy can collapse while both look perfect.
Judge by sampled answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from luopan.errors import RecipeError
from luopan.objectives.base import LossTerm, Metric, mean_metric
from luopan.objectives.config import (
    DEFAULT_GAMMA,
    PreferenceLossType,
    check_preference,
    loss_types,
    needs_reference,
)

CERTAIN = -1e-12  # the largest mean log-probability whose odds are taken: those of a certain answer are infinite
BY_LENGTH = ("ipo", "orpo", "simpo", "sft")
"""Losses that need the answers' lengths."""


@dataclass(frozen=True)
class Pairs:
    """What the losses are made of, for P pairs."""

    chosen: Tensor  # [P] c, or the policy's log-probability where there is no reference
    rejected: Tensor  # [P] r
    chosen_mean: Tensor  # [P] m_w
    rejected_mean: Tensor  # [P] m_l
    chosen_length: Tensor  # [P]
    rejected_length: Tensor  # [P]
    beta: float
    smoothing: float
    gamma: float

    @property
    def margin(self) -> Tensor:
        """b D [P]."""
        return self.beta * self.chosen - self.beta * self.rejected


def dpo(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor | None = None,
    reference_rejected: Tensor | None = None,
    *,
    beta: float,
    label_smoothing: float = 0.0,
    loss_type: PreferenceLossType | Sequence[PreferenceLossType] = "sigmoid",
    loss_weights: Sequence[float] | None = None,
    simpo_gamma: float | None = None,
    chosen_lengths: Tensor | None = None,
    rejected_lengths: Tensor | None = None,
    nll_coef: float = 0.0,
) -> LossTerm:
    """The chosen losses, weighted and summed over P pairs, plus nll_coef * the sum of -m_w; weight P.

    chosen, rejected [P]: summed log-probabilities of the answers' tokens under the policy, the reference_… the same
    under the reference (needed unless every loss is one of the last three, and refused then: it would do nothing).
    chosen_lengths, rejected_lengths [P]: the number of those tokens; needed for ipo, orpo, simpo, sft and nll_coef, and
    for the metrics of length. Metrics as TRL names them, rewards being b c and b r, or b m without a reference.
    RecipeError for a knob that cannot work or would do nothing.
    """
    check_preference(loss_type, beta, label_smoothing, nll_coef, loss_weights=loss_weights, simpo_gamma=simpo_gamma)
    names = loss_types(loss_type)
    if "kto" in names:
        raise RecipeError("loss_type 'kto' has no pairs", hint="call luopan.objectives.kto.kto")
    assert chosen.ndim == 1 and chosen.shape == rejected.shape, (chosen.shape, rejected.shape)
    _check_lengths(names, nll_coef, chosen_lengths, rejected_lengths)
    referenced = needs_reference(names)
    chosen, rejected = chosen.float(), rejected.float()
    if reference_chosen is None or reference_rejected is None:
        if referenced:
            raise RecipeError(f"loss_type {', '.join(names)} needs the reference's log-probabilities, not given")
        sides = chosen, rejected
    else:
        if not referenced:
            raise RecipeError(f"a reference has no effect with loss_type {', '.join(names)}", hint="leave it out")
        assert chosen.shape == reference_chosen.shape == reference_rejected.shape
        sides = chosen - reference_chosen.float(), rejected - reference_rejected.float()
    ones = torch.ones_like(chosen)
    own = ones if chosen_lengths is None else chosen_lengths.clamp(min=1)
    other = ones if rejected_lengths is None else rejected_lengths.clamp(min=1)
    means = chosen / own, rejected / other
    gamma = DEFAULT_GAMMA if simpo_gamma is None else simpo_gamma
    pairs = Pairs(*sides, *means, own, other, beta, label_smoothing, gamma)
    losses = torch.zeros_like(chosen)  # [P]
    for name, weight in zip(names, loss_weights or (1.0,) * len(names), strict=True):
        losses = losses + weight * LOSSES[name](pairs)
    if nll_coef:
        losses = losses + nll_coef * sft(pairs)
    rewards = sides if referenced else means
    metrics = _metrics(beta * rewards[0].detach(), beta * rewards[1].detach())
    metrics |= {"logps/chosen": mean_metric(chosen), "logps/rejected": mean_metric(rejected)}
    if chosen_lengths is not None and rejected_lengths is not None:
        metrics["nll_loss"] = mean_metric(-means[0])
        metrics |= length_metrics(rewards[0] - rewards[1], chosen_lengths - rejected_lengths)
    total = losses.sum()
    return LossTerm(total=total, weight=total.new_tensor(float(chosen.numel())), metrics=metrics)


# ---- one function a loss: [P] from the pairs ----


def sigmoid(pairs: Pairs) -> Tensor:
    """-(1-e) log s(bD) - e log s(-bD)."""
    right, flipped = -F.logsigmoid(pairs.margin), -F.logsigmoid(-pairs.margin)
    return (1 - pairs.smoothing) * right + pairs.smoothing * flipped


def robust(pairs: Pairs) -> Tensor:
    """[-(1-e) log s(bD) + e log s(-bD)] / (1-2e): unbiased where a share e of the pairs is the wrong way round."""
    right, flipped = -F.logsigmoid(pairs.margin), -F.logsigmoid(-pairs.margin)
    return ((1 - pairs.smoothing) * right - pairs.smoothing * flipped) / (1 - 2 * pairs.smoothing)


def hinge(pairs: Pairs) -> Tensor:
    """max(0, 1 - bD)."""
    return torch.relu(1 - pairs.margin)


def ipo(pairs: Pairs) -> Tensor:
    """(c/|y_w| - r/|y_l| - 1/(2b))^2."""
    gap = pairs.chosen / pairs.chosen_length - pairs.rejected / pairs.rejected_length
    return (gap - 1 / (2 * pairs.beta)).square()


def exo_pair(pairs: Pairs) -> Tensor:
    """KL from (q, 1-q), q = s(bD), to the labels (1-e, e): the reverse of cDPO's."""
    right, flipped = F.logsigmoid(pairs.margin), F.logsigmoid(-pairs.margin)
    share = torch.sigmoid(pairs.margin)
    return share * (right - math.log1p(-pairs.smoothing)) + (1 - share) * (flipped - math.log(pairs.smoothing))


def nca_pair(pairs: Pairs) -> Tensor:
    """-log s(bc) - .5 log s(-bc) - .5 log s(-br)."""
    good, bad = pairs.beta * pairs.chosen, pairs.beta * pairs.rejected
    return -F.logsigmoid(good) - 0.5 * F.logsigmoid(-good) - 0.5 * F.logsigmoid(-bad)


def sppo_hard(pairs: Pairs) -> Tensor:
    """(c - 1/(2b))^2 + (r + 1/(2b))^2."""
    goal = 0.5 / pairs.beta
    return (pairs.chosen - goal).square() + (pairs.rejected + goal).square()


def apo_zero(pairs: Pairs) -> Tensor:
    """1 - s(bc) + s(br): for chosen answers better than what the model says."""
    return 1 - torch.sigmoid(pairs.beta * pairs.chosen) + torch.sigmoid(pairs.beta * pairs.rejected)


def apo_down(pairs: Pairs) -> Tensor:
    """s(bc) + 1 - s(bD): for chosen answers worse than what the model says."""
    return torch.sigmoid(pairs.beta * pairs.chosen) + 1 - torch.sigmoid(pairs.margin)


def orpo(pairs: Pairs) -> Tensor:
    """-m_w - b log s(o_w - o_l), o = log(p / (1-p)) of the answer's mean probability p = e^m."""
    odds = _log_odds(pairs.chosen_mean) - _log_odds(pairs.rejected_mean)
    return -pairs.chosen_mean - pairs.beta * F.logsigmoid(odds)


def simpo(pairs: Pairs) -> Tensor:
    """-log s(b (m_w - m_l) - gamma)."""
    return -F.logsigmoid(pairs.beta * (pairs.chosen_mean - pairs.rejected_mean) - pairs.gamma)


def sft(pairs: Pairs) -> Tensor:
    """-m_w."""
    return -pairs.chosen_mean


LOSSES: dict[str, Callable[[Pairs], Tensor]] = {
    "sigmoid": sigmoid, "robust": robust, "hinge": hinge, "ipo": ipo, "exo_pair": exo_pair, "nca_pair": nca_pair,
    "sppo_hard": sppo_hard, "apo_zero": apo_zero, "apo_down": apo_down, "orpo": orpo, "simpo": simpo, "sft": sft,
}  # fmt: skip


def _log_odds(mean: Tensor) -> Tensor:
    """m - log(1 - e^m), each side of -log 2 by the form that does not cancel there, and neither sees the other's."""
    mean = mean.clamp(max=CERTAIN)
    high = mean > -math.log(2)
    near, far = torch.where(high, mean, -1.0), torch.where(high, -1.0, mean)
    return mean - torch.where(high, torch.log(-torch.expm1(near)), torch.log1p(-torch.exp(far)))


# ---- metrics ----


def _metrics(chosen: Tensor, rejected: Tensor) -> dict[str, Metric]:
    return {
        "rewards/chosen": mean_metric(chosen),
        "rewards/rejected": mean_metric(rejected),
        "rewards/margins": mean_metric(chosen - rejected),
        "rewards/accuracies": mean_metric(chosen > rejected),
    }


def length_metrics(margins: Tensor, longer: Tensor) -> dict[str, Metric]:
    """Whether the policy's reward goes by length. margins [P]: chosen above rejected; longer [P]: tokens more in it.

    length/bias: tokens by which the answer of higher reward is longer than the other (a tie counts 0).
    length/longer_preferred: how often the longer answer has the higher reward (ties one half); compare with
    length/longer_chosen, how often the longer answer is the chosen one in the data.
    """
    side, direction = margins.detach().sign(), longer.sign().to(margins)
    return {
        "length/bias": mean_metric(side * longer),
        "length/longer_preferred": mean_metric(0.5 + 0.5 * side * direction),
        "length/longer_chosen": mean_metric(0.5 + 0.5 * direction),
    }


def _check_lengths(names: tuple[str, ...], nll_coef: float, chosen: Tensor | None, rejected: Tensor | None) -> None:
    if chosen is not None and rejected is not None:
        return
    if nll_coef:
        raise RecipeError(f"nll_coef is {nll_coef}, but the answers' lengths in tokens were not given")
    if found := [name for name in names if name in BY_LENGTH]:
        raise RecipeError(f"loss_type {found[0]!r} needs the answers' lengths in tokens, and they were not given")
