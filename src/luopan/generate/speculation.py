"""Guessing tokens ahead, so that a model says several in one pass over its weights.

A guess is checked against what the model itself would have said at that place, with the random number it would have
drawn with (`Session._speculate`). A right guess saves a pass, a wrong one costs a little; the tokens are the same with
and without, drawn or greedy (to the bit by the compiled pass), and so is their distribution. Two ways of guessing:

- n-grams: what followed the last few tokens where they stood before, in the prompt or the answer (prompt lookup,
  Saxena 2023). Costs nothing; right where a text repeats itself, quotes or edits.
- a draft: a smaller model with the same vocabulary (Leviathan et al. 2023, arXiv:2211.17192), drawing with the same
  random number as the large one, whose choice then mostly agrees. That agrees less often than their rejection rule,
  which is the best there is, and in return the answer does not depend on whether there is a draft.

Limits: penalties and constraints are not known to a draft model, so its guesses are worse under them. It pays where a
pass waits for memory: for few requests at once (`requests`), and not for tiny models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from luopan.errors import RecipeError
from luopan.generate.runner import Runner, same_beginning
from luopan.model.decoder import Decoder

if TYPE_CHECKING:
    from luopan.generate.engine import Engine

# Given logits [V] and how many tokens ahead of what is said they are: the token that would be chosen.
Pick = Callable[[Tensor, int], int]


class Draft(Protocol):
    """What guesses, for the requests of one session."""

    requests: int

    def propose(self, number: int, tokens: Sequence[int], most: int, pick: Pick) -> list[int]:
        """At most so many tokens that may follow `tokens`, prompt and answer so far, of a request."""

    def forget(self, number: int) -> None:
        """The request has ended."""


@dataclass(frozen=True)
class Speculation:
    """model: the draft (None: n-grams). tokens: how many are guessed ahead. ngram: how many last tokens must have stood
    before (fewer are tried down to 2). requests: it rests while more than so many run.
    """

    model: Decoder | None = None
    tokens: int = 4
    ngram: int = 3
    requests: int = 4

    def check(self, target: Decoder) -> None:
        """RecipeError for settings that cannot work with this model."""
        for name, least in (("tokens", 1), ("ngram", 2), ("requests", 1)):
            if (value := getattr(self, name)) < least:
                raise RecipeError(f"speculation: {name} is {value}, it must be at least {least}")
        if self.model is not None and self.model.config.vocab_size != target.config.vocab_size:
            raise RecipeError(
                f"the draft model has {self.model.config.vocab_size} tokens, the model {target.config.vocab_size}",
                hint="a draft must have the same tokenizer",
            )

    def start(self) -> Draft:
        """For a new session."""
        if self.model is None:
            return NgramDraft(self.tokens, self.ngram, self.requests)
        return ModelDraft(self.model, self.tokens, self.requests)


@dataclass
class NgramDraft:
    """See the module."""

    tokens: int
    ngram: int
    requests: int

    def propose(self, number: int, tokens: Sequence[int], most: int, pick: Pick) -> list[int]:
        """See `Draft`."""
        most = min(most, self.tokens)
        for size in range(self.ngram, 1, -1):
            last = list(tokens[-size:])
            for start in range(len(tokens) - size - 1, -1, -1) if most > 0 else ():
                if tokens[start] == last[0] and list(tokens[start : start + size]) == last:
                    return list(tokens[start + size : start + size + most])
        return []

    def forget(self, number: int) -> None:
        """See `Draft`: nothing is kept."""


@dataclass
class _Follower:
    """The draft's keys and values of one request: the tokens it has been fed."""

    runner: Runner
    fed: list[int] = field(default_factory=list)


class ModelDraft:
    """See the module. Keys and values of its own for each request."""

    def __init__(self, model: Decoder, tokens: int, requests: int) -> None:
        from luopan.generate.engine import Engine

        self.tokens, self.requests = tokens, requests
        self._engine: Engine = Engine(model, eos_ids=[])
        self._followers: dict[int, _Follower] = {}

    def propose(self, number: int, tokens: Sequence[int], most: int, pick: Pick) -> list[int]:
        """See `Draft`."""
        most = min(most, self.tokens, self._engine.context - len(tokens))
        if most <= 0:
            return []
        follower = self._followers.get(number)
        if follower is None:
            follower = self._followers[number] = self._begin(tokens)
        same = same_beginning(follower.fed, tokens, len(tokens) - 1)
        follower.runner.rewind(0, len(follower.fed) - same)
        follower.fed = list(tokens)
        (logits,) = follower.runner.extend([list(tokens[same:])])
        guessed = [pick(logits[-1], 0)]
        while len(guessed) < most:
            follower.fed.append(guessed[-1])
            (logits,) = follower.runner.extend([guessed[-1:]])
            guessed.append(pick(logits[-1], len(guessed)))
        return guessed

    def forget(self, number: int) -> None:
        """See `Draft`."""
        self._followers.pop(number, None)

    @torch.inference_mode()
    def _begin(self, tokens: Sequence[int]) -> _Follower:
        runner = self._engine.new_runner(1, len(tokens) + self.tokens)
        runner.begin([tokens[:-1]], [0])
        while runner.read(self._engine.max_prefill_tokens) is None:
            pass
        runner.admit()
        return _Follower(runner, list(tokens[:-1]))
