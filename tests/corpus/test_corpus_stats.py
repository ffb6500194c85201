"""What is counted for the data card: words and spans against plain definitions, and the same sums in any order."""

from __future__ import annotations

import json
import os
import pickle
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from corpus_texts import prose

from luopan.corpus import stats as stats_module
from luopan.corpus import store
from luopan.corpus.batch import DocumentBatch
from luopan.corpus.card import data_card
from luopan.corpus.counting import SpanCounts, words_in
from luopan.corpus.document import Document, Rejected
from luopan.corpus.stats import CorpusStats, host_of
from luopan.corpus.words import Reading
from luopan.errors import DataError

CHINESE = "今天天气很好，我们去公园散步吧"


def words(*texts: str) -> list[int]:
    return words_in(pa.array(texts, pa.string())).tolist()


def documents(count: int = 60) -> list[Document]:
    found = []
    for number in range(count):
        greeting, notice = (
            "Welcome to the page of the harbour town museum",
            "All rights reserved by the harbour town museum",
        )
        text = f"{greeting}. {prose(number, 40)}\n{notice} {number}"
        meta = {"url": f"https://www.host{number % 7}.org/{number}", "language": "de" if number % 3 else "en"}
        if number % 4 == 0:
            meta |= {"pii": {"email": 2}, "quality": number / count}
        found.append(Document(f"web/{number}", text, "web" if number % 2 else "mail", meta))
    return found


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("   \n", 0),
        ("one", 1),
        ("one two  three\nfour\tfive ", 5),
        ("naïve café über", 3),
        (CHINESE, 7),  # 14 characters of the script, and a comma that stands inside
        ("สวัสดีครับ", 5),
        ("Привет, мир", 2),
        ("我们 use Python 和 numpy", 3 + 1),
        ("𠀀𠀁𠀂𠀃", 2),
    ],
)
def test_words_of_a_text(text: str, count: int) -> None:
    assert words(text) == [count]


def test_texts_do_not_run_into_each_other() -> None:
    texts = ["one", "two three", "", "four", CHINESE, "five six "]
    assert words(*texts) == [words(text)[0] for text in texts]
    sliced = pa.array(["zero zero", *texts], pa.string()).slice(1, 4)
    assert words_in(sliced).tolist() == [1, 2, 0, 1]


def test_words_are_those_of_the_filters_in_plain_prose() -> None:
    text = prose(3, 500)
    assert words(text) == [Reading(text).word_count]


# ---------------------------------------------------------------- spans


def expected_spans(texts: list[str]) -> Counter[str]:
    """By the definition, sentence by sentence."""
    found: Counter[str] = Counter()
    for text in texts:
        for line in text.split("\n"):
            for sentence in line.split(". "):
                tokens = sentence.split()
                if len(tokens) >= 8:
                    found[" ".join(tokens[:8]).lower()] += 1
    return found


def test_spans_are_counted_in_occurrences_and_documents() -> None:
    spans = SpanCounts()
    line = "Subscribe to our newsletter and never miss a thing"
    spans.add([f"{line}\nother words\n{line} again", f"Something. {line.upper()}", "too short a line"])
    assert spans.top(5) == [("subscribe to our newsletter and never miss a", 3, 2)]


def test_spans_of_scripts_without_spaces() -> None:
    spans = SpanCounts()
    line = "本网站使用缓存文件以改善您的浏览体验请点击同意"
    spans.add([f"前言。{line}继续", f"{line}\n后记", "短句。也短。"])
    assert spans.top(5) == [(line[:16], 2, 2)]


@pytest.mark.parametrize("most", [10_000, 100, 7])
def test_spans_do_not_depend_on_order_or_parts_and_are_exact(most: int) -> None:
    texts = [document.text for document in documents(90)]
    whole = SpanCounts(most)
    whole.add(texts)
    exact = expected_spans(texts)
    assert {span: count[0] for span, count in whole.counts.items()}.items() <= dict(exact).items()
    assert len(whole.counts) <= most
    assert (whole.level == 0) == (most > len(exact))
    for seed in range(4):
        shuffled = random.Random(seed).sample(texts, len(texts))
        parts = [SpanCounts(most) for _ in range(5)]
        for number, text in enumerate(shuffled):
            parts[0 if seed % 2 and number > 4 else number % 5].add([text])  # even parts, or one that holds nearly all
        merged = parts[seed]
        for part in parts[:seed] + parts[seed + 1 :]:
            merged.merge(part)
        assert (merged.level, merged.counts) == (whole.level, whole.counts)


