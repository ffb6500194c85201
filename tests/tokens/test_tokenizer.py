from __future__ import annotations

import hashlib
import json
import os
import pydoc_data.topics
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import ValidationError
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from luopan.errors import ArtifactError, DataError, ModelError
from luopan.tokens.chat import encode_text, encode_texts, stop_ids
from luopan.tokens.config import SPECIAL_TOKENS, VISIBLE_TOKENS, TokenizerConfig
from luopan.tokens.tokenizer import document_frame, fertility, load_tokenizer, save_tokenizer, train_tokenizer

EDGES = [
    "",
    " ",
    "\n",
    "\n\n\n",
    "\t \r\n \x00\x01\x7f",
    "  leading and trailing  ",
    "naïve café, e\u0301 vs é, ﬁ, Å vs Å",  # decomposed forms stay decomposed
    "你好，世界。日本語テキスト 한국어",
    "👩‍👩‍👧‍👦 🏳️‍🌈 \U0001f9ff",
    "\u200b\u200d\ufeff\u202e\u00a0\u3000",
    "\U000f0000\U0010ffff\ue000",
    "0123456789 ٣٤ ½ ² Ⅷ 一二三",
    "assistant\nuser\nsystem\n\n",
    "x<|im_end|>y<|endoftext|> <think>z</think> /think /no_think",
    "a" * 5000,
    "'s 'T don't I'LL",
]


@pytest.mark.parametrize("text", EDGES)
def test_every_text_comes_back(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(encode_text(tokenizer, text).input_ids[:-1]) == text


def test_random_unicode_comes_back(tokenizer: PreTrainedTokenizerFast) -> None:
    rng = random.Random(0)
    points = [*range(0xD800), *range(0xE000, 0x110000)]
    for _ in range(300):
        near = rng.choice(points)
        text = "".join(chr(rng.choice([rng.choice(points), *b" \n0aB'", near])) for _ in range(rng.randrange(40)))
        assert tokenizer.decode(encode_text(tokenizer, text).input_ids[:-1]) == text


def test_lone_surrogates_are_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match="Unicode"):
        encode_text(tokenizer, "half \ud83d a character")


