"""Test questions in the text: what is found and said about it, what is too short, files that cannot be read."""

from __future__ import annotations

import gzip
import json
import os
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from corpus_texts import WORDS
from pydantic import ValidationError

from luopan.corpus.batch import DocumentBatch
from luopan.corpus.dedup_config import DecontaminateConfig
from luopan.corpus.document import Document
from luopan.corpus.lines import numbered_lines
from luopan.corpus.steps.decontaminate import decontaminate, gaps, notes
from luopan.errors import DataError

QUESTION = "A train leaves the old station at noon with forty people, and at every stop seven of them get out."
ANSWER = "After four stops there are twelve people left on board"
SHORT = "Why do cats always land on their feet?"  # 8 words
TINY = "What is two plus two?"
CHINESE = "小明有十二个苹果，他每天吃掉两个苹果，又从树上摘下三个苹果，请问一周之后他一共有多少个苹果？"
ROWS = [
    {"question": QUESTION, "answer": ANSWER},
    {"question": SHORT, "answer": "Reflex"},
    {"question": TINY, "answer": "4"},
    {"question": CHINESE, "answer": "19"},
]


def batch_of(*texts: str) -> DocumentBatch:
    return DocumentBatch.of([Document(str(n), text, "s") for n, text in enumerate(texts)])


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def config_for(path: Path, columns=("question", "answer"), **options) -> DecontaminateConfig:
    return DecontaminateConfig(sets={"maths": {"path": str(path), "columns": columns}}, **options)


@pytest.fixture
def config(tmp_path) -> DecontaminateConfig:
    return config_for(write_rows(tmp_path / "test.jsonl", ROWS))


def around(text: str) -> str:
    return f"{' '.join(WORDS[:20])} {text} {' '.join(WORDS[20:40])}"


@pytest.mark.parametrize(
    ("text", "row"),
    [
        (QUESTION, 1),
        (QUESTION.upper().replace(",", " --").replace(" ", "\n"), 1),  # case, punctuation and white space do not count
        (" ".join(QUESTION.split()[3:16]), 1),  # 13 words of it
        (" ".join(QUESTION.split()[-6:] + ANSWER.split()[:7]), 1),  # from the prompt into the answer
        (ANSWER, 1),  # 10 words: looked for whole
        (SHORT, 2),
        (CHINESE[:31], 4),
    ],
)
def test_what_is_found(config, text, row):
    outcome = decontaminate(batch_of(around("nothing here"), around(text)), config)
    assert outcome.batch.ids == ["0"] and outcome.counts == {"in_maths": 1}
    (found,) = outcome.rejected
    assert (found.step, found.rule, found.threshold) == ("decontaminate", "max_matches", 0) and found.value >= 1
    assert found.detail.startswith(f"maths, test.jsonl:{row}: ") and found.text == around(text)
    quoted = found.detail.split(": ", 1)[1].casefold()
    assert quoted in " ".join(around(text).split()).casefold()


@pytest.mark.parametrize(
    "text",
    [
        " ".join(QUESTION.split()[3:15]),  # 12 words
        " ".join(ANSWER.split()[:9]),  # all but one of a short column
        "why do cats land on their feet",
        TINY + " 4",
        CHINESE[:27],  # 25 characters and punctuation: 12 words and a half
        "",
    ],
)
def test_what_is_not_enough(config, text):
    outcome = decontaminate(batch_of(around(text), text), config)
    assert len(outcome.batch) == 2 and outcome.rejected == [] and outcome.counts == {}


def test_no_match_reaches_from_one_document_into_the_next(config):
    words = QUESTION.split()
    assert len(decontaminate(batch_of(" ".join(words[:10]), " ".join(words[10:])), config).batch) == 2


def test_nothing_in_a_batch_changes_a_verdict(config):
    texts = [around(QUESTION), around("clean"), SHORT, around(ANSWER), CHINESE, " ".join(WORDS)]
    together = decontaminate(batch_of(*texts), config)
    alone = [decontaminate(batch_of(text), config).rejected for text in texts]
    assert [item.detail for item in together.rejected] == [item.detail for own in alone for item in own]


def test_what_is_looked_for_is_said(config):
    assert notes(config) == ["maths: 3 of 4 test items are looked for; 1 have fewer than 8 words"]
    assert gaps(config) == notes(config)


def test_common_wording_tells_nothing(tmp_path):
    template = "Read the following passage with great care and then answer the question that comes after it"
    rows = [{"question": f"{template}: {' '.join(random.Random(n).sample(WORDS, 14))}"} for n in range(11)]
    common = config_for(write_rows(tmp_path / "a.jsonl", rows), ["question"])
    assert len(decontaminate(batch_of(template), common).batch) == 1
    assert len(decontaminate(batch_of(rows[3]["question"]), common).batch) == 0
    assert "in more than 10 items" in notes(common)[0]
    for loose in (common.model_copy(update={"max_items": 11}), common.model_copy(update={"max_items": None})):
        assert len(decontaminate(batch_of(template), loose).batch) == 0


def test_some_matches_may_be_allowed(tmp_path):
    config = config_for(write_rows(tmp_path / "a.jsonl", ROWS), max_matches=2)
    first = " ".join(QUESTION.split()[:15])  # 15 words have three 13-grams
    outcome = decontaminate(batch_of(first, " ".join(first.split()[:14])), config)
    assert [item.value for item in outcome.rejected] == [3] and outcome.batch.ids == ["1"]


