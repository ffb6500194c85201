"""Asking a reward model: conversations in, one number each out.

    model, tokenizer = load_reward_model("runs/mine/reward")
    score(model, tokenizer, [[{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Hello, you."}]])

Texts are encoded as in training and laid end to end without padding; the number is read at the last token of each.
Rewards compare answers to one prompt. Those of different prompts, or of different models, have no scale in common.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from luopan.errors import DataError
from luopan.model.decoder import Decoder
from luopan.model.reward import has_score, load_reward
from luopan.tokens.batch import collate
from luopan.tokens.chat import Conversation, encode_chats
from luopan.tokens.packing import best_fit_decreasing
from luopan.tokens.tokenizer import load_tokenizer
from luopan.train.device import pick_device
from luopan.train.reward_loss import document_scores

Messages = Sequence[Mapping[str, Any]]


def load_reward_model(folder: str | Path, *, device: Any = None) -> tuple[Decoder, Any]:
    """(reward model in fp32, tokenizer) of a `reward` stage or a folder with a sequence classifier of one label.

    ModelError where it is none. `device` default: a GPU where there is one.
    """
    folder = Path(folder)
    folder = folder if (folder / "config.json").is_file() else folder / "model"
    return load_reward(folder).to(device or pick_device()), load_tokenizer(folder)


@torch.no_grad()
def score(
    model: Decoder, tokenizer: Any, conversations: Sequence[Messages | Conversation], *, tokens_per_batch: int = 16_384
) -> list[float]:
    """The reward of each conversation, in order; each ends with what the assistant said.

    `Conversation` says more than messages (thinking, tools). Raises DataError for one that does not end with the
    assistant, cannot be encoded, or is longer than the model's context: a cut answer would be another answer.
    """
    if not has_score(model):
        raise DataError("is no reward model: it has no score", hint="load_reward_model loads one.")
    rows = [
        one if isinstance(one, Conversation) else Conversation(one, where=f"conversation {number}")
        for number, one in enumerate(conversations)
    ]
    for row in rows:
        if not row.messages or row.messages[-1].get("role") != "assistant":
            raise DataError("a conversation that is scored ends with what the assistant said", where=row.where)
    context = model.config.max_position_embeddings
    examples = encode_chats(tokenizer, rows, max_length=context, train_on="last_turn", strict=True).examples
    capacity = max(tokens_per_batch, context)
    device = model.embed_tokens.weight.device
    found = [0.0] * len(rows)
    training = model.training
    model.eval()
    try:
        for numbers in best_fit_decreasing([len(example) for example in examples], capacity):
            some = [examples[number] for number in numbers]
            batch = collate([some], sum(map(len, some)), 0).to(device)
            for number, value in zip(numbers, document_scores(model, batch).tolist(), strict=True):
                found[number] = value
    finally:
        model.train(training)
    return found
