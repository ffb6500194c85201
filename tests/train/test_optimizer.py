"""One update of ours against the plain recipe: mean loss, `clip_grad_norm_`, torch's AdamW."""

from __future__ import annotations

import pytest
import torch
from training_toys import batch, config, tiny_model

from luopan.errors import TrainingError
from luopan.train.losses import causal_lm_loss
from luopan.train.optimizer import apply_gradients, build_optimizer, trainable_parameters, undecayed_names


def gradients(model: torch.nn.Module) -> list[torch.Tensor]:
    return [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("max_grad_norm", [None, 1e-2, 1e6])
def test_updates_equal_the_plain_recipe(max_grad_norm: float | None) -> None:
    ours, plain = tiny_model(), tiny_model()
    settings = config(learning_rate=1e-2, weight_decay=0.3, max_grad_norm=max_grad_norm)
    optimizer = build_optimizer(ours, settings)
    undecayed = undecayed_names(plain)
    groups = [
        {"params": [p for n, p in plain.named_parameters() if n not in undecayed], "weight_decay": 0.3},
        {"params": [p for n, p in plain.named_parameters() if n in undecayed], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), eps=1e-8, foreach=False, fused=False)
    for step in range(3):
        term = causal_lm_loss(ours, batch(step))
        term.total.backward()
        norm, bad = apply_gradients(
            optimizer, gradients(ours), term.total.detach(), term.weight, settings.max_grad_norm
        )
        optimizer.zero_grad()

        other = causal_lm_loss(plain, batch(step))
        (other.total / other.weight).backward()
        limit = float("inf") if max_grad_norm is None else max_grad_norm
        expected = torch.nn.utils.clip_grad_norm_(plain.parameters(), limit)
        reference.step()
        reference.zero_grad()
        assert float(norm) == pytest.approx(float(expected), rel=1e-5) and not bad
    for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("trouble", ["gradient", "loss", "nothing"])
def test_a_bad_step_changes_nothing(trouble: str) -> None:
    model = tiny_model()
    optimizer = build_optimizer(model, config())
    term = causal_lm_loss(model, batch(0))
    term.total.backward()
    total, weight = term.total.detach(), term.weight
    if trouble == "gradient":
        gradients(model)[2].view(-1)[3] = float("nan")
    elif trouble == "loss":
        total = torch.tensor(float("inf"))
    else:
        weight = torch.zeros(())
    before = [p.detach().clone() for p in model.parameters()]
    _, bad = apply_gradients(optimizer, gradients(model), total, weight, 1.0)
    assert bad == 1
    for old, parameter in zip(before, model.parameters(), strict=True):
        assert torch.equal(old, parameter)
        state = optimizer.state[parameter]
        assert state["step"] == 0 and not state["exp_avg"].any() and not state["exp_avg_sq"].any()


def test_decay_falls_on_matrices_only() -> None:
    tied = tiny_model(attention_bias=True, qk_norm=True)
    decayed = {name for name, _ in tied.named_parameters()} - undecayed_names(tied)
    assert decayed and all(p.ndim == 2 for n, p in tied.named_parameters() if n in decayed)
    assert not any("embedding" in name or "norm" in name or "bias" in name for name in decayed)
    untied = tiny_model(tie_word_embeddings=False)
    heads = [n for n, p in untied.named_parameters() if p.shape[0] == 32 and "head" in n]
    assert heads and not set(heads) & undecayed_names(untied)


def test_masters_must_be_fp32() -> None:
    with pytest.raises(TrainingError, match=r"fp32.*bfloat16"):
        trainable_parameters(tiny_model().to(torch.bfloat16))


def test_something_must_be_trainable() -> None:
    model = tiny_model()
    model.requires_grad_(False)
    with pytest.raises(TrainingError, match="no trainable parameter"):
        trainable_parameters(model)
