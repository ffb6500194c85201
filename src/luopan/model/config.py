"""What a decoder looks like: sizes, biases, rotary embeddings, and what follows from them (parameters, FLOPs).

Keys carry the names that Hugging Face configurations use, so a recipe and a `config.json` read alike; `hf.py`
translates between the two. This file imports no torch: plans and checks size a model without building it.
Not implemented, and refused: sliding windows, mixtures of experts, attention sinks, partial rotary embeddings.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

RopeType = Literal["linear", "yarn", "llama3"]

# Which keys mean something to which kind of scaling; any other key that is set would have no effect.
_SCALING_KEYS: dict[str, frozenset[str]] = {
    "linear": frozenset(),
    "yarn": frozenset(
        {
            "original_max_position_embeddings",
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
            "truncate",
        }
    ),
    "llama3": frozenset({"original_max_position_embeddings", "low_freq_factor", "high_freq_factor"}),
}
_SCALING_NEEDS: dict[str, frozenset[str]] = {
    "linear": frozenset(),
    "yarn": frozenset({"original_max_position_embeddings"}),
    "llama3": _SCALING_KEYS["llama3"],
}


class RopeScaling(BaseModel):
    """How rotary frequencies are rescaled for a longer context (`factor` times the pretrained one).

    linear: every frequency divided by `factor` (Chen et al. 2023). yarn: low frequencies divided, high ones kept, and
    attention sharpened (Peng et al. 2023, arXiv:2309.00071). llama3: the rule of Llama 3.1. A changed base (ABF,
    Xiong et al. 2023) is no scaling but another `rope_theta`; see `extend_context`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rope_type: RopeType
    factor: float = Field(ge=1.0)
    original_max_position_embeddings: int | None = Field(default=None, gt=0)
    attention_factor: float | None = Field(default=None, gt=0)
    beta_fast: float | None = Field(default=None, gt=0)
    beta_slow: float | None = Field(default=None, gt=0)
    mscale: float | None = Field(default=None, gt=0)
    mscale_all_dim: float | None = Field(default=None, gt=0)
    truncate: bool | None = None
    low_freq_factor: float | None = Field(default=None, gt=0)
    high_freq_factor: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _refuse_keys_without_effect(self) -> RopeScaling:
        given = {key for key in type(self).model_fields if getattr(self, key) is not None} - {"rope_type", "factor"}
        if idle := sorted(given - _SCALING_KEYS[self.rope_type]):
            raise ValueError(f"rope_type {self.rope_type!r} does not use {', '.join(idle)}")
        if absent := sorted(_SCALING_NEEDS[self.rope_type] - given):
            raise ValueError(f"rope_type {self.rope_type!r} needs {', '.join(absent)}")
        if (self.mscale is None) != (self.mscale_all_dim is None):
            raise ValueError("mscale and mscale_all_dim only have an effect together")
        if self.attention_factor is not None and self.mscale is not None:
            raise ValueError("attention_factor overrides mscale and mscale_all_dim: give one or the other")
        if (self.beta_fast or 32.0) <= (self.beta_slow or 1.0):
            raise ValueError("beta_fast must be greater than beta_slow")
        if self.low_freq_factor and self.high_freq_factor and self.high_freq_factor <= self.low_freq_factor:
            raise ValueError("high_freq_factor must be greater than low_freq_factor")
        return self


