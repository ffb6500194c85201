"""The estimate against what torch's allocator really hands out in a step, and what is advised from it."""

from __future__ import annotations

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder
from luopan.tokens.batch import Batch, collate
from luopan.tokens.example import Example
from luopan.train import memory
from luopan.train.config import TrainConfig
from luopan.train.losses import causal_lm_loss
from luopan.train.memory import cheaper, estimate_memory, is_out_of_memory, largest_batch, shortage

WIDE = {"hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": 4, "num_attention_heads": 2}
DEEP = {
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 10,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "qk_norm": True,
}
EXPERTS = {**WIDE, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 160, "mlp_only_layers": (0,)}
UNTIED = {**WIDE, "num_hidden_layers": 1, "tie_word_embeddings": False}


def settings(**changes) -> TrainConfig:
    return TrainConfig(**{"learning_rate": 1e-3, "max_steps": 4, **changes})


def rows(vocab: int, count: int, length: int, documents: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, vocab, (count, documents, length // documents), generator=generator)
    return collate([[Example(one, one) for one in row.numpy()] for row in ids], length, 0)


def measured(model: ModelConfig, config: TrainConfig, batch: Batch) -> int:
    """The most that was allocated at once in a step of AdamW, weights and optimizer state included."""
    decoder = Decoder(model)
    decoder.recompute = config.activation_recompute
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        causal_lm_loss(decoder, batch).total.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()  # makes the optimizer's state
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step()
    events = seen.profiler.kineto_results.events()  # type: ignore[union-attr]
    held = peak = 0
    for _, size in sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"):
        held += size
        peak = max(peak, held)
    return peak + 3 * 4 * model.num_parameters()


@pytest.mark.parametrize(
    ("vocab", "shape", "changes", "count", "documents"),
    [
        (1024, WIDE, {}, 8, 1),
        (1024, WIDE, {}, 8, 4),
        (16384, WIDE, {}, 4, 1),
        (1024, WIDE, {"activation_recompute": "full"}, 16, 1),
        (1024, WIDE, {"activation_recompute": "selective"}, 16, 1),
        (512, DEEP, {}, 8, 2),
        (1024, EXPERTS, {}, 8, 2),
        (8192, UNTIED, {}, 2, 1),
    ],
    ids=["plain", "packed", "large vocabulary", "full", "selective", "deep, qk norm", "experts", "untied"],
)
def test_the_estimate_is_within_a_tenth_of_what_is_allocated(
    vocab: int, shape: dict, changes: dict, count: int, documents: int
) -> None:
    model = ModelConfig(vocab_size=vocab, max_position_embeddings=256, **shape)
    config = settings(**changes)
    estimate = estimate_memory(model, config, rows=count, length=256, packed=documents > 1)
    assert estimate.total == pytest.approx(measured(model, config, rows(vocab, count, 256, documents)), rel=0.1)


PLAIN = ModelConfig(vocab_size=1024, max_position_embeddings=256, **WIDE)


def test_parts_by_hand() -> None:
    number = PLAIN.num_parameters()
    estimate = estimate_memory(PLAIN, settings(), rows=8, length=256, packed=False)
    assert (estimate.weights, estimate.gradients, estimate.optimizer) == (4 * number, 4 * number, 8 * number)
    per_token = 4 * (4 * 128 + 2 * 128 + 2 * 128 + 3 * 320)  # norms; q and output; k and v; SwiGLU
    assert estimate.activations == 8 * 256 * (4 * per_token + 4 * 4 * 128)
    assert estimate_memory(PLAIN, settings(ema_decay=0.9), rows=8, length=256).copies == 4 * number
    saving = estimate_memory(PLAIN, settings(save_steps=2), rows=8, length=256)
    assert saving.copies == 12 * number
    halves = estimate_memory(PLAIN, settings(), rows=8, length=256, shards=2)
    assert (halves.weights, halves.optimizer) == (2 * number, 4 * number)


def test_half_precision_halves_what_is_kept() -> None:
    full = estimate_memory(PLAIN, settings(precision="fp32"), rows=8, length=256, device_type="cuda")
    half = estimate_memory(PLAIN, settings(), rows=8, length=256, device_type="cuda")
    assert 0.45 < half.activations / full.activations < 0.75
    assert half.optimizer == full.optimizer and half.copies == 2 * PLAIN.num_parameters()


def test_advice_names_changes_that_help_and_the_batch_that_keeps_the_result() -> None:
    config = settings(save_steps=2, per_device_train_batch_size=16)
    advice = cheaper(PLAIN, config, rows=16, length=256, device_type="cpu")
    now = estimate_memory(PLAIN, config, rows=16, length=256).total
    assert advice[0][0].startswith("per_device_train_batch_size=8 gradient_accumulation_steps=2")
    assert len(advice) >= 3 and all(size < 0.97 * now for _, size in advice)
    assert any("activation_recompute=full" in text for text, _ in advice)
    odd = cheaper(PLAIN, settings(per_device_train_batch_size=3), rows=3, length=256, device_type="cpu")
    assert odd[0][0].startswith("per_device_train_batch_size=1 gradient_accumulation_steps=3")
    growing = settings(batch_warmup_steps=2, gradient_accumulation_steps=2)
    advised = cheaper(PLAIN, growing, rows=16, length=256, device_type="cpu")
    assert not any("batch_size" in text for text, _ in advised), "it grows by micro-batches: another run"
    ranks = cheaper(PLAIN, settings(per_device_train_batch_size=16), rows=4, length=256, device_type="cpu")
    assert ranks[0][0].startswith("per_device_train_batch_size=2 gradient_accumulation_steps=8")
    single = cheaper(PLAIN, settings(activation_recompute="full"), rows=1, length=1, device_type="cpu")
    assert not any("batch_size" in text or "recompute" in text for text, _ in single)


def test_the_largest_batch_fits_and_one_more_does_not() -> None:
    free = 400_000_000
    count = largest_batch(PLAIN, settings(), free, length=256, device_type="cpu")
    sizes = [estimate_memory(PLAIN, settings(), rows=rows, length=256).total for rows in (count, count + 1)]
    assert count > 1 and sizes[0] <= free < sizes[1]
    assert largest_batch(PLAIN, settings(), 1000, length=256, device_type="cpu") == 0


def test_a_shortage_is_told_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    estimate = estimate_memory(PLAIN, settings(), rows=8, length=256)
    device = torch.device("cpu")
    monkeypatch.setattr(memory, "available_bytes", lambda device: estimate.total // 2)
    warning = shortage(estimate, device)
    assert warning is not None and estimate.text() in warning
    monkeypatch.setattr(memory, "available_bytes", lambda device: 2 * estimate.total)
    assert shortage(estimate, device) is None
    monkeypatch.setattr(memory, "available_bytes", lambda device: None)
    assert shortage(estimate, device) is None


def test_what_counts_as_out_of_memory() -> None:
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"))
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory")) and is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
