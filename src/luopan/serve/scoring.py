"""How likely a prompt's own tokens are, for completions that repeat the prompt (`echo` with `logprobs`)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from luopan.model.decoder import Decoder
from luopan.serve.ticket import Heard

_MAX_LOGITS = 2**24  # at once: 64 MiB of fp32


@torch.inference_mode()
def prompt_logprobs(model: Decoder, ids: Sequence[int], top: int) -> list[Heard]:
    """The tokens but the first, which has nothing before it, with their log-probabilities at temperature 1 and the
    `top` likeliest in their place. One pass over the whole prompt."""
    device = next(model.parameters()).device
    hidden = model.hidden(torch.tensor([list(ids)], device=device))[0, :-1]  # [T - 1, C]
    targets = torch.tensor(list(ids[1:]), device=device)
    rows = max(1, _MAX_LOGITS // model.config.vocab_size)
    found: list[Heard] = []
    for states, wanted in zip(hidden.split(rows), targets.split(rows)):
        logprobs = model.logits(states).float().log_softmax(-1)  # [n, V]
        chosen = logprobs.gather(1, wanted[:, None])[:, 0].tolist()
        best = logprobs.topk(min(top, logprobs.shape[-1]), dim=-1) if top else None
        for place, (token, logprob) in enumerate(zip(wanted.tolist(), chosen)):
            likely = [] if best is None else list(zip(best.indices[place].tolist(), best.values[place].tolist()))
            found.append(Heard(token, logprob, likely))
    return found
