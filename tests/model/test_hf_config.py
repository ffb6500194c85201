"""Reading and writing `config.json`: what is refused, what is ignored, what is chosen."""

from __future__ import annotations

from typing import Any

import pytest

from luopan.errors import ModelError
from luopan.model.config import ModelConfig
from luopan.model.hf import from_hf_config, to_hf_config

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
}

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}


def _llama(**options: Any) -> dict[str, Any]:
    return {"model_type": "llama", **SHAPE, "num_key_value_heads": 2, "max_position_embeddings": 128, **options}


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"model_type": "gemma2", **SHAPE}, "model_type 'gemma2'"),
        ({"model_type": "luopan", **SHAPE}, "luopan is missing"),
        (SHAPE, "model_type is missing"),
        (_llama(vocab_size=None), "vocab_size"),
        (_llama(hidden_act="gelu"), "hidden_act"),
        (_llama(num_local_experts=8), "num_local_experts"),
        (_llama(attention_sinks=4), "attention_sinks"),
        (_llama(attention_dropout=0.1), "attention_dropout"),
        (_llama(quantization_config={"bits": 4}), "quantization_config"),
        (_llama(rope_scaling={"type": "dynamic", "factor": 2.0}), "rope_scaling.rope_type 'dynamic'"),
        (_llama(rope_parameters={"rope_type": "longrope", "factor": 2.0}), "rope_parameters.rope_type 'longrope'"),
        (_llama(rope_scaling={"type": "linear"}), "rope_scaling.factor"),
        (_llama(partial_rotary_factor=0.5), "partial_rotary_factor"),
        (_llama(num_key_value_heads=3), "num_key_value_heads"),
        (_llama(model_type="qwen3", layer_types=["linear_attention"] * 4), "layer_types"),
        (
            _llama(model_type="qwen3", use_sliding_window=True, sliding_window=8, layer_types=["full_attention"]),
            "1 ent",
        ),
        (_llama(model_type="smollm3", sliding_window=8, layer_types=["sliding_attention"] * 4), "use_sliding_window"),
        (_llama(model_type="mixtral", router_jitter_noise=0.1), "router_jitter_noise"),
        (_llama(model_type="mixtral", num_experts_per_tok=1), "norm_topk_prob"),
        (_llama(model_type="qwen3_moe", num_experts=1), "num_experts"),
        (_llama(model_type="smollm3", no_rope_layers=[1, 0]), "no_rope_layers"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(values: dict[str, Any], key: str) -> None:
    with pytest.raises(ModelError) as caught:
        from_hf_config(values, where="model/config.json")
    assert key in str(caught.value)
    assert "model/config.json" in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        _llama(pretraining_tp=4, sliding_window=64),  # Llama's class does not look at a window
        _llama(model_type="mistral", sliding_window=None),
        _llama(model_type="mistral", sliding_window=128),  # as long as the context: it never acts
        _llama(model_type="qwen2", use_sliding_window=False, sliding_window=64),
        _llama(model_type="qwen3", use_sliding_window=True, sliding_window=64, max_window_layers=4),
    ],
)
def test_what_has_no_effect_is_ignored(values: dict[str, Any]) -> None:
    config = from_hf_config(values)
    assert (config.hidden_size, config.sliding_window) == (32, None)


@pytest.mark.parametrize(
    ("values", "windows"),
    [
        (_llama(model_type="mistral", sliding_window=64), (64,) * 4),
        (_llama(model_type="mixtral", sliding_window=64), (64,) * 4),
        (_llama(model_type="qwen3_moe", use_sliding_window=True, sliding_window=64, max_window_layers=2), (64,) * 4),
        (_llama(model_type="qwen3_moe", sliding_window=64), (None,) * 4),
        (
            _llama(model_type="qwen2", use_sliding_window=True, sliding_window=64, max_window_layers=1),
            (None, 64, 64, 64),
        ),
        (
            _llama(model_type="qwen3", use_sliding_window=True, sliding_window=64, max_window_layers=0),
            (64,) * 4,
        ),
        (
            _llama(
                model_type="qwen3",
                use_sliding_window=True,
                sliding_window=64,
                layer_types=["sliding_attention", "full_attention"] * 2,
            ),
            (64, None) * 2,
        ),
        # SmolLM3 without layer_types: the layers without rotary embeddings slide, every fourth by default.
        (_llama(model_type="smollm3", use_sliding_window=True, sliding_window=64), (None, None, None, 64)),
    ],
)
def test_windows_that_act(values: dict[str, Any], windows: tuple[int | None, ...]) -> None:
    config = from_hf_config(values)
    assert config.windows == windows
    assert from_hf_config(to_hf_config(config)).windows == windows


