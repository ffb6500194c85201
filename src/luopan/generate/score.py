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


@dataclass(frozen=True)
class Continued:
    """Log-probabilities (nats) of a continuation's tokens, in order; `greedy`: each was the likeliest in its place."""

    logprobs: list[float]
    greedy: bool


def continuation_logprobs(
    model: Decoder, sequences: Sequence[Sequence[int]], starts: Sequence[int]
) -> list[list[float]]:
    """For each sequence the log-probabilities of its tokens from place starts[i] >= 1 on, each given all before it.

    DataError for a sequence longer than the model's context. Sequences of similar length share a pass.
    """
    return [row for row, _ in _scored(model, sequences, starts, tops=False)]


def continuation_scores(model: Decoder, sequences: Sequence[Sequence[int]], starts: Sequence[int]) -> list[Continued]:
    """As `continuation_logprobs`, and whether greedy decoding would have said the same."""
    return [Continued(row, all(tops)) for row, tops in _scored(model, sequences, starts, tops=True)]


@torch.inference_mode()
def _scored(
    model: Decoder, sequences: Sequence[Sequence[int]], starts: Sequence[int], *, tops: bool
) -> list[tuple[list[float], list[bool]]]:
    context = model.config.max_position_embeddings
    for number, sequence in enumerate(sequences):
        if len(sequence) > context:
            raise DataError(
                f"a text of {len(sequence)} tokens is longer than the model's context of {context}",
                where=f"text {number + 1} of {len(sequences)}",
                hint="cut it into windows",
            )
        assert starts[number] >= 1, "the first token has nothing to be predicted from"
    results: list[tuple[list[float], list[bool]]] = [([], []) for _ in sequences]
    waiting = [i for i in range(len(sequences)) if starts[i] < len(sequences[i])]
    waiting.sort(key=lambda i: len(sequences[i]))
    while waiting:
        width = len(sequences[waiting[-1]])
        count = min(len(waiting), max(1, _MAX_TOKENS // width))
        chosen, waiting = waiting[-count:], waiting[:-count]
        for i, row in zip(chosen, _pass(model, [sequences[i] for i in chosen], [starts[i] for i in chosen], tops)):
            results[i] = row
    return results


def _pass(
    model: Decoder, sequences: list[Sequence[int]], starts: list[int], tops: bool
) -> list[tuple[list[float], list[bool]]]:
    device = next(model.parameters()).device
    width = max(len(sequence) for sequence in sequences)
    # What stands on the right is never seen by what is scored, so any token pads.
    ids = torch.tensor([[*sequence, *[0] * (width - len(sequence))] for sequence in sequences], device=device)
    hidden = model.hidden(ids).flatten(0, 1)  # [B * T, C]
    places = [row * width + t for row, s in enumerate(sequences) for t in range(starts[row], len(s))]
    index = torch.tensor(places, device=device)
    targets = ids.flatten()[index]
    rows = max(1, _MAX_LOGITS // model.config.vocab_size)
    logprobs, likeliest = [], []
    for at, target in zip((index - 1).split(rows), targets.split(rows)):
        logits = model.logits(hidden[at])
        logprobs.append(token_logprobs(logits, target))
        if tops:
            likeliest.append(logits.argmax(-1) == target)
    lengths = [len(sequence) - start for sequence, start in zip(sequences, starts)]
    parts = [part.tolist() for part in torch.cat(logprobs).cpu().split(lengths)]
    flags = [part.tolist() for part in torch.cat(likeliest).cpu().split(lengths)] if tops else [[] for _ in lengths]
    return list(zip(parts, flags, strict=True))
