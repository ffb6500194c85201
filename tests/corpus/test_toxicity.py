"""Toxicity: word lists (whole words, phrases, languages, shares) and the classifier that comes with Luopan."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import re
import unicodedata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from corpus_texts import WORDS, prose

from luopan.corpus import word_lists
from luopan.corpus.batch import DocumentBatch
from luopan.corpus.classifier import LinearModel, buckets_of, save_model, word_hashes
from luopan.corpus.document import Document
from luopan.corpus.safety_config import ToxicityConfig
from luopan.corpus.steps import toxicity as step
from luopan.corpus.steps.toxicity import classifier, english, toxicity
from luopan.corpus.word_lists import ordinary_words, word_list
from luopan.corpus.words import Reading
from luopan.errors import DataError

GRAMMAR = "the of and to a in is that it for you"


def batch(*wanted: str | tuple[str, str]) -> DocumentBatch:
    pairs = [(each, None) if isinstance(each, str) else each for each in wanted]
    return DocumentBatch.of(
        Document(f"d/{n}", text, "d", {"language": language} if language else {})
        for n, (text, language) in enumerate(pairs)
    )


def hashes(*wanted: str) -> list[np.ndarray]:
    return word_hashes([Reading(text) for text in wanted])


@pytest.fixture
def lists(tmp_path) -> ToxicityConfig:
    """Lists of our own: one for English, one for Chinese, none from a package."""
    (tmp_path / "en.txt").write_text("# mild ones\nblorb\nfrump  # a remark\nsnark quux\nf-u-n\n\n")
    (tmp_path / "zh.txt").write_text("混蛋\n王八蛋\n")
    files = {"en": str(tmp_path / "en.txt"), "zh": str(tmp_path / "zh.txt")}
    return ToxicityConfig(languages=(), word_files=files, max_toxic_share=None)


@pytest.mark.parametrize(
    ("text", "entries", "covered"),
    [
        ("a BLORB and a Blorb.", 2, 2),
        ("blorbs are no blorby", 0, 0),
        ("Snark quux! snark, quux", 1, 2),
        ("F-u-n is f-u-n", 2, 10),
        ("frump", 1, 1),
        ("snark", 0, 0),
        ("", 0, 0),
        ("他是王八蛋,混 蛋", 2, 5),  # spaces between words are not looked at
    ],
)
def test_entries_are_whole_words_in_a_row(text, entries, covered):
    matcher = word_list(["blorb", "snark quux", "frump", "f-u-n", "混蛋", "王八蛋", "x", "--"])
    found = matcher.hits(hashes(text)[0], np.array([len(hashes(text)[0])]))
    assert [each.tolist() for each in found] == [[entries], [covered]]


def test_an_entry_does_not_reach_into_the_next_text():
    matcher = word_list(["snark quux"])
    parts = hashes("a snark", "quux snark quux", "")
    entries, covered = matcher.hits(np.concatenate(parts), np.cumsum([len(part) for part in parts]))
    assert entries.tolist() == [0, 1, 0] and covered.tolist() == [0, 2, 0]


def test_a_share_of_listed_words_is_needed_and_three_of_them(lists):
    few = "blorb blorb one two"
    many = prose() + " blorb frump" * 2
    thick = prose() + " blorb frump" * 40
    outcome = toxicity(batch(few, many, thick, prose()), lists.model_copy(update={"max_listed_share": 0.1}))
    assert outcome.batch.ids == ["d/0", "d/1", "d/3"]
    assert outcome.counts == {"listed_words": 86}
    (gone,) = outcome.rejected
    assert (gone.step, gone.rule, gone.threshold) == ("toxicity", "max_listed_share", 0.1)
    assert gone.value == pytest.approx(80 / len(Reading(thick).tokens))
    single = toxicity(batch(few), lists.model_copy(update={"min_listed": 2}))
    assert [each.value for each in single.rejected] == [0.5]


def test_the_list_is_that_of_the_language(lists):
    insult = "混蛋" * 5
    told = toxicity(batch((insult, "zh"), (insult, "en"), (insult, "fr"), insult), lists)
    assert told.batch.ids == ["d/1", "d/2"]
    everywhere = lists.model_copy(update={"word_files": {"*": lists.word_files["zh"]}})
    assert not len(toxicity(batch((insult, "zh"), (insult, "en"), insult), everywhere).batch)


def test_allowed_words_do_not_count(lists):
    text = "blorb frump " * 3
    assert not len(toxicity(batch(text), lists).batch)
    assert len(toxicity(batch(text), lists.model_copy(update={"allow": ("Blorb", "frump")})).batch)


def test_missing_lists_say_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="cannot be read"):
        toxicity(batch("a"), ToxicityConfig(word_files={"en": str(tmp_path / "none")}, languages=()))
    (tmp_path / "latin").write_bytes("fà".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        toxicity(batch("a"), ToxicityConfig(word_files={"en": str(tmp_path / "latin")}, languages=()))
    monkeypatch.setattr(word_lists, "ENGLISH", ("no-such-package", "words.txt", "pip install no-such-package"))
    word_lists.lists.cache_clear()
    with pytest.raises(DataError, match="comes with no-such-package") as told:
        toxicity(batch("a"), ToxicityConfig())
    assert "pip install no-such-package" in str(told.value)
    word_lists.lists.cache_clear()


@pytest.mark.skipif(find_spec("better_profanity") is None, reason="better-profanity is not installed")
def test_the_english_list_without_ordinary_words():
    listed = set(word_lists.packaged("en"))
    assert len(listed) > 500
    assert not listed & {"slope", "sex", "penis", "god", "negro", "kill"}
    anatomy = "The penis and the vagina, like the anus and the breasts, are organs; sperm and ovum meet. " * 5
    assert not toxicity(batch(anatomy), ToxicityConfig(max_toxic_share=None)).rejected
    vile = prose() + " ".join(sorted(listed)[100:140])
    assert toxicity(batch(vile), ToxicityConfig(max_toxic_share=None)).rejected


@pytest.mark.skipif(find_spec("safetext") is None, reason="safetext is not installed")
@pytest.mark.parametrize("language", ["zh", "de", "fr", "ja", "es", "ru"])
def test_other_languages_have_lists(language):
    entries = word_lists.packaged(language)
    assert len(entries) >= 90
    config = ToxicityConfig(languages=(language,), max_toxic_share=None)
    long_ones = [entry for entry in entries if len(entry) > 3][:50]
    assert toxicity(batch((" ".join(long_ones), language)), config).rejected
    with pytest.raises(DataError, match="no word list for the language 'xx'"):
        word_lists.packaged("xx")


def test_what_a_result_depends_on():
    config = ToxicityConfig(word_files={"zh": "b.txt", "en": "a.txt"}, classifier="mine.safetensors")
    assert config.files == ("a.txt", "b.txt", "mine.safetensors")
    assert ToxicityConfig().files == ()
    assert word_lists.versions(["en"])["en"].startswith("better-profanity ")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_ordinary_words_are_lower_case_and_different(language):
    words = ordinary_words(language)
    assert len(words) == len(set(words)) > 100
    assert all(word == word.lower() == unicodedata.normalize("NFC", word) for word in words)
    assert ordinary_words("xx") == []


# ---- the classifier


def model_of(word: str, tmp_path: Path) -> str:
    """A classifier that calls a passage toxic by its share of one word: half of it at a third."""
    weights = np.zeros(1 << 10, np.float32)
    weights[buckets_of(hashes(word)[0], 1, len(weights))] = 30
    save_model(LinearModel(weights, -10.0, 1, {}), tmp_path / f"{word}.safetensors")
    return str(tmp_path / f"{word}.safetensors")


def test_a_share_of_the_passages_is_needed(tmp_path):
    config = ToxicityConfig(classifier=model_of("vile", tmp_path), max_listed_share=None, passage_score=0.9)
    calm, vile = f"{GRAMMAR} " * 10, f"{GRAMMAR} vile vile vile vile vile vile vile vile " * 6
    texts = [calm * 3 + vile, calm + vile * 3, vile, "vile " * 10]
    outcome = toxicity(batch(*texts), config)
    assert outcome.batch.ids == ["d/0", "d/3"]  # the last is too short to say
    assert [(each.rule, each.threshold) for each in outcome.rejected] == [("max_toxic_share", 0.5)] * 2
    assert outcome.rejected[1].value == 1.0
    assert outcome.counts["passages"] == 4 + 4 + 1 and outcome.counts["toxic_passages"] == 5


def test_passages_do_not_depend_on_the_batch(tmp_path):
    model = classifier(model_of("vile", tmp_path))
    texts = [f"{GRAMMAR} vile " * n for n in range(1, 40, 3)] + ["", "one"]
    together = step.toxic_passages(model, hashes(*texts), [None] * len(texts), 0.5)
    assert together == [step.toxic_passages(model, hashes(text), [None], 0.5)[0] for text in texts]


def test_only_english_is_classified():
    french = "le la de et à un une que pour dans il est qui ne pas vous je avec sur ce " * 3
    told = hashes(f"{GRAMMAR} " * 5, french, f"{GRAMMAR} " * 5, french, "the " * 10)
    assert english(told, [None, None, "fr", "en", "en"]) == [0, 3]


def test_the_classifier_that_ships():
    model = classifier("packaged")
    size = Path(step.__file__).parents[1] / "data" / "toxicity-en.safetensors"
    assert size.stat().st_size < 1 << 20
    insults = (
        "I will kill you, you stupid bitch, shut the fuck up and die, I hate you and I want to see you suffer. " * 5
    )
    crime = "How can I steal a gun and rob a bank? I want to poison and kill the police and hack the money. " * 5
    library = (
        "The committee met on Tuesday to discuss the new budget for the school and the plans for the library. " * 5
    )
    anatomy = (
        "The heart is a muscle that pumps blood through the vessels of the body, and the lungs take in oxygen. " * 5
    )
    scores = model.scores(hashes(insults, crime, library, anatomy))
    assert min(scores[:2]) > 0.9 and max(scores[2:]) < 0.5
    # A text is not called toxic for whom it is about.
    about = [f"The {who} people of the town met to discuss the plans for the library. " * 4
             for who in ("black", "white", "jewish", "muslim", "gay", "old")]  # fmt: skip
    assert np.ptp(model.scores(hashes(*about))) < 0.05
    unseen = model.facts["measured_on_unseen"]
    assert unseen["harmless of the kinds trained on"]["auc"] > 0.95
    assert unseen["toxic conversations, uncleaned"]["above_0.9"] > 0.6


@pytest.mark.data
def test_hardly_an_ordinary_web_page_is_dropped():
    root = os.environ.get("LUOPAN_DATA")
    if not root:
        pytest.skip("LUOPAN_DATA does not name the folder with text/web_c4_demo.jsonl")
    pages = [json.loads(line)["text"] for line in (Path(root) / "text/web_c4_demo.jsonl").open(encoding="utf-8")]
    outcome = toxicity(batch(*pages), ToxicityConfig())
    assert len(outcome.rejected) <= len(pages) // 100
    assert outcome.counts["toxic_passages"] < 0.02 * outcome.counts["passages"]


@pytest.mark.data
def test_most_provoking_talk_is_called_toxic():
    root = os.environ.get("LUOPAN_DATA")
    if not root:
        pytest.skip("LUOPAN_DATA does not name the folder with preference/hh_harmless_test.jsonl.gz")
    with gzip.open(Path(root) / "preference/hh_harmless_test.jsonl.gz", "rt", encoding="utf-8") as file:
        talk = [" ".join(re.findall(r"Human: (.*?)\n\n", json.loads(line)["chosen"], re.S)) for line in file]
    scores = classifier("packaged").scores(hashes(*(text for text in talk if len(text.split()) > 20)))
    assert float((scores >= 0.9).mean()) > 0.7


# ---- configuration


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_listed_share": None, "languages": ("de",)}, "languages has no effect"),
        ({"max_toxic_share": None, "passage_score": 0.5}, "passage_score has no effect"),
        ({"max_listed_share": None, "max_toxic_share": None}, "both null"),
        ({"languages": ()}, "neither languages nor word_files"),
    ],
)
def test_keys_without_an_effect_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        ToxicityConfig(**given)


def test_an_empty_batch_and_empty_texts():
    config = ToxicityConfig(max_listed_share=None)
    assert len(toxicity(batch(), config).batch) == 0
    outcome = toxicity(batch("", " ".join(WORDS)), config)
    assert len(outcome.batch) == 2 and dataclasses.asdict(outcome)["counts"] == {"passages": 0, "toxic_passages": 0}
