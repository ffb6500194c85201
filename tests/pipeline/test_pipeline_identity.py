"""What a training stage's identity depends on, and what not."""

from __future__ import annotations

from typing import Any

import pytest

from luopan.pipeline.identity import asked
from luopan.recipe.specs import GrpoSpec, PretrainSpec
from luopan.stages.registry import stage_class

MODEL = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}


def identity(**changes: Any) -> str:
    settings: dict[str, Any] = {
        "kind": "pretrain", "corpus": "c", "tokenizer": "t", "model": MODEL, "sequence_length": 64, "max_steps": 10,
        "learning_rate": 1e-3, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2,
    }  # fmt: skip
    return asked("base", PretrainSpec(**{**settings, **changes}), stage_class("pretrain"), 0, {}).identity


def test_smaller_micro_batches_are_the_same_stage() -> None:
    """After running out of memory a stage goes on, instead of beginning anew."""
    assert identity() == identity(per_device_train_batch_size=2, gradient_accumulation_steps=8)
    assert identity() != identity(gradient_accumulation_steps=4)
    assert identity() == identity(save_steps=3, activation_recompute="full", parallel="full_shard", async_save=False)


@pytest.mark.parametrize("change", [{"max_steps": 11}, {"optim": "muon"}, {"spike_sigma": 5.0}, {"compile": True}])
def test_what_changes_the_weights_is_another_stage(change: dict[str, Any]) -> None:
    assert identity() != identity(**change)


def test_a_growing_batch_grows_in_micro_batches_so_their_size_counts() -> None:
    assert identity(batch_warmup_steps=4) != identity(
        batch_warmup_steps=4, per_device_train_batch_size=4, gradient_accumulation_steps=4
    )


def test_rollouts_are_cut_by_accumulation_alone() -> None:
    settings: dict[str, Any] = {
        "kind": "grpo", "model": "sft", "tasks": [{"skill": "addition"}], "learning_rate": 1e-4, "max_steps": 5,
    }  # fmt: skip
    one, other = (GrpoSpec(**settings, gradient_accumulation_steps=number) for number in (1, 2))
    stage = stage_class("grpo")
    assert asked("rl", one, stage, 0, {}).identity != asked("rl", other, stage, 0, {}).identity