def test_experts_are_read_without_what_has_no_effect() -> None:
    values = _llama(model_type="qwen3_moe", num_experts=4, num_experts_per_tok=2, mlp_only_layers=[0, 3])
    mixed = from_hf_config(values | {"decoder_sparse_step": 2, "moe_intermediate_size": 16})
    assert mixed.moe_layers == (False, True, False, False)
    assert (mixed.mlp_only_layers, mixed.moe_intermediate_size, mixed.norm_topk_prob) == ((3,), 16, False)
    assert mixed.router_aux_loss_coef == 0.001  # the default of its class
    whole = from_hf_config(_llama(model_type="qwen3_moe", moe_intermediate_size=16, norm_topk_prob=True))
    assert (whole.num_experts, whole.num_experts_per_tok) == (128, 8)
    assert (whole.intermediate_size, whole.moe_intermediate_size, whole.norm_topk_prob) == (16, None, None)
    renamed = from_hf_config(_llama(model_type="qwen3_moe", num_local_experts=16))
    assert renamed.num_experts == 16  # as transformers 5 writes it in places
    assert from_hf_config(_llama(model_type="qwen3_moe", num_experts=8)).router_aux_loss_coef is None  # all 8 chosen


def test_old_and_new_rope_keys_read_alike() -> None:
    yarn = {"factor": 4.0, "original_max_position_embeddings": 32}
    old = from_hf_config(_llama(rope_theta=5e5, rope_scaling={"type": "yarn", **yarn}))
    new = from_hf_config(_llama(rope_parameters={"rope_type": "yarn", "rope_theta": 5e5, **yarn}))
    assert old == new
    assert (old.rope_theta, old.rope_scaling and old.rope_scaling.factor) == (5e5, 4.0)


def test_either_form_of_the_rope_keys_is_written_whole() -> None:
    """transformers 4.5x reads only the old keys, 5 the new ones: each must do alone."""
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    config = ModelConfig(**SHAPE, rope_theta=5e5, rope_scaling=scaling)
    written = to_hf_config(config)
    new = {key: value for key, value in written.items() if key not in ("rope_theta", "rope_scaling")}
    old = {key: value for key, value in written.items() if key != "rope_parameters"}
    assert from_hf_config(new) == from_hf_config(old) == config


def test_missing_keys_take_the_defaults_of_their_class() -> None:
    smollm3 = from_hf_config({"model_type": "smollm3", **SHAPE})
    assert (smollm3.rope_theta, smollm3.kv_heads, smollm3.tie_word_embeddings) == (2e6, 4, True)
    assert smollm3.rope_layers == (True, True, True, False)
    assert from_hf_config({"model_type": "llama", **SHAPE}).tie_word_embeddings is False


