"""Updates of ours against the plain recipe: mean loss, `clip_grad_norm_`, torch's AdamW and Muon."""

from __future__ import annotations

import copy

import pytest
import torch
from training_toys import batch, config, tiny_model

from luopan.errors import RecipeError
from luopan.train import optimizer as optimizers
from luopan.train.groups import gradient_scale, undecayed_names
from luopan.train.losses import causal_lm_loss
from luopan.train.optimizer import Optimizer, check_device

GOOD, BAD = torch.zeros(()), torch.ones(())
MUON = {"optim": "muon", "learning_rate": 2e-2, "adam_learning_rate": 5e-3, "weight_decay": 0.3}
ADAMW = {"learning_rate": 1e-2, "weight_decay": 0.3}


def backward(model: torch.nn.Module, step: int) -> torch.Tensor:
    """Gradients of the summed loss; returns the weight that they are to be divided by."""
    term = causal_lm_loss(model, batch(step))
    term.total.backward()
    return term.weight


def update(model: torch.nn.Module, optimizer: Optimizer, step: int, max_norm: float | None = 1.0) -> torch.Tensor:
    weight = backward(model, step)
    norm = optimizer.gradient_norms()[0] / weight
    optimizer.step(gradient_scale(norm, weight, max_norm), GOOD)
    optimizer.zero_grad()
    return norm


def plain_adamw(parameters: dict[str, torch.nn.Parameter], undecayed: set[str], **keys) -> torch.optim.AdamW:
    groups = [
        {"params": [p for n, p in parameters.items() if n not in undecayed], "weight_decay": 0.3},
        {"params": [p for n, p in parameters.items() if n in undecayed], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8, foreach=False, fused=False, **keys)


@pytest.mark.parametrize("max_grad_norm", [None, 1e-2, 1e6])
def test_adamw_equals_the_plain_recipe(max_grad_norm: float | None) -> None:
    ours, plain = tiny_model(), tiny_model()
    optimizer = Optimizer(ours, config(**ADAMW), "cpu")
    reference = plain_adamw(dict(plain.named_parameters()), undecayed_names(plain), lr=1e-2)
    for step in range(3):
        optimizer.set_learning_rate(1e-2 / (step + 1))
        norm = update(ours, optimizer, step, max_grad_norm)

        other = causal_lm_loss(plain, batch(step))
        (other.total / other.weight).backward()
        limit = float("inf") if max_grad_norm is None else max_grad_norm
        expected = torch.nn.utils.clip_grad_norm_(plain.parameters(), limit)
        for group in reference.param_groups:
            group["lr"] = 1e-2 / (step + 1)
        reference.step()
        reference.zero_grad()
        assert float(norm) == pytest.approx(float(expected), rel=1e-5)
    for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=2e-5)