def test_two_sets_are_told_apart(tmp_path):
    one, two = write_rows(tmp_path / "one.jsonl", ROWS[:1]), write_rows(tmp_path / "two.jsonl", ROWS[1:2])
    sets = {"trains": {"path": str(one), "columns": ["question"]}, "cats": {"path": str(two), "columns": ["question"]}}
    outcome = decontaminate(batch_of(SHORT, QUESTION), DecontaminateConfig(sets=sets))
    assert [item.detail.split(":")[0] for item in outcome.rejected] == ["cats, two.jsonl", "trains, one.jsonl"]
    assert outcome.counts == {"in_cats": 1, "in_trains": 1}


def test_a_file_that_changed_is_read_again(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", ROWS[1:2])
    assert len(decontaminate(batch_of(QUESTION), config_for(path)).batch) == 1
    write_rows(path, ROWS)
    assert len(decontaminate(batch_of(QUESTION), config_for(path)).batch) == 0


def written(kind: str, folder: Path) -> Path:
    path = folder / f"test{kind}"
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    table = "question,answer\n" + "".join(f'"{row["question"]}","{row["answer"]}"\n' for row in ROWS)
    if kind == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif kind == ".json":
        path.write_text(json.dumps(ROWS))
    elif kind == ".jsonl.gz":
        path.write_bytes(gzip.compress(lines))
    elif kind == ".jsonl.zst":
        path.write_bytes(zstandard.compress(lines))
    elif kind == ".tsv":
        path.write_text(table.replace(",", "\t", 1).replace('","', '"\t"'), encoding="utf-8")
    else:
        path.write_text(table, encoding="utf-8-sig")
    return path


@pytest.mark.parametrize("kind", [".parquet", ".json", ".jsonl.gz", ".jsonl.zst", ".csv", ".tsv"])
def test_formats(tmp_path, kind):
    config = config_for(written(kind, tmp_path))
    (found,) = decontaminate(batch_of(around(SHORT)), config).rejected
    assert found.detail.startswith(f"maths, test{kind}:2: ")
    assert len(decontaminate(batch_of(CHINESE), config).rejected) == 1


def test_a_folder_and_nested_columns(tmp_path):
    rows = [{"q": {"stem": TINY, "choices": [{"text": "one two three"}, {"text": SHORT}]}, "n": 3, "x": None}]
    write_rows(tmp_path / "a.jsonl", rows)
    write_rows(tmp_path / "b.jsonl", ROWS[:1])
    config = config_for(tmp_path, ["q.stem", "q.choices", "n", "question"])
    details = [item.detail for item in decontaminate(batch_of(SHORT, QUESTION), config).rejected]
    assert [detail.split(": ")[0] for detail in details] == ["maths, a.jsonl:1", "maths, b.jsonl:1"]


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        ('{"question": "a"}\n', ["question", "anwser"], "no column anwser"),
        ('{"question": "a"}\n{"quest', ["question"], "not JSON"),
        ('["question"]\n', ["question"], "not a JSON object"),
        ("", ["question"], "no column question"),
        ('{"question": "How many are left?"}\n', ["question"], "1 of 1 items have fewer than 8 words"),
    ],
)
def test_sets_that_cannot_be_used_are_refused(tmp_path, content, columns, message):
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=message) as error:
        decontaminate(batch_of("text"), config_for(path, columns))
    assert error.value.hint and "a.jsonl" in str(error.value.where)


@pytest.mark.parametrize("name", ["gone.jsonl", "notes.txt", "broken.parquet", "object.json", "broken.csv"])
def test_files_that_cannot_be_read_are_refused(tmp_path, name):
    if name != "gone.jsonl":
        (tmp_path / name).write_bytes(b'{"a": "\xff"}')
    with pytest.raises(DataError) as error:
        decontaminate(batch_of("text"), config_for(tmp_path / name))
    assert error.value.hint


def test_settings_that_cannot_be():
    sets = {"a": {"path": "a.jsonl", "columns": ["q"]}}
    with pytest.raises(ValidationError, match="min_words"):
        DecontaminateConfig(sets=sets, ngram=5)
    for bad in ({}, {"a": {"path": "a.jsonl", "columns": []}}):
        with pytest.raises(ValidationError):
            DecontaminateConfig(sets=bad)


@pytest.mark.data
def test_real_questions_are_found_and_real_textbooks_pass():
    folder = os.environ.get("LUOPAN_DATA")
    path = Path(folder or "", "eval", "gsm8k_test.jsonl.zst")
    if not folder or not path.is_file():
        pytest.skip("LUOPAN_DATA names no folder with eval/gsm8k_test.jsonl.zst")
    config = config_for(path)
    items = [json.loads(line) for _, _, line in numbered_lines(path)][:200]
    pages = [around(item["question"].replace(". ", ".\n")) for item in items]
    assert len(decontaminate(batch_of(*pages), config).rejected) == len(items)
    books = [json.loads(line)["text"] for _, _, line in numbered_lines(Path(folder, "text", "openstax.jsonl.zst"))][
        :500
    ]
    assert decontaminate(batch_of(*books), config).rejected == []
