"""Which losses there are, and which of their knobs go together: checked without importing torch.

A recipe can be refused at once with these checks; the losses call the same ones, so that no knob is ever ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from luopan.errors import RecipeError

PreferenceLossType = Literal[
    "sigmoid", "robust", "hinge", "ipo", "exo_pair", "nca_pair", "sppo_hard", "apo_zero", "apo_down", "orpo", "simpo",
    "sft", "kto",
]  # fmt: skip
PolicyLossType = Literal["dapo", "grpo", "dr_grpo", "bnpo", "cispo", "rloo"]
RatioLevel = Literal["token", "sequence"]
AdvantageScale = Literal["group", "batch", "none"]
Advantage = Literal["group", "rloo", "reinforce_pp", "reinforce_pp_baseline"]
KlEstimator = Literal["k1", "k2", "k3"]
KlPlace = Literal["loss", "reward"]

SMOOTHED = ("sigmoid", "robust", "exo_pair")
"""Losses that read label_smoothing."""
REFERENCE_FREE = ("orpo", "simpo", "sft")
"""Losses that need no reference model."""
DEFAULT_GAMMA = 0.5
DEFAULT_EPSILON = 0.2


def loss_types(loss_type: str | Sequence[str]) -> tuple[str, ...]:
    """One name or several as a tuple."""
    return (loss_type,) if isinstance(loss_type, str) else tuple(loss_type)


def needs_reference(loss_type: str | Sequence[str]) -> bool:
    """Whether any of the losses reads the reference's log-probabilities."""
    return any(name not in REFERENCE_FREE for name in loss_types(loss_type))


