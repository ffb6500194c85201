"""The mixture of experts: against a plain loop, against transformers, and what may not change its result."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import MixtralConfig, Qwen3MoeConfig
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock, load_balancing_loss_func
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

from luopan.model import moe
from luopan.model.config import ModelConfig
from luopan.model.moe import MoE, balance_per_token, grouped_linear, load_balancing

SHAPE = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_experts": 8,
    "num_experts_per_tok": 2,
}


def _moe(seed: int = 0, **options: Any) -> MoE:
    layer = MoE(ModelConfig(**{**SHAPE, **options}), 0)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return layer


def _tokens(seed: int = 0, batch: int = 3, length: int = 21) -> Tensor:
    return torch.randn(batch, length, 16, generator=torch.Generator().manual_seed(seed))


def _by_hand(layer: MoE, x: Tensor, renormalise: bool = True, bias: Tensor | None = None) -> Tensor:
    """Token by token, expert by expert."""
    rows = []
    for token in x.reshape(-1, x.shape[-1]):
        probs = (layer.gate.weight @ token).softmax(-1)
        scores = probs if bias is None else probs + bias
        chosen = sorted(range(len(probs)), key=lambda i: -scores[i].item())[: layer.k]
        total = sum(probs[i] for i in chosen) if renormalise else 1.0
        out = torch.zeros_like(token)
        for i in chosen:
            gate, up, down = layer.experts.gate_proj[i], layer.experts.up_proj[i], layer.experts.down_proj[i]
            out = out + probs[i] / total * (down @ (F.silu(gate @ token) * (up @ token)))
        rows.append(out)
    return torch.stack(rows).view_as(x)


def _gradients(layer: MoE, x: Tensor, out: Tensor) -> list[Tensor]:
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(9))
    return list(torch.autograd.grad((out * weight).sum(), [x, *layer.parameters()]))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_experts_per_tok": 1, "norm_topk_prob": False},
        {"num_experts_per_tok": 3, "norm_topk_prob": False},
        {"intermediate_size": 22},  # rows of 88 bytes, which torch's grouped product does not take
        {"num_experts_per_tok": 8},
    ],
)
def test_output_and_gradients_are_those_of_a_plain_loop(options: dict[str, Any]) -> None:
    layer, x = _moe(**options), _tokens().requires_grad_()
    assert moe._grouped_mm_fits(x, layer.experts.gate_proj) == (options.get("intermediate_size") != 22)
    out, _ = layer(x)
    expected = _by_hand(layer, x, renormalise=options.get("norm_topk_prob", True))
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(_gradients(layer, x, out), _gradients(layer, x, expected), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_the_shared_expert_sees_every_token() -> None:
    layer, x = _moe(shared_expert_intermediate_size=12), _tokens()
    shared = layer.shared_expert
    assert shared is not None
    inner = F.silu(x @ shared.gate_proj.weight.T) * (x @ shared.up_proj.weight.T)
    torch.testing.assert_close(layer(x)[0], _by_hand(layer, x) + inner @ shared.down_proj.weight.T)


@pytest.mark.parametrize("normed", [True, False])
def test_qwen3_moe_block(normed: bool) -> None:
    layer = _moe(norm_topk_prob=normed)
    theirs = Qwen3MoeSparseMoeBlock(
        Qwen3MoeConfig(
            hidden_size=16, moe_intermediate_size=24, num_experts=8, num_experts_per_tok=2, norm_topk_prob=normed
        )
    )
    _check_block(layer, theirs)


def test_mixtral_block() -> None:
    config = MixtralConfig(hidden_size=16, intermediate_size=24, num_local_experts=8, num_experts_per_tok=2)
    _check_block(_moe(), MixtralSparseMoeBlock(config))


def _check_block(layer: MoE, theirs: Any) -> None:
    with torch.no_grad():
        theirs.gate.weight.copy_(layer.gate.weight)
        theirs.experts.gate_up_proj.copy_(torch.cat([layer.experts.gate_proj, layer.experts.up_proj], 1))
        theirs.experts.down_proj.copy_(layer.experts.down_proj)
        torch.testing.assert_close(layer(_tokens())[0], theirs(_tokens()), atol=1e-5, rtol=1e-5)


def test_a_token_does_not_depend_on_its_neighbours() -> None:
    layer, x = _moe(), _tokens()
    alone = torch.stack([layer(x[:, i : i + 1])[0][:, 0] for i in range(x.shape[1])], 1)
    torch.testing.assert_close(layer(x)[0], alone, atol=1e-6, rtol=1e-5)


# ---------------------------------------------------------------------------------------------------- grouped product


def test_both_forms_of_the_grouped_product_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 16, generator=generator, requires_grad=True)
    weight = torch.randn(5, 24, 16, generator=generator, requires_grad=True)
    counts = torch.tensor([7, 0, 12, 11, 0])

    def both() -> list[Tensor]:
        out = grouped_linear(x, weight, counts)
        return [out, *torch.autograd.grad(out.square().sum(), [x, weight])]

    assert moe._grouped_mm_fits(x, weight)
    grouped = both()
    monkeypatch.setattr(moe, "_grouped_mm_fits", lambda x, weight: False)
    for one, other in zip(grouped, both(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_gradients_of_stride_zero_reach_every_parameter() -> None:
    """torch's grouped product refuses them, and a plain sum makes them."""
    layer, x = _moe(shared_expert_intermediate_size=12), _tokens().requires_grad_()
    layer(x)[0].sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in layer.parameters())
    assert x.grad is not None


