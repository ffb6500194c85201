"""Adapters against PEFT: the same logits, the same training, files both ways; and what they promise by themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import torch.nn.functional as F
import transformers

from luopan.errors import ModelError
from luopan.model import hf
from luopan.model.adapter_config import AdapterConfig
from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder
from luopan.model.lora import adapters_off, attach, detach, lora_layers, merge, merged, unmerge
from luopan.model.peft_files import load_adapter, save_adapter
from luopan.model.quantised import Int8Weight, Nf4Weight

# Dettmers et al. 2023 (arXiv:2305.14314), appendix E.
NF4 = torch.tensor([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
])  # fmt: skip

IDS = torch.randint(0, 96, (3, 20), generator=torch.Generator().manual_seed(1))


def tiny(tied: bool = True, **more: Any) -> Decoder:
    shape: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, **more}
    config = ModelConfig(
        vocab_size=96, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.1,
        tie_word_embeddings=tied, **shape,
    )  # fmt: skip
    return Decoder(config)


def stirred(model: Decoder, seed: int = 3) -> Decoder:
    """The model with every trained number moved, as after a training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


KINDS = [
    AdapterConfig(r=4),
    AdapterConfig(r=4, use_rslora=True, lora_alpha=3),
    AdapterConfig(r=4, use_dora=True),
    AdapterConfig(r=2, target_modules=("q_proj", "down_proj")),
    AdapterConfig(r=4, modules_to_save=("embed_tokens", "norm")),
]
NAMES = ["lora", "rslora", "dora", "two layers", "with embeddings"]


@pytest.mark.parametrize("config", KINDS, ids=NAMES)
def test_a_fresh_adapter_changes_nothing(config: AdapterConfig) -> None:
    model = tiny().eval()
    before = model(IDS)
    summary = attach(model, config)
    after = model(IDS)
    assert torch.equal(before, after) or (config.use_dora and torch.allclose(before, after, atol=1e-6))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert summary.trainable == sum(model.get_parameter(name).numel() for name in trained)
    assert all("lora_" in name or name.startswith(("embed_tokens", "norm")) for name in trained)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("config", KINDS, ids=NAMES)
def test_peft_reads_what_is_written_with_the_same_logits(tmp_path: Path, config: AdapterConfig, tied: bool) -> None:
    model = tiny(tied).eval()
    hf.save(model, tmp_path / "base")
    attach(model, config)
    stirred(model)
    save_adapter(model, tmp_path / "adapter", str(tmp_path / "base"), config)
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    with torch.no_grad():
        assert (theirs(IDS).logits - model(IDS)).abs().max() < 1e-5
    again = tiny(tied).eval()
    found, read = load_adapter(again, tmp_path / "adapter")
    assert torch.equal(again(IDS), model(IDS)) and read.r == config.r and found.trainable > 0


