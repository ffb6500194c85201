"""A decoder as the compiled pass sees it: pointers to its own weights, nothing copied, and one call per pass."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from luopan.generate.native import build
from luopan.generate.native.build import library
from luopan.model.decoder import Block, Decoder
from luopan.model.layers import MLP, Linear
from luopan.model.rotary import RotaryTable

_MAX_HEAD = 256
_STRETCH = 64  # of decode.c


class _Layer(ctypes.Structure):
    MATRICES = ("q", "k", "v", "o", "gate", "up", "down")
    WEIGHTS = (
        *MATRICES, "input_norm", "q_bias", "k_bias", "v_bias", "q_norm", "k_norm", "o_bias", "sinks",
        "post_norm", "gate_bias", "up_bias", "down_bias",
    )  # fmt: skip
    _fields_ = [
        *((name, ctypes.c_void_p) for name in WEIGHTS),
        ("rotates", ctypes.c_int64),
        ("window", ctypes.c_int64),
    ]


class _Model(ctypes.Structure):
    SIZES = ("layers", "width", "heads", "kv_heads", "head", "inner", "vocab", "rotary", "threads", "half")
    _fields_ = [
        *((name, ctypes.c_int64) for name in SIZES),
        *((name, ctypes.c_float) for name in ("eps", "softcap", "final_softcap")),
        *((name, ctypes.c_void_p) for name in ("embed", "output", "norm")),
        ("layer", ctypes.POINTER(_Layer)),
    ]


class _Cache(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("keys", "values")),
        *((name, ctypes.c_int64) for name in ("by_layer", "by_slot", "by_head")),
    ]


class _Batch(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("count", "wanted_count")),
        *((name, ctypes.c_void_p) for name in ("token", "slot", "position", "wanted", "cos", "sin", "work", "logits")),
        ("longest", ctypes.c_int64),
    ]


def draws(logits: Tensor) -> bool:
    """Whether `draw` takes these logits: whatever else is in the batch, the same rows go the same way."""
    return logits.device.type == "cpu" and logits.dtype == torch.float32 and build.reason() is None


def draw(logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """See `generate.sampling.draw`: logits [B, V], uniform [B, 1]; tokens [B], their log-probabilities [B]."""
    logits, uniform = logits.contiguous(), uniform.contiguous()
    rows, vocab = logits.shape
    threads = torch.get_num_threads()
    tokens, logprobs = torch.empty(rows, dtype=torch.int64), torch.empty(rows)
    scratch = torch.empty(threads * (vocab // _STRETCH + 1))
    build.library().draw(
        logits.data_ptr(), uniform.data_ptr(), rows, vocab, threads, scratch.data_ptr(), tokens.data_ptr(),
        logprobs.data_ptr(),
    )  # fmt: skip
    return tokens, logprobs


def obstacle(model: Decoder) -> str | None:
    """Why this model cannot take the compiled pass; None where it can."""
    if type(model) is not Decoder:
        return f"a model of type {type(model).__name__}"
    if any(model.config.moe_layers):
        return "experts"
    if model.config.head_size > _MAX_HEAD:
        return f"heads of more than {_MAX_HEAD}"
    if "hidden" in vars(model) or any(one._forward_hooks or one._forward_pre_hooks for one in model.modules()):
        return "hooks, which would not be heard"
    if type(model.embed_tokens) is not nn.Embedding or not (model.lm_head is None or type(model.lm_head) is Linear):
        return f"an embedding of type {type(model.embed_tokens).__name__}"
    kind = model.embed_tokens.weight.dtype
    for name, parameter in model.named_parameters():
        alike = parameter.dtype == kind if parameter.ndim > 1 else parameter.dtype in (torch.float32, kind)
        fits = alike and kind in (torch.float32, torch.bfloat16) and parameter.is_contiguous()
        if not fits or parameter.device.type != "cpu":
            return f"{name} is {parameter.dtype} on {parameter.device}"
    for block in model.layers:
        if not isinstance(block, Block) or type(block.mlp) is not MLP:
            return f"a layer of type {type(block).__name__}"
        if others := [module for module in _linears(block).values() if type(module) is not Linear]:
            return f"a projection of type {type(others[0]).__name__}"
    return None


def _linears(block: Block) -> dict[str, nn.Linear]:
    """The projections of a dense layer, by their names in `_Layer`."""
    attention, mlp = block.self_attn, block.mlp
    assert isinstance(mlp, MLP)
    return {
        "q": attention.q_proj, "k": attention.k_proj, "v": attention.v_proj, "o": attention.o_proj,
        "gate": mlp.gate_proj, "up": mlp.up_proj, "down": mlp.down_proj,
    }  # fmt: skip


class CompiledPass:
    """The pass for one model. Its weights may change in place; it holds them as they are, by address (norms and biases
    in bf16 as copies). Whatever the weights, it computes in fp32, and so are keys, values and logits."""

    def __init__(self, model: Decoder) -> None:
        config = model.config
        self._library = library()
        self._held: list[Tensor] = []
        self._layers = (_Layer * config.num_hidden_layers)(*map(self._layer, model.layers))
        head = model.embed_tokens.weight if model.lm_head is None else model.lm_head.weight
        self._model = _Model(
            config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.kv_heads, config.head_size,
            config.intermediate_size, config.vocab_size, config.rotary_size, 1, int(head.dtype == torch.bfloat16),
            config.rms_norm_eps, config.attn_logit_softcapping or 0.0, config.final_logit_softcapping or 0.0,
            self._address(model.embed_tokens.weight), self._address(head), self._address(model.norm.weight, plain=True),
            self._layers,
        )  # fmt: skip
        self._vocab_size = config.vocab_size
        self._rope: RotaryTable = model._rope
        self._work = torch.empty(0)

    def __call__(
        self,
        keys: Tensor,
        values: Tensor,
        tokens: Sequence[int],
        slots: Sequence[int],
        positions: Sequence[int],
        wanted: Sequence[int],
    ) -> Tensor:
        """Feed `tokens` at `positions` of `slots`: logits [len(wanted), V] of those wanted, by their place in `tokens`.

        keys, values [layers, slots, Hkv, positions, D], written in place. A slot's positions below those given hold
        what was fed before.
        """
        longest = max(positions) + 1
        assert longest <= keys.shape[3] and max(slots) < keys.shape[1] and keys.stride() == values.stride()
        table = torch.tensor([tokens, slots, positions], dtype=torch.int64)
        chosen = torch.tensor(wanted, dtype=torch.int64)
        cos, sin = self._rope(table[2][None])
        logits = torch.empty(len(wanted), self._vocab_size)
        self._model.threads = torch.get_num_threads()
        needed = self._library.scratch_floats(ctypes.byref(self._model), len(tokens), longest)
        if needed > self._work.numel():
            self._work = torch.empty(needed * 5 // 4)
        row = 8 * len(tokens)
        start = table.data_ptr()
        cache = _Cache(keys.data_ptr(), values.data_ptr(), *keys.stride()[:3])
        batch = _Batch(
            len(tokens), len(wanted), start, start + row, start + 2 * row, chosen.data_ptr(), cos.data_ptr(),
            sin.data_ptr(), self._work.data_ptr(), logits.data_ptr(), longest,
        )  # fmt: skip
        self._library.forward(ctypes.byref(self._model), ctypes.byref(cache), ctypes.byref(batch))
        return logits

    def _layer(self, block: nn.Module) -> _Layer:
        assert isinstance(block, Block)
        attention = block.self_attn
        named: dict[str, Tensor | None] = {
            "input_norm": block.input_layernorm.weight, "post_norm": block.post_attention_layernorm.weight,
            "q_norm": getattr(attention.q_norm, "weight", None), "k_norm": getattr(attention.k_norm, "weight", None),
            "sinks": attention.sinks,
        }  # fmt: skip
        for name, linear in _linears(block).items():
            named[name], named[f"{name}_bias"] = linear.weight, linear.bias
        addresses = [self._address(named[name], plain=name not in _Layer.MATRICES) for name in _Layer.WEIGHTS]
        return _Layer(*addresses, int(attention.use_rope), attention.window or 0)

    def _address(self, tensor: Tensor | None, *, plain: bool = False) -> int | None:
        """Where a weight lies; with `plain` as fp32, of which a short vector in bf16 gets a copy."""
        if tensor is None:
            return None
        if plain and tensor.dtype != torch.float32:
            tensor = tensor.detach().float()
        self._held.append(tensor)
        return tensor.data_ptr()
