"""A mixture of experts in place of the MLP: token-choice top-k routing, fine-grained and shared experts.

Every token goes to the k experts that its router scores highest; nothing is dropped and there is no capacity, so
that packing, padding and the rest of the batch change no token's output. The router works in fp32: softmax over all
experts, then the top k, renormalised or not (Qwen3-MoE, Mixtral). A shared expert sees every token and is added
without a gate (DeepSeekMoE, arXiv:2401.06066). Expert weights are 3-D, [E, out, in]; tokens are sorted by expert and
multiplied in groups.

Two ways to balance the load, both fed by the counts of whole steps over all processes, handed to `update`:
a loss (Switch, arXiv:2101.03961) whose loads are those of the step before, so that accumulation and data parallelism
cannot change it; and a bias on the choice alone (DeepSeek-V3, arXiv:2408.15664), which has no gradient at all.
Used together, the loss goes on pulling at probabilities that the bias has already made up for.

Limits: no expert parallelism (every process holds all experts), scores are softmax and not sigmoid, one group of
experts. The grouped product has not run on a GPU. The mixture stays outside compiled graphs: the compiler of torch
2.13 knows the grouped product in bf16 alone. The choice has no gradient (top-k is a step function): the router learns
through the weights of what it chose, and through the losses above.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from luopan.model.config import ModelConfig
from luopan.model.layers import MLP, Linear
from luopan.model.ops import swiglu


class Routing(NamedTuple):
    """What a mixture layer says about a batch besides its output."""

    aux: Tensor  # [B, T] fp32: balance and router-z loss of each token, times their coefficients; 0 on padding
    counts: Tensor  # [E] fp32: how many real tokens went to each expert; no gradient


# ------------------------------------------------------------------------------------------------------ pure functions


def load_balancing(probs: Tensor, counts: Tensor) -> Tensor:
    """E * sum_i f_i P_i (Switch, arXiv:2101.03961, equations 4 to 6): k where the load is even, more elsewhere.

    probs [N, E] of the router, counts [E] of the tokens that went to each expert among the same N. f_i is the share
    of tokens that chose expert i (these sum to k), P_i the mean probability: as in transformers.
    """
    return balance_per_token(probs, counts / probs.shape[0]).mean()


def balance_per_token(probs: Tensor, load: Tensor) -> Tensor:
    """probs [..., E], load [E] -> [...]: E * sum_i load_i * p_i. Its mean over tokens is the loss above."""
    return load.shape[0] * (probs @ load)


def choose(probs: Tensor, bias: Tensor | None, k: int, renormalise: bool) -> tuple[Tensor, Tensor]:
    """probs [N, E] -> weights [N, k] and experts [N, k]. `bias` [E] moves the choice, never the weights."""
    chosen = torch.topk(probs if bias is None else probs.detach() + bias, k, dim=-1).indices
    weights = probs.gather(-1, chosen)
    return weights / weights.sum(-1, keepdim=True) if renormalise else weights, chosen


# ------------------------------------------------------------------------------------------------------ grouped product


def _grouped_mm_fits(x: Tensor, weight: Tensor) -> bool:
    """Whether torch's grouped product takes these: it wants rows of whole 16 bytes, and bf16 on CUDA."""
    if not hasattr(F, "grouped_mm") or x.dtype != weight.dtype:
        return False
    if any(size * x.element_size() % 16 for size in weight.shape[1:]):
        return False
    if x.device.type == "cuda":
        return x.dtype == torch.bfloat16 and torch.cuda.get_device_capability(x.device) >= (8, 0)
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16)