def test_every_expert_and_the_router_get_a_gradient() -> None:
    layer, x = _moe(), _tokens(length=200)
    out, routing = layer(x)
    assert routing.counts.min() > 0
    out.square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.flatten(1).abs().sum(1).min() > 0, name  # per expert, and per row of the router


def test_top_1_keeps_the_probability_and_so_teaches_the_router() -> None:
    layer = _moe(num_experts_per_tok=1, norm_topk_prob=False)
    layer(_tokens())[0].square().sum().backward()
    assert layer.gate.weight.grad is not None and layer.gate.weight.grad.abs().sum() > 0


def test_under_autocast_the_experts_are_bf16_and_the_router_is_not() -> None:
    layer, x = _moe(), _tokens()
    full, expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        half, routing = layer(x)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), full, atol=0.2, rtol=0.05)
    assert torch.equal(routing.counts, expected.counts)


# ----------------------------------------------------------------------------------------------------------- balance


@pytest.mark.parametrize("k", [1, 2, 4])
def test_load_balancing_is_that_of_transformers(k: int) -> None:
    logits = torch.randn(50, 8, generator=torch.Generator().manual_seed(k)) * 2
    probs = logits.softmax(-1)
    counts = torch.bincount(probs.topk(k).indices.flatten(), minlength=8).float()
    torch.testing.assert_close(load_balancing(probs, counts), load_balancing_loss_func((logits,), 8, k))


def test_balance_by_hand() -> None:
    # Two experts, top 1, loads 3/4 and 1/4, mean probabilities 0.7 and 0.3: 2 (0.75 * 0.7 + 0.25 * 0.3) = 1.2.
    probs = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.4, 0.6]])
    assert load_balancing(probs, torch.tensor([3.0, 1.0])).item() == pytest.approx(1.2)
    assert balance_per_token(probs, torch.tensor([0.75, 0.25]))[3].item() == pytest.approx(2 * (0.3 + 0.15))


def test_aux_of_a_token_is_charged_at_the_load_of_the_step_before() -> None:
    layer, x = _moe(router_aux_loss_coef=0.1, router_z_loss_coef=0.01), _tokens()
    probs_logits = x @ layer.gate.weight.T
    z = 0.01 * probs_logits.logsumexp(-1).square()
    even = layer(x)[1]
    torch.testing.assert_close(even.aux, 0.1 * 2 + z)  # an even load: k, whatever the probabilities
    layer.update(even.counts)
    after = layer(x)[1]
    expected = load_balancing(probs_logits.softmax(-1).flatten(0, 1), even.counts)
    torch.testing.assert_close((after.aux - z).mean(), 0.1 * expected)
    assert after.aux.dtype == torch.float32 and after.aux.shape == x.shape[:2]


