"""What a decoder looks like: sizes, biases, rotary embeddings, windows, experts, and what follows from them.

Keys carry the names that Hugging Face configurations use, so a recipe and a `config.json` read alike; `hf.py`
translates between the two. This file imports no torch: plans and checks size a model without building it.
What may not be said together is in `checks.py`, the counting in `sizes.py`, named shapes in `presets.py`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

from luopan.model import checks, sizes
from luopan.model.presets import PRESETS, expand
from luopan.model.scaling import RopeScaling, RopeType

__all__ = ["LayerType", "ModelConfig", "RopeScaling", "RopeType", "extend_context"]

LayerType = Literal["full_attention", "sliding_attention"]


def _describe_preset(schema: dict[str, Any]) -> None:
    """For editors: `preset` is no field, since it is expanded before anything is checked, but it may be written."""
    schema["properties"]["preset"] = {
        "enum": [*PRESETS],
        "title": "Preset",
        "description": "a named shape to start from",
    }
    schema["anyOf"] = [{"required": ["preset"]}, {"required": schema.pop("required")}]


class ModelConfig(BaseModel):
    """The shape of a decoder. Frozen; unknown keys, and keys without effect, are errors (pydantic `ValidationError`).

    `preset: NAME` fills in a shape of `presets.py`, which the other keys then change; what is kept and dumped are the
    values, not the name.

    Heads. `num_key_value_heads` None means as many as query heads (1 is multi-query, between is grouped-query
    attention); `head_dim` None means hidden_size / num_attention_heads. `attention_bias` adds a bias to q, k, v and
    the output projection; `attention_output_bias: false` leaves the last one out, as Qwen2 does.

    Positions. NoPE layers (no rotary embedding) are every `no_rope_layer_interval`-th, that is
    (layer + 1) % interval == 0, or those where `no_rope_layers` holds 0. `partial_rotary_factor` is the share of a
    head that is rotated, its first components; the rest carries no position.

    What is seen. `sliding_window` is how many tokens back a layer sees, itself included. It holds for every layer,
    but for each `full_attention_interval`-th, that is (layer + 1) % interval == 0, or for those that `layer_types`
    calls sliding_attention. `attention_sinks` gives each head one learnt logit that takes part in the softmax and
    carries no value (gpt-oss). Soft caps are cap * tanh(x / cap): `attn_logit_softcapping` on scaled scores before
    the mask, `final_logit_softcapping` on the output (Gemma 2, arXiv:2408.00118).

    Experts. `num_experts` makes every layer a mixture, but for `mlp_only_layers` and those where
    (layer + 1) % `decoder_sparse_step` != 0. `moe_intermediate_size` (None: intermediate_size) is the width of one
    expert, `shared_expert_intermediate_size` that of the one that sees every token. `norm_topk_prob` (None: true)
    makes the weights of the chosen sum to 1. `router_aux_loss_coef` weighs the balance loss, `router_z_loss_coef`
    that of the router's logsumexp^2; `router_bias_update_rate` is the step of the bias that balances without a loss.
    The two ways of balancing may be used together; then the loss should be small (DeepSeek-V3 takes 1e-4).

    Start. Matrices are normal(0, initializer_range); `depth_scaled` divides that by sqrt(2 layers) for the two
    projections that write into the residual stream, o_proj and down_proj (GPT-2).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=_describe_preset)
    # Keys that may be written though they are no fields: they are expanded before anything is checked.
    WRITABLE: ClassVar[dict[str, FieldInfo]] = {
        "preset": FieldInfo(annotation=str, default=None, description="a named shape that the other keys change")
    }

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
    initializer: Literal["normal", "depth_scaled"] = "normal"
    partial_rotary_factor: float = Field(default=1.0, gt=0, le=1)
    sliding_window: int | None = Field(default=None, gt=0)
    full_attention_interval: int | None = Field(default=None, gt=1)
    layer_types: tuple[LayerType, ...] | None = None
    attention_sinks: bool = False
    attn_logit_softcapping: float | None = Field(default=None, gt=0)
    final_logit_softcapping: float | None = Field(default=None, gt=0)
    num_experts: int | None = Field(default=None, gt=1)
    num_experts_per_tok: int | None = Field(default=None, gt=0)
    moe_intermediate_size: int | None = Field(default=None, gt=0)
    shared_expert_intermediate_size: int | None = Field(default=None, gt=0)
    norm_topk_prob: bool | None = None
    decoder_sparse_step: int | None = Field(default=None, gt=0)
    mlp_only_layers: tuple[int, ...] | None = None
    router_aux_loss_coef: float | None = Field(default=None, ge=0)
    router_z_loss_coef: float | None = Field(default=None, ge=0)
    router_bias_update_rate: float | None = Field(default=None, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _expand_preset(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        # A recipe is read strictly, and a dictionary's list would then be no tuple.
        data = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
        return expand(data) if "preset" in data else data

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        checks.check_shape(self)
        checks.check_rope(self)
        checks.check_windows(self)
        checks.check_experts(self)
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
    def rotary_size(self) -> int:
        """Components of a head that are rotated: the first `partial_rotary_factor` of them."""
        return int(self.head_size * self.partial_rotary_factor)

    @property
    def windows(self) -> tuple[int | None, ...]:
        """For each layer, how many tokens back it sees, itself included; None: all of the document."""
        layers = range(self.num_hidden_layers)
        if self.layer_types is not None:
            return tuple(self.sliding_window if kind == "sliding_attention" else None for kind in self.layer_types)
        every = self.full_attention_interval
        return tuple(None if every is not None and (n + 1) % every == 0 else self.sliding_window for n in layers)

    @property
    def moe_layers(self) -> tuple[bool, ...]:
        """For each layer, whether a mixture of experts takes the place of the MLP."""
        if self.num_experts is None:
            return (False,) * self.num_hidden_layers
        dense, step = self.mlp_only_layers or (), self.decoder_sparse_step or 1
        return tuple(n not in dense and (n + 1) % step == 0 for n in range(self.num_hidden_layers))

    @property
    def expert_size(self) -> int:
        """Inner width of one expert, with the default filled in."""
        return self.moe_intermediate_size or self.intermediate_size

    @property
    def rope_layers(self) -> tuple[bool, ...]:
        """For each layer, whether it uses rotary embeddings."""
        if self.no_rope_layers is not None:
            return tuple(bool(flag) for flag in self.no_rope_layers)
        every = self.no_rope_layer_interval
        return tuple(every is None or (layer + 1) % every != 0 for layer in range(self.num_hidden_layers))

    def num_parameters(self) -> int:
        """All trained parameters of the module, a tied embedding counted once."""
        return sizes.embedding_parameters(self) + self.num_non_embedding_parameters()

    def num_active_parameters(self) -> int:
        """Parameters that one token uses: of the experts only those it is sent to. All of them in a dense model."""
        return sizes.embedding_parameters(self) + sizes.non_embedding_parameters(self, active=True)

    def num_non_embedding_parameters(self) -> int:
        """Parameters without the token embedding and the output head."""
        return sizes.non_embedding_parameters(self, active=False)

    def flops_per_token(self, seq_len: int) -> float:
        """Training FLOPs (forward and backward) per token: 6 N + 12 L H D T (PaLM, appendix B, arXiv:2204.02311).

        N counts the parameters that multiply something: all but the input embedding, the output head even when it is
        tied, and of the experts those that a token is sent to. T is the length attended over: `seq_len`, or the mean
        document length in packed rows, and in a layer with a sliding window no more than that. As in the source the
        causal half is not taken off, so a utilisation quoted from this is comparable with others'. Forward alone is
        a third of it.
        """
        return sizes.flops_per_token(self, seq_len)


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