def test_odd_spaces_never_count_so_that_the_order_does_not_matter() -> None:
    odd = "Subscribe  to our newsletter and never miss a thing"
    spans = SpanCounts()
    spans.add([odd, odd])
    assert spans.counts == {}


# ---------------------------------------------------------------- the whole


def card_of(stats: CorpusStats) -> str:
    return json.dumps(data_card({}, stats), ensure_ascii=False)


def counted(found: list[Document], size: int) -> CorpusStats:
    stats = CorpusStats()
    for start in range(0, len(found), size):
        stats.add(DocumentBatch.of(found[start : start + size]), "train")
    return stats


def test_figures_by_hand() -> None:
    stats = CorpusStats()
    stats.add(
        DocumentBatch.of(
            [
                Document("a/1", "one two three", "a", {"language": "en", "url": "http://www.Example.org:80/x"}),
                Document("a/2", CHINESE, "a", {"language": "zh", "pii": {"email": 1, "phone": 2}, "quality": 1.0}),
                Document("b/1", "four" * 40, "b", {"quality": 0.26}),
            ]
        ),
        "train",
    )
    stats.add(DocumentBatch.of([Document("a/3", "one", "a", {"pii": {"email": 1}})]), "held_out")
    stats.add(DocumentBatch.of([]), "held_out")
    card = data_card({"a": {"licence": "MIT", "origin": "here", "version": ""}}, stats)
    size = len(CHINESE.encode())
    assert card["documents"] == {"train": 3, "held_out": 1}
    assert card["bytes"] == {"train": 13 + size + 160, "held_out": 3}
    assert card["words"] == {"train": 3 + 7 + 1, "held_out": 1}
    assert card["tokens"]["held_out"] == round(3 / 4)
    assert card["tokens_by"] == {"counted": False, "tokenizer": None, "bytes_per_token": 4.0}
    assert card["mean_document_bytes"] == (13 + size + 160 + 3) / 4
    assert card["length_histogram"] == [
        {"from": 0, "to": 64, "documents": 3},
        {"from": 64, "to": 128, "documents": 0},
        {"from": 128, "to": 256, "documents": 1},
    ]
    assert card["languages"]["zh"] == {"documents": 1, "bytes": size}
    assert list(card["sources"]["a"]["languages"]) == ["zh", "en", "unknown"]
    assert card["domains"]["top"] == [{"host": "example.org", "documents": 1, "bytes": 13}]
    assert card["pii"] == {"email": 2, "phone": 2}
    assert [row["documents"] for row in card["quality_histogram"]] == [0] * 5 + [1] + [0] * 13 + [1]
    assert card["sources"]["a"]["licence"] == "MIT" and card["sources"]["b"]["licence"] == "not stated"
    assert [sample["id"] for sample in card["sources"]["b"]["samples"]] == ["b/1"]


@pytest.mark.parametrize(("size", "bucket"), [(0, 64), (63, 64), (64, 128), (127, 128), (128, 256), (1 << 20, 2 << 20)])
def test_length_buckets_hold_their_lower_end(size: int, bucket: int) -> None:
    rows = data_card({}, counted([Document("a", "x" * size, "a")], 1))["length_histogram"]
    assert [row["to"] for row in rows if row["documents"]] == [bucket]


def test_counts_do_not_depend_on_batches_splits_or_order() -> None:
    found = documents()
    whole = card_of(counted(found, 7))
    assert card_of(counted(found, 60)) == whole
    parts = [counted(found[start::4], 5) for start in range(4)]
    for order in ((0, 1, 2, 3), (3, 1, 0, 2)):
        merged = CorpusStats()
        for number in order:
            merged.merge(pickle.loads(pickle.dumps(parts[number])))
        assert card_of(merged) == whole


