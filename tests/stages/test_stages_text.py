"""Pretraining text: what a mixture means, shards that are made once, the feed, held-out text, mean bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from stage_toys import corpus_artifact

from luopan.artifacts import Artifact
from luopan.errors import DataError, RecipeError
from luopan.stages import text as module
from luopan.stages.text import (
    TextFeed,
    beyond,
    held_out,
    mean_bits,
    mixture_weights,
    shard_corpus,
    source_names,
    token_ids,
    train_texts,
)
from luopan.tokens.rows import TokenRows
from luopan.train.config import TrainConfig

TEXTS = {
    "plays": ["a" * 30, "b" * 30],  # 60 bytes
    "verse": ["c" * 20],  # 20 bytes
    "skills": ["d" * 10],
    "long": ["e" * 40],
    "gone": [],
}


@pytest.fixture
def corpus(tmp_path: Path) -> Artifact:
    return corpus_artifact(tmp_path / "curate", TEXTS, generated=("skills", "long"))


# ---- mixtures ----


def test_without_a_mixture_every_source_counts_by_its_size(corpus: Artifact) -> None:
    assert mixture_weights(corpus, None) == {"plays": 60.0, "verse": 20.0, "skills": 10.0, "long": 40.0}
    assert source_names(corpus) == ["plays", "verse", "skills", "long"]


def test_corpus_stands_for_what_was_read_and_not_named_by_size(corpus: Artifact) -> None:
    weights = mixture_weights(corpus, {"corpus": 0.4, "skills": 0.5, "long": 0.1})
    assert weights == pytest.approx({"plays": 0.3, "verse": 0.1, "skills": 0.5, "long": 0.1})
    weights = mixture_weights(corpus, {"corpus": 0.4, "verse": 0.2, "skills": 0.3, "long": 0.1})
    assert weights == pytest.approx({"plays": 0.4, "verse": 0.2, "skills": 0.3, "long": 0.1})


def test_a_weight_of_zero_leaves_a_source_out(corpus: Artifact) -> None:
    assert list(mixture_weights(corpus, {"corpus": 1, "skills": 1, "long": 0})) == ["plays", "verse", "skills"]
    assert list(mixture_weights(corpus, {"corpus": 0, "skills": 1, "long": 1})) == ["skills", "long"]


@pytest.mark.parametrize(
    ("mixture", "words"),
    [
        ({"corpus": 1, "skils": 1, "long": 0}, "names 'skils'"),
        ({"corpus": 1, "gone": 1, "skills": 1, "long": 1}, "names 'gone'"),  # nothing is left of it to train on
        ({"corpus": 1, "skills": 1}, "does not say what to do with long"),  # generated text is never meant by `corpus`
        ({"plays": 1, "skills": 1, "long": 1}, "does not say what to do with verse"),
        ({"corpus": 1, "plays": 1, "verse": 1, "skills": 1, "long": 1}, "stands for nothing"),
        ({"corpus": 0, "skills": 0, "long": 0}, "every weight of the mixture is 0"),
    ],
)
def test_what_a_mixture_refuses(corpus: Artifact, mixture: dict[str, float], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        mixture_weights(corpus, mixture)


def test_a_source_called_corpus(tmp_path: Path) -> None:
    corpus = corpus_artifact(tmp_path / "curate", {"corpus": ["a" * 9], "plays": ["b" * 9]}, generated=("corpus",))
    with pytest.raises(RecipeError, match="corpus"):
        mixture_weights(corpus, {"corpus": 1})


# ---- shards and the feed ----


def test_shards_are_made_once_and_hold_whole_documents(
    corpus: Artifact, tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = {"plays": 1.0, "skills": 1.0}
    shards = shard_corpus(corpus, tokenizer, tmp_path / "shards", weights)
    assert list(shards) == ["plays", "skills"] and not (tmp_path / "shards" / "verse").exists()
    documents = [list(shards["plays"].document(i)) for i in range(len(shards["plays"].lengths))]
    assert [tokenizer.decode(ids[:-1]) for ids in documents] == TEXTS["plays"]
    assert all(ids[-1] == tokenizer.eos_token_id for ids in documents)

    def again(*arguments: object) -> None:
        raise AssertionError("encoded again")

    monkeypatch.setattr(module, "write_shards", again)
    reused = shard_corpus(corpus, tokenizer, tmp_path / "shards", weights)
    assert [list(reused["plays"].document(i)) for i in range(2)] == documents
    with pytest.raises(AssertionError, match="encoded again"):  # a source that was not there is made
        shard_corpus(corpus, tokenizer, tmp_path / "shards", {**weights, "long": 1.0})


def test_token_ids_does_not_depend_on_how_many_are_encoded_at_once(tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"text number {i}" for i in range(7)]
    whole = [list(ids) for ids in token_ids(tokenizer, texts)]
    monkeypatch.setattr("luopan.tokens.encode.BATCH_TEXTS", 3)
    assert [list(ids) for ids in token_ids(tokenizer, texts)] == whole and len(whole) == 7


def test_a_step_holds_the_same_rows_over_any_number_of_ranks(corpus: Artifact, tokenizer, tmp_path: Path) -> None:
    weights = mixture_weights(corpus, None)
    rows = TokenRows(shard_corpus(corpus, tokenizer, tmp_path / "shards", weights), weights, 8, seed=1)
    whole, cut = (
        TrainConfig(learning_rate=1e-3, max_steps=9, per_device_train_batch_size=n, gradient_accumulation_steps=4 // n)
        for n in (4, 1)
    )
    alone = TextFeed(rows, whole).micro_batches(2)[0].input_ids
    parts = [TextFeed(rows, cut, rank=rank, world_size=2).micro_batches(2) for rank in (0, 1)]
    assert [len(part) for part in parts] == [2, 2]
    assert torch.equal(torch.cat([batch.input_ids for part in parts for batch in part]), alone)
    assert not torch.equal(TextFeed(rows, whole).micro_batches(3)[0].input_ids, alone)
    said = TextFeed(rows, cut, rank=1, world_size=2).describe(2)
    read = []
    for words in said:
        source, _, document, _, start, _, stop = words.replace(":", "").replace(",", "").split()
        read += list(rows.sources[source].document(int(document), int(start), int(stop)))
    assert read == alone.flatten().tolist()


# ---- held-out text ----


def test_held_out_is_never_trained_on_and_about_so_many_bytes(tmp_path: Path) -> None:
    sources = {"plays": [f"{i} " + "x" * 20 for i in range(10)], "verse": [f"v{i}" for i in range(6)]}
    corpus = corpus_artifact(tmp_path / "curate", sources, held_out=4)
    found = held_out(corpus, 30)
    assert found == {"plays": sources["plays"][6:8], "verse": sources["verse"][2:]}
    trained = set(train_texts(corpus, "plays", 10**6))
    assert trained == set(sources["plays"][:6]) and not trained & set(held_out(corpus, 10**6)["plays"])
    assert len(list(train_texts(corpus, "plays", 30))) == 2


def test_nothing_held_out_is_an_error(corpus: Artifact) -> None:
    with pytest.raises(DataError, match="holds nothing out"):
        held_out(corpus, 100)


def test_mean_bits_by_hand() -> None:
    bits = {"a": 2.0, "b": 4.0}
    assert mean_bits(bits) == 3.0
    assert mean_bits(bits, {"a": 3.0, "b": 1.0}) == 2.5
    assert mean_bits(bits, {"c": 1.0}) is None and mean_bits({}) is None


def test_beyond_looks_past_the_pretrained_length_only() -> None:
    assert beyond([(32.0, 9.0), (96.0, 2.0), (160.0, 4.0), (200.0, float("nan"))], 64) == 3.0
    assert beyond([(32.0, 9.0)], 64) is None
