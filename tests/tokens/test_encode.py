from __future__ import annotations

import json
import pickle
import random

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from luopan.errors import DataError
from luopan.tokens import encode as module
from luopan.tokens.chat import encode_texts
from luopan.tokens.config import GPT4_WORDS, ROLES, TokenizerConfig
from luopan.tokens.encode import TextEncoder, encode_documents, encode_plainly
from luopan.tokens.shards import TokenShards, write_text_shards
from luopan.tokens.tokenizer import plain_backend, train_tokenizer

WHITE = [
    chr(c) for c in [*range(9, 14), 32, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x3000]
]
ODD = [*map(chr, range(0x1C, 0x20)), "\x00", "\u180e", "\u200b", "\ufeff", "\u0301", "\u0300", "\u212b", "👩\u200d👩"]
WORDS = [
    "é",
    "中",
    "，",
    "ア",
    "9",
    "12",
    "345678",
    "²",
    "٣",
    "a",
    "B",
    "'s",
    "'LL",
    ".",
    "!",
    "/",
    "word",
    " ",
    "\n",
    " ",
]
PIECES = [*WHITE, *ODD, *WORDS, *ROLES]


def nasty(number: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choice(PIECES) for _ in range(rng.randrange(14))) for _ in range(number)]


def gpt4_like(digits: str, texts: list[str]) -> str:
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(GPT4_WORDS % digits), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator([*texts, "a.\n\n b.\n \n c!\r\n\n  d" * 100], trainer)
    return made.to_str()


@pytest.mark.parametrize("settings", [
    {}, {"whitespace": "code"}, {"whitespace": "lines"}, {"digit_group": 3, "whitespace": "code"},
    {"split_digits": False},
])  # fmt: skip
def test_words_give_the_tokens_of_the_whole_text(texts: list[str], settings: dict[str, object]) -> None:
    extra = ["x  y\n\n   z\t\tw\n" * 300, "\r\n\r\n.\n\n!\r\n" * 200, "assistant\n\nuser\n" * 100]
    tokenizer = train_tokenizer([*texts[:40], *extra], TokenizerConfig(vocab_size=640, **settings))  # type: ignore[arg-type]
    encoder = TextEncoder.of(tokenizer)
    assert encoder.by_words
    some = [*nasty(4000), *texts[40:60]]
    whole = encode_plainly(plain_backend(tokenizer), some)
    assert [ids.tolist() for ids in encoder.encode(some)] == [[*ids, 0] for ids in whole]


@pytest.mark.parametrize("digits", ["", "{1,3}"])
def test_words_of_gpt4s_family(texts: list[str], digits: str) -> None:
    state = gpt4_like(digits, texts[:30])
    encoder = TextEncoder(state, [7], [3], 700)
    assert encoder.by_words
    some = nasty(4000, 1)
    whole = encode_plainly(Tokenizer.from_str(state), some)
    assert [ids.tolist() for ids in encoder.encode(some)] == [[7, *ids, 3] for ids in whole]


def test_unknown_rules_are_not_trusted(tokenizer: PreTrainedTokenizerFast) -> None:
    backend = plain_backend(tokenizer)
    for change in (
        {"normalizer": {"type": "Lowercase"}},
        {"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}},
        {"model": {**json.loads(backend.to_str())["model"], "dropout": 0.5}},
    ):
        state = json.dumps({**json.loads(backend.to_str()), **change})
        assert not TextEncoder(state, [], [0], 1024).by_words
    lower = TextEncoder(json.dumps({**json.loads(backend.to_str()), "normalizer": {"type": "Lowercase"}}), [], [], 1024)
    assert lower.encode(["THE a"])[0].tolist() == encode_plainly(backend, ["the a"])[0]


def test_the_table_may_be_emptied_and_long_words_are_not_kept(
    tokenizer: PreTrainedTokenizerFast, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = plain_backend(tokenizer)
    monkeypatch.setattr(module, "CACHE_WORDS", 50)
    monkeypatch.setattr(module, "BATCH_TEXTS", 3)
    encoder = TextEncoder(backend.to_str(), [], [0], 1024)
    some = [*texts[:20], "x" * 500, "x" * 500]
    found = [ids.tolist() for ids in encode_documents(encoder, some)]
    assert found == [[*ids, 0] for ids in encode_plainly(backend, some)]
    assert not [word for word in encoder._known if len(word) > module.LONGEST_WORD]


def test_types_frames_and_copies(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> None:
    encoder = TextEncoder.of(tokenizer)
    assert encoder is TextEncoder.of(tokenizer)
    assert encoder.encode(["a"])[0].dtype == np.uint16
    assert TextEncoder(plain_backend(tokenizer).to_str(), [], [], 70_000).encode(["a"])[0].dtype == np.uint32
    copy = pickle.loads(pickle.dumps(encoder))
    assert [a.tolist() for a in copy.encode(texts[:5])] == [e.input_ids for e in encode_texts(tokenizer, texts[:5])]
    assert encoder.encode([""])[0].tolist() == [0]
    assert encoder.encode([]) == []
    with pytest.raises(DataError, match="Unicode"):
        encoder.encode(["half \ud83d"])
    assert encoder.encode(["half"])[0].tolist() == [*encode_plainly(plain_backend(tokenizer), ["half"])[0], 0]


@pytest.mark.distributed
def test_shards_do_not_depend_on_workers(
    tokenizer: PreTrainedTokenizerFast, texts: list[str], tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_TEXTS", 16)
    one = write_text_shards(texts, tmp_path / "one", tokenizer)
    two = write_text_shards(iter(texts), tmp_path / "two", tokenizer, workers=2)
    assert one.content == two.content
    opened = TokenShards(tmp_path / "two")
    assert [d.tolist() for d in opened] == [list(e.input_ids) for e in encode_texts(tokenizer, texts)]