def test_muon_equals_torchs_with_adamw_beside_it() -> None:
    ours, plain = tiny_model(qk_norm=True), tiny_model(qk_norm=True)
    settings = config(**MUON, muon_momentum=0.9, muon_ns_steps=4)
    optimizer = Optimizer(ours, settings, "cpu")
    matrices = {n: p for n, p in plain.named_parameters() if p.ndim == 2 and "embed" not in n}
    assert len(matrices) == 7  # q, k, v, o, gate, up, down
    rest = {n: p for n, p in plain.named_parameters() if n not in matrices}
    muon = torch.optim.Muon(
        matrices.values(), lr=1.0, weight_decay=0.3, momentum=0.9, ns_steps=4, adjust_lr_fn="match_rms_adamw"
    )
    adamw = plain_adamw(rest, undecayed_names(plain), lr=1.0)
    for step, rate in enumerate([2e-2, 1e-2, 3e-2]):
        optimizer.set_learning_rate(rate)
        update(ours, optimizer, step)

        other = causal_lm_loss(plain, batch(step))
        (other.total / other.weight).backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        for reference, factor in ((muon, 1.0), (adamw, 0.25)):
            for group in reference.param_groups:
                group["lr"] = rate * factor
            reference.step()
            reference.zero_grad()
    for (name, mine), theirs in zip(ours.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_muon_takes_defaults_that_are_said() -> None:
    optimizer = Optimizer(tiny_model(), config(optim="muon"), "cpu")
    (group, _) = optimizer._by_rule["muon"].param_groups
    assert (group["momentum"], group["ns_steps"]) == (0.95, 5)


@pytest.mark.parametrize("keys", [ADAMW, MUON])
def test_a_bad_update_changes_nothing(keys: dict) -> None:
    model = tiny_model()
    optimizer = Optimizer(model, config(**keys), "cpu")
    update(model, optimizer, 0)
    before = copy.deepcopy((model.state_dict(), optimizer.tensors()))
    backward(model, 1)
    model.layers[0].mlp.up_proj.weight.grad[0, 0] = float("nan")
    optimizer.step(torch.tensor(1.0), BAD)
    weights, state = before
    assert all(torch.equal(old, model.state_dict()[name]) for name, old in weights.items())
    for name, entries in state.items():
        assert entries and all(torch.equal(old, optimizer.tensors()[name][key]) for key, old in entries.items())
    optimizer.zero_grad()
    update(model, optimizer, 1)
    assert not torch.equal(weights["norm.weight"], model.state_dict()["norm.weight"])


@pytest.mark.parametrize("keys", [ADAMW, MUON])
def test_state_is_there_at_once_and_restores_bitwise(keys: dict) -> None:
    model = tiny_model()
    optimizer = Optimizer(model, config(**keys), "cpu")
    fresh = optimizer.tensors()
    assert list(fresh) == [name for name, _ in model.named_parameters()]
    assert not any(tensor.any() for entries in fresh.values() for tensor in entries.values())
    for step in range(2):
        update(model, optimizer, step)
    again = tiny_model()
    again.load_state_dict(model.state_dict())
    other = Optimizer(again, config(**keys), "cpu")
    for name, entries in optimizer.tensors().items():
        assert set(entries) == set(fresh[name])
        for key, tensor in entries.items():
            other.tensors()[name][key].copy_(tensor)
    update(model, optimizer, 2)
    update(again, other, 2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_a_parameter_without_gradient_stays() -> None:
    model = tiny_model(tie_word_embeddings=False)
    optimizer = Optimizer(model, config(**ADAMW), "cpu")
    weight = backward(model, 0)
    model.norm.weight.grad = None
    before = model.norm.weight.detach().clone()
    _, per_group = optimizer.gradient_norms()
    assert "norms" in per_group
    optimizer.step(1 / weight, GOOD)
    assert torch.equal(before, model.norm.weight)


@pytest.mark.parametrize("optim", ["adamw", "muon"])
def test_these_run_everywhere(optim: str) -> None:
    check_device(config(optim=optim), "cpu")


def test_8_bit_state_is_refused_on_the_cpu() -> None:
    with pytest.raises(RecipeError, match=r"optim: adamw_8bit needs a CUDA device.*cpu"):
        Optimizer(tiny_model(), config(optim="adamw_8bit"), "cpu")


def test_8_bit_state_without_its_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match="torchao"):
        check_device(config(optim="adamw_8bit"), torch.device("cuda", 0))


@pytest.mark.slow
def test_8_bit_updates_are_near_fp32_ones_and_bad_ones_leave_state_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchao compiles its update for the CPU as well, which is how it can be tried without a GPU."""
    pytest.importorskip("torchao")
    monkeypatch.setattr(optimizers, "check_device", lambda config, device: None)
    shape = {"hidden_size": 64, "intermediate_size": 128}  # 4096 elements and more: in 8 bits
    model, plain = tiny_model(**shape), tiny_model(**shape)
    start = copy.deepcopy(model.state_dict())
    eight = Optimizer(model, config(**ADAMW, optim="adamw_8bit"), "cpu")
    full = Optimizer(plain, config(**ADAMW), "cpu")
    assert all(torch.equal(start[name], now) for name, now in model.state_dict().items())
    codes = eight.tensors()["layers.0.mlp.up_proj.weight"]["exp_avg.codes"]
    assert codes.dtype == torch.uint8
    zero = codes.clone()
    for step in range(3):
        for optimizer, trained in ((eight, model), (full, plain)):
            optimizer.set_learning_rate(1e-3)
            update(trained, optimizer, step)
    assert not torch.equal(codes, zero)  # the live tensor, as a checkpoint needs it
    moved = torch.cat([(p - start[n]).detach().flatten() for n, p in plain.named_parameters()])
    apart = torch.cat([(p - q).detach().flatten() for p, q in zip(model.parameters(), plain.parameters(), strict=True)])
    assert float(apart.norm() / moved.norm()) < 0.1 and apart.any()
    before = copy.deepcopy(eight.tensors())
    backward(model, 3)
    eight.step(torch.tensor(1.0), BAD)
    for name, entries in before.items():
        assert all(torch.equal(old, eight.tensors()[name][key]) for key, old in entries.items())
