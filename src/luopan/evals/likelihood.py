"""Log-probabilities of continuations after their contexts: the one way in which evaluations score text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from luopan.errors import DataError
from luopan.evals.pairs import pair_encoder
from luopan.generate.score import continuation_scores
from luopan.model.decoder import Decoder


@dataclass(frozen=True)
class Likelihood:
    """In nats over `tokens` tokens. `greedy`: the model itself would have said it; `cut`: the context's beginning did
    not fit and was left out."""

    logprob: float
    tokens: int
    greedy: bool
    cut: bool


def likelihoods(
    model: Decoder, tokenizer: Any, pairs: Sequence[tuple[str, str]], where: Sequence[str] = ()
) -> list[Likelihood]:
    """Of each (context, continuation), as lm-evaluation-harness splits them into tokens. `where` names them in errors.

    DataError for a continuation that is longer than the model's context. Equal pairs are read once.
    """
    encode, window = pair_encoder(tokenizer), model.config.max_position_embeddings
    places: dict[tuple[str, str], int] = {}
    sequences: list[list[int]] = []
    starts, cuts = [], []
    for at, pair in enumerate(pairs):
        if pair in places:
            continue
        ids, start = encode(*pair)
        over = max(0, len(ids) - window)
        if start - over < 1:
            raise DataError(
                f"a choice alone is longer than the model's context of {window}", where=where[at] if where else None
            )
        places[pair] = len(sequences)
        sequences.append(ids[over:])
        starts.append(start - over)
        cuts.append(over > 0)
    found = continuation_scores(model, sequences, starts)
    made = [Likelihood(math.fsum(one.logprobs), len(one.logprobs), one.greedy, cut) for one, cut in zip(found, cuts)]
    return [made[places[pair]] for pair in pairs]
