"""Weights in fewer bits: products against the same weights made whole, models against themselves in fp32."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from luopan.errors import ModelError, RecipeError
from luopan.generate.config import SamplingParams
from luopan.generate.engine import Engine
from luopan.generate.score import continuation_logprobs
from luopan.generate.weights import (
    Int4Linear,
    Int8Embedding,
    Int8Linear,
    QuantisedExperts,
    _in_nibbles,
    held_bytes,
    prepare,
)
from luopan.model.adapter_config import AdapterConfig
from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder
from luopan.model.lora import attach

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 32, "moe_intermediate_size": 32}


def made(**changes: object) -> Decoder:
    """Half of its weights are in its layers, as in a model that one would want to shrink."""
    values: dict[str, object] = {
        "vocab_size": 384, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 96, "initializer_range": 0.12,
    }  # fmt: skip
    return Decoder(ModelConfig.model_validate(values | changes)).eval()


def inputs(count: int, size: int, *, outliers: bool = False) -> Tensor:
    x = torch.randn(count, size, generator=torch.Generator().manual_seed(1))
    if outliers:
        x[:, 3] *= 200  # as language models have them: one coarse digit alone would leave little of the others
    return x


@pytest.mark.parametrize("outliers", [False, True])
def test_a_product_in_int8_is_that_of_the_rounded_weight(outliers: bool) -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(48, 64), torch.randn(48)
    x = inputs(5, 64, outliers=outliers)
    layer = Int8Linear.of(weight, bias)
    whole = layer.codes.double() * layer.scales.double()[:, None]
    assert float((whole - weight).abs().max()) <= float(weight.abs().max()) / 254 + 1e-6
    expected = x.double() @ whole.T + bias
    # Two digits leave at most half a 254th of a 127th of the largest of a row, and fp32 its rounding.
    most = x.abs().amax(1, keepdim=True) / 127 / 254 / 2 * whole.abs().sum(1)
    assert bool(((layer(x) - expected).abs() <= 1.01 * most + 1e-5 * expected.abs() + 1e-5).all())
    assert layer(x.view(5, 1, 64)).shape == (5, 1, 48) and layer(x.bfloat16()).dtype == torch.bfloat16


def test_what_a_row_gives_depends_on_no_other() -> None:
    layer = Int8Linear.of(inputs(96, 64))
    x = inputs(40, 64) * torch.logspace(-3, 3, 40)[:, None]
    together = layer(x)
    for row in (0, 17, 39):
        assert torch.equal(layer(x[row : row + 1])[0], together[row])
    assert torch.equal(layer(torch.zeros(1, 64)), torch.zeros(1, 96))


def test_a_product_in_int4_is_that_of_the_rounded_weight() -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(48, 96) * torch.rand(48, 1), torch.randn(48)
    codes, scales_and_zeros = _in_nibbles(weight)
    scale, zero = (part.float().T.repeat_interleave(32, 1) for part in scales_and_zeros.unbind(-1))
    whole = (codes - 8) * scale + zero
    step = (weight.view(48, 3, 32).amax(-1) - weight.view(48, 3, 32).amin(-1)) / 15
    assert float(((whole - weight).view(48, 3, 32).abs().amax(-1) / step).max()) < 2.1, "some of it is clipped"
    error = (whole - weight).square().mean().sqrt() / step.square().mean().sqrt()
    assert float(error) < 0.31  # rounding alone is 1 / sqrt(12) = 0.29
    x = inputs(7, 96).bfloat16().float()
    got = Int4Linear(weight, bias)(x)
    assert float((got - (x @ whole.T + bias)).abs().max() / got.abs().max()) < 0.01


@pytest.mark.parametrize("quantize", ["int8", "int4"])
@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": False}, EXPERTS, {"attention_bias": True}], ids=str)
def test_logits_stay_near_and_memory_shrinks(quantize: str, changes: dict) -> None:
    model = made(**changes)
    if changes.get("attention_bias"):
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.data.normal_(0, 0.1)
    before = held_bytes(model)
    ids = torch.randint(384, (4, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(ids)
        ready = prepare(copy.deepcopy(model), "float32", quantize)  # type: ignore[arg-type]
        got = ready(ids)
    assert not [part for part in ready.modules() if isinstance(part, nn.Linear) and part.weight.shape[0] > 4]
    assert isinstance(ready.embed_tokens, Int8Embedding)
    assert (ready.lm_head is ready.embed_tokens.rows) is (model.lm_head is None)
    if changes is EXPERTS:
        assert isinstance(ready.layers[0].mlp.experts, QuantisedExperts)
        assert torch.equal(ready.layers[0].mlp.gate.weight, model.layers[0].mlp.gate.weight)
    divergence = (expected.softmax(-1) * (expected.log_softmax(-1) - got.log_softmax(-1))).sum(-1).mean()
    spread = expected.log_softmax(-1).exp().std()
    same = (got.argmax(-1) == expected.argmax(-1)).float().mean()
    assert float(spread) > 0
    assert float(divergence) < (0.002 if quantize == "int8" else 0.15), float(divergence)
    assert float(same) > (0.9 if quantize == "int8" else 0.45), float(same)
    assert float(divergence) > 1e-8, "nothing was rounded"
    assert before / held_bytes(ready) > (3.4 if quantize == "int8" else 4.2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantize", [None, "int8", "int4"])
def test_the_engine_decodes_with_it(dtype: str, quantize: str | None) -> None:
    model = made()
    prompts = [[5, 9, 200], [7], [3, 1, 4, 1, 5, 9, 2, 6]] * 3
    params = SamplingParams(max_new_tokens=20, temperature=0)
    plain = Engine(model, eos_ids=[]).generate(prompts, params)
    ready = prepare(model, dtype, quantize)  # type: ignore[arg-type]
    engine = Engine(ready, eos_ids=[], max_batch=4)
    got = engine.generate(prompts, params)
    assert next(ready.parameters()).dtype == getattr(torch, dtype), "by which keys and values are held"
    for prompt, done in zip(prompts, got, strict=True):
        # Its own words, read again without a cache, are as likely as it said.
        (again,) = continuation_logprobs(ready, [prompt + done.tokens], [len(prompt)])
        # int8 differs from itself where the keys are rounded otherwise: attention over a cache is another sum
        assert done.logprobs == pytest.approx(again, abs=5e-3 if dtype == "float32" else 0.4)
    agreement = sum(a == b for ours, theirs in zip(got, plain) for a, b in zip(ours.tokens, theirs.tokens)) / 180
    assert agreement == 1 if (dtype, quantize) == ("float32", None) else agreement > 0.1, agreement
    drawn = engine.generate(prompts[:2], SamplingParams(max_new_tokens=5, top_p=0.9), seed=0)
    assert all(len(done.tokens) == 5 for done in drawn)


def test_bf16_halves_the_memory() -> None:
    model = made()
    before = held_bytes(model)
    assert held_bytes(prepare(model, "bfloat16")) == before // 2


def test_sizes_that_do_not_fit_four_bits_are_held_in_eight() -> None:
    ready = prepare(made(intermediate_size=152), quantize="int4")
    kinds = {name: type(part) for name, part in ready.layers[0].mlp.named_children()}
    assert kinds == {"gate_proj": Int8Linear, "up_proj": Int8Linear, "down_proj": Int8Linear}
    assert type(ready.layers[0].self_attn.q_proj) is Int4Linear


def test_what_cannot_be_prepared_is_refused() -> None:
    with pytest.raises(RecipeError, match="dtype is 'float16'"):
        prepare(made(), "float16")  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="quantize is 'int3'"):
        prepare(made(), quantize="int3")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="quantised already"):
        prepare(prepare(made(), quantize="int8"), quantize="int4")
    adapted = made()
    attach(adapted, AdapterConfig(r=2))
    with pytest.raises(ModelError, match="cannot be quantised"):
        prepare(adapted, quantize="int8")