def test_what_peft_writes_is_read(tmp_path: Path) -> None:
    model = tiny().eval()
    hf.save(model, tmp_path / "base")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    theirs = peft.get_peft_model(
        base,
        peft.LoraConfig(
            r=4, lora_alpha=8, target_modules="all-linear", use_rslora=True, rank_pattern={"q_proj": 2},
            alpha_pattern={"layers.1.mlp.up_proj": 20}, init_lora_weights=False,
        ),
    )  # fmt: skip
    theirs.save_pretrained(str(tmp_path / "adapter"))
    load_adapter(model, tmp_path / "adapter")
    with torch.no_grad():
        assert (theirs.eval()(IDS).logits - model(IDS)).abs().max() < 1e-5
    assert model.get_parameter("layers.0.self_attn.q_proj.lora_A").shape == (2, 32)
    config = AdapterConfig(r=4, lora_alpha=8, use_rslora=True)
    save_adapter(model, tmp_path / "again", "base", config)
    once_more = tiny().eval()
    load_adapter(once_more, tmp_path / "again")
    assert (once_more(IDS) - model(IDS)).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bias": "all"}, "bias is 'all'"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"layers_to_transform": [0]}, "layers_to_transform"),
        ({"target_parameters": ["experts"]}, "target_parameters"),
        ({"init_lora_weights": "pissa"}, "changed base weights"),
    ],
)
def test_what_is_not_honoured_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    import json

    model = tiny()
    attach(model, KINDS[0])
    save_adapter(model, tmp_path, "base", KINDS[0])
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ModelError, match=message):
        load_adapter(tiny(), tmp_path)


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    model = tiny()
    attach(model, KINDS[0])
    save_adapter(model, tmp_path, "base", KINDS[0])
    other = tiny(hidden_size=64)
    with pytest.raises(ModelError, match=r"is \[4, 32\], the model wants \[4, 64\]"):
        load_adapter(other, tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    (tmp_path / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelError, match="pickle"):
        load_adapter(tiny(), tmp_path)


@pytest.mark.parametrize("config", KINDS[:3], ids=["lora", "rslora", "dora"])
def test_training_goes_as_pefts_does(tmp_path: Path, config: AdapterConfig) -> None:
    """Five AdamW steps from the same adapter: losses within 1e-5."""
    model = tiny()
    hf.save(model, tmp_path / "base")
    attach(model, config)
    save_adapter(model, tmp_path / "adapter", "base", config)
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter", is_trainable=True).train()
    ours_optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    their_optimizer = torch.optim.AdamW([p for p in theirs.parameters() if p.requires_grad], lr=1e-2)
    model.train()
    for _ in range(5):
        losses = []
        for forward, optimizer in ((model, ours_optimizer), (lambda ids: theirs(ids).logits, their_optimizer)):
            loss = F.cross_entropy(forward(IDS)[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert abs(losses[0] - losses[1]) < 1e-5


@pytest.mark.parametrize("config", KINDS, ids=NAMES)
def test_merging_keeps_the_logits_and_unmerging_the_bits(tmp_path: Path, config: AdapterConfig) -> None:
    model = tiny().eval()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    attach(model, config)
    stirred(model)
    expected = model(IDS)
    merge(model)
    assert (model(IDS) - expected).abs().max() < 1e-5 < (model(IDS) - expected.roll(1)).abs().max()
    unmerge(model)
    assert torch.equal(model(IDS), expected)
    with merged(model):
        assert not any("lora" in name for name, _ in model.named_parameters())
        hf.save(model, tmp_path / "whole")
    assert torch.equal(model(IDS), expected)
    assert (hf.load(tmp_path / "whole").eval()(IDS) - expected).abs().max() < 1e-5
    with adapters_off(model):
        fresh = tiny().eval()
        assert torch.equal(model(IDS), fresh(IDS))
    assert torch.equal(model(IDS), expected)
    detach(model)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all(p.requires_grad for p in model.parameters())


def test_int8_is_within_half_a_step_and_trains() -> None:
    weight = torch.randn(40, 30) * torch.logspace(-3, 2, 40)[:, None]
    held = Int8Weight(weight)
    step = weight.abs().amax(1, keepdim=True) / 127
    assert ((held.weight() - weight).abs() <= step / 2 + 1e-7).all() and held.nbytes == 40 * 30 + 160
    assert Int8Weight(torch.zeros(2, 3)).weight().eq(0).all()


def test_nf4_is_the_published_type_and_gives_back_any_shape() -> None:
    """Sixteen values in blocks of 64; rows that are no multiple of them go wrong in bitsandbytes' own CPU kernels."""
    torch.manual_seed(0)
    for shape in ((256, 320), (100, 48), (1, 7), (3, 1000)):
        weight = torch.randn(shape) * 0.02
        found = Nf4Weight(weight).weight()
        assert found.shape == weight.shape
        flat = F.pad(weight.flatten(), (0, -weight.numel() % 64)).view(-1, 64)
        scales = flat.abs().amax(1, keepdim=True)
        nearest = NF4[(flat / scales)[..., None].sub(NF4).abs().argmin(-1)] * scales
        exact = nearest.flatten()[: weight.numel()].view(shape)
        assert (found - exact).abs().max() < 0.02 * weight.abs().max()  # the scales are in eight bits themselves
        assert float((found - weight).abs().mean() / weight.abs().mean()) < 0.13
    assert Nf4Weight(torch.zeros(2, 3)).weight().eq(0).all()
    large = Nf4Weight(torch.randn(512, 512))
    assert large.nbytes == pytest.approx((0.5 + 1 / 64) * 512 * 512, rel=0.02)


def test_nf4_that_comes_back_wrong_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from bitsandbytes import functional

    right = functional.dequantize_4bit
    monkeypatch.setattr(functional, "dequantize_4bit", lambda *given: right(*given).roll(1))
    with pytest.raises(ModelError, match="does not give back"):
        Nf4Weight(torch.randn(64, 64))


@pytest.mark.parametrize(("base", "error", "share"), [("int8", 0.03, 0.6), ("nf4", 0.3, 0.45)])
def test_a_quantised_base_trains_its_adapter(base: Any, error: float, share: float) -> None:
    model = tiny().eval()
    exact = model(IDS)
    summary = attach(model, AdapterConfig(r=4, base=base))
    assert 0 < (model(IDS) - exact).abs().mean() < error * exact.std()
    F.cross_entropy(model(IDS).flatten(0, 1), IDS.flatten()).backward()
    layers = lora_layers(model)
    assert all(layer.lora_B.grad is not None and layer.lora_B.grad.any() for layer in layers.values())
    assert base in summary.text and summary.base_bytes < share * 4 * tiny().config.num_parameters()
    stirred(model)
    expected = model(IDS)
    with merged(model):
        assert (model(IDS) - expected).abs().max() < 1e-5
    assert torch.equal(model(IDS), expected)


def test_what_would_be_half_a_model_is_refused(tmp_path: Path) -> None:
    model = tiny()
    attach(model, AdapterConfig(r=2))
    with pytest.raises(ModelError, match="has an adapter"):
        hf.save(model, tmp_path)
    merge(model)
    with pytest.raises(ModelError, match="merged into the weights"), adapters_off(model):
        pass
    with pytest.raises(ModelError, match=r"modules_to_save: .*q_proj.* has an adapter"):
        attach(tiny(), AdapterConfig(r=2, modules_to_save=("q_proj",)))


@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_dropout_is_the_same_when_it_is_computed_again(recompute: Any) -> None:
    gradients = []
    for mode in ("none", recompute):
        model = tiny()
        attach(model, AdapterConfig(r=4, lora_dropout=0.5))
        stirred(model)
        model.train()
        model.recompute = mode
        torch.manual_seed(3)
        F.cross_entropy(model(IDS).flatten(0, 1), IDS.flatten()).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert torch.equal(*gradients)


def test_dropout_acts_in_training_alone() -> None:
    model = tiny()
    attach(model, AdapterConfig(r=4, lora_dropout=0.5))
    stirred(model)
    assert torch.equal(model.eval()(IDS), model(IDS))
    model.train()
    torch.manual_seed(0)
    one = model(IDS)
    assert not torch.equal(one, model(IDS))
    torch.manual_seed(0)
    assert torch.equal(one, model(IDS))


def test_layers_that_cannot_be_adapted_are_named() -> None:
    for pattern, message in (("qproj", "matches no layer"), ("lm_head", "no linear"), ("embed_tokens", "no linear")):
        with pytest.raises(ModelError, match=message) as caught:
            attach(tiny(), AdapterConfig(target_modules=(pattern,)))
        assert "q_proj" in str(caught.value.hint)
    with pytest.raises(ModelError, match="tied to the embedding"):
        attach(tiny(), AdapterConfig(modules_to_save=("lm_head",)))
    model = tiny()
    attach(model, AdapterConfig())
    with pytest.raises(ModelError, match="an adapter already"):
        attach(model, AdapterConfig())
    experts = tiny(num_experts=4, num_experts_per_tok=2)
    assert all("mlp" not in name for name in attach(experts, AdapterConfig()).modules)


def test_the_seed_decides_and_nothing_else() -> None:
    one, two, three = tiny(), tiny(), tiny()
    attach(one, AdapterConfig(), seed=1)
    torch.randn(10)
    attach(two, AdapterConfig(), seed=1)
    attach(three, AdapterConfig(), seed=2)
    name = "layers.0.self_attn.q_proj.lora_A"
    assert torch.equal(one.get_parameter(name), two.get_parameter(name))
    assert not torch.equal(one.get_parameter(name), three.get_parameter(name))
