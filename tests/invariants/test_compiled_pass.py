"""The compiled pass gives what the model gives, and the same numbers to the bit however its tokens are put together."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from test_cache import VARIANTS, build

from luopan.generate.native import build as compiler
from luopan.generate.native.binding import CompiledPass, obstacle
from luopan.model.adapter_config import AdapterConfig
from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder
from luopan.model.lora import attach

MORE: dict[str, dict[str, object]] = {
    "window": {"sliding_window": 7},
    "some windows": {"sliding_window": 5, "full_attention_interval": 2},
    "sinks": {"attention_sinks": True, "sliding_window": 9},
    "soft caps": {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 5.0},
    "partial rotation": {"partial_rotary_factor": 0.5, "head_dim": 16},
    "odd sizes": {"hidden_size": 52, "head_dim": 10, "intermediate_size": 37, "vocab_size": 131},
    "large heads": {"head_dim": 128, "num_key_value_heads": 1},
}

pytestmark = pytest.mark.skipif(compiler.reason() is not None, reason=f"no compiled pass: {compiler.reason()}")


def block_for(model: Decoder, slots: int, positions: int) -> torch.Tensor:
    config = model.config
    return torch.full((2, config.num_hidden_layers, slots, config.kv_heads, positions, config.head_size), float("nan"))


@pytest.fixture(params=[*VARIANTS, *MORE])
def model(request: pytest.FixtureRequest) -> Decoder:
    if request.param in VARIANTS:
        return build(request.param)
    VARIANTS[request.param] = MORE[request.param]
    try:
        return build(request.param)
    finally:
        del VARIANTS[request.param]


@pytest.mark.parametrize("threads", [1, 2])
@torch.inference_mode()
def test_it_is_the_model_and_its_numbers_do_not_depend_on_company(model: Decoder, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        draw = random.Random(1)
        size = model.config.vocab_size
        texts = [[draw.randrange(size) for _ in range(70)] for _ in range(5)]
        full = model(torch.tensor(texts))  # [5, 70, V]
        run, block = CompiledPass(model), block_for(model, 6, 80)
        # In ragged pieces, requests mixed, a token here and many there.
        done = [0] * 5
        slots = [3, 0, 5, 1, 4]
        got = torch.full_like(full, float("nan"))
        while min(done) < 70:
            counts = [min(70 - at, draw.choice([0, 1, 1, 2, 5, 17])) for at in done]
            pieces = [(row, at) for row in range(5) for at in range(done[row], done[row] + counts[row])]
            if pieces:
                tokens = [texts[row][at] for row, at in pieces]
                logits = run(*block, tokens, [slots[row] for row, _ in pieces], [at for _, at in pieces],
                             range(len(pieces)))  # fmt: skip
                for (row, at), one in zip(pieces, logits):
                    got[row, at] = one
            done = [at + count for at, count in zip(done, counts)]
        torch.testing.assert_close(got, full, atol=2e-5, rtol=2e-5)
        # Alone, a token at a time: the same bits.
        fresh = block_for(model, 1, 80)
        for at, token in enumerate(texts[2]):
            assert torch.equal(run(*fresh, [token], [0], [at], [0])[0], got[2, at])
    finally:
        torch.set_num_threads(before)


@torch.inference_mode()
def test_weights_in_bf16_are_those_numbers_in_fp32(model: Decoder) -> None:
    """To the bit: half the bytes to read, and the same products."""
    half = copy.deepcopy(model).to(torch.bfloat16)
    plain = copy.deepcopy(half).float()
    draw = random.Random(3)
    tokens = [draw.randrange(model.config.vocab_size) for _ in range(23)]
    arguments = tokens, [0] * 23, range(23), range(23)
    got, expected = (CompiledPass(one)(*block_for(one, 1, 40), *arguments) for one in (half, plain))
    assert torch.equal(got, expected) and not torch.equal(
        got, CompiledPass(model)(*block_for(model, 1, 40), *arguments)
    )


def test_models_that_do_not_fit_are_told_apart() -> None:
    assert obstacle(build("gqa")) is None and obstacle(build("gqa").to(torch.bfloat16)) is None
    assert "float16" in str(obstacle(build("gqa").to(torch.float16)))
    heard = build("gqa")
    heard.norm.register_forward_hook(lambda *_: None)
    assert "hooks" in str(obstacle(heard))
    mixed = build("gqa")
    mixed.layers[0].mlp.up_proj.to(torch.bfloat16)
    assert "up_proj" in str(obstacle(mixed))
    shape = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    sparse = ModelConfig.model_validate(shape | {"num_attention_heads": 2, "num_experts": 4, "num_experts_per_tok": 2})
    assert "experts" in str(obstacle(Decoder(sparse)))
    adapted = build("gqa")
    attach(adapted, AdapterConfig(r=2))
    assert obstacle(adapted) is not None
    strided = build("gqa")
    weight = strided.layers[0].mlp.up_proj.weight
    weight.data = weight.data.t().contiguous().t()
    assert "up_proj" in str(obstacle(strided))
