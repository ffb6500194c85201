"""A decoder's weights as GGUF holds them: llama.cpp's names, its order of rotary pairs, its types of numbers.

`gguf_tensors` yields one tensor after the other in fp32; `packed` gives it a type. Norms, biases and routers stay fp32
and the embedding and the head of a file in four or five bits are in eight, as llama.cpp's own tools do it: they are a
small part of the file (not of a very small model) and errors in them cost most. A row whose length is no multiple of
a block of 32 cannot be quantised and stays f16. The `gguf` package does the rounding; it writes bytes and runs nothing.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from luopan.errors import ModelError
from luopan.model.config import ModelConfig
from luopan.model.gguf_shapes import GgufArchitecture
from luopan.model.rotary import inverse_frequencies

# What the package rounds to by itself; others need llama.cpp (`tokens/gguf_quantise.py`).
DIRECT_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
BLOCK = 32
_PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "mlp.experts.gate_proj": "ffn_gate_exps",
    "mlp.experts.up_proj": "ffn_up_exps",
    "mlp.experts.down_proj": "ffn_down_exps",
}
_OUTSIDE = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}


def need_gguf() -> None:
    """ModelError where the package that writes the files is missing."""
    if importlib.util.find_spec("gguf") is None:
        raise ModelError("writing GGUF needs the package gguf", hint="pip install luopan[gguf]")


def gguf_tensors(
    config: ModelConfig, chosen: GgufArchitecture, state: Mapping[str, Tensor]
) -> Iterator[tuple[str, np.ndarray]]:
    """(name, fp32 array) of each tensor of the file; `state` is a decoder's state dict under our names."""
    if config.rope_scaling is not None and config.rope_scaling.rope_type == "llama3":
        yield "rope_freqs.weight", frequency_factors(config)
    for name, tensor in state.items():
        stem = name.rpartition(".")[0]
        value = tensor.detach().to("cpu", torch.float32)
        if chosen.interleaved and stem.endswith((".q_proj", ".k_proj")):
            heads = config.num_attention_heads if stem.endswith(".q_proj") else config.kv_heads
            value = interleaved(value, heads)
        yield gguf_name(name), np.ascontiguousarray(value.numpy())


def interleaved(value: Tensor, heads: int) -> Tensor:
    """Rows [heads * D, …] of a projection, each head's two halves in turn: rotary pairs as neighbours."""
    return value.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(value.shape)


def gguf_name(name: str) -> str:
    """llama.cpp's name of a parameter; ModelError where it has none."""
    stem, _, kind = name.rpartition(".")
    if stem.endswith(".experts"):  # their matrices are parameters without modules
        stem, kind = name, "weight"
    if stem in _OUTSIDE:
        return f"{_OUTSIDE[stem]}.{kind}"
    found = re.fullmatch(r"layers\.(\d+)\.(.+)", stem)
    if found is None or found[2] not in _PARTS:
        raise ModelError(f"GGUF has no name for {stem}")
    return f"blk.{found[1]}.{_PARTS[found[2]]}.{kind}"


def frequency_factors(config: ModelConfig) -> np.ndarray:
    """What llama.cpp divides each rotary frequency by, [D/2]."""
    plain = inverse_frequencies(config.model_copy(update={"rope_scaling": None}))[0]
    return (plain / inverse_frequencies(config)[0]).numpy()


def type_of(name: str, shape: tuple[int, ...], wanted: str) -> str:
    """The type that a tensor gets in a file of the type `wanted`."""
    if len(shape) == 1 or name.endswith(("ffn_gate_inp.weight", "_norm.weight")):
        return "f32"
    if not wanted.startswith("q"):
        return wanted
    if shape[-1] % BLOCK:
        return "f16"
    outside = name in ("token_embd.weight", "output.weight")
    return "q8_0" if outside and wanted != "q8_0" else wanted


def packed(name: str, value: np.ndarray, kind: str) -> tuple[np.ndarray, Any]:
    """A tensor's bytes in a type of `DIRECT_TYPES`, and the package's name of it. ModelError for what overflows."""
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    qtype = GGMLQuantizationType[kind.upper()]
    if not np.isfinite(value).all():
        raise ModelError(f"{name} holds numbers that are not finite")
    with np.errstate(over="ignore"):
        data = quantize(value, qtype)
    if kind == "f16" and not np.isfinite(data).all():
        raise ModelError(f"{name} holds numbers beyond 65504, which f16 does not have", hint="Write bf16 or f32.")
    return data, qtype


def bytes_of(shapes: Mapping[str, tuple[int, ...]], wanted: str) -> int:
    """How large the tensors of a file of the type `wanted` are together, before any is made; `shapes` by our names."""
    bits = {"f32": 32.0, "f16": 16.0, "bf16": 16.0, "q8_0": 8.5, "q5_1": 6.0, "q5_0": 5.5, "q4_1": 5.0, "q4_0": 4.5}
    return int(
        sum(bits[type_of(gguf_name(name), shape, wanted)] * np.prod(shape) / 8 for name, shape in shapes.items())
    )
