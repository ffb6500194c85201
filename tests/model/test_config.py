"""ModelConfig: exact sizes, and every setting that would be wrong or idle is refused."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from luopan.model.config import ModelConfig, extend_context
from luopan.model.decoder import Decoder

TINY = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
MIXED = ["sliding_attention", "full_attention", "sliding_attention"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tie_word_embeddings": False},
        {"num_key_value_heads": 1, "attention_bias": True},
        {"num_key_value_heads": 2, "attention_bias": True, "attention_output_bias": False, "mlp_bias": True},
        {"qk_norm": True, "head_dim": 6, "mlp_bias": True},
        {"attention_sinks": True, "sliding_window": 8},
        {**EXPERTS, "shared_expert_intermediate_size": 12, "router_bias_update_rate": 0.1},
        {**EXPERTS, "decoder_sparse_step": 2, "moe_intermediate_size": 8, "mlp_bias": True},
        {**EXPERTS, "mlp_only_layers": [0], "router_aux_loss_coef": 0.1},
    ],
)
def test_num_parameters_is_that_of_the_module(options: dict) -> None:
    config = ModelConfig(**TINY, **options)
    model = Decoder(config)
    assert config.num_parameters() == sum(parameter.numel() for parameter in model.parameters())
    embeddings = model.embed_tokens.weight.numel() * (1 if config.tie_word_embeddings else 2)
    assert config.num_non_embedding_parameters() == config.num_parameters() - embeddings


def test_active_parameters_leave_out_the_experts_not_chosen() -> None:
    config = ModelConfig(**TINY, **EXPERTS, mlp_only_layers=[1], moe_intermediate_size=10)
    # Two layers with experts, of whose 4 two are used, 3 matrices of 16 by 10 each.
    assert config.num_parameters() - config.num_active_parameters() == 2 * 2 * 3 * 16 * 10
    dense = ModelConfig(**TINY)
    assert dense.num_active_parameters() == dense.num_parameters()


def test_flops_by_hand() -> None:
    # One layer, width 2, one head of 2, inner 3, vocabulary 5: attention 4 * 2 * 2 = 16, MLP 3 * 2 * 3 = 18,
    # three norms of 2 = 6, head 10: N = 50. 6 * 50 + 12 * 1 * 1 * 2 * 7 = 468.
    config = ModelConfig(vocab_size=5, hidden_size=2, intermediate_size=3, num_hidden_layers=1, num_attention_heads=1)
    assert config.flops_per_token(7) == 468
    # Four experts of inner 3, two of them used: instead of 18 the router's 4 * 2 and two times 18, N = 50 + 8 + 18.
    mixture = ModelConfig.model_validate({**config.model_dump(), "num_experts": 4, "num_experts_per_tok": 2})
    assert mixture.flops_per_token(7) == 6 * 76 + 12 * 2 * 7
    windowed = ModelConfig.model_validate({**config.model_dump(), "num_hidden_layers": 2, "sliding_window": 5})
    half = ModelConfig.model_validate({**windowed.model_dump(), "full_attention_interval": 2})
    assert windowed.flops_per_token(7) - windowed.flops_per_token(5) == 0
    assert half.flops_per_token(7) - windowed.flops_per_token(7) == 12 * 2 * (7 - 5)  # one layer sees all 7
    assert half.flops_per_token(3) == windowed.flops_per_token(3)
    untied = config.model_copy(update={"tie_word_embeddings": False})
    assert untied.flops_per_token(7) == 468  # an input embedding of its own is looked up, not multiplied


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"hiden_size": 4}, "hiden_size"),
        ({"num_attention_heads": 3}, "not a multiple of num_attention_heads"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"head_dim": 5}, "odd"),
        ({"sliding_window": 2048}, "not shorter than max_position_embeddings"),
        ({"full_attention_interval": 2}, "full_attention_interval has no effect without sliding_window"),
        ({"layer_types": ["sliding_attention"] * 3}, "layer_types has no effect without sliding_window"),
        ({"sliding_window": 8, "full_attention_interval": 4}, "no effect on 3 layers"),
        ({"sliding_window": 8, "full_attention_interval": 2, "layer_types": MIXED}, "give one"),
        ({"sliding_window": 8, "layer_types": MIXED[:2]}, "2 entries for 3 layers"),
        ({"sliding_window": 8, "layer_types": ["full_attention"] * 3}, "sliding_window has no effect"),
        ({"sliding_window": 8, "layer_types": ["sliding_attention"] * 3}, "leave it out"),
        ({"partial_rotary_factor": 0.8}, "turns 3 components"),
        ({"partial_rotary_factor": 0.1}, "turns 0 components"),
        ({"partial_rotary_factor": 0.5, "no_rope_layer_interval": 1}, "partial_rotary_factor has no effect"),
        ({"rope_theta": 500.0, "no_rope_layer_interval": 1}, "rope_theta has no effect"),
        ({"num_experts": 4}, "needs num_experts_per_tok"),
        ({"num_experts_per_tok": 2}, "num_experts_per_tok has no effect without num_experts"),
        ({"shared_expert_intermediate_size": 8}, "no effect without num_experts"),
        ({"norm_topk_prob": False, "router_z_loss_coef": 0.1}, "norm_topk_prob, router_z_loss_coef has no effect"),
        ({**EXPERTS, "num_experts_per_tok": 5}, "more than num_experts 4"),
        ({**EXPERTS, "num_experts_per_tok": 1}, "the router would get no gradient"),
        ({**EXPERTS, "num_experts_per_tok": 4, "router_aux_loss_coef": 0.1}, "router_aux_loss_coef has no effect"),
        ({**EXPERTS, "num_experts_per_tok": 4, "router_bias_update_rate": 0.1}, "router_bias_update_rate has no eff"),
        ({**EXPERTS, "decoder_sparse_step": 4}, "leave no layer to experts"),
        ({**EXPERTS, "mlp_only_layers": [3]}, "there are layers 0 to 2"),
        ({**EXPERTS, "mlp_only_layers": [-1]}, "there are layers 0 to 2"),
        ({**EXPERTS, "mlp_only_layers": [0], "decoder_sparse_step": 2}, "to no effect"),
        ({**EXPERTS, "mlp_only_layers": [0, 0]}, "to no effect"),
        ({**EXPERTS, "mlp_bias": True}, "mlp_bias has no effect"),
        ({**EXPERTS, "moe_intermediate_size": 8}, "intermediate_size 24 has no effect"),
        ({"attention_output_bias": True}, "attention_output_bias"),
        ({"no_rope_layers": [1, 0]}, "2 entries for 3 layers"),
        ({"no_rope_layers": [1, 0, 1], "no_rope_layer_interval": 2}, "give one"),
        ({"no_rope_layer_interval": 9}, "no effect"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2}}, "rope_type"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2, "beta_fast": 3}}, "does not use beta_fast"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2}}, "needs original_max_position_embeddings"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2}, "no_rope_layer_interval": 1}, "no layer uses"),
    ],
)
def test_mistakes_are_refused(options: dict, says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        ModelConfig(**{**TINY, **options})


def test_rope_layers() -> None:
    assert ModelConfig(**TINY).rope_layers == (True, True, True)
    assert ModelConfig(**TINY, no_rope_layer_interval=2).rope_layers == (True, False, True)
    assert ModelConfig(**TINY, no_rope_layers=[0, 1, 1]).rope_layers == (False, True, True)


def test_windows_and_mixtures_by_layer() -> None:
    assert ModelConfig(**TINY, sliding_window=8).windows == (8, 8, 8)
    assert ModelConfig(**TINY, sliding_window=8, full_attention_interval=2).windows == (8, None, 8)
    assert ModelConfig(**TINY, sliding_window=8, layer_types=MIXED).windows == (8, None, 8)
    assert ModelConfig(**TINY).windows == (None, None, None)
    assert ModelConfig(**TINY, **EXPERTS).moe_layers == (True, True, True)
    assert ModelConfig(**TINY, **EXPERTS, decoder_sparse_step=2).moe_layers == (False, True, False)
    assert ModelConfig(**TINY, **EXPERTS, mlp_only_layers=[0, 2]).moe_layers == (False, True, False)
    assert ModelConfig(**TINY, **EXPERTS, num_key_value_heads=2).expert_size == 24
    # Both ways of balancing together are allowed, and so is one width said twice.
    both = {"router_aux_loss_coef": 1e-4, "router_bias_update_rate": 1e-3, "moe_intermediate_size": 24}
    assert ModelConfig(**TINY, **EXPERTS, **both).router_bias_update_rate == 1e-3


def test_extend_context() -> None:
    config = ModelConfig(**TINY, max_position_embeddings=64)
    abf = extend_context(config, 256, method="abf", rope_theta=50_000.0)
    assert (abf.rope_theta, abf.max_position_embeddings, abf.rope_scaling) == (50_000.0, 256, None)
    yarn = extend_context(config, 256, method="yarn")
    assert yarn.rope_scaling is not None
    assert (yarn.rope_scaling.factor, yarn.rope_scaling.original_max_position_embeddings) == (4.0, 64)
    with pytest.raises(ValueError, match="abf"):
        extend_context(config, 256, method="abf")
    with pytest.raises(ValueError, match="do not extend"):
        extend_context(config, 64, method="linear")
    with pytest.raises(ValueError, match="scaled already"):
        extend_context(yarn, 512, method="linear")


def test_config_imports_no_torch() -> None:
    code = "import sys, luopan.model.config; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
