"""Which losses there are, and which of their knobs go together: checked without importing torch.

A recipe can be refused at once with these checks; the losses call the same ones, so that no knob is ever ignored.
"""

from __future__ import annotations

from typing import Literal, get_args

from luopan.errors import RecipeError

PreferenceLossType = Literal["sigmoid", "ipo", "hinge", "robust", "apo_zero", "apo_down"]
PolicyLossType = Literal["dapo", "grpo", "dr_grpo", "bnpo"]
AdvantageScale = Literal["group", "batch", "none"]


def check_preference(loss_type: str, beta: float, label_smoothing: float = 0.0, nll_coef: float = 0.0) -> None:
    """Refuse a combination of DPO's knobs that cannot work or in which one of them would do nothing (RecipeError)."""
    _check_choice("loss_type", loss_type, get_args(PreferenceLossType))
    if not beta > 0:
        raise RecipeError(
            f"beta is {beta}, it must be above 0", hint="0.1 is usual; higher stays closer to the reference"
        )
    if not 0 <= label_smoothing < 0.5:
        raise RecipeError(
            f"label_smoothing is {label_smoothing}, it must be in [0, 0.5)",
            hint="it is the share of pairs whose order is believed to be wrong",
        )
    if label_smoothing and loss_type not in ("sigmoid", "robust"):
        raise RecipeError(
            f"label_smoothing {label_smoothing} has no effect with loss_type {loss_type!r}",
            hint="remove it, or use loss_type sigmoid or robust",
        )
    if loss_type == "robust" and not label_smoothing:
        raise RecipeError(
            "loss_type 'robust' without label_smoothing is 'sigmoid'",
            hint="set label_smoothing to the share of wrong pairs, or use loss_type sigmoid",
        )
    if nll_coef < 0:
        raise RecipeError(f"nll_coef is {nll_coef}, it must not be negative")


def check_policy(
    loss_type: str, epsilon: float, epsilon_high: float | None, beta: float, max_completion_length: int | None
) -> None:
    """Refuse a combination of GRPO's knobs that cannot work (RecipeError)."""
    _check_choice("loss_type", loss_type, get_args(PolicyLossType))
    if not 0 < epsilon < 1:
        raise RecipeError(f"epsilon is {epsilon}, it must be in (0, 1)", hint="0.2 is usual")
    if epsilon_high is not None and not epsilon_high > 0:
        raise RecipeError(f"epsilon_high is {epsilon_high}, it must be above 0", hint="DAPO uses 0.28")
    if beta < 0:
        raise RecipeError(f"beta is {beta}, it must not be negative", hint="0 leaves the KL term out")
    if loss_type == "dr_grpo" and (max_completion_length is None or max_completion_length <= 0):
        raise RecipeError(
            "loss_type 'dr_grpo' divides by max_completion_length, which is not given",
            hint="give the length limit that the completions were sampled with",
        )


def check_scale(scale: str) -> None:
    """Refuse an unknown way to scale advantages (RecipeError)."""
    _check_choice("scale_rewards", scale, get_args(AdvantageScale))


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise RecipeError(f"{name} is {value!r}, which is unknown", hint=f"choose one of {', '.join(choices)}")
