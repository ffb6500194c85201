"""A tiny tokenizer, a tiny chat model and the artifacts that stages read, made without training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from luopan.artifacts import Artifact
from luopan.corpus.document import Document
from luopan.corpus.skills import generate_cases
from luopan.corpus.store import DOCUMENTS, Writer
from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder
from luopan.stages.base import Workspace
from luopan.stages.common import Chat
from luopan.tokens.config import TokenizerConfig
from luopan.tokens.tokenizer import train_tokenizer
from luopan.train.progress import SilentProgress


@cache
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    texts = [
        message["content"]
        for skill in ("addition", "identity", "talk")
        for case in generate_cases(skill, 120, 0)
        for message in case.conversation()
    ]
    return train_tokenizer(texts, TokenizerConfig(vocab_size=512, min_frequency=2))


def tiny_chat(seed: int = 0, context: int = 128) -> Chat:
    config = ModelConfig(
        vocab_size=len(tiny_tokenizer()), hidden_size=32, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=context, initializer_range=0.2,
    )  # fmt: skip
    model = Decoder(config)
    model.reset_parameters(seed)
    return Chat(model, tiny_tokenizer(), torch.device("cpu"), "toy")


def workspace(path: Path, seed: int = 3) -> Workspace:
    path.mkdir(parents=True, exist_ok=True)
    return Workspace(path, "mine", seed, SilentProgress())


def corpus_artifact(
    folder: Path, sources: Mapping[str, Sequence[str]], generated: Sequence[str] = (), held_out: int = 0
) -> Artifact:
    """A folder as curate leaves it; the last `held_out` texts of every source are held out."""
    place = folder / "corpus"
    for part in ("train", "held_out"):
        (place / part).mkdir(parents=True)
    card: dict[str, Any] = {"sources": {}}
    files = [place / part / "00000.parquet" for part in ("train", "held_out")]
    with Writer(files[0], DOCUMENTS) as train, Writer(files[1], DOCUMENTS) as held:
        for name, texts in sources.items():
            border = len(texts) - held_out
            for number, text in enumerate(texts):
                (train if number < border else held).document(Document(f"{name}/{number}", text, name, {}))
            parts = {"train": texts[:border], "held_out": texts[border:]}
            card["sources"][name] = {
                "documents": {part: len(some) for part, some in parts.items()},
                "bytes": {part: sum(len(text.encode()) for text in some) for part, some in parts.items()},
                "origin": "generated" if name in generated else "read",
            }
    (place / "card.json").write_text(json.dumps(card))
    return Artifact(folder)
