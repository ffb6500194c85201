"""What a `ModelConfig` may not say: keys that contradict each other, and keys that would have no effect.

Each function raises ValueError, which pydantic turns into a ValidationError with the place. Apart from `config.py`
for its length only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from luopan.model.config import ModelConfig

# Everything that says nothing without `num_experts`.
_EXPERT_KEYS = (
    "num_experts_per_tok",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
    "norm_topk_prob",
    "decoder_sparse_step",
    "mlp_only_layers",
    "router_aux_loss_coef",
    "router_z_loss_coef",
    "router_bias_update_rate",
)
_DEFAULT_THETA = 10_000.0


def check_shape(config: ModelConfig) -> None:
    """Heads fit the width, and biases are a shape that exists."""
    if config.head_dim is None and config.hidden_size % config.num_attention_heads:
        raise ValueError(
            f"hidden_size {config.hidden_size} is not a multiple of num_attention_heads "
            f"{config.num_attention_heads}: change one or give head_dim"
        )
    if config.head_size % 2:
        raise ValueError(f"the head dimension {config.head_size} is odd: rotary embeddings turn pairs")
    if config.num_attention_heads % config.kv_heads:
        raise ValueError(
            f"num_attention_heads {config.num_attention_heads} is not a multiple of "
            f"num_key_value_heads {config.kv_heads}"
        )
    if config.attention_output_bias and not config.attention_bias:
        raise ValueError("attention_output_bias without attention_bias is not a shape we (or anyone) can load")


def check_rope(config: ModelConfig) -> None:
    """Which layers rotate, how much of a head, and that some layer does where a key says how."""
    layers = config.num_hidden_layers
    if config.no_rope_layers is not None:
        if config.no_rope_layer_interval is not None:
            raise ValueError("no_rope_layers and no_rope_layer_interval say the same thing: give one")
        if len(config.no_rope_layers) != layers:
            raise ValueError(f"no_rope_layers has {len(config.no_rope_layers)} entries for {layers} layers")
    if config.no_rope_layer_interval is not None and config.no_rope_layer_interval > layers:
        raise ValueError(f"no_rope_layer_interval {config.no_rope_layer_interval} has no effect on {layers} layers")
    if config.rotary_size == 0 or config.rotary_size % 2:
        raise ValueError(
            f"partial_rotary_factor {config.partial_rotary_factor:g} of a head of {config.head_size} turns "
            f"{config.rotary_size} components: it must be an even number, at least 2"
        )
    if any(config.rope_layers):
        return
    for key, idle in (
        ("rope_scaling", config.rope_scaling is not None),
        ("partial_rotary_factor", config.partial_rotary_factor != 1),
        ("rope_theta", config.rope_theta != _DEFAULT_THETA),
    ):
        if idle:
            raise ValueError(f"{key} has no effect: no layer uses rotary embeddings")


def check_windows(config: ModelConfig) -> None:
    """A window that acts, on layers that are named one way and not all of them needlessly."""
    window, every, kinds = config.sliding_window, config.full_attention_interval, config.layer_types
    layers = config.num_hidden_layers
    if window is None:
        for key, given in (("full_attention_interval", every), ("layer_types", kinds)):
            if given is not None:
                raise ValueError(f"{key} has no effect without sliding_window")
        return
    if window >= config.max_position_embeddings:
        raise ValueError(
            f"sliding_window {window} has no effect: it is not shorter than max_position_embeddings "
            f"{config.max_position_embeddings}"
        )
    if every is not None and kinds is not None:
        raise ValueError("layer_types and full_attention_interval say the same thing: give one")
    if every is not None and every > layers:
        raise ValueError(f"full_attention_interval {every} has no effect on {layers} layers")
    if kinds is None:
        return
    if len(kinds) != layers:
        raise ValueError(f"layer_types has {len(kinds)} entries for {layers} layers")
    if "sliding_attention" not in kinds:
        raise ValueError("sliding_window has no effect: layer_types names no sliding_attention layer")
    if "full_attention" not in kinds:
        raise ValueError("layer_types has no effect where every layer slides: leave it out")


def check_experts(config: ModelConfig) -> None:
    """Experts that are routed to, by a router that learns, in layers that exist."""
    if config.num_experts is None:
        if idle := [key for key in _EXPERT_KEYS if getattr(config, key) is not None]:
            raise ValueError(f"{', '.join(idle)} has no effect without num_experts")
        return
    chosen = config.num_experts_per_tok
    if chosen is None:
        raise ValueError("num_experts needs num_experts_per_tok")
    if chosen > config.num_experts:
        raise ValueError(f"num_experts_per_tok {chosen} is more than num_experts {config.num_experts}")
    if chosen == 1 and config.norm_topk_prob is not False:
        raise ValueError(
            "norm_topk_prob with num_experts_per_tok 1 makes every weight 1, and the router would get no gradient: "
            "set norm_topk_prob to false"
        )
    if chosen == config.num_experts:
        for key in ("router_aux_loss_coef", "router_bias_update_rate"):
            if getattr(config, key):
                raise ValueError(f"{key} has no effect where every token goes to all {chosen} experts")
    _check_expert_layers(config)


def _check_expert_layers(config: ModelConfig) -> None:
    layers, step, dense = config.num_hidden_layers, config.decoder_sparse_step or 1, config.mlp_only_layers or ()
    for layer in dense:
        if not 0 <= layer < layers:
            raise ValueError(f"mlp_only_layers names layer {layer}; there are layers 0 to {layers - 1}")
        if (layer + 1) % step or dense.count(layer) > 1:
            raise ValueError(f"mlp_only_layers names layer {layer} to no effect: it has no experts without that")
    if not any(config.moe_layers):
        raise ValueError("num_experts has no effect: decoder_sparse_step and mlp_only_layers leave no layer to experts")
    if not all(config.moe_layers):
        return
    if config.mlp_bias:
        raise ValueError("mlp_bias has no effect: every layer is a mixture of experts, which have no biases")
    if config.moe_intermediate_size not in (None, config.intermediate_size):
        raise ValueError(
            f"intermediate_size {config.intermediate_size} has no effect: every layer is a mixture of experts of "
            f"moe_intermediate_size {config.moe_intermediate_size}. Set both alike, or moe_intermediate_size alone"
            " to null"
        )
