"""A decoder that gives a text a number: `score` reads the state of the last token, and there is no language head.

Folders are those of transformers' `…ForSequenceClassification` with one label, for families that have such a class and
that the model's shape fits; the score there is read at the last token that is not padding, which is the same token.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from luopan.artifacts.files import atomic_write_json
from luopan.errors import ModelError
from luopan.model import hf
from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder
from luopan.model.layers import Linear

SCORE = "score.weight"
CLASSES = {
    "llama": "LlamaForSequenceClassification",
    "mistral": "MistralForSequenceClassification",
    "qwen2": "Qwen2ForSequenceClassification",
    "qwen3": "Qwen3ForSequenceClassification",
    "smollm3": "SmolLM3ForSequenceClassification",
    "qwen3_moe": "Qwen3MoeForSequenceClassification",
    "mixtral": "MixtralForSequenceClassification",
}


def add_score(model: Decoder, seed: int = 0) -> None:
    """Give `model` a score in place of its language head, drawn from `seed`. ModelError where it has one."""
    if has_score(model):
        raise ModelError("the model has a score already")
    generator = torch.Generator().manual_seed(seed)
    score = Linear(model.config.hidden_size, 1, bias=False, device=model.embed_tokens.weight.device)
    drawn = torch.empty(1, model.config.hidden_size).normal_(0.0, model.config.initializer_range, generator=generator)
    with torch.no_grad():
        score.weight.copy_(drawn)
    model.lm_head = None
    model.score = score


def has_score(model: nn.Module) -> bool:
    """Whether it is a reward model."""
    return isinstance(getattr(model, "score", None), nn.Linear)


def scores(model: Decoder, states: Tensor) -> Tensor:
    """states [N, C] of last tokens -> rewards [N] fp32."""
    head = model.score
    assert isinstance(head, nn.Linear), "no reward model"
    # In fp32 under autocast too: in bf16 rewards near 3 are steps of 1/64 apart, and close answers would be ties.
    with torch.autocast(states.device.type, enabled=False):
        return F.linear(states.float(), head.weight.float()).squeeze(-1)


def family_of(config: ModelConfig) -> str:
    """The family that a reward model of this shape is written as; ModelError where there is none."""
    family = str(hf.to_hf_config(config, "auto")["model_type"])
    if family not in CLASSES:
        raise ModelError(
            "no family of transformers has a sequence classifier of this shape",
            hint=f"Families that have one: {', '.join(CLASSES)}; the model needs options that they lack.",
        )
    return family


def reward_parameters(config: ModelConfig) -> int:
    """Parameters of a reward model of this shape: the score in place of a head that is not tied."""
    head = 0 if config.tie_word_embeddings else config.vocab_size * config.hidden_size
    return config.num_parameters() - head + config.hidden_size


def reward_flops_per_token(config: ModelConfig, seq_len: int) -> float:
    """`ModelConfig.flops_per_token` without the products of the head, which there is not."""
    return config.flops_per_token(seq_len) - 6.0 * config.vocab_size * config.hidden_size


def save_reward(model: Decoder, folder: Path, *, pad_token_id: int, eos_token_id: int | list[int]) -> None:
    """Write the model as a sequence classifier with one label. ModelError for families without such a class."""
    family = family_of(model.config)
    hf.save(model, folder, architecture=family, eos_token_id=eos_token_id, pad_token_id=pad_token_id)
    file = folder / "config.json"
    written: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    label = {"id2label": {"0": "reward"}, "label2id": {"reward": 0}, "num_labels": 1}
    atomic_write_json(file, {**written, **label, "architectures": [CLASSES[family]]})


def load_reward(folder: Path) -> Decoder:
    """The reward model in a folder, in fp32 on the CPU, for evaluation. ModelError where it is none."""
    config = hf.read_config(folder)
    tensors = hf.read_tensors(folder)
    if SCORE not in tensors:
        raise ModelError("is no reward model: it has no score.weight", where=folder)
    weight = tensors.pop(SCORE)
    if weight.shape != (1, config.hidden_size):
        raise ModelError(
            f"score.weight is {list(weight.shape)}, one label wants [1, {config.hidden_size}]", where=folder
        )
    if not config.tie_word_embeddings:  # there is no head; it is taken off again below
        tensors.setdefault("lm_head.weight", tensors["model.embed_tokens.weight"])
    model = Decoder(config)
    model.load_state_dict(hf.import_state_dict(config, {n: t.float() for n, t in tensors.items()}, where=folder))
    add_score(model)
    with torch.no_grad():
        model.get_parameter(SCORE).copy_(weight)
    return model.eval()