def check_preference(
    loss_type: str | Sequence[str],
    beta: float,
    label_smoothing: float = 0.0,
    nll_coef: float = 0.0,
    *,
    loss_weights: Sequence[float] | None = None,
    simpo_gamma: float | None = None,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> None:
    """Refuse a combination of the knobs that cannot work or in which one of them would do nothing (RecipeError)."""
    names = loss_types(loss_type)
    _check_names(names, loss_weights)
    if not beta > 0:
        raise RecipeError(
            f"beta is {beta}, it must be above 0", hint="0.1 is usual; higher stays closer to the reference"
        )
    _check_smoothing(names, label_smoothing)
    if nll_coef < 0:
        raise RecipeError(f"nll_coef is {nll_coef}, it must not be negative")
    for name, why in (("sft", "is the same term"), ("orpo", "holds that term already"), ("kto", "has no pairs")):
        if nll_coef and name in names:
            raise RecipeError(f"nll_coef {nll_coef} does not go with loss_type {name!r}, which {why}", hint="remove it")
    if simpo_gamma is not None and "simpo" not in names:
        raise RecipeError(f"simpo_gamma {simpo_gamma} has no effect without loss_type simpo", hint="remove it")
    if simpo_gamma is not None and not simpo_gamma >= 0:
        raise RecipeError(f"simpo_gamma is {simpo_gamma}, it must not be negative", hint="the margin asked for, 0 to 2")
    for key, weight in (("desirable_weight", desirable_weight), ("undesirable_weight", undesirable_weight)):
        if not weight > 0:
            raise RecipeError(f"{key} is {weight}, it must be above 0", hint="leave out the examples instead")
        if weight != 1.0 and "kto" not in names:
            raise RecipeError(f"{key} {weight} has no effect without loss_type kto", hint="remove it")


def _check_names(names: tuple[str, ...], weights: Sequence[float] | None) -> None:
    """Known losses, each once, that can be added up, and as many weights above 0."""
    if not names:
        raise RecipeError("loss_type names no loss", hint="sigmoid is DPO")
    for name in names:
        _check_choice("loss_type", name, get_args(PreferenceLossType))
    if doubled := [name for name in names if names.count(name) > 1]:
        raise RecipeError(f"loss_type names {doubled[0]!r} twice", hint="give it a larger weight in loss_weights")
    if names == ("sft",):
        raise RecipeError(
            "loss_type 'sft' alone never looks at the rejected answers",
            hint="add it to a preference loss, as in [sigmoid, sft], or use an sft stage",
        )
    if "kto" in names and len(names) > 1:
        raise RecipeError("loss_type 'kto' learns from single answers and the others from pairs", hint="use one")
    if "orpo" in names and "sft" in names:
        raise RecipeError("loss_type 'orpo' holds the term of 'sft' already", hint="remove sft")
    if weights is None:
        return
    if len(names) == 1:
        raise RecipeError(
            "loss_weights with a single loss only scales it, which the optimizer undoes", hint="set learning_rate"
        )
    if len(weights) != len(names):
        raise RecipeError(f"{len(names)} losses and {len(weights)} loss_weights", hint="give one weight for each loss")
    if idle := [name for name, weight in zip(names, weights) if not weight > 0]:
        raise RecipeError(f"the weight of {idle[0]!r} is not above 0", hint="remove the loss from loss_type")


def _check_smoothing(names: tuple[str, ...], label_smoothing: float) -> None:
    if not 0 <= label_smoothing < 0.5:
        raise RecipeError(
            f"label_smoothing is {label_smoothing}, it must be in [0, 0.5)",
            hint="it is the share of pairs whose order is believed to be wrong",
        )
    if label_smoothing and not set(names) & set(SMOOTHED):
        raise RecipeError(
            f"label_smoothing {label_smoothing} has no effect with loss_type {', '.join(map(repr, names))}",
            hint=f"remove it, or use one of {', '.join(SMOOTHED)}",
        )
    if "robust" in names and not label_smoothing:
        raise RecipeError(
            "loss_type 'robust' without label_smoothing is 'sigmoid'",
            hint="set label_smoothing to the share of wrong pairs, or use loss_type sigmoid",
        )
    if "exo_pair" in names and not label_smoothing:
        raise RecipeError(
            "loss_type 'exo_pair' without label_smoothing is infinite", hint="set label_smoothing, 0.001 is usual"
        )


def check_policy(
    loss_type: str,
    *,
    epsilon: float | None = None,
    epsilon_high: float | None = None,
    delta: float | None = None,
    importance_sampling_level: str = "token",
    beta: float = 0.0,
    kl_estimator: str = "k3",
    use_bias_correction_kl: bool | None = None,
    max_completion_length: int | None = None,
) -> None:
    """Refuse a combination of the policy loss's knobs that cannot work or in which one would do nothing (RecipeError).

    `beta` is the weight of a KL in the loss; one in the reward is no business of the loss.
    """
    _check_choice("loss_type", loss_type, get_args(PolicyLossType))
    _check_choice("importance_sampling_level", importance_sampling_level, get_args(RatioLevel))
    check_estimator(kl_estimator)
    _check_clip(loss_type, epsilon, epsilon_high, delta)
    if loss_type == "rloo" and importance_sampling_level != "token":
        raise RecipeError(
            "importance_sampling_level has no effect with loss_type 'rloo', whose ratio is the whole answer's",
            hint="remove it",
        )
    if beta < 0:
        raise RecipeError(f"beta is {beta}, it must not be negative", hint="0 leaves the KL term out")
    if beta:
        _check_kl(loss_type, kl_estimator, use_bias_correction_kl)
    if loss_type == "dr_grpo" and (max_completion_length is None or max_completion_length <= 0):
        raise RecipeError(
            "loss_type 'dr_grpo' divides by max_completion_length, which is not given",
            hint="give the length limit that the completions were sampled with",
        )


def _check_clip(loss_type: str, epsilon: float | None, epsilon_high: float | None, delta: float | None) -> None:
    if loss_type == "cispo":
        for name, value in (("epsilon", epsilon), ("delta", delta)):
            if value is not None:
                raise RecipeError(
                    f"{name} has no effect with loss_type 'cispo', which caps the weight of a token at epsilon_high",
                    hint="remove it",
                )
        if epsilon_high is None or not epsilon_high >= 1:
            raise RecipeError(
                f"loss_type 'cispo' needs epsilon_high, the largest weight of a token, 1 or more; it is {epsilon_high}",
                hint="5 is usual; under 1 it would scale every update",
            )
        return
    low = DEFAULT_EPSILON if epsilon is None else epsilon
    if not 0 < low < 1:
        raise RecipeError(f"epsilon is {low}, it must be in (0, 1)", hint="0.2 is usual")
    if epsilon_high is not None and not epsilon_high > 0:
        raise RecipeError(f"epsilon_high is {epsilon_high}, it must be above 0", hint="DAPO uses 0.28")
    if delta is None:
        return
    if loss_type == "rloo":
        raise RecipeError("delta has no effect with loss_type 'rloo'", hint="remove it")
    high = 1 + (low if epsilon_high is None else epsilon_high)
    if not delta > high:
        raise RecipeError(
            f"delta is {delta}, it must be above the other clip, {high:g}",
            hint="it bounds the ratio where the answer was bad; 4 is usual",
        )


def default_correction(kl_estimator: str) -> bool:
    """Whether a KL in the loss is to be weighted with the ratio for its gradient to be the divergence's own."""
    return kl_estimator != "k2"


def _check_kl(loss_type: str, kl_estimator: str, corrected: bool | None) -> None:
    if loss_type == "rloo":
        raise RecipeError("loss_type 'rloo' has its KL in the reward", hint="set kl_in: reward")
    if kl_estimator == "k1" and corrected is False:
        raise RecipeError(
            "the gradient of kl_estimator 'k1' in the loss is zero in the mean without use_bias_correction_kl",
            hint="remove use_bias_correction_kl, use k2 or k3, or set kl_in: reward",
        )
    if kl_estimator == "k2" and corrected:
        raise RecipeError(
            "use_bias_correction_kl takes from kl_estimator 'k2' the divergence's gradient, which it has by itself",
            hint="remove use_bias_correction_kl, or use k3",
        )


def check_estimator(kl_estimator: str) -> None:
    """Refuse an unknown estimate of the divergence (RecipeError)."""
    _check_choice("kl_estimator", kl_estimator, get_args(KlEstimator))


def check_cap(cap: float) -> None:
    """Refuse a cap on importance weights under which none could be what it should (RecipeError)."""
    if not cap >= 1:
        raise RecipeError(f"importance_cap is {cap}, it must be 1 or more", hint="2 to 3 is usual")


def check_scale(scale: str) -> None:
    """Refuse an unknown way to scale advantages (RecipeError)."""
    _check_choice("scale_rewards", scale, get_args(AdvantageScale))


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise RecipeError(f"{name} is {value!r}, which is unknown", hint=f"choose one of {', '.join(choices)}")
