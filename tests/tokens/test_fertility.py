from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from luopan.errors import DataError
from luopan.tokens.fertility import guess_script, measure, measure_cut, relative_tokens, sample
from luopan.tokens.tokenizer import fertility


def test_the_figures_are_those_of_fertility(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> None:
    cut = measure_cut(tokenizer, sample("docs", texts[:10], "en"))
    known = fertility(tokenizer, texts[:10])
    assert (cut.domain, cut.language, cut.unit) == ("docs", "en", "word")
    assert {name: getattr(cut, name) for name in known} == pytest.approx(known)
    assert cut.characters_per_token == pytest.approx(sum(map(len, texts[:10])) / cut.tokens)


def test_characters_take_the_place_of_words_in_chinese() -> None:
    # 中 and 文 are one token each and one together; 字 is three bytes.
    vocab = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = []
    for left, right in (("ä", "¸"), ("ä¸", "Ń"), ("æ", "ĸ"), ("æĸ", "ĩ"), ("ä¸Ń", "æĸĩ")):
        vocab[left + right] = len(vocab)
        merges.append((left, right))
    backend = Tokenizer(models.BPE(vocab, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    cut = measure_cut(PreTrainedTokenizerFast(tokenizer_object=backend), sample("zh", ["中文中字"], "zh"))
    # 中文 | 中 | three bytes of 字: five tokens for four characters of twelve bytes; one of four characters is cut.
    assert (cut.unit, cut.tokens) == ("character", 5)
    assert (cut.bytes_per_token, cut.tokens_per_word, cut.continued_word_rate) == (12 / 5, 5 / 4, 1 / 4)


def test_measure(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> None:
    samples = [sample("docs", texts[:5], "en"), sample("zh", ["你好，世界。" * 20], "zh")]
    measured = measure("mine", tokenizer, samples)
    assert [cut.domain for cut in measured.cuts] == ["docs", "zh"]
    assert measured.megabytes_per_second > 0
    facts = measured.as_dict()
    assert facts["audit"]["faults"]["undecodable"] == 13
    assert facts["audit"]["unused_share"] == measured.audit.unused_share
    assert relative_tokens([measured, measured]) == {"mine": 1.0}
    with pytest.raises(DataError, match="no text"):
        measure("mine", tokenizer, [])
    with pytest.raises(DataError, match="no text"):
        sample("empty", [" \n"])


@pytest.mark.parametrize(("text", "script"), [
    ("Plain words", "latin"), ("простые слова", "cyrillic"), ("简单的文字", "han"), ("かんたんな文字です", "japanese"),
    ("123 …", "und"),
])  # fmt: skip
def test_scripts(text: str, script: str) -> None:
    assert guess_script(text) == script
    assert sample("x", ["abc"], script).language == script