def test_counts_do_not_depend_on_the_process() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_corpus_stats import card_of, counted, documents\n"
        "print(card_of(counted(documents(12), 5)))"
    )
    here = str(Path(__file__).parent)
    seen = set()
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code, here], capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )  # fmt: skip
        seen.add(done.stdout.strip())
    assert seen == {card_of(counted(documents(12), 12))}


def test_samples_are_of_the_training_part_and_the_same_whatever_came_first() -> None:
    found = documents()
    samples = [sample["id"] for sample in data_card({}, counted(found, 60))["sources"]["web"]["samples"]]
    assert len(samples) == 3
    backwards = data_card({}, counted(found[::-1], 11))["sources"]["web"]["samples"]
    assert [sample["id"] for sample in backwards] == samples
    apart = CorpusStats()
    apart.add(DocumentBatch.of(found), "held_out")
    assert data_card({}, apart)["sources"]["web"]["samples"] == []


def test_many_hosts_are_summed_up_and_no_document_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats_module, "MAX_DOMAINS", 8)
    found = [Document(f"w/{n}", "x", "w", {"url": f"http://big.org/{n}"}) for n in range(9)]
    found += [Document(f"w/s{n}", "x", "w", {"url": f"http://small{n}.org"}) for n in range(40)]
    domains = data_card({}, counted(found, 10))["domains"]
    assert domains["documents"] == 49 and not domains["complete"] and domains["hosts"] <= 8
    assert domains["top"][0] == {"host": "big.org", "documents": 9, "bytes": 9}


def test_rejected_samples_are_a_few_of_each_rule(tmp_path: Path) -> None:
    items = [Rejected(f"w/{n}", "w", "c4", f"rule{n % 2}", float(n), 9.0, text="t" * 900) for n in range(30)]
    items.append(Rejected("w/x", "w", "exact", "exact", detail="same text as w/1"))
    with store.Writer(tmp_path / "0.parquet", store.REJECTED) as writer:
        for item in items:
            writer.rejected(item)
    stats, parts = CorpusStats(), [CorpusStats(), CorpusStats()]
    for number, rows in enumerate(store.batches(tmp_path / "0.parquet")):
        stats.add_rejected(rows)
        parts[number % 2].add_rejected(rows.slice(0, 11))
        parts[1].add_rejected(rows.slice(11))
    shown = data_card({}, stats)["rejected_samples"]
    assert [(each["step"], each["rule"]) for each in shown] == [("c4", "rule0")] * 2 + [("c4", "rule1")] * 2 + [
        ("exact",) * 2
    ]
    assert len(shown[0]["text"]) == stats_module.SAMPLE_CHARACTERS and shown[-1]["text"] is None
    parts[0].merge(parts[1])
    assert data_card({}, parts[0])["rejected_samples"] == shown


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://www.Example.org/a?b", "example.org"),
        ("http://user:pw@example.org:8080/", "example.org"),
        ("example.org/a", "example.org"),
        ("https://sub.example.org?x=/y", "sub.example.org"),
        ("", ""),
    ],
)
def test_host_of_a_url(url: str, host: str) -> None:
    assert host_of(url) == host


def test_tokens_are_counted_with_a_tokenizer(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"one": 0, "two": 1, "[UNK]": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    stats = CorpusStats(str(tmp_path))
    stats.add(DocumentBatch.of([Document("a", "one two, two", "a"), Document("b", "one", "a")]), "train")
    card = data_card({}, pickle.loads(pickle.dumps(stats)))
    assert card["tokens"] == {"train": 5, "held_out": 0}
    assert card["tokens_by"] == {"counted": True, "tokenizer": str(tmp_path), "bytes_per_token": None}


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no tokenizer\.json"):
        CorpusStats(str(tmp_path)).add(DocumentBatch.of(documents(1)), "train")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="is no tokenizer"):
        CorpusStats(str(tmp_path)).add(DocumentBatch.of(documents(1)), "train")
