"""Tokenizers in llama.cpp's words: a name only where both cut alike, and a reason where they do not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from gguf_toys import nasty
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from luopan.errors import ModelError
from luopan.tokens.config import GPT4_WORDS, TokenizerConfig
from luopan.tokens.gguf_cuts import find_cuts
from luopan.tokens.gguf_vocab import CONTROL, NORMAL, UNUSED, USER_DEFINED, as_llama_cuts, vocabulary
from luopan.tokens.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def lines(texts: list[str]) -> PreTrainedTokenizerFast:
    return train_tokenizer(texts, TokenizerConfig(vocab_size=1024, whitespace="lines"))


def cut_like_llama(tokenizer: PreTrainedTokenizerFast, digits: bool = True) -> Tokenizer:
    """What llama.cpp does under the names smollm and gpt-2: digits and GPT-2's words, no header."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    made = Tokenizer.from_str(json.dumps(state))
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    made.pre_tokenizer = pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return made


def differing(tokenizer: PreTrainedTokenizerFast, other: Tokenizer) -> list[str]:
    """Nasty strings that the two cut differently."""
    own = tokenizer.backend_tokenizer
    return [
        text
        for text in nasty(4000)
        if own.encode(text, add_special_tokens=False).ids != other.encode(text, add_special_tokens=False).ids
    ]


@pytest.mark.parametrize(("settings", "name"), [({}, "smollm"), ({"split_digits": False}, "gpt-2")])
def test_line_breaks_apart_are_cut_as_llama_cpp_cuts(texts: list[str], settings: dict[str, Any], name: str) -> None:
    made = train_tokenizer(texts, TokenizerConfig(vocab_size=1024, whitespace="lines", **settings))
    assert vocabulary(made, 1024).pre == name
    assert not differing(made, cut_like_llama(made, digits=not settings))
    assert made.decode(made("a\n\nb").input_ids) == "a\n\nb"


def test_merged_line_breaks_are_refused_because_they_differ(tokenizer: PreTrainedTokenizerFast) -> None:
    assert "<think>\n\n</think>\n\n" in differing(tokenizer, cut_like_llama(tokenizer))
    with pytest.raises(ModelError, match="line break") as caught:
        vocabulary(tokenizer, 1024)
    assert "whitespace: lines" in str(caught.value) and "--inexact-tokenizer" in str(caught.value)


def test_an_inexact_tokenizer_leaves_the_merges_out(tokenizer: PreTrainedTokenizerFast) -> None:
    made = vocabulary(tokenizer, 1024, inexact=True)
    assert made.pre == "smollm" and "inexact tokenizer" in made.notes[0]
    assert not [merge for merge in made.merges if "Ċ" in merge] and len(made.merges) > 700
    assert "ĊĊ" in made.tokens  # the model can still say it
    # The chat format comes out as in training; runs of line breaks do not.
    for text in ("assistant\nHello", "word word\nword", "3 + 4\n"):
        assert as_llama_cuts(tokenizer, text) == tokenizer(text).input_ids
    assert as_llama_cuts(tokenizer, "a\n\n\nb") != tokenizer("a\n\n\nb").input_ids


def test_kinds_and_special_tokens(lines: PreTrainedTokenizerFast) -> None:
    made = vocabulary(lines, 1100)
    kinds = dict(zip(made.tokens, made.kinds, strict=True))
    assert kinds["<|im_end|>"] == kinds["<|endoftext|>"] == CONTROL
    assert kinds["<think>"] == kinds["/no_think"] == USER_DEFINED and kinds["Ċ"] == NORMAL
    assert made.kinds.count(UNUSED) == 76 and len(set(made.tokens)) == 1100
    assert made.special == {"eos": 0, "eot": 2, "pad": 3} and made.stops == [2, 0]
    assert (made.add_bos, made.add_eos) == (False, False)
    assert made.chat_template == lines.chat_template
    assert any("/think" in note and "whole words" in note for note in made.notes)
    assert any("76 rows" in note for note in made.notes)


def test_more_tokens_than_rows_are_refused(lines: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ModelError, match="1024 tokens and the model an embedding of 1023"):
        vocabulary(lines, 1023)


def foreign(pattern: str, *, ignore_merges: bool = False, bos: bool = False, normalizer: Any = None) -> Any:
    """A tokenizer like those of Llama 3 and Qwen."""
    made = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    made.normalizer = normalizer
    made.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    made.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|begin_of_text|>", "<|eot_id|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(["the quick  brown\n\n\tfox 1234 jumps, isn't it?\n" * 50], trainer)
    if bos:
        made.post_processor = processors.TemplateProcessing(
            single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>", clean_up_tokenization_spaces=False
    )


@pytest.mark.parametrize(("digits", "ignore_merges", "name"), [
    ("{1,3}", True, "llama-bpe"), ("{1,3}", False, "dbrx"), ("", False, "qwen2"),
])  # fmt: skip
def test_well_known_rules_have_names(digits: str, ignore_merges: bool, name: str) -> None:
    made = foreign(GPT4_WORDS % digits, ignore_merges=ignore_merges, bos=True)
    found = vocabulary(made, len(made))
    assert found.pre == name and found.add_bos and not found.add_eos and found.special["bos"] == 0


@pytest.mark.parametrize(("made", "message"), [
    (lambda: foreign(GPT4_WORDS % "", ignore_merges=True), "ignore_merges true"),
    (lambda: foreign(r"\d+|\D+"), "no rule of llama.cpp"),
    (lambda: foreign(GPT4_WORDS % "", normalizer=normalizers.Lowercase()), "Lowercase"),
])  # fmt: skip
def test_what_llama_cpp_cannot_do_is_named(made: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        vocabulary(made(), 4096)


def test_what_touches_few_texts_is_told() -> None:
    made = foreign(GPT4_WORDS % "", normalizer=normalizers.NFC())
    assert any("NFC" in note for note in vocabulary(made, len(made)).notes)


@pytest.mark.parametrize("settings", [{"whitespace": "code"}, {"digit_group": 3}])
def test_our_other_rules_are_refused_with_the_one_to_take(texts: list[str], settings: dict[str, Any]) -> None:
    made = train_tokenizer(texts, TokenizerConfig(vocab_size=1024, **settings))
    for inexact in (False, True):
        with pytest.raises(ModelError, match="which is no rule") as caught:
            vocabulary(made, 1024, inexact=inexact)
        assert "whitespace: lines" in str(caught.value)


def test_a_tokenizer_of_another_kind_is_refused() -> None:
    words = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    with pytest.raises(ModelError, match="WordLevel"):
        vocabulary(PreTrainedTokenizerFast(tokenizer_object=words, eos_token="a"), 2)


def test_a_word_among_the_steps_is_no_rule() -> None:
    """A step that is spelt like one of our words for a rule must not pass for it."""
    step = {"type": "Split", "pattern": {"String": "words"}, "behavior": "Isolated", "invert": False}
    assert find_cuts(step, {"merges": []}).name is None
