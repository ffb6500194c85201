"""Decoding with windows, sinks, soft caps, partial rotation and experts, against the full forward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from luopan.generate.config import SamplingParams
from luopan.generate.engine import Engine
from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder

SHAPE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "initializer_range": 0.25,
}
OPTIONS: list[dict[str, Any]] = [
    {"sliding_window": 4},
    {
        "sliding_window": 5,
        "full_attention_interval": 2,
        "attention_sinks": True,
        "attn_logit_softcapping": 3.0,
        "final_logit_softcapping": 4.0,
        "partial_rotary_factor": 0.5,
    },
    {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "decoder_sparse_step": 2,
        "sliding_window": 6,
    },
]


@pytest.mark.parametrize("options", OPTIONS)
def test_greedy_decoding_equals_the_full_forward(options: dict[str, Any]) -> None:
    model = Decoder(ModelConfig.model_validate(SHAPE | options)).eval()
    prompts = [list(range(3)), [7, 8, 9, 10, 11, 12, 13, 14, 15, 16], [40], [7, 8, 9, 10, 11, 12, 13, 14, 15, 16]]
    engine = Engine(model, eos_ids=[63], max_batch=3)
    params = SamplingParams(temperature=0, max_new_tokens=14)
    for prompt, done in zip(prompts, engine.generate(prompts, params, seed=0), strict=True):
        ids = torch.tensor([prompt + done.tokens])
        with torch.no_grad():
            logits = model(ids)[0, len(prompt) - 1 : -1]
        assert logits.argmax(-1).tolist() == done.tokens
        expected = logits.log_softmax(-1).gather(1, torch.tensor(done.tokens)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(done.logprobs), expected, rtol=1e-4, atol=1e-4)
