"""What follows from a configuration: how many parameters, how many of them a token uses, how many FLOPs it costs.

Behind the methods of `ModelConfig`. No torch: plans size a model without building it. Exact, tested against the module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from luopan.model.config import ModelConfig


def embedding_parameters(config: ModelConfig) -> int:
    """The token embedding, and the output head where it is not tied."""
    return config.vocab_size * config.hidden_size * (1 if config.tie_word_embeddings else 2)


def non_embedding_parameters(config: ModelConfig, *, active: bool) -> int:
    """Everything else. `active`: of the experts only as many as a token is sent to, and the shared one."""
    sparse = sum(config.moe_layers)
    feed_forward = (config.num_hidden_layers - sparse) * _dense(config) + sparse * _mixture(config, active)
    per_layer = _attention(config) + 2 * config.hidden_size
    return config.num_hidden_layers * per_layer + feed_forward + config.hidden_size


def _attention(config: ModelConfig) -> int:
    hidden, q_width = config.hidden_size, config.num_attention_heads * config.head_size
    kv_width = config.kv_heads * config.head_size
    matrices = hidden * (q_width + 2 * kv_width) + q_width * hidden
    biases = (q_width + 2 * kv_width) * config.attention_bias + hidden * config.output_bias
    return (
        matrices + biases + 2 * config.head_size * config.qk_norm + config.num_attention_heads * config.attention_sinks
    )


def _dense(config: ModelConfig) -> int:
    hidden, inner = config.hidden_size, config.intermediate_size
    return 3 * hidden * inner + (2 * inner + hidden) * config.mlp_bias


def _mixture(config: ModelConfig, active: bool) -> int:
    if config.num_experts is None or config.num_experts_per_tok is None:
        return 0
    experts = config.num_experts_per_tok if active else config.num_experts
    inner = experts * config.expert_size + (config.shared_expert_intermediate_size or 0)
    return 3 * config.hidden_size * inner + config.num_experts * config.hidden_size


def flops_per_token(config: ModelConfig, seq_len: int) -> float:
    """See `ModelConfig.flops_per_token`."""
    multiplied = non_embedding_parameters(config, active=True) + config.vocab_size * config.hidden_size
    seen = sum(seq_len if window is None else min(window, seq_len) for window in config.windows)
    return float(6 * multiplied + 12 * config.num_attention_heads * config.head_size * seen)
