"""Compiled blocks: the loss and gradients of eager ones, and no graph per batch."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from luopan.model.attention import Layout
from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder

SHAPE: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "qk_norm": True,
    "initializer_range": 0.2,
}
OPTIONS: dict[str, Any] = {
    "sliding_window": 9,
    "full_attention_interval": 3,
    "attention_sinks": True,
    "attn_logit_softcapping": 5.0,
    "partial_rotary_factor": 0.5,
    "no_rope_layer_interval": 3,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "decoder_sparse_step": 2,
    "router_aux_loss_coef": 0.01,
}


@pytest.fixture(autouse=True)
def fresh_counters() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def _batch(seed: int, batch: int = 2, length: int = 40) -> tuple[Tensor, Layout]:
    generator = torch.Generator().manual_seed(seed)
    documents = (torch.rand(batch, length, generator=generator) < 0.1).long().cumsum(1)
    documents[-1, -5:] = -1
    return torch.randint(0, 50, (batch, length), generator=generator), Layout.packed(documents)


def _step(model: Decoder, ids: Tensor, layout: Layout) -> list[Tensor]:
    model.zero_grad()
    x, routing = model.hidden_and_routing(ids, layout=layout)
    loss = model.logits(x).square().mean() + (0.0 if routing is None else routing.aux.sum())
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def _compare(eager: Decoder, compiled: Decoder, ids: Tensor, layout: Layout) -> None:
    for ours, expected in zip(_step(compiled, ids, layout), _step(eager, ids, layout), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_blocks_equal_eager_ones_and_share_their_graphs(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inductor takes a minute of compiling; which graphs there are is known before it begins."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    eager = Decoder(ModelConfig.model_validate(SHAPE))
    compiled = copy.deepcopy(eager)
    compiled.compile_blocks()
    for seed in range(3):
        _compare(eager, compiled, *_batch(seed))
    assert counters["stats"]["unique_graphs"] == 2  # two halves, whatever the layer and the documents
    assert not counters["graph_break"]
    other = copy.deepcopy(compiled)  # a copy computes with its own weights
    with torch.no_grad():
        other.layers[0].mlp.down_proj.weight.zero_()
    ids, layout = _batch(3)
    assert not torch.equal(_step(other, ids, layout)[0], _step(compiled, ids, layout)[0])
    assert counters["stats"]["unique_graphs"] == 2


@pytest.mark.slow
@pytest.mark.parametrize(("options", "mode"), [({}, "full"), (OPTIONS, "none"), (OPTIONS, "selective")])
def test_compiled_blocks_with_every_option(options: dict[str, Any], mode: Any) -> None:
    eager = Decoder(ModelConfig.model_validate(SHAPE | options))
    compiled = copy.deepcopy(eager)
    compiled.compile_blocks()
    compiled.recompute = mode
    for seed in range(2):
        _compare(eager, compiled, *_batch(seed))
    graphs = counters["stats"]["unique_graphs"]
    _compare(eager, compiled, *_batch(5))
    assert counters["stats"]["unique_graphs"] == graphs
    _compare(eager, compiled, *_batch(6, 3, 57))
    graphs = counters["stats"]["unique_graphs"]
    _compare(eager, compiled, *_batch(7, 4, 33))  # the sizes are left open from the second shape on
    assert counters["stats"]["unique_graphs"] == graphs
    with torch.no_grad():
        ids, layout = _batch(6)
        torch.testing.assert_close(compiled(ids, layout=layout), eager(ids, layout=layout), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_selective_recompute_saves_memory_when_compiled() -> None:
    model = Decoder(ModelConfig.model_validate(SHAPE))
    model.compile_blocks()
    ids, layout = _batch(0)
    sizes = {}
    for mode in ("none", "selective"):
        model.recompute = mode  # type: ignore[assignment]
        held: dict[int, int] = {}

        def pack(x: Tensor, held: dict[int, int] = held) -> Tensor:
            held[x.untyped_storage()._cdata] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            loss = model.hidden(ids, layout=layout).square().mean()
        loss.backward()
        weights = {p.untyped_storage()._cdata for p in model.parameters()}
        sizes[mode] = sum(size for storage, size in held.items() if storage not in weights)
    assert sizes["selective"] < 0.8 * sizes["none"]