def grouped_linear(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """x [M, I] sorted by expert, weight [E, O, I], counts [E] int64 summing to M -> [M, O].

    One grouped product where torch has one. On two cores at fp32 it equals a loop over few large experts and takes
    half of its time over 64 small ones (2048 rows, 128 -> 64: 3.0 against 6.1 ms, torch 2.13). The loop reads the
    counts, which on an accelerator waits for it.
    """
    if _grouped_mm_fits(x, weight):
        return F.grouped_mm(x, weight.transpose(-2, -1), offs=counts.cumsum(0).to(torch.int32))
    pieces = x.split(counts.tolist())
    return torch.cat([F.linear(rows, matrix) for rows, matrix in zip(pieces, weight.unbind(0), strict=True)])


class _Dispatch(torch.autograd.Function):
    """Rows of x [N, C] in the order of their experts, [N k, C]; its gradient is a gather and a sum, without atomics."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor, k: int) -> Tensor:
        ctx.save_for_backward(inverse)
        ctx.k = k
        return x.index_select(0, order // k)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (inverse,) = ctx.saved_tensors
        return grad.index_select(0, inverse).unflatten(0, (-1, ctx.k)).sum(1), None, None, None


class _Collect(torch.autograd.Function):
    """The way back: rows by expert [N k, C] in the order of tokens and choices."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(order)
        return y.index_select(0, inverse)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (order,) = ctx.saved_tensors
        return grad.index_select(0, order), None, None


# -------------------------------------------------------------------------------------------------------------- modules


class Experts(nn.Module):
    """E SwiGLU feed-forwards as three 3-D parameters, left uninitialised: the decoder fills them."""

    def __init__(self, count: int, hidden: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Parameter(torch.empty(count, inner, hidden))
        self.up_proj = nn.Parameter(torch.empty(count, inner, hidden))
        self.down_proj = nn.Parameter(torch.empty(count, hidden, inner))

    def forward(self, x: Tensor, weights: Tensor, chosen: Tensor, counts: Tensor) -> Tensor:
        """x [N, C], weights [N, k], chosen [N, k], counts [E] -> [N, C]: the weighted sum of what the chosen say."""
        matrices: list[Tensor] = [self.gate_proj, self.up_proj, self.down_proj]
        if torch.is_autocast_enabled(x.device.type):
            # Autocast does not know the grouped product: what it does for a linear layer is done here.
            dtype = torch.get_autocast_dtype(x.device.type)
            x, matrices = x.to(dtype), [matrix.to(dtype) for matrix in matrices]
        gate, up, down = matrices
        order = chosen.flatten().argsort(stable=True)  # [N k], by expert, tokens in their order within each
        inverse = torch.empty_like(order).scatter_(0, order, torch.arange(order.numel(), device=order.device))
        rows = _Dispatch.apply(x, order, inverse, chosen.shape[1])  # [N k, C]
        inner = swiglu(grouped_linear(rows, gate, counts), grouped_linear(rows, up, counts))
        out = _Collect.apply(grouped_linear(inner, down, counts), order, inverse)  # [N k, C], by token again
        return (out.unflatten(0, chosen.shape) * weights.unsqueeze(-1).to(out.dtype)).sum(1)

    def extra_repr(self) -> str:
        count, inner, hidden = self.gate_proj.shape
        return f"{count} experts, {hidden} -> {inner} -> {hidden}"


def count_choices(chosen: Tensor, experts: int, real: Tensor | None = None) -> Tensor:
    """chosen [N, k] -> [experts] int64: how often each was chosen, by the tokens where `real` [N] is true."""
    ones = torch.ones_like(chosen) if real is None else real.reshape(-1, 1).expand_as(chosen).to(chosen.dtype)
    return torch.zeros(experts, dtype=chosen.dtype, device=chosen.device).scatter_add_(
        0, chosen.flatten(), ones.flatten()
    )


class MoE(nn.Module):
    """The mixture of one layer: router `gate`, `experts`, and `shared_expert` where the configuration has one.

    Buffers, saved with the model and moved by `update` alone: `load` [E], the share of tokens that chose each expert
    in the last step (they sum to k; even at the start), where there is a balance loss; `expert_bias` [E], where
    there is a bias.
    """

    load: Tensor
    expert_bias: Tensor

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        assert config.num_experts is not None and config.num_experts_per_tok is not None and config.moe_layers[layer]
        self.layer, self.count, self.k = layer, config.num_experts, config.num_experts_per_tok
        self.renormalise = config.norm_topk_prob is not False
        self.aux_coef = config.router_aux_loss_coef or 0.0
        self.z_coef = config.router_z_loss_coef or 0.0
        self.bias_rate = config.router_bias_update_rate or 0.0
        self.gate = Linear(config.hidden_size, self.count, bias=False)
        self.experts = Experts(self.count, config.hidden_size, config.expert_size)
        shared = config.shared_expert_intermediate_size
        self.shared_expert = None if shared is None else MLP(config.hidden_size, shared, bias=False)
        # On the CPU whatever the default device: a model built on "meta" is given weights, but no buffers, by a folder.
        if self.aux_coef:
            self.register_buffer("load", torch.empty(self.count, dtype=torch.float32, device="cpu"))
        if self.bias_rate:
            self.register_buffer("expert_bias", torch.empty(self.count, dtype=torch.float32, device="cpu"))
        self.reset_balance()

    @torch.no_grad()
    def reset_balance(self) -> None:
        """The buffers as before the first step: an even load and no bias."""
        if self.aux_coef:
            self.load.fill_(self.k / self.count)
        if self.bias_rate:
            self.expert_bias.zero_()

    def forward(self, x: Tensor, real: Tensor | None = None) -> tuple[Tensor, Routing]:
        """x [B, T, C] -> output [B, T, C] and what the router did. `real` [B, T] is False on padding, None: all real.

        Padding is routed like anything else, but is neither counted nor charged.
        """
        batch, length, _ = x.shape
        flat = x.flatten(0, 1)  # [N, C]
        logits = self._router_logits(flat)  # [N, E] fp32
        probs = logits.softmax(-1)
        weights, chosen = choose(probs, self.expert_bias if self.bias_rate else None, self.k, self.renormalise)
        counts = count_choices(chosen, self.count)
        out = self.experts(flat, weights, chosen, counts).view_as(x)
        if self.shared_expert is not None:
            out = out + self.shared_expert(x)
        aux = self._aux(logits, probs).view(batch, length)
        if real is None:
            return out, Routing(aux, counts.float())
        return out, Routing(aux * real, count_choices(chosen, self.count, real).float())

    def _router_logits(self, flat: Tensor) -> Tensor:
        with torch.autocast(flat.device.type, enabled=False):
            return F.linear(flat.float(), self.gate.weight.float())

    def _aux(self, logits: Tensor, probs: Tensor) -> Tensor:
        """[N] fp32. The z-loss is that of ST-MoE (arXiv:2202.08906, equation 5)."""
        aux = logits.new_zeros(logits.shape[0])
        if self.aux_coef:
            aux = aux + self.aux_coef * balance_per_token(probs, self.load.float())
        if self.z_coef:
            aux = aux + self.z_coef * logits.logsumexp(-1).square()
        return aux

    @torch.no_grad()
    def update(self, counts: Tensor) -> None:
        """After a step: counts [E] of all its micro-batches on all processes. Nothing is read back."""
        counts = counts.to(torch.float32)
        if self.aux_coef:
            total = counts.sum()
            # A step without a real token leaves the loads as they are.
            self.load.copy_(torch.where(total > 0, self.k * counts / total.clamp(min=1), self.load))
        if self.bias_rate:
            self.expert_bias.add_(torch.sign(counts.mean() - counts), alpha=self.bias_rate)
