"""Two decoders that are trained together: a policy, and a model of what a state is worth.

`PolicyAndValue` has what the training loop asks of a model, so one optimizer step changes both and one checkpoint holds
both. The value model is a decoder of its own with a score in place of its head (`reward.add_score`), read at every
position.

    pair = PolicyAndValue(policy, value_from_policy(policy, seed))

Limit: `config` is the policy's, so what is foreseen of memory is for one of the two.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import Tensor, nn

from luopan.errors import ModelError
from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder
from luopan.model.recompute import Recompute
from luopan.model.reward import add_score, has_score


class PolicyAndValue(nn.Module):
    """`policy` answers, `value` says what is to be expected at each of its tokens."""

    def __init__(self, policy: Decoder, value: Decoder) -> None:
        super().__init__()
        if not has_score(value):
            raise ModelError("a value model needs a score; add_score gives it one")
        if value.config.vocab_size != policy.config.vocab_size:
            raise ModelError(
                f"the value model reads {value.config.vocab_size} tokens, the policy writes {policy.config.vocab_size}"
            )
        self.policy, self.value = policy, value

    @property
    def config(self) -> ModelConfig:
        return self.policy.config

    @property
    def recompute(self) -> Recompute:
        return self.policy.recompute

    @recompute.setter
    def recompute(self, mode: Recompute) -> None:
        self.policy.recompute = self.value.recompute = mode

    def compile_blocks(self) -> None:
        """As `Decoder.compile_blocks`, for both."""
        self.policy.compile_blocks()
        self.value.compile_blocks()

    def forget_counts(self, bad: Tensor) -> None:
        """As `Decoder.forget_counts`, for both."""
        self.policy.forget_counts(bad)
        self.value.forget_counts(bad)

    def finish_step(self, reduce: Callable[[Tensor], None] | None = None) -> dict[str, Tensor]:
        """As `Decoder.finish_step`, for both; the value model's figures begin with "value/"."""
        own = self.policy.finish_step(reduce)
        return own | {f"value/{name}": figure for name, figure in self.value.finish_step(reduce).items()}


def value_from_policy(policy: Decoder, seed: int) -> Decoder:
    """A value model with the policy's weights and a score drawn from `seed`; the policy stays as it is."""
    value = copy.deepcopy(policy)
    if has_score(value):
        raise ModelError("a policy has a language head and no score")
    add_score(value, seed)
    return value