def test_digits_stand_alone(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> None:
    assert tokenizer.tokenize("12+345") == ["1", "2", "+", "3", "4", "5"]
    assert not [t for t in tokenizer.get_vocab() if sum(c.isdigit() for c in t) and len(t) > 1]
    joined = train_tokenizer([*texts, "2024 " * 1000], TokenizerConfig(vocab_size=1024, split_digits=False))
    assert "Ġ2024" in joined.get_vocab()


def test_vocabulary_is_exactly_as_large_as_asked(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) == tokenizer.vocab_size == 1024
    assert sorted(tokenizer.get_vocab().values()) == list(range(1024))
    assert tokenizer.convert_tokens_to_ids([*SPECIAL_TOKENS, *VISIBLE_TOKENS]) == list(range(8))
    assert [len(tokenizer.tokenize(role)) for role in ("system", "user", "assistant", "tool")] == [1] * 4


def test_too_little_text_says_which_size_fits(texts: list[str]) -> None:
    with pytest.raises(DataError, match="vocab_size is 8192") as caught:
        train_tokenizer(texts[:3], TokenizerConfig(vocab_size=8192))
    fits = int(re.search(r"use vocab_size (\d+)", str(caught.value)).group(1))  # type: ignore[union-attr]
    assert len(train_tokenizer(texts[:3], TokenizerConfig(vocab_size=fits))) == fits
    with pytest.raises(DataError, match="give more text"):
        train_tokenizer([], TokenizerConfig(vocab_size=384))


@pytest.mark.parametrize(("key", "value", "message"), [
    ("vocab_size", 1000, "use 896 or 1024"),
    ("vocab_size", 128, "greater than or equal to 384"),
    ("extra_tokens", ("<think>",), "taken already"),
    ("split_digit", True, "Extra inputs"),
    ("extra_tokens", ("<|reserved_0|>",), "among extra_tokens and reserved_tokens"),
    ("reserved_tokens", 1800, "alone are 2064"),
    ("digit_group", 3, "no effect with split_digits"),
    ("whitespace", "gpt", "Input should be"),
])  # fmt: skip
def test_config_refuses(key: str, value: object, message: str) -> None:
    others = {"extra_tokens": {"reserved_tokens": 1}, "digit_group": {"split_digits": False}}.get(key, {})
    with pytest.raises(ValidationError, match=message):
        TokenizerConfig(**{**others, key: value})


def test_digits_by_three_from_the_right(texts: list[str]) -> None:
    numbers = " ".join(map(str, range(1000))) + " "
    made = train_tokenizer(
        [*texts[:5], *[numbers] * 200], TokenizerConfig(vocab_size=2048, digit_group=3, min_frequency=1)
    )
    assert made.tokenize("12+1234567") == ["12", "+", "1", "234", "567"]
    assert not [t for t in made.get_vocab() if sum(c.isdigit() for c in t) > 3 and t not in SPECIAL_TOKENS]
    for length in range(1, 120):
        groups = made.backend_tokenizer.pre_tokenizer.pre_tokenize_str("7" * length)
        widths = [end - start for _, (start, end) in groups]
        assert sum(widths) == length and max(widths) <= 3 and len(widths) <= length // 3 + 2
        if length <= 33:
            assert widths == [length % 3] * bool(length % 3) + [3] * (length // 3)
    start = time.process_time()
    made.encode("3" * 100_000)
    assert time.process_time() - start < 5  # looking ahead to the end of the number would take minutes


def test_the_white_space_rule_for_code(texts: list[str]) -> None:
    code = "def f(x):\n    if x:\n        return 1\n\n\n\tpass\n" * 50
    made = train_tokenizer([*texts[:40], code], TokenizerConfig(vocab_size=768, whitespace="code"))
    assert made.tokenize("if x:\n        return") == ["if", "Ġx", ":", "Ċ", "Ġ" * 8, "return"]
    for length in range(2, 17):
        assert made.tokenize("a\n" + " " * length + "b") == ["a", "Ċ", "Ġ" * length, "b"]
    assert made.tokenize("a b") == ["a", "Ġb"]
    assert made.decode(made.encode(code + "   \r\n \t x")) == code + "   \r\n \t x"
    plain = train_tokenizer([*texts[:40], code], TokenizerConfig(vocab_size=768))
    assert plain.tokenize("\n    if")[-1] == "Ġif"
    assert [len(made.tokenize(role)) for role in ("system", "user", "assistant", "tool")] == [1] * 4


def test_reserved_tokens_wait_behind_the_others(texts: list[str], tmp_path: Path) -> None:
    made = train_tokenizer(texts[:40], TokenizerConfig(vocab_size=512, reserved_tokens=3, extra_tokens=("<sum>",)))
    assert made.convert_tokens_to_ids(["<sum>", *(f"<|reserved_{i}|>" for i in range(3))]) == [8, 9, 10, 11]
    save_tokenizer(made, tmp_path)
    for tokenizer in (made, load_tokenizer(tmp_path)):
        assert tokenizer.encode("<|reserved_2|>") == [11]
        assert tokenizer.decode([11], skip_special_tokens=True) == ""
        assert 11 not in encode_text(tokenizer, "<|reserved_2|>").input_ids
    assert len(made) == 512


def test_the_default_is_the_tokenizer_of_before(tokenizer: PreTrainedTokenizerFast) -> None:
    """Models that exist depend on it: the rules, and the numbers of the control tokens."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    header = {"Regex": "\\A(?:(?:system|user|assistant|tool)\\n|\\n)"}
    assert state["pre_tokenizer"]["pretokenizers"] == [
        {"type": "Split", "pattern": header, "behavior": "Isolated", "invert": False},
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    ]
    assert [token["content"] for token in state["added_tokens"]] == [*SPECIAL_TOKENS, *VISIBLE_TOKENS]


def test_extra_tokens_are_single_and_visible(texts: list[str]) -> None:
    made = train_tokenizer(texts, TokenizerConfig(vocab_size=512, extra_tokens=("<sum>",)))
    ids = made.encode("1<sum>2")
    assert len(ids) == 3
    assert made.decode(ids, skip_special_tokens=True) == "1<sum>2"


def test_special_tokens_hide_and_thinking_shows(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer.encode("<|im_start|><think>a</think> /no_think<|im_end|><|pad|><|endoftext|>")
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<think>a</think> /no_think"
    assert tokenizer.tokenize("<think>") == ["<think>"]
    assert "/think" not in tokenizer.tokenize("and/thinking /thinker")


def test_training_depends_on_the_texts_alone() -> None:
    code = (
        "import pydoc_data.topics as p\n"
        "from luopan.tokens.config import TokenizerConfig\n"
        "from luopan.tokens.tokenizer import train_tokenizer\n"
        "print(train_tokenizer(p.topics.values(), TokenizerConfig(vocab_size=1280)).backend_tokenizer.to_str())"
    )
    environment = {**os.environ, "RAYON_NUM_THREADS": "1", "PYTHONHASHSEED": "7"}
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    here = train_tokenizer(iter(pydoc_data.topics.topics.values()), TokenizerConfig(vocab_size=1280))
    assert other.stdout.rstrip("\n") == here.backend_tokenizer.to_str()


def test_the_saved_folder_loads_with_autotokenizer(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    save_tokenizer(tokenizer, tmp_path / "tok")
    peer = AutoTokenizer.from_pretrained(str(tmp_path / "tok"))
    ours = load_tokenizer(tmp_path / "tok")
    config = json.loads((tmp_path / "tok" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert "auto_map" not in config
    for loaded in (peer, ours):
        assert loaded.chat_template == tokenizer.chat_template
        assert loaded.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
        assert (loaded.eos_token, loaded.pad_token, loaded.bos_token) == ("<|endoftext|>", "<|pad|>", None)
        assert loaded.all_special_ids == tokenizer.all_special_ids
        assert sorted(loaded.all_special_ids) == [0, 1, 2, 3]
        assert stop_ids(loaded) == [2, 0]
    files = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (tmp_path / "tok").iterdir()}
    save_tokenizer(ours, tmp_path / "again")
    assert files == {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (tmp_path / "again").iterdir()}


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        load_tokenizer(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="no tokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"broken')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(ModelError, match="no tokenizer"):
        load_tokenizer(tmp_path)


def test_saving_where_nothing_can_be_written(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((ArtifactError, NotADirectoryError, FileExistsError)):
        save_tokenizer(tokenizer, tmp_path / "file")


def test_fertility_by_hand() -> None:
    backend = Tokenizer(models.BPE(vocab={"Ġ": 0, "a": 1, "b": 2, "Ġa": 3}, merges=[("Ġ", "a")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    hand = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="b")
    # "a a ab" is a|Ġa|Ġa|b: 6 bytes in 4 tokens; " a", " a", " ab" are 1, 1 and 2 tokens.
    figures = fertility(hand, ["a a ab"])
    assert figures == pytest.approx({"bytes_per_token": 1.5, "tokens_per_word": 4 / 3, "continued_word_rate": 1 / 3})
    with pytest.raises(DataError, match="no text"):
        fertility(hand, [" "])


def test_documents_end_once_and_never_begin_twice(tokenizer: PreTrainedTokenizerFast) -> None:
    example = encode_text(tokenizer, "<|endoftext|>")
    assert example.input_ids.count(0) == 1
    assert example.input_ids[-1] == 0
    assert list(example.labels) == list(example.input_ids)
    assert encode_text(tokenizer, "").input_ids == [0]
    assert encode_text(tokenizer, "a<|im_end|>", control_tokens=True).input_ids[-2:] == [2, 0]
    assert [e.input_ids for e in encode_texts(tokenizer, ["a", "b c"])] == [
        encode_text(tokenizer, t).input_ids for t in ("a", "b c")
    ]


def test_a_tokenizer_that_begins_texts_itself_does_so_once(tokenizer: PreTrainedTokenizerFast) -> None:
    from tokenizers.processors import TemplateProcessing

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.post_processor = TemplateProcessing(single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)])
    begins = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|endoftext|>")
    assert document_frame(begins) == ([1], [0])
    ids = encode_text(begins, "hello").input_ids
    assert ids == [*begins("hello").input_ids, 0]
    assert list(ids).count(1) == 1
