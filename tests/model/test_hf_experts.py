"""Experts in and out of folders: every form of the tensors, what is missing, buffers, our own form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from parity import jiggle, largest_differences, random_model
from safetensors.torch import load_file, save_file

from luopan.errors import ModelError
from luopan.model import hf
from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder

SHAPE = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "initializer_range": 0.15,
    "num_experts": 4,
    "num_experts_per_tok": 2,
}
IDS = torch.arange(36).view(2, 18)


def _model(**options: Any) -> Decoder:
    return random_model(ModelConfig(**{**SHAPE, **options}), 3)


def _logits(model: Decoder) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS)


def test_the_names_on_disk_are_those_of_transformers(tmp_path: Path) -> None:
    for options in ({}, {"qk_norm": True, "mlp_only_layers": [0]}):
        model = _model(**options)
        hf.save(model, tmp_path / "ours")
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
        theirs.save_pretrained(tmp_path / "theirs")
        ours, written = (load_file(tmp_path / name / "model.safetensors") for name in ("ours", "theirs"))
        assert set(ours) == set(written)
        assert all(torch.equal(ours[name], written[name]) for name in ours)


@pytest.mark.parametrize("qwen", [True, False])
def test_both_forms_of_expert_tensors_load(qwen: bool) -> None:
    """transformers 5 keeps gate and up in one tensor in memory, which is what a state dict of it holds."""
    model = _model(qk_norm=qwen)
    their_config = transformers.AutoConfig.for_model(**hf.to_hf_config(model.config))
    theirs = transformers.AutoModelForCausalLM.from_config(their_config).eval()
    jiggle(theirs, 5)
    joined = {name: tensor for name, tensor in theirs.state_dict().items() if name != "lm_head.weight"}
    assert any(name.endswith("mlp.experts.gate_up_proj") for name in joined)
    model.load_state_dict(hf.import_state_dict(model.config, joined))
    assert max(largest_differences(model, theirs)) < 1e-4


def _broken(folder: Path, model: Decoder, change: Any) -> None:
    hf.save(model, folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_an_expert_that_is_missing_is_named(tmp_path: Path) -> None:
    _broken(tmp_path, _model(), lambda t: t.pop("model.layers.1.block_sparse_moe.experts.2.w3.weight"))
    with pytest.raises(ModelError, match=r"layers.1.mlp.experts.up_proj: expert 2 of 4 is missing"):
        hf.load(tmp_path)


def test_an_expert_too_many_or_of_another_shape_is_named(tmp_path: Path) -> None:
    name = "model.layers.1.mlp.experts.{}.down_proj.weight"
    model = _model(qk_norm=True)
    _broken(tmp_path, model, lambda t: t.update({name.format(4): torch.zeros(16, 24)}))
    with pytest.raises(ModelError, match=r"experts.4.down_proj.weight is of an expert beyond num_experts 4"):
        hf.load(tmp_path)
    _broken(tmp_path, model, lambda t: t.update({name.format(3): torch.zeros(16, 23)}))
    with pytest.raises(ModelError, match=r"experts.3.down_proj.weight is \[16, 23\]"):
        hf.load(tmp_path)

    def drop_router(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["model.layers.0.mlp.gate.weight"]

    _broken(tmp_path, model, drop_router)
    with pytest.raises(ModelError, match=r"the first is model.layers.0.mlp.gate.weight"):
        hf.load(tmp_path)


def test_buffers_are_no_weights(tmp_path: Path) -> None:
    model = _model(router_aux_loss_coef=0.01)
    moe = model.layers[0].mlp
    moe.update(torch.tensor([1.0, 2, 3, 4]))
    hf.save(model, tmp_path, dtype=torch.bfloat16)
    assert not any("load" in name for name in load_file(tmp_path / "model.safetensors"))
    again = hf.load(tmp_path, dtype=None)
    assert again.config.router_aux_loss_coef == 0.01
    assert torch.equal(again.layers[0].mlp.load, torch.full((4,), 0.5))
    assert again.layers[0].mlp.load.dtype == torch.float32
    assert hf.load(tmp_path, dtype=torch.bfloat16).layers[0].mlp.load.dtype == torch.float32
    assert not any(tensor.is_meta for tensor in (*again.buffers(), *again.parameters()))
    hf.load(tmp_path)(IDS).sum().backward()


@pytest.mark.parametrize(
    "options",
    [
        {"shared_expert_intermediate_size": 12, "router_bias_update_rate": 0.1, "router_aux_loss_coef": 0.01},
        {"attention_sinks": True, "attn_logit_softcapping": 20.0, "sliding_window": 5, "full_attention_interval": 2},
        {"partial_rotary_factor": 0.5, "final_logit_softcapping": 10.0, "initializer": "depth_scaled"},
    ],
)
def test_our_own_form_keeps_everything(options: dict[str, Any], tmp_path: Path) -> None:
    model = _model(**options)
    with pytest.raises(ModelError, match="no Hugging Face architecture expresses this configuration"):
        hf.save(model, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    if options.get("router_bias_update_rate"):
        before = _logits(model)
        model.layers[1].mlp.update(torch.tensor([1.0, 2, 30, 4]))
        assert not torch.equal(_logits(model), before)  # the bias takes part in the choice: it has to be kept
    hf.save(model, tmp_path / "own", architecture="auto", eos_token_id=3)
    again = hf.load(tmp_path / "own")
    assert again.config == model.config
    assert set(again.state_dict()) == set(model.state_dict())
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(_logits(again), _logits(model))


def test_auto_writes_the_family_where_there_is_one(tmp_path: Path) -> None:
    hf.save(_model(), tmp_path, architecture="auto")
    assert transformers.AutoConfig.from_pretrained(tmp_path).model_type == "mixtral"


def test_the_loss_has_the_gradients_of_transformers(tmp_path: Path) -> None:
    model = _model(qk_norm=True, mlp_only_layers=[0], tie_word_embeddings=False)
    hf.save(model, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    theirs(IDS, labels=IDS).loss.backward()
    loss = torch.nn.functional.cross_entropy(model(IDS)[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())
    loss.backward()
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    # Named and shaped as in a state dict of transformers, the gradients are read like one.
    ours = hf.import_state_dict(model.config, {name: grad for name, grad in expected.items() if grad is not None})
    assert set(ours) == {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, ours[name], atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
