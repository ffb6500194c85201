"""Decoding with a cache gives what the full forward pass gives, and a batch of ragged requests what each gives alone.

Tokens are given (teacher forced), so that every position's logits are compared and no choice hides a difference.
"""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from luopan.generate.cache import PromptCache, SlotCache
from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder

VARIANTS: dict[str, dict[str, object]] = {
    "mha": {},
    "gqa": {"num_key_value_heads": 2},
    "mqa": {"num_key_value_heads": 1},
    "nope": {"num_hidden_layers": 4, "no_rope_layer_interval": 2},
    "no_rope_at_all": {"no_rope_layers": (0, 0)},
    "yarn": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "abf": {"rope_theta": 5e6},
    "qk_norm": {"qk_norm": True, "num_key_value_heads": 2},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "qwen2": {"attention_bias": True, "attention_output_bias": False, "num_key_value_heads": 2},
    "untied": {"tie_word_embeddings": False},
    "wide_heads": {"head_dim": 16},
}


def build(variant: str) -> Decoder:
    values: dict[str, object] = {
        "vocab_size": 128,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 160,
        "initializer_range": 0.2,
    }
    model = Decoder(ModelConfig.model_validate(values | VARIANTS[variant])).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:  # norms and biases that are all alike would hide mistakes
                parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
    return model


def empty_cache(model: Decoder, slots: int) -> SlotCache:
    config = model.config
    return SlotCache(
        config.num_hidden_layers,
        slots,
        config.kv_heads,
        config.head_size,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )


def read(model: Decoder, cache: SlotCache, sequences: list[list[int]], lengths: list[int]) -> list[Tensor]:
    """Read the first lengths[i] tokens of each sequence together, padded on the right: logits [length, V] of each."""
    width = max(lengths)
    padded = torch.tensor([s[:n] + [99] * (width - n) for s, n in zip(sequences, lengths)])
    prompts = PromptCache(torch.device("cpu"))
    logits = model(padded, torch.arange(width).expand(padded.shape), cache=prompts)
    cache.insert(prompts, list(range(len(sequences))), lengths)
    return [row[:n] for row, n in zip(logits, lengths)]


def decode(model: Decoder, cache: SlotCache, tokens: list[int]) -> Tensor:
    """Feed one token to every running request: logits [B, V]."""
    logits = model(torch.tensor(tokens)[:, None], cache.position_ids(), cache=cache)
    cache.advance()
    return logits[:, 0]


@pytest.mark.parametrize("variant", VARIANTS)
@torch.inference_mode()
def test_cached_equals_full_and_batched_equals_alone(variant: str) -> None:
    model = build(variant)
    draw = random.Random(1)
    lengths = [5, 1, 23, 12]  # of the prompts
    sequences = [[draw.randrange(128) for _ in range(140)] for _ in lengths]
    full = model(torch.tensor(sequences))  # [4, 140, V]

    cache = empty_cache(model, 4)
    got = read(model, cache, sequences, lengths)
    for _ in range(110):  # beyond the first reservation, so the cache has grown
        tokens = [sequence[len(rows)] for sequence, rows in zip(sequences, got)]
        for row, logits in enumerate(decode(model, cache, tokens)):
            got[row] = torch.cat([got[row], logits[None]])
    assert cache.capacity > 64
    for row, logits in enumerate(got):
        torch.testing.assert_close(logits, full[row, : len(logits)], atol=1e-4, rtol=1e-4)

    alone = empty_cache(model, 1)
    (first,) = read(model, alone, sequences[2:3], lengths[2:3])
    rest = [decode(model, alone, [token])[0] for token in sequences[2][23:60]]
    torch.testing.assert_close(torch.cat([first, torch.stack(rest)]), got[2][:60], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("variant", ["gqa", "nope", "yarn"])
@torch.inference_mode()
def test_requests_that_come_and_go_do_not_disturb_the_others(variant: str) -> None:
    """Requests leave, others take their slots, equal prompts are read once: every one sees its own past only."""
    model = build(variant)
    draw = random.Random(2)
    sequences = [[draw.randrange(128) for _ in range(100)] for _ in range(40)]
    for copy in (5, 6, 7):
        sequences[copy][:9] = sequences[4][:9]
    full = model(torch.tensor(sequences))
    cache = empty_cache(model, 6)
    running: list[int] = []  # the sequence in each slot
    waiting = list(range(40))
    compared = 0
    while waiting or running:
        if waiting and len(running) < 6 and draw.random() < 0.5:
            new, waiting = waiting[: 6 - len(running)], waiting[6 - len(running) :]
            lengths = [9 if 4 <= i <= 7 else draw.randint(1, 30) for i in new]
            prompts = PromptCache(torch.device("cpu"))
            shared = [i if not 4 < i <= 7 or 4 not in new else 4 for i in new]
            distinct = list(dict.fromkeys(shared))
            width = max(lengths)
            ids = torch.tensor([sequences[i][:width] for i in distinct])
            model(ids, torch.arange(width).expand(ids.shape), cache=prompts)
            cache.insert(prompts, [distinct.index(i) for i in shared], lengths)
            running += new
        if not running:
            continue
        places = cache.lengths[: cache.active].tolist()
        logits = decode(model, cache, [sequences[i][place] for i, place in zip(running, places)])
        for row, (i, place) in enumerate(zip(running, places)):
            torch.testing.assert_close(logits[row], full[i, place], atol=1e-4, rtol=1e-4)
            compared += 1
        keep = [row for row in range(len(running)) if draw.random() > 0.1 and places[row] < 98]
        active = len(keep)
        target = [row for row in range(active) if row not in keep]
        source = [row for row in keep if row >= active]
        cache.compact(source, target, active)
        assert cache.longest == max((places[row] + 1 for row in keep), default=0)
        moved = dict(zip(target, source))
        running = [running[moved.get(row, row)] for row in range(active)]
    assert compared > 250
