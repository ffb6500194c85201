"""The way back from `gguf_shapes.py` and `gguf_tensors.py`: a GGUF file's shape and weights as a decoder's.

Every architecture that is written here is read here, whatever its shape: `transformers` takes Qwen3's heads for 128
wide and knows no SmolLM3, no Mixtral, no scaled frequencies. Quantised weights come back as the numbers that llama.cpp
computes with, in fp32. What the file says and is not known here is a ModelError that names the key.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from luopan.errors import ModelError
from luopan.model.config import ModelConfig
from luopan.model.gguf_shapes import GGUF_ARCHITECTURES, SMOLLM3_STEP, GgufArchitecture
from luopan.model.gguf_tensors import frequency_factors, gguf_name

# Keys of other models that share these architectures' names and compute something else.
_UNKNOWN = (
    "attention.scale", "attention.sliding_window", "attention.clamp_kqv", "attention.max_alibi_bias", "logit_scale",
    "embedding_scale", "residual_scale", "expert_shared_count", "expert_weights_scale", "expert_gating_func",
    "rope.scaling.attn_factor", "rope.scaling.yarn_log_multiplier", "attention.causal",
)  # fmt: skip


class GgufModel:
    """An opened file. Raises ModelError for a damaged one."""

    def __init__(self, file: Path) -> None:
        from gguf import GGUFReader

        try:
            self._reader = GGUFReader(file)
            self.name = str(self._value("general.architecture"))
        except Exception as error:  # a damaged file fails its parser in many ways
            first = (str(error) or type(error).__name__).splitlines()[0]
            raise ModelError(f"cannot be read: {first}", where=file) from error
        self.file = file

    @property
    def architecture(self) -> GgufArchitecture | None:
        """One of ours, or None."""
        return GGUF_ARCHITECTURES.get(self.name)

    def config(self) -> ModelConfig:
        """The shape. Raises ModelError for what is not implemented here."""
        assert self.architecture is not None
        for key in _UNKNOWN:
            if self._own(key) not in (None, 0, 0.0, False):
                raise ModelError(f"{self.name}.{key} {self._own(key)!r} is not implemented", where=self.file)
        tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        # numpy's order of an embedding [V, C] is the file's turned round.
        vocab = int(tensors["token_embd.weight"].shape[1]) if "token_embd.weight" in tensors else 0
        heads, hidden = self._need("attention.head_count"), self._need("embedding_length")
        values: dict[str, Any] = {
            "vocab_size": vocab,
            "hidden_size": hidden,
            "intermediate_size": self._own("feed_forward_length"),
            "num_hidden_layers": self._need("block_count"),
            "num_attention_heads": heads,
            "max_position_embeddings": self._need("context_length"),
            "rms_norm_eps": float(f"{self._need('attention.layer_norm_rms_epsilon'):.6g}"),  # stored as fp32
            "rope_theta": self._own("rope.freq_base") or 10_000.0,
            "tie_word_embeddings": "output.weight" not in tensors,
            "qk_norm": self.architecture.qk_norm,
            "attention_bias": "blk.0.attn_q.bias" in tensors,
            "mlp_bias": "blk.0.ffn_up.bias" in tensors,
        }
        if (kv := self._own("attention.head_count_kv")) not in (None, heads):
            values["num_key_value_heads"] = kv
        size = self._own("attention.key_length") or self._own("rope.dimension_count") or hidden // heads
        if size * heads != hidden:
            values["head_dim"] = size
        if values["attention_bias"] and "blk.0.attn_output.bias" not in tensors:
            values["attention_output_bias"] = False
        if self.name == "smollm3" and values["num_hidden_layers"] >= SMOLLM3_STEP:
            values["no_rope_layer_interval"] = SMOLLM3_STEP
        if experts := self._own("expert_count"):
            width = self._own("expert_feed_forward_length") or values["intermediate_size"]
            values |= {"num_experts": experts, "num_experts_per_tok": self._need("expert_used_count")}
            values["intermediate_size"] = width  # every layer has experts there
        try:
            return self._with_scaling(ModelConfig.model_validate({**values, **self._scaling()}), tensors)
        except ValidationError as error:
            first = error.errors()[0]
            raise ModelError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", where=self.file) from error

    def state(self, config: ModelConfig, names: list[str]) -> dict[str, Tensor]:
        """The weights by our names, fp32; ModelError where one is missing or left over."""
        from gguf.quants import dequantize

        assert self.architecture is not None
        found = {tensor.name: tensor for tensor in self._reader.tensors}
        found.pop("rope_freqs.weight", None)
        state: dict[str, Tensor] = {}
        for name in names:
            theirs = gguf_name(name)
            if theirs not in found:
                raise ModelError(f"the tensor {theirs} is missing", where=self.file)
            tensor = found.pop(theirs)
            try:
                data = dequantize(tensor.data, tensor.tensor_type)
            except NotImplementedError as error:
                raise ModelError(f"{theirs}: {error}", where=self.file) from error
            value = torch.from_numpy(np.array(data, np.float32))
            if self.architecture.interleaved and re.search(r"\.[qk]_proj\.", name):
                heads = config.num_attention_heads if ".q_proj." in name else config.kv_heads
                value = value.unflatten(0, (heads, -1, 2)).transpose(1, 2).reshape(value.shape)
            state[name] = value
        if found:
            raise ModelError(f"the tensor {sorted(found)[0]} belongs to no part of the model", where=self.file)
        return state

    def _scaling(self) -> dict[str, Any]:
        kind = self._own("rope.scaling.type")
        factor = self._own("rope.scaling.factor")
        if kind in (None, "none") or (kind == "linear" and factor in (None, 0.0, 1.0)):
            return {}
        if kind not in ("linear", "yarn"):
            raise ModelError(f"{self.name}.rope.scaling.type {kind!r} is not implemented", where=self.file)
        scaling = {"rope_type": kind, "factor": factor}
        if kind == "yarn":
            scaling["original_max_position_embeddings"] = self._own("rope.scaling.original_context_length")
        return {"rope_scaling": scaling}

    def _with_scaling(self, config: ModelConfig, tensors: dict[str, Any]) -> ModelConfig:
        """Factors of single frequencies, which are a tensor, as the rule of Llama 3.1 with its published numbers."""
        if "rope_freqs.weight" not in tensors:
            return config
        stored = np.array(tensors["rope_freqs.weight"].data, np.float32)
        for power in range(4, 24):  # the pretrained length is not in the file
            rule = {
                "rope_type": "llama3", "factor": round(float(stored.max()), 4), "low_freq_factor": 1.0,
                "original_max_position_embeddings": 1 << power, "high_freq_factor": 4.0,
            }  # fmt: skip
            made = ModelConfig.model_validate({**config.model_dump(exclude_none=True), "rope_scaling": rule})
            if np.allclose(frequency_factors(made), stored, rtol=1e-4):
                return made
        raise ModelError("rope_freqs.weight follows no rule that is known here", where=self.file)

    def vocabulary(self, key: str) -> Any:
        """What the file says about its tokenizer under `key`; None where it says nothing."""
        return self._value(f"tokenizer.{key}")

    def _value(self, key: str) -> Any:
        field = self._reader.get_field(key)
        return None if field is None else field.contents()

    def _own(self, key: str) -> Any:
        return self._value(f"{self.name}.{key}")

    def _need(self, key: str) -> Any:
        found = self._own(key)
        if found is None:
            raise ModelError(f"{self.name}.{key} is missing", where=self.file)
        return found