@pytest.mark.parametrize(
    ("options", "model_type"),
    [
        ({}, "llama"),
        ({"attention_bias": True, "mlp_bias": True}, "llama"),
        ({"attention_bias": True, "attention_output_bias": False}, "qwen2"),
        ({"qk_norm": True, "attention_bias": True}, "qwen3"),
        ({"no_rope_layer_interval": 2}, "smollm3"),
        ({"no_rope_layers": [1, 0, 0, 1]}, "smollm3"),
        ({"hidden_size": 30, "head_dim": 8}, "mistral"),
        ({"sliding_window": 16}, "mistral"),
        ({"sliding_window": 16, "full_attention_interval": 2}, "smollm3"),
        ({"sliding_window": 16, "layer_types": ["full_attention"] + ["sliding_attention"] * 3}, "smollm3"),
        ({"sliding_window": 16, "full_attention_interval": 3, "qk_norm": True}, "qwen3"),
        ({"num_experts": 4, "num_experts_per_tok": 2, "router_aux_loss_coef": 0.01}, "mixtral"),
        ({"num_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8, "router_z_loss_coef": 0.001}, "mixtral"),
        ({"num_experts": 4, "num_experts_per_tok": 1, "norm_topk_prob": False, "qk_norm": True}, "qwen3_moe"),
        (
            {
                "num_experts": 4,
                "num_experts_per_tok": 2,
                "qk_norm": True,
                "decoder_sparse_step": 2,
                "mlp_only_layers": [1],
                "moe_intermediate_size": 8,
            },
            "qwen3_moe",
        ),
        ({"no_rope_layer_interval": 1}, "smollm3"),
    ],
)
def test_chosen_architecture_round_trips(options: dict[str, Any], model_type: str) -> None:
    config = ModelConfig(**{**SHAPE, **options})
    written = to_hf_config(config)
    assert written["model_type"] == model_type
    assert from_hf_config(written) == config


@pytest.mark.parametrize(
    ("options", "architecture", "names"),
    [
        ({"no_rope_layer_interval": 2}, "llama", "no_rope_layers"),
        ({"qk_norm": True}, "LlamaForCausalLM", "qk_norm"),
        ({}, "qwen3", "qk_norm"),
        ({}, "qwen2", "biases"),
        ({"attention_bias": True}, "mistral", "attention_bias"),
        ({"mlp_bias": True}, "mistral", "mlp_bias"),
        ({"qk_norm": True, "no_rope_layer_interval": 2}, None, "qk_norm"),
        ({"attention_sinks": True}, None, "attention_sinks true"),
        ({"attention_sinks": True}, "llama", "attention_sinks true"),
        ({"attn_logit_softcapping": 50.0}, None, "attn_logit_softcapping 50"),
        ({"final_logit_softcapping": 30.0}, None, "final_logit_softcapping 30"),
        ({"partial_rotary_factor": 0.5}, None, "partial_rotary_factor 0.5"),
        ({"sliding_window": 16}, "llama", "sliding_window 16"),
        ({"sliding_window": 16, "full_attention_interval": 2}, "mistral", "full_attention_interval"),
        ({**EXPERTS, "shared_expert_intermediate_size": 8}, None, "shared_expert_intermediate_size 8"),
        ({**EXPERTS, "router_bias_update_rate": 0.001}, None, "router_bias_update_rate 0.001"),
        ({**EXPERTS, "decoder_sparse_step": 2}, None, "decoder_sparse_step"),
        ({**EXPERTS, "norm_topk_prob": False}, "mixtral", "norm_topk_prob false"),
        ({**EXPERTS, "attention_bias": True}, "mixtral", "attention_bias true"),
        (EXPERTS, "qwen3_moe", "qk_norm false"),
        (EXPERTS, "llama", "num_experts 4"),
        ({}, "mixtral", "a model without experts"),
        ({}, "gpt2", "not supported"),
    ],
)
def test_what_the_target_cannot_express_is_named(options: dict[str, Any], architecture: str | None, names: str) -> None:
    with pytest.raises(ModelError, match=names):
        to_hf_config(ModelConfig(**SHAPE, **options), architecture)


def test_our_own_form_where_no_family_will_do() -> None:
    config = ModelConfig(**SHAPE, attention_sinks=True, rope_scaling={"rope_type": "linear", "factor": 2})
    written = to_hf_config(config, "auto")
    assert written["model_type"] == "luopan" and from_hf_config(written) == config
    assert to_hf_config(ModelConfig(**SHAPE), "auto")["model_type"] == "llama"
    assert to_hf_config(ModelConfig(**SHAPE), "luopan")["model_type"] == "luopan"
    written["luopan"]["hidden_size"] = 31
    with pytest.raises(ModelError, match=r"x/config\.json: .*hidden_size 31"):
        from_hf_config(written, where="x/config.json")