class ModelConfig(BaseModel):
    """The shape of a decoder. Frozen; unknown keys, and keys without effect, are errors (pydantic `ValidationError`).

    `num_key_value_heads` None means as many as query heads (1 is multi-query, between is grouped-query attention);
    `head_dim` None means hidden_size / num_attention_heads. `attention_bias` adds a bias to q, k, v and the output
    projection; `attention_output_bias: false` leaves the last one out, as Qwen2 does. NoPE layers (no rotary
    embedding) are every `no_rope_layer_interval`-th, that is (layer + 1) % interval == 0, or those where
    `no_rope_layers` holds 0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocab_size: int = Field(gt=0)
    hidden_size: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    num_hidden_layers: int = Field(gt=0)
    num_attention_heads: int = Field(gt=0)
    num_key_value_heads: int | None = Field(default=None, gt=0)
    head_dim: int | None = Field(default=None, gt=0)
    max_position_embeddings: int = Field(default=2048, gt=0)
    rope_theta: float = Field(default=10_000.0, gt=1.0)
    rope_scaling: RopeScaling | None = None
    no_rope_layer_interval: int | None = Field(default=None, gt=0)
    no_rope_layers: tuple[Literal[0, 1], ...] | None = None
    rms_norm_eps: float = Field(default=1e-6, gt=0)
    attention_bias: bool = False
    attention_output_bias: bool | None = None
    mlp_bias: bool = False
    qk_norm: bool = False
    tie_word_embeddings: bool = True
    initializer_range: float = Field(default=0.02, gt=0)
    sliding_window: None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_sliding_window(cls, data: object) -> object:
        if isinstance(data, dict) and data.get("sliding_window") is not None:
            raise ValueError(f"sliding_window {data['sliding_window']!r}: sliding-window attention is not implemented")
        return data

    @model_validator(mode="after")
    def _check_shape(self) -> ModelConfig:
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}: "
                "change one or give head_dim"
            )
        if self.head_size % 2:
            raise ValueError(f"the head dimension {self.head_size} is odd: rotary embeddings turn pairs")
        if self.num_attention_heads % self.kv_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.kv_heads}"
            )
        if self.attention_output_bias and not self.attention_bias:
            raise ValueError("attention_output_bias without attention_bias is not a shape we (or anyone) can load")
        return self

    @model_validator(mode="after")
    def _check_rope_layers(self) -> ModelConfig:
        if self.no_rope_layers is not None:
            if self.no_rope_layer_interval is not None:
                raise ValueError("no_rope_layers and no_rope_layer_interval say the same thing: give one")
            if len(self.no_rope_layers) != self.num_hidden_layers:
                raise ValueError(
                    f"no_rope_layers has {len(self.no_rope_layers)} entries for {self.num_hidden_layers} layers"
                )
        if self.no_rope_layer_interval is not None and self.no_rope_layer_interval > self.num_hidden_layers:
            raise ValueError(
                f"no_rope_layer_interval {self.no_rope_layer_interval} has no effect on {self.num_hidden_layers} layers"
            )
        if self.rope_scaling is not None and not any(self.rope_layers):
            raise ValueError("rope_scaling has no effect: no layer uses rotary embeddings")
        return self

    @property
    def kv_heads(self) -> int:
        """Key/value heads, with the default filled in."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_size(self) -> int:
        """Dimension of one head, with the default filled in."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def output_bias(self) -> bool:
        """Whether the attention's output projection has a bias."""
        return self.attention_bias if self.attention_output_bias is None else self.attention_output_bias

    @property
    def rope_layers(self) -> tuple[bool, ...]:
        """For each layer, whether it uses rotary embeddings."""
        if self.no_rope_layers is not None:
            return tuple(bool(flag) for flag in self.no_rope_layers)
        every = self.no_rope_layer_interval
        return tuple(every is None or (layer + 1) % every != 0 for layer in range(self.num_hidden_layers))

    def num_parameters(self) -> int:
        """All trained parameters of the module, a tied embedding counted once."""
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        return embeddings + self.num_non_embedding_parameters()

    def num_non_embedding_parameters(self) -> int:
        """Parameters without the token embedding and the output head."""
        hidden, inner = self.hidden_size, self.intermediate_size
        q_width, kv_width = self.num_attention_heads * self.head_size, self.kv_heads * self.head_size
        attention = hidden * (q_width + 2 * kv_width) + q_width * hidden
        attention += (q_width + 2 * kv_width) * self.attention_bias + hidden * self.output_bias
        attention += 2 * self.head_size * self.qk_norm
        mlp = 3 * hidden * inner + (2 * inner + hidden) * self.mlp_bias
        return self.num_hidden_layers * (attention + mlp + 2 * hidden) + hidden

    def flops_per_token(self, seq_len: int) -> float:
        """Training FLOPs (forward and backward) per token: 6 N + 12 L H D T (PaLM, appendix B, arXiv:2204.02311).

        N counts the parameters that multiply something: all but the input embedding, and the output head even when
        it is tied. T is the length attended over: `seq_len`, or the mean document length in packed rows. As in the
        source the causal half is not taken off, so a utilisation quoted from this is comparable with others'.
        Forward alone is a third of it.
        """
        multiplied = self.num_non_embedding_parameters() + self.vocab_size * self.hidden_size
        attention = 12 * self.num_hidden_layers * self.num_attention_heads * self.head_size * seq_len
        return float(6 * multiplied + attention)


def extend_context(
    config: ModelConfig,
    max_position_embeddings: int,
    *,
    method: Literal["abf", "linear", "yarn"],
    rope_theta: float | None = None,
) -> ModelConfig:
    """The same weights for a longer context: `abf` raises `rope_theta` (required), the others rescale frequencies.

    The scaling factor of `linear` and `yarn` is the new length over the old one. Raises ValueError where an argument
    would have no effect or the configuration is scaled already.
    """
    if max_position_embeddings <= config.max_position_embeddings:
        raise ValueError(f"{max_position_embeddings} positions do not extend {config.max_position_embeddings}")
    if (method == "abf") != (rope_theta is not None):
        raise ValueError(f"rope_theta belongs to method 'abf'; got method {method!r} and rope_theta {rope_theta}")
    values = config.model_dump() | {"max_position_embeddings": max_position_embeddings}
    if rope_theta is not None:
        return ModelConfig.model_validate(values | {"rope_theta": rope_theta})
    if config.rope_scaling is not None:
        raise ValueError(
            f"the model is scaled already ({config.rope_scaling.rope_type}); its pretrained length is lost"
        )
    scaling: dict[str, object] = {
        "rope_type": method,
        "factor": max_position_embeddings / config.max_position_embeddings,
    }
    if method == "yarn":
        scaling["original_max_position_embeddings"] = config.max_position_embeddings
    return ModelConfig.model_validate(values | {"rope_scaling": scaling})
