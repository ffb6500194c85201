"""A tiny decoder, one that says what it is told, and a tokenizer of few words in many scripts."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder
from luopan.tokens.config import TokenizerConfig
from luopan.tokens.tokenizer import train_tokenizer

WORDS = "你好 世界 naïve café 🙂🙃 привет 東京都 zażółć 👩‍👩‍👧 the cat sat on a mat and then it ran 12 34 away"
WORDS += " brown fox jumps over STOP"


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    draw = random.Random(0)
    words = WORDS.split()
    texts = [" ".join(draw.choice(words) for _ in range(30)) for _ in range(200)]
    return train_tokenizer(texts, TokenizerConfig(vocab_size=384))


def tiny_model(**changes: object) -> Decoder:
    values: dict[str, object] = {
        "vocab_size": 384,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 96,
        "initializer_range": 0.25,
    }
    return Decoder(ModelConfig.model_validate(values | changes)).eval()


class ScriptedModel(nn.Module):
    """Says the given tokens: the one at place p of the script comes after p tokens, whatever they were."""

    def __init__(self, script: Sequence[int], context: int = 96) -> None:
        super().__init__()
        self.config = tiny_model().config.model_copy(update={"max_position_embeddings": context})
        self.weight = nn.Parameter(torch.zeros(1))
        self.script = torch.tensor([*script, *[0] * context])

    def hidden(self, input_ids: Tensor, position_ids: Tensor, cache: object = None) -> Tensor:
        return position_ids[..., None].float()

    def logits(self, hidden: Tensor) -> Tensor:
        following = self.script[hidden[..., 0].long() + 1]
        return 50.0 * nn.functional.one_hot(following, self.config.vocab_size).float()
