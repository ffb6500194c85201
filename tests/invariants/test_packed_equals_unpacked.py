"""Promise: packed rows equal unpacked ones, in logits and in gradients, whatever the shape of the model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder

LENGTHS = [[31, 5, 1, 19, 24], [7, 7, 40, 26], [80]]  # documents per row of 80
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "gqa": {"num_key_value_heads": 2},
    "mqa": {"num_key_value_heads": 1},
    "nope": {"no_rope_layer_interval": 2},
    "nope-all": {"no_rope_layer_interval": 1},
    "yarn": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "everything": {
        "num_key_value_heads": 2,
        "no_rope_layer_interval": 2,
        "qk_norm": True,
        "attention_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": False,
        "rope_scaling": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 40},
    },
}


def _model(shape: str) -> Decoder:
    config = ModelConfig(
        vocab_size=60,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=80,
        initializer_range=0.2,
        **SHAPES[shape],
    )
    return Decoder(config)


def _documents() -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return [[torch.randint(0, 60, (length,), generator=generator) for length in row] for row in LENGTHS]


def _loss(logits: Tensor, ids: Tensor) -> Tensor:
    """Summed next-token loss of one document, logits [T, V]."""
    return F.cross_entropy(logits[:-1], ids[1:], reduction="sum")


def _gradients(model: Decoder, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def _packed_logits(model: Decoder, rows: list[list[Tensor]]) -> list[Tensor]:
    ids = torch.stack([torch.cat(row) for row in rows])
    document_ids = torch.stack(
        [torch.cat([torch.full_like(part, index) for index, part in enumerate(row)]) for row in rows]
    )
    logits = model(ids, document_ids=document_ids)
    return [part for line, row in zip(logits, rows, strict=True) for part in line.split([len(p) for p in row])]


@pytest.mark.parametrize("shape", SHAPES)
def test_packed_equals_unpacked(shape: str) -> None:
    model, rows = _model(shape), _documents()
    documents = [document for row in rows for document in row]

    packed = _packed_logits(model, rows)
    alone = [model(document[None])[0] for document in documents]
    for one, other in zip(packed, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5)

    losses = [
        sum(_loss(logits, ids) for logits, ids in zip(outputs, documents, strict=True)) for outputs in (packed, alone)
    ]
    torch.testing.assert_close(losses[0], losses[1])
    packed_gradients, alone_gradients = (_gradients(model, loss) for loss in losses)
    assert packed_gradients.keys() == alone_gradients.keys()
    for name, expected in alone_gradients.items():
        largest = expected.abs().max().item()
        torch.testing.assert_close(packed_gradients[name], expected, rtol=1e-3, atol=2e-5 * max(1.0, largest), msg=name)


def test_the_order_of_documents_does_not_matter() -> None:
    model, rows = _model("everything"), _documents()
    turned = [row[::-1] for row in rows]
    with torch.no_grad():
        forward, backward = _packed_logits(model, rows), _packed_logits(model, turned)
    lengths = [len(row) for row in rows]
    expected = [part for start, n in zip([0, 5, 9], lengths) for part in backward[start : start + n][::-1]]
    for one, other in zip(forward, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5)


def test_padding_changes_nothing() -> None:
    model = _model("gqa")
    ids = torch.randint(0, 60, (2, 20), generator=torch.Generator().manual_seed(1))
    document_ids = torch.tensor([[0] * 8 + [1] * 5 + [-1] * 7, [2] * 20])
    other = ids.clone()
    other[0, 13:] = 0
    with torch.no_grad():
        one, two = model(ids, document_ids=document_ids), model(other, document_ids=document_ids)
    torch.testing.assert_close(one[0, :13], two[0, :13], rtol=0, atol=1e-6)
    assert torch.isfinite(one).all()


def test_the_promise_can_be_broken() -> None:
    """Without the layout the same rows differ clearly: what the tests above compare is not blind."""
    model, rows = _model("plain"), _documents()
    with torch.no_grad():
        packed = torch.cat(_packed_logits(model, rows[:1]))
        leaking = model(torch.cat(rows[0])[None])[0]
    assert (packed[31:] - leaking[31:]).abs().max() > 1e-2
