"""The decoder: shapes, initialisation, the head, decoding with a cache."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor
from transformers import MistralConfig, MistralForCausalLM

from luopan.errors import ModelError
from luopan.model.attention import Layout
from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder
from luopan.model.moe import Routing

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


OPTIONS: dict[str, dict[str, object]] = {
    "plain": {},
    "window": {"sliding_window": 3},
    "window, every other layer": {"sliding_window": 4, "full_attention_interval": 2},
    "sinks": {"attention_sinks": True},
    "softcaps": {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    "partial rope": {"partial_rotary_factor": 0.5},
    "all": {
        "sliding_window": 3,
        "layer_types": ("sliding_attention", "full_attention", "sliding_attention"),
        "attention_sinks": True,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
        "partial_rotary_factor": 0.5,
    },
    "experts": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "decoder_sparse_step": 2,
        "router_aux_loss_coef": 0.01,
    },
    "experts and all": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 24,
        "router_aux_loss_coef": 0.01,
        "router_z_loss_coef": 0.01,
        "mlp_only_layers": (0,),
        "sliding_window": 3,
        "attention_sinks": True,
    },
}


def build(option: str, **changes: object) -> Decoder:
    """The tiny decoder with an option; sinks away from their start, which is 0."""
    model = Decoder(ModelConfig.model_validate(TINY.model_dump(exclude_unset=True) | OPTIONS[option] | changes))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("sinks"):
                parameter.normal_(generator=generator)
    return model


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

    def mask(self, length: int, window: int | None = None) -> Tensor:
        before = self.held[0][0].shape[2] if self.held else 0
        batch = self.held[0][0].shape[0] if self.held else 2
        seen = torch.ones(length, before + length, dtype=torch.bool).tril(before)
        seen = seen if window is None else seen.triu(before + 1 - window)
        return seen.expand(batch, 1, -1, -1)


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


@pytest.mark.parametrize("option", list(OPTIONS))
@pytest.mark.parametrize("chunks", [[9], [1] * 9, [4, 1, 1, 3]])
def test_cached_decoding_equals_the_full_forward(chunks: list[int], option: str) -> None:
    model, ids = build(option), torch.arange(18).view(2, 9)
    cache, start, parts = ListCache(), 0, []
    for size in chunks:
        positions = torch.arange(start, start + size).expand(2, -1)
        parts.append(model(ids[:, start : start + size], position_ids=positions, cache=cache))
        start += size
    torch.testing.assert_close(torch.cat(parts, 1), model(ids), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("option", list(OPTIONS))
def test_packed_documents_equal_documents_alone(option: str) -> None:
    model, ids = build(option), torch.arange(40).view(1, 40) % 50
    packed = model(ids, document_ids=torch.tensor([[0] * 11 + [1] * 24 + [-1] * 5]))
    torch.testing.assert_close(packed[:, :11], model(ids[:, :11]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(packed[:, 11:35], model(ids[:, 11:35]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("option", [option for option in OPTIONS if option != "plain"])
def test_every_option_changes_the_logits(option: str) -> None:
    model, ids = build(option), torch.arange(18).view(2, 9)
    plain = Decoder(TINY)
    with torch.no_grad():
        state = model.state_dict()
        for name, parameter in plain.named_parameters():
            if name in state:
                parameter.copy_(state[name])
    assert (model(ids) - plain(ids)).abs().max() > 1e-3


def test_a_window_reaches_so_far() -> None:
    # One layer that sees 3 tokens: a change of token 2 shows in the outputs 2, 3 and 4.
    model = build("window", num_hidden_layers=1, no_rope_layer_interval=None)
    ids = torch.arange(9).view(1, 9)
    changed = ids.clone()
    changed[0, 2] = 40
    moved = (model(ids) - model(changed)).abs().amax(-1)[0] > 1e-6
    assert moved.nonzero().flatten().tolist() == [2, 3, 4]


def test_sliding_windows_equal_transformers() -> None:
    config = {key: value for key, value in TINY.model_dump(exclude_unset=True).items() if "rope" not in key}
    model = Decoder(ModelConfig.model_validate(config | {"qk_norm": False, "sliding_window": 5}))
    names = {key: value for key, value in config.items() if key != "qk_norm"}
    theirs = MistralForCausalLM(
        MistralConfig(**names, sliding_window=5, tie_word_embeddings=True, attn_implementation="eager")
    )
    left = theirs.load_state_dict({f"model.{name}": x for name, x in model.state_dict().items()}, strict=False)
    assert left.missing_keys == ["lm_head.weight"] and not left.unexpected_keys
    theirs.tie_weights()
    ids = torch.arange(40).view(2, 20)
    with torch.no_grad():
        torch.testing.assert_close(model(ids), theirs(ids).logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model(ids), model(ids, layout=Layout.packed(ids * 0)), rtol=1e-4, atol=1e-5)


def test_final_soft_cap_by_hand() -> None:
    model = build("softcaps")
    plain = model.hidden(torch.tensor([[1, 2]])) @ model.embed_tokens.weight.T
    torch.testing.assert_close(model(torch.tensor([[1, 2]])), 3 * (plain / 3).tanh())


def test_depth_scaled_initialisation() -> None:
    model = build("experts and all", initializer="depth_scaled", hidden_size=64, attention_sinks=False)
    stds = {name: parameter.std().item() for name, parameter in model.named_parameters() if parameter.ndim >= 2}
    for name, std in stds.items():
        inward = "o_proj" in name or "down_proj" in name
        assert std == pytest.approx(0.2 / math.sqrt(6) if inward else 0.2, rel=0.15), name
    assert sum("down_proj" in name for name in stds) == 5  # an MLP, and experts and a shared expert in two layers
    plain = build("experts and all", hidden_size=64, attention_sinks=False)
    assert plain.layers[1].mlp.experts.down_proj.std().item() == pytest.approx(0.2, rel=0.15)


def test_sinks_start_at_nothing() -> None:
    assert torch.equal(Decoder(build("sinks").config).layers[0].self_attn.sinks, torch.zeros(4))


def test_what_says_the_same_twice_is_refused() -> None:
    model, ids = Decoder(TINY), torch.arange(18).view(2, 9)
    with pytest.raises(ModelError, match="give one"):
        model(ids, document_ids=ids, layout=Layout.causal(2, 9))
    with pytest.raises(ModelError, match="position_ids"):
        model(ids, cache=ListCache())


@pytest.mark.parametrize("option", list(OPTIONS))
def test_every_parameter_gets_a_gradient(option: str) -> None:
    changes = {"attention_bias": True, "mlp_bias": "num_experts" not in OPTIONS[option], "tie_word_embeddings": False}
    model = build(option, **changes)
    x, routing = model.hidden_and_routing(
        torch.arange(18).view(2, 9), layout=Layout.packed(torch.tensor([[0] * 4 + [1] * 5] * 2))
    )
    (model.logits(x).square().sum() + (0 if routing is None else routing.aux.sum())).backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # A bias on the keys shifts all scores of a query alike unless the keys are normed afterwards.
    assert idle == []


def test_copies_are_independent() -> None:
    model = Decoder(TINY)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.norm.weight.zero_()
    assert model.norm.weight.sum() == 32


# ------------------------------------------------------------------------------------------------------------- experts


def test_hidden_and_routing_of_a_dense_model() -> None:
    model, ids = build("plain"), torch.arange(18).view(2, 9)
    x, routing = model.hidden_and_routing(ids)
    assert routing is None and torch.equal(x, model.hidden(ids))
    assert model.finish_step(None) == {} and model.expert_counts is None


def test_routing_is_summed_over_layers_and_counts_what_is_real() -> None:
    model, ids = build("experts and all"), torch.arange(18).view(2, 9)
    layout = Layout.packed(torch.tensor([[0] * 4 + [1] * 5, [2] * 6 + [-1] * 3]))
    heard: list[Routing] = []
    for block in list(model.layers)[1:]:
        block.mlp.register_forward_hook(lambda module, inputs, output: heard.append(output[1]))
    x, routing = model.hidden_and_routing(ids, layout=layout)
    assert routing is not None
    assert torch.equal(x, model.hidden(ids, layout=layout))
    torch.testing.assert_close(routing.aux, heard[0].aux + heard[1].aux)
    assert routing.aux.shape == (2, 9) and routing.aux.requires_grad and not routing.aux[1, 6:].any()
    assert torch.equal(routing.counts, torch.stack([heard[0].counts, heard[1].counts]))
    assert routing.counts.sum(1).tolist() == [30, 30]  # 15 real tokens, 2 experts each


def test_counts_of_a_step() -> None:
    model = build("experts", num_hidden_layers=4, router_bias_update_rate=0.5)
    model.add_counts(torch.tensor([[1.0, 0.0, 2.0, 1.0], [2.0, 2.0, 0.0, 0.0]]))
    model.add_counts(torch.tensor([[1.0, 0.0, 2.0, 1.0], [2.0, 2.0, 0.0, 0.0]]))
    metrics = model.finish_step(lambda counts: counts.mul_(2))  # as if another process had seen the same
    assert {name: value.item() for name, value in metrics.items()} == {
        "moe/load_max": 2.0,
        "moe/load_min": 0.0,
        "moe/dead_experts": 3.0,
        **{f"moe/load/1.{expert}": load for expert, load in enumerate((1.0, 0.0, 2.0, 1.0))},
        **{f"moe/load/3.{expert}": load for expert, load in enumerate((2.0, 2.0, 0.0, 0.0))},
    }
    assert not model.expert_counts.any()
    torch.testing.assert_close(model.layers[1].mlp.load, torch.tensor([0.5, 0.0, 1.0, 0.5]))
    assert model.layers[3].mlp.expert_bias.tolist() == [-0.5, -0.5, 0.5, 0.5]
    assert "expert_counts" not in model.state_dict()
    model.reset_parameters(0)
    assert not model.layers[3].mlp.expert_bias.any()


def test_a_step_without_tokens_leaves_the_routers_alone() -> None:
    model = build("experts")
    before = model.layers[1].mlp.load.clone()
    assert all(value.isfinite() for value in model.finish_step().values())
    assert torch.equal(model.layers[1].mlp.load, before)
