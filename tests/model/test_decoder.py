"""The decoder: shapes, initialisation, the head, decoding with a cache."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from luopan.errors import ModelError
from luopan.model.attention import Layout
from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder

TINY = ModelConfig(
    vocab_size=50,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    no_rope_layer_interval=3,
    qk_norm=True,
    initializer_range=0.2,
)


class ListCache:
    """The least a cache can be: everything kept, every earlier token visible."""

    def __init__(self) -> None:
        self.held: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        if layer in self.held:
            keys = torch.cat([self.held[layer][0], keys], 2)
            values = torch.cat([self.held[layer][1], values], 2)
        self.held[layer] = keys, values
        return keys, values

    def mask(self, length: int) -> Tensor:
        before = self.held[0][0].shape[2] if self.held else 0
        batch = self.held[0][0].shape[0] if self.held else 2
        return torch.ones(length, before + length, dtype=torch.bool).tril(before).expand(batch, 1, -1, -1)


def test_initialisation_is_a_function_of_the_seed() -> None:
    torch.manual_seed(1)
    one = Decoder(TINY)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    other = Decoder(TINY)
    assert torch.equal(state, torch.get_rng_state())  # the global generator is left alone
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    other.reset_parameters(1)
    assert not torch.equal(one.embed_tokens.weight, other.embed_tokens.weight)
    assert other.layers[0].mlp.up_proj.weight.std().item() == pytest.approx(0.2, rel=0.1)
    assert torch.equal(other.norm.weight, torch.ones(32))


def test_forward_is_head_of_hidden() -> None:
    model, ids = Decoder(TINY), torch.arange(14).view(2, 7)
    hidden = model.hidden(ids)
    assert hidden.shape == (2, 7, 32)
    logits = model(ids)
    assert logits.shape == (2, 7, 50)
    torch.testing.assert_close(model.logits(hidden[:, 3]), logits[:, 3])


def test_a_token_sees_no_later_one() -> None:
    model, ids = Decoder(TINY), torch.arange(10).view(1, 10)
    changed = ids.clone()
    changed[0, 6] = 40
    before, after = model(ids), model(changed)
    torch.testing.assert_close(before[:, :6], after[:, :6], rtol=0, atol=1e-6)
    assert (before[:, 6:] - after[:, 6:]).abs().amax(-1).min() > 1e-3


@pytest.mark.parametrize("chunks", [[9], [1] * 9, [4, 1, 1, 3]])
def test_cached_decoding_equals_the_full_forward(chunks: list[int]) -> None:
    model, ids = Decoder(TINY), torch.arange(18).view(2, 9)
    cache, start, parts = ListCache(), 0, []
    for size in chunks:
        positions = torch.arange(start, start + size).expand(2, -1)
        parts.append(model(ids[:, start : start + size], position_ids=positions, cache=cache))
        start += size
    torch.testing.assert_close(torch.cat(parts, 1), model(ids), rtol=1e-4, atol=1e-5)


def test_what_says_the_same_twice_is_refused() -> None:
    model, ids = Decoder(TINY), torch.arange(18).view(2, 9)
    with pytest.raises(ModelError, match="give one"):
        model(ids, document_ids=ids, layout=Layout.causal(2, 9))
    with pytest.raises(ModelError, match="position_ids"):
        model(ids, cache=ListCache())


def test_every_parameter_gets_a_gradient() -> None:
    config = TINY.model_copy(update={"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False})
    model = Decoder(config)
    model(torch.arange(18).view(2, 9), document_ids=torch.tensor([[0] * 4 + [1] * 5] * 2)).square().sum().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # A bias on the keys shifts all scores of a query alike unless the keys are normed afterwards.
    assert idle == []


def test_copies_are_independent() -> None:
    model = Decoder(TINY)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.norm.weight.zero_()
    assert model.norm.weight.sum() == 32
