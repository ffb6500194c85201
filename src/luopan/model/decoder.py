"""One readable decoder: token embedding, pre-norm blocks of attention and SwiGLU or experts, final norm, output head.

Parameter names are those of Hugging Face's Llama family without the leading `model.`, one matrix per projection:
import and export rename nothing, adapters find `q_proj`, and on the CPU separate matrices are the faster form
(fused ones cost a strided pass each way: 3.5 against 2.2 ms for the SwiGLU of 4096 tokens at 2 x 344).

A block is two halves with attention between them. `compile_blocks` compiles the halves and leaves attention out, so
that the lengths of documents, different in every batch, are no part of any graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from luopan.errors import ModelError
from luopan.model.attention import KeyValueCache, Layout, attend
from luopan.model.compiled import CompiledParts, Part
from luopan.model.config import ModelConfig
from luopan.model.layers import MLP, Linear
from luopan.model.moe import MoE, Routing
from luopan.model.ops import choose_library, linear, rms_norm
from luopan.model.recompute import RECOMPUTE, Recompute, with_recompute
from luopan.model.rotary import RotaryTable, rotate_first

Rope = tuple[Tensor, Tensor]
Heads = tuple[Tensor, Tensor, Tensor]

EXPERTS_SHOWN = 256  # one figure each in a line of metrics; larger models are told by their extremes


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}"


class Attention(nn.Module):
    """Grouped-query attention with optional biases, QK-norm (over each head), rotary embeddings, window and sinks."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.head_size = layer, config.head_size
        self.use_rope = config.rope_layers[layer]
        self.window, self.softcap = config.windows[layer], config.attn_logit_softcapping
        q_width, kv_width = config.num_attention_heads * config.head_size, config.kv_heads * config.head_size
        self.q_proj = Linear(config.hidden_size, q_width, bias=config.attention_bias)
        self.k_proj = Linear(config.hidden_size, kv_width, bias=config.attention_bias)
        self.v_proj = Linear(config.hidden_size, kv_width, bias=config.attention_bias)
        self.o_proj = Linear(q_width, config.hidden_size, bias=config.output_bias)
        self.q_norm = RMSNorm(config.head_size, config.rms_norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(config.head_size, config.rms_norm_eps) if config.qk_norm else nn.Identity()
        self.sinks = nn.Parameter(torch.zeros(config.num_attention_heads)) if config.attention_sinks else None

    def heads(self, x: Tensor, rope: Rope) -> Heads:
        """x [B, T, C] -> queries [B, H, T, D], keys and values [B, Hkv, T, D]."""
        heads = (*x.shape[:2], -1, self.head_size)
        q, k = self.q_norm(self.q_proj(x).view(heads)), self.k_norm(self.k_proj(x).view(heads))
        if self.use_rope:
            q, k = rotate_first(q, *rope), rotate_first(k, *rope)
        return q.transpose(1, 2), k.transpose(1, 2), self.v_proj(x).view(heads).transpose(1, 2)

    def mix(self, heads: Heads, visible: Layout | Tensor, cache: KeyValueCache | None) -> Tensor:
        """What each query gathers, [B, H, T, D]. A mask of a cache holds the layer's window already."""
        q, k, v = heads
        if cache is not None:
            k, v = cache.update(self.layer, k, v)
        window = self.window if isinstance(visible, Layout) else None
        return attend(q, k, v, visible, window=window, sinks=self.sinks, softcap=self.softcap)

    def join(self, mixed: Tensor) -> Tensor:
        """mixed [B, H, T, D] -> [B, T, C]."""
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), where `mlp` may be a mixture of experts."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.recompute: Recompute = "none"
        self.compiled: CompiledParts | None = None
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        mixture = config.moe_layers[layer]
        self.mlp: MoE | MLP = (
            MoE(config, layer) if mixture else MLP(config.hidden_size, config.intermediate_size, config.mlp_bias)
        )

    def forward(
        self, x: Tensor, rope: Rope, visible: Layout | Tensor, cache: KeyValueCache | None
    ) -> tuple[Tensor, Routing | None]:
        """x [B, T, C] -> [B, T, C], and what the router did in a layer that has one."""
        if self.recompute == "none" or cache is not None or not torch.is_grad_enabled():
            return self._compute(x, rope, visible, cache)
        if self.compiled is not None and self.recompute == "selective":
            # What is kept is decided in the graphs; attention, between them, keeps what goes in and out of it.
            return self._compute(x, rope, visible, None, "selective")
        return with_recompute(self._compute, self.recompute)(x, rope, visible, None)

    def _compute(
        self, x: Tensor, rope: Rope, visible: Layout | Tensor, cache: KeyValueCache | None, mode: Recompute = "none"
    ) -> tuple[Tensor, Routing | None]:
        compiled = None if cache is not None else self.compiled  # decoding changes its shapes too often

        def run(part: Part, *arguments: Any, kind: object = None) -> Any:
            return (part if compiled is None else compiled.get(part, mode, kind))(self, *arguments)

        mixed = self.self_attn.mix(run(_before, x, rope, kind=self.self_attn.use_rope), visible, cache)
        if not isinstance(self.mlp, MoE):
            return run(_after, x, mixed), None
        # How many tokens an expert gets is data: the experts stay outside the graph.
        x, normed = run(_between, x, mixed)
        real = visible.real if isinstance(visible, Layout) else None
        y, routing = with_recompute(self.mlp, mode)(normed, real)
        return x + y, routing


