"""Which rule trains which parameter, the table that says so, and the norms of each group's gradients."""

from __future__ import annotations

import pytest
import torch
from training_toys import batch, config, tiny_model

from luopan.errors import TrainingError
from luopan.train.groups import (
    gradient_norms,
    gradient_scale,
    group_table,
    parameter_groups,
    trainable_parameters,
    undecayed_names,
)
from luopan.train.losses import causal_lm_loss

MOE = {"num_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 8, "shared_expert_intermediate_size": 8}


def found(model: torch.nn.Module, **keys) -> dict[str, tuple[str, float, set[str]]]:
    groups = parameter_groups(model, config(weight_decay=0.3, **keys))
    assert sorted(name for group in groups for name in group.parameters) == sorted(
        name for name, p in model.named_parameters() if p.requires_grad
    )
    return {group.name: (group.rule, group.weight_decay, set(group.parameters)) for group in groups}


def test_a_dense_model() -> None:
    groups = found(tiny_model(tie_word_embeddings=False, attention_bias=True, qk_norm=True), optim="muon")
    assert {name: part[:2] for name, part in groups.items()} == {
        "embeddings": ("adamw", 0.0),
        "attention": ("muon", 0.3),
        "mlp": ("muon", 0.3),
        "head": ("adamw", 0.3),
        "norms": ("adamw", 0.0),
    }
    block = "layers.0."
    assert groups["embeddings"][2] == {"embed_tokens.weight"} and groups["head"][2] == {"lm_head.weight"}
    assert groups["attention"][2] == {f"{block}self_attn.{part}_proj.weight" for part in "qkvo"}
    assert groups["mlp"][2] == {f"{block}mlp.{part}_proj.weight" for part in ("gate", "up", "down")}
    assert {f"{block}self_attn.q_proj.bias", f"{block}self_attn.q_norm.weight", "norm.weight"} < groups["norms"][2]


def test_a_mixture_of_experts() -> None:
    groups = found(tiny_model(**MOE), optim="muon")
    assert groups["experts"][:2] == ("muon", 0.3) and groups["router"][:2] == ("adamw", 0.3)
    assert groups["router"][2] == {"layers.0.mlp.gate.weight"}
    assert groups["experts"][2] == {f"layers.0.mlp.experts.{part}_proj" for part in ("gate", "up", "down")}
    assert groups["mlp"][:2] == ("muon", 0.3) and all("shared_expert" in name for name in groups["mlp"][2])


def test_only_what_is_trainable_is_in_a_group() -> None:
    model = tiny_model()
    model.embed_tokens.requires_grad_(False)
    assert set(found(model)) == {"attention", "mlp", "norms"}


def test_decay_falls_on_matrices_only() -> None:
    tied = tiny_model(attention_bias=True, qk_norm=True)
    decayed = {name for name, _ in tied.named_parameters()} - undecayed_names(tied)
    assert decayed and all(p.ndim == 2 for n, p in tied.named_parameters() if n in decayed)
    assert not any("embed" in name or "norm" in name or "bias" in name for name in decayed)
    untied = tiny_model(tie_word_embeddings=False)
    heads = [n for n, p in untied.named_parameters() if p.shape[0] == 32 and "head" in n]
    assert heads and not set(heads) & undecayed_names(untied)


def test_the_table() -> None:
    settings = config(optim="muon", learning_rate=0.02, adam_learning_rate=0.005, weight_decay=0.3)
    lines = group_table(parameter_groups(tiny_model(), settings), 0.02).splitlines()
    assert [line.split() for line in lines] == [
        ["group", "rule", "tensors", "elements", "weight", "decay", "learning", "rate"],
        ["embeddings", "adamw", "1", "512", "0", "0.005"],
        ["attention", "muon", "4", "1,024", "0.3", "0.02"],
        ["mlp", "muon", "3", "1,536", "0.3", "0.02"],
        ["norms", "adamw", "3", "48", "0", "0.005"],
        ["all", "11", "3,120"],
    ]
    assert len({line.index("1,024") + 5 for line in lines if "1,024" in line}) == 1


def test_keys_that_find_nothing_to_train_are_refused() -> None:
    model = tiny_model()
    model.layers.requires_grad_(False)
    with pytest.raises(TrainingError, match="muon has nothing to train"):
        parameter_groups(model, config(optim="muon"))
    inside = tiny_model()
    for name, parameter in inside.named_parameters():
        parameter.requires_grad_("proj" in name)
    with pytest.raises(TrainingError, match="adam_learning_rate has no effect"):
        parameter_groups(inside, config(optim="muon", adam_learning_rate=1e-3))


def test_norms() -> None:
    model = tiny_model()
    causal_lm_loss(model, batch(0)).total.backward()
    groups = parameter_groups(model, config())
    gradients = {name: p.grad for name, p in model.named_parameters()}
    total, parts = gradient_norms(groups, gradients)
    assert torch.equal(total, torch.nn.utils.get_total_norm(gradients[n] for g in groups for n in g.parameters))
    for group in groups:
        flat = torch.cat([gradients[name].flatten() for name in group.parameters])
        torch.testing.assert_close(parts[group.name], flat.norm())
    del gradients["embed_tokens.weight"]
    left, parts = gradient_norms(groups, gradients)
    assert "embeddings" not in parts and left < total
    with pytest.raises(TrainingError, match="gradient"):
        gradient_norms(groups, {})


def test_scale_by_hand() -> None:
    norm, weight = torch.tensor(4.0), torch.tensor(8.0)
    assert float(gradient_scale(norm, weight, None)) == pytest.approx(1 / 8)
    assert float(gradient_scale(norm, weight, 10.0)) == pytest.approx(1 / 8)
    assert float(gradient_scale(norm, weight, 1.0)) == pytest.approx(1 / 32)


def test_masters_must_be_fp32() -> None:
    with pytest.raises(TrainingError, match=r"fp32.*bfloat16"):
        trainable_parameters(tiny_model().to(torch.bfloat16))


def test_something_must_be_trainable() -> None:
    model = tiny_model()
    model.requires_grad_(False)
    with pytest.raises(TrainingError, match="no trainable parameter"):
        trainable_parameters(model)