def test_aux_has_the_gradient_of_the_loss_of_transformers() -> None:
    layer, x = _moe(router_aux_loss_coef=0.1), _tokens()
    layer.update(layer(x)[1].counts)
    (ours,) = torch.autograd.grad(layer(x)[1].aux.mean(), [layer.gate.weight])
    loss = 0.1 * load_balancing_loss_func(((x @ layer.gate.weight.T).flatten(0, 1),), 8, 2)
    torch.testing.assert_close(ours, torch.autograd.grad(loss, [layer.gate.weight])[0])


def test_neither_accumulation_nor_ranks_change_what_a_step_costs() -> None:
    layer, x = _moe(router_aux_loss_coef=0.1), _tokens(batch=4)
    layer.update(torch.arange(8.0))
    whole = layer(x)[1]
    parts = [layer(rows)[1] for rows in x.split(1)]
    torch.testing.assert_close(torch.cat([part.aux for part in parts]), whole.aux)
    assert torch.equal(sum(part.counts for part in parts), whole.counts)


def test_padding_is_neither_counted_nor_charged() -> None:
    layer, x = _moe(router_aux_loss_coef=0.1), _tokens()
    real = torch.ones(x.shape[:2], dtype=torch.bool)
    real[1, 10:] = real[2, :4] = False
    out, routing = layer(x, real)
    whole, everything = layer(x)
    assert torch.equal(out, whole)
    assert torch.equal(routing.counts, layer(x[real].unsqueeze(0))[1].counts)
    assert routing.counts.sum() == 2 * real.sum() and everything.counts.sum() == 2 * real.numel()
    assert (routing.aux[~real] == 0).all() and (routing.aux[real] > 0).all()


def test_update_of_the_loads() -> None:
    layer = _moe(router_aux_loss_coef=0.1)
    assert torch.equal(layer.load, torch.full((8,), 0.25))
    layer.update(torch.tensor([4.0, 0, 0, 0, 0, 0, 2.0, 2.0]))
    assert torch.equal(layer.load, torch.tensor([1.0, 0, 0, 0, 0, 0, 0.5, 0.5]))
    layer.update(torch.zeros(8))  # a step without a real token says nothing
    assert layer.load[0] == 1
    layer.reset_balance()
    assert torch.equal(layer.load, torch.full((8,), 0.25))


def test_the_bias_moves_the_choice_and_not_the_weights() -> None:
    layer, x = _moe(router_bias_update_rate=0.01), _tokens()
    bias = torch.tensor([0.5, -0.5, 0, 0, 0.2, 0, 0, 0])
    layer.expert_bias.copy_(bias)
    torch.testing.assert_close(layer(x)[0], _by_hand(layer, x, bias=bias), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(_by_hand(layer, x, bias=bias), _by_hand(layer, x))


def test_the_bias_steps_by_the_sign_and_evens_the_load() -> None:
    layer = _moe(router_bias_update_rate=0.5)
    layer.update(torch.tensor([9.0, 1, 2, 2, 2, 2, 2, 4]))  # mean 3
    assert torch.equal(layer.expert_bias, torch.tensor([-0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, -0.5]))
    layer = _moe(router_bias_update_rate=0.002)
    x = _tokens(batch=8, length=64)
    first = layer(x)[1].counts
    for _ in range(300):
        layer.update(layer(x)[1].counts)
    last = layer(x)[1].counts
    assert last.max() / last.mean() < 1.2 < first.max() / first.mean()


def test_buffers_exist_where_they_are_used_and_are_saved() -> None:
    names = {name for name, _ in _moe().named_buffers()}
    assert names == set()
    layer = _moe(router_aux_loss_coef=0.1, router_bias_update_rate=0.1)
    layer.update(torch.arange(8.0))
    assert {"load", "expert_bias"} <= set(layer.state_dict())
    again = _moe(1, router_aux_loss_coef=0.1, router_bias_update_rate=0.1)
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again.expert_bias, layer.expert_bias) and torch.equal(again.load, layer.load)


def test_the_same_twice_bit_for_bit() -> None:
    layer, x = _moe(router_aux_loss_coef=0.1), _tokens().requires_grad_()
    one, other = (_gradients(layer, x, layer(x)[0]) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
