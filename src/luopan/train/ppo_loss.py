"""Between a packed batch of answers and PPO's losses: runs the policy and the value model over it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from luopan.model.decoder import Decoder
from luopan.model.policy_value import PolicyAndValue
from luopan.model.reward import scores
from luopan.objectives.base import LossTerm
from luopan.objectives.ppo import ppo
from luopan.tokens.batch import Batch
from luopan.train.losses import required, token_scores, trained_states

COLUMNS = ("old_logprobs", "advantages", "old_values", "returns")


def batch_values(value: Decoder, batch: Batch) -> tuple[Tensor, Tensor]:
    """(values [N] fp32 of the trained tokens, their flat places [N]): read at the token before each, as its state."""
    states = trained_states(value, batch)
    return scores(value, states.hidden), states.places


def ppo_loss(
    model: PolicyAndValue, batch: Batch, *, temperature: float = 1.0, entropy: bool = False, **knobs: Any
) -> LossTerm:
    """PPO over the answers in the batch; `knobs` are those of `objectives.ppo.ppo` (cliprange, vf_coef, …).

    Every document is an answer with its prompt; the answer's tokens are trained. per_token: `COLUMNS`, aligned with
    input_ids. `temperature` is the one it was sampled with. With `entropy` the policy's entropy is reported.
    """
    columns = required(batch.per_token, *COLUMNS)
    said = token_scores(model.policy, batch, temperature, entropy)
    values, _ = batch_values(model.value, batch)
    picked = {name: column.flatten()[said.places] for name, column in columns.items()}
    return ppo(
        said.logprobs,
        picked["old_logprobs"],
        picked["advantages"],
        values,
        picked["old_values"],
        picked["returns"],
        entropies=said.entropies,
        **knobs,
    )
