"""What is known of each running request besides its keys and values, as tensors with one row per slot.

Everything a step needs is computed for all rows at once; Python sees a row only when it has finished (or when someone
listens to its tokens).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from luopan.generate.config import SamplingParams
from luopan.generate.sampling import argmax, draw, uniforms, warp


class Rows:
    """Rows 0..active-1 are running, in the same slots as in the cache.

    request [slots] int64 which request it is; limit, generated [slots] how many tokens it may have and has; tokens,
    logprobs, noise [slots, max_new]; last [slots] the token to be fed next; seen [slots, V] bool what has occurred
    (with a repetition penalty only).
    """

    def __init__(self, slots: int, vocab_size: int, params: SamplingParams, seed: int, device: torch.device) -> None:
        self.params = params
        self.seed = seed
        self.active = 0
        length = params.max_new_tokens
        self.request = torch.zeros(slots, dtype=torch.int64, device=device)
        self.limit = torch.zeros(slots, dtype=torch.int64, device=device)
        self.generated = torch.zeros(slots, dtype=torch.int64, device=device)
        self.last = torch.zeros(slots, dtype=torch.int64, device=device)
        self.tokens = torch.zeros(slots, length, dtype=torch.int64, device=device)
        self.logprobs = torch.zeros(slots, length, device=device)
        self.noise = None if params.greedy else torch.zeros(slots, length, device=device)
        penalised = params.repetition_penalty != 1
        self.seen = torch.zeros(slots, vocab_size, dtype=torch.bool, device=device) if penalised else None

    def admit(self, requests: list[int], keys: list[int], limits: list[int], prompts: list[list[int]]) -> slice:
        """Append requests; `keys[i]` picks the random numbers of the i-th. The rows they got."""
        rows = slice(self.active, self.active + len(requests))
        device = self.request.device
        self.request[rows] = torch.tensor(requests, device=device)
        self.limit[rows] = torch.tensor(limits, device=device)
        self.generated[rows] = 0
        if self.noise is not None:
            width = self.noise.shape[1]
            drawn = np.stack([uniforms(self.seed, key, width) for key in keys])
            self.noise[rows] = torch.from_numpy(drawn).to(device)
        if self.seen is not None:
            self.seen[rows] = False
            for row, prompt in enumerate(prompts, rows.start):
                self.seen[row, torch.tensor(prompt, device=device)] = True
        self.active = rows.stop
        return rows

    def take(self, rows: slice, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Choose the next token of `rows` from logits [n, V] and write it down: tokens [n], logprobs [n]."""
        seen = None if self.seen is None else self.seen[rows]
        logits = warp(logits, self.params, seen)
        place = self.generated[rows, None]  # [n, 1]
        if self.noise is None:
            tokens, logprobs = argmax(logits)
        else:
            tokens, logprobs = draw(logits, self.noise[rows].gather(1, place))
        self.tokens[rows].scatter_(1, place, tokens[:, None])
        self.logprobs[rows].scatter_(1, place, logprobs[:, None])
        self.last[rows] = tokens
        self.generated[rows] += 1
        if seen is not None:
            seen.scatter_(1, tokens[:, None], True)
        return tokens, logprobs

    def compact(self, source: Tensor, target: Tensor, active: int) -> None:
        """Copy rows `source` over rows `target` and keep the first `active`."""
        if source.numel():
            for held in self._held():
                held[target] = held[source]
        self.active = active

    def _held(self) -> list[Tensor]:
        always = [self.request, self.limit, self.generated, self.last, self.tokens, self.logprobs]
        return always + [held for held in (self.noise, self.seen) if held is not None]
