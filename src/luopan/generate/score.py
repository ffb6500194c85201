"""How likely a model finds given tokens: one pass without a cache, for evaluation and for comparing answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from luopan.errors import DataError
from luopan.model.decoder import Decoder
from luopan.objectives.logprobs import token_logprobs

# Padded tokens per pass, and logits at once (256 MiB of fp32).
_MAX_TOKENS = 4096
_MAX_LOGITS = 2**26


@dataclass(frozen=True)
class Score:
    """Log-probabilities (nats) of the scored tokens, in order; `num_bytes` of UTF-8 that they stand for."""

    logprobs: list[float]
    num_bytes: int

    @property
    def logprob(self) -> float:
        """Of all of it."""
        return math.fsum(self.logprobs)

    @property
    def bits_per_byte(self) -> float:
        """Comparable between tokenizers. NaN for nothing."""
        return -self.logprob / math.log(2) / self.num_bytes if self.num_bytes else math.nan


@torch.inference_mode()
def continuation_logprobs(
    model: Decoder, sequences: Sequence[Sequence[int]], starts: Sequence[int]
) -> list[list[float]]:
    """For each sequence the log-probabilities of its tokens from place starts[i] >= 1 on, each given all before it.

    DataError for a sequence longer than the model's context. Sequences of similar length share a pass.
    """
    context = model.config.max_position_embeddings
    for number, sequence in enumerate(sequences):
        if len(sequence) > context:
            raise DataError(
                f"a text of {len(sequence)} tokens is longer than the model's context of {context}",
                where=f"text {number + 1} of {len(sequences)}",
                hint="cut it into windows",
            )
        assert starts[number] >= 1, "the first token has nothing to be predicted from"
    results: list[list[float]] = [[] for _ in sequences]
    waiting = [i for i in range(len(sequences)) if starts[i] < len(sequences[i])]
    waiting.sort(key=lambda i: len(sequences[i]))
    while waiting:
        width = len(sequences[waiting[-1]])
        count = min(len(waiting), max(1, _MAX_TOKENS // width))
        chosen, waiting = waiting[-count:], waiting[:-count]
        for i, row in zip(chosen, _pass(model, [sequences[i] for i in chosen], [starts[i] for i in chosen])):
            results[i] = row
    return results


def _pass(model: Decoder, sequences: list[Sequence[int]], starts: list[int]) -> list[list[float]]:
    device = next(model.parameters()).device
    width = max(len(sequence) for sequence in sequences)
    # What stands on the right is never seen by what is scored, so any token pads.
    ids = torch.tensor([[*sequence, *[0] * (width - len(sequence))] for sequence in sequences], device=device)
    hidden = model.hidden(ids).flatten(0, 1)  # [B * T, C]
    places = [row * width + t for row, s in enumerate(sequences) for t in range(starts[row], len(s))]
    index = torch.tensor(places, device=device)
    targets = ids.flatten()[index]
    rows = max(1, _MAX_LOGITS // model.config.vocab_size)
    pieces = zip((index - 1).split(rows), targets.split(rows))
    logprobs = torch.cat([token_logprobs(model.logits(hidden[at]), target) for at, target in pieces])
    lengths = [len(sequence) - start for sequence, start in zip(sequences, starts)]
    return [part.tolist() for part in logprobs.cpu().split(lengths)]