def _before(block: Block, x: Tensor, rope: Rope) -> Heads:
    return block.self_attn.heads(block.input_layernorm(x), rope)


def _between(block: Block, x: Tensor, mixed: Tensor) -> tuple[Tensor, Tensor]:
    x = x + block.self_attn.join(mixed)
    return x, block.post_attention_layernorm(x)


def _after(block: Block, x: Tensor, mixed: Tensor) -> Tensor:
    x, normed = _between(block, x, mixed)
    return x + block.mlp(normed)


class Decoder(nn.Module):
    """A decoder-only transformer. Weights are initialised deterministically (seed 0) unless built on "meta"."""

    expert_counts: Tensor | None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(
            config.vocab_size, config.hidden_size, _weight=torch.empty(config.vocab_size, config.hidden_size)
        )
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        # A tied head is no module: the weight exists once, in the embedding.
        self.lm_head = None if config.tie_word_embeddings else Linear(config.hidden_size, config.vocab_size, bias=False)
        self._rope, self._windows = RotaryTable(config), config.windows
        # On the CPU whatever the default device: weights loaded into a model built on "meta" bring no counts along.
        counts = torch.zeros(sum(config.moe_layers), config.num_experts or 0, device="cpu")
        self.register_buffer("expert_counts", counts if counts.numel() else None, persistent=False)
        choose_library()
        if self.embed_tokens.weight.device.type != "meta":
            self.reset_parameters(0)

    @torch.no_grad()
    def reset_parameters(self, seed: int) -> None:
        """Matrices normal(0, initializer_range), biases and sinks 0, norms 1: the same on every device, from `seed`.

        With `initializer: depth_scaled` what is added to the residual stream (o_proj, down_proj) starts
        sqrt(2 * num_hidden_layers) times smaller (GPT-2), so that its variance does not grow with depth.
        """
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.ndim >= 2:
                drawn = torch.empty(parameter.shape).normal_(0.0, self._spread(name), generator=generator)
                parameter.copy_(drawn)
            else:
                parameter.fill_(0.0 if name.endswith(("bias", "sinks")) else 1.0)
        for mixture in self._mixtures():
            mixture.reset_balance()
        if self.expert_counts is not None:
            self.expert_counts.zero_()

    def _spread(self, name: str) -> float:
        """The standard deviation that a matrix starts with."""
        into_residual = name.removesuffix(".weight").endswith(("o_proj", "down_proj"))
        deeper = self.config.initializer == "depth_scaled" and into_residual
        return self.config.initializer_range / (math.sqrt(2 * self.config.num_hidden_layers) if deeper else 1.0)

    def _blocks(self) -> list[Block]:
        return [block for block in self.layers if isinstance(block, Block)]

    def _mixtures(self) -> list[MoE]:
        return [block.mlp for block in self._blocks() if isinstance(block.mlp, MoE)]

    @property
    def recompute(self) -> Recompute:
        """What is computed again in the backward pass: "none", "selective" or "full" (`recompute.py`)."""
        return self._blocks()[0].recompute

    @recompute.setter
    def recompute(self, mode: Recompute) -> None:
        if mode not in RECOMPUTE:
            raise ModelError(f"activation recompute {mode!r} is not known", hint=f"it is one of {', '.join(RECOMPUTE)}")
        for block in self._blocks():
            block.recompute = mode

    def compile_blocks(self) -> None:
        """Compile both halves of every block from now on; decoding with a cache stays eager.

        Nothing is compiled before the first forward pass. Blocks that look alike share a graph, which does not depend
        on documents. Another batch shape compiles once more, with sizes left open.
        """
        parts = CompiledParts()
        for block in self._blocks():
            block.compiled = parts

    def hidden(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        layout: Layout | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """input_ids [B, T] -> [B, T, C] after the final norm.

        Without `layout` a row is one document. Positions default to the layout's, restarting at each document. With
        a `cache`, which then decides what is visible, `position_ids` [B, T] must be given and `layout` must not.
        """
        return self._run(input_ids, position_ids, layout, cache)[0]

    def hidden_and_routing(
        self, input_ids: Tensor, position_ids: Tensor | None = None, layout: Layout | None = None
    ) -> tuple[Tensor, Routing | None]:
        """`hidden`, and what the routers did: aux [B, T] summed over layers, counts [layers with experts, E].

        None for a model without experts.
        """
        x, routings = self._run(input_ids, position_ids, layout, None)
        if not routings:
            return x, None
        aux = torch.stack([routing.aux for routing in routings]).sum(0)
        return x, Routing(aux, torch.stack([routing.counts for routing in routings]))

    def _run(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None,
        layout: Layout | None,
        cache: KeyValueCache | None,
    ) -> tuple[Tensor, list[Routing]]:
        visible: dict[int | None, Layout | Tensor]  # by the window of a layer
        windows = self._windows
        if cache is None:
            batch, length = input_ids.shape
            layout = (layout or Layout.causal(batch, length, input_ids.device)).to(input_ids.device)
            assert layout.shape == tuple(input_ids.shape), (layout.shape, input_ids.shape)
            visible = dict.fromkeys(windows, layout)
            position_ids = layout.position_ids if position_ids is None else position_ids
        else:
            if position_ids is None or layout is not None:
                raise ModelError("decoding with a cache takes position_ids and no layout")
            visible = {window: cache.mask(input_ids.shape[1], window) for window in set(windows)}
        x = self.embed_tokens(input_ids)
        rope = self._rope(position_ids)
        routings = []
        for block, window in zip(self.layers, windows, strict=True):
            x, routing = block(x, rope, visible[window], cache)
            if routing is not None:
                routings.append(routing)
        return self.norm(x), routings

    @torch.no_grad()
    def add_counts(self, counts: Tensor) -> None:
        """Add one micro-batch's `Routing.counts` [layers with experts, E] to those of the step."""
        assert self.expert_counts is not None, "the model has no experts"
        self.expert_counts += counts

    @torch.no_grad()
    def forget_counts(self, bad: Tensor) -> None:
        """Where `bad` is 1 the step was left out, and no router must heed its counts."""
        if self.expert_counts is not None:
            self.expert_counts.mul_(1 - bad)

    @torch.no_grad()
    def finish_step(self, reduce: Callable[[Tensor], None] | None = None) -> dict[str, Tensor]:
        """Hand the step's counts to the routers and begin anew; `reduce` sums a tensor over all processes in place.

        Returns scalars on the device, nothing is read back: the load of the busiest and of the idlest expert (1 is an
        even share), the number of experts that no token went to, over all layers, and up to `EXPERTS_SHOWN` experts'
        loads by layer and number. Nothing for a model without experts.
        """
        counts = self.expert_counts
        if counts is None:
            return {}
        if reduce is not None:
            reduce(counts)
        for mixture, row in zip(self._mixtures(), counts, strict=True):
            mixture.update(row)
        share = counts / counts.mean(1, keepdim=True).clamp_min(torch.finfo(counts.dtype).tiny)
        metrics = {
            "moe/load_max": share.max(),
            "moe/load_min": share.min(),
            "moe/dead_experts": (counts == 0).sum().to(counts.dtype),
        }
        if counts.numel() <= EXPERTS_SHOWN:
            layers = [layer for layer, sparse in enumerate(self.config.moe_layers) if sparse]
            for layer, row in zip(layers, share.unbind(0), strict=True):
                metrics |= {f"moe/load/{layer}.{expert}": one for expert, one in enumerate(row.unbind(0))}
        counts.zero_()
        return metrics

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [..., C] -> [..., V]: the head alone, so that a loss can leave out positions that are not trained."""
        logits = linear(hidden, self.embed_tokens.weight) if self.lm_head is None else self.lm_head(hidden)
        cap = self.config.final_logit_softcapping
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        layout: Layout | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """input_ids [B, T] -> logits [B, T, V]. `document_ids` [B, T] is the short form of `Layout.packed(ids)`."""
        if document_ids is not None:
            if layout is not None:
                raise ModelError("document_ids and layout say the same thing: give one")
            layout = Layout.packed(document_ids)
        return self.logits(self.hidden(input_ids, position_ids, layout, cache))
