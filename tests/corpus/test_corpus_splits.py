"""Units of work: the same documents in the same order however the sources are cut."""

from __future__ import annotations

import gzip
import json
import pickle
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luopan.corpus import packaged as packaged_texts
from luopan.corpus import read_hub as hub_reading
from luopan.corpus import splits as splitting
from luopan.corpus.document import Document, Rejected
from luopan.corpus.identity import fingerprint
from luopan.corpus.read import read_files
from luopan.corpus.source_config import CodeSource, FileSource, HubSource, PackagedSource
from luopan.corpus.splits import line_parts, plan_splits, read_split
from luopan.errors import DataError


def write_folder(folder, seed=0):
    """A folder with every kind of file, large and small for splits of 2,000 bytes."""
    folder.mkdir(exist_ok=True)
    lines = [json.dumps({"text": f"row {n} " + "words " * (n * 7 % 40)}) for n in range(300)]
    lines[5], lines[7], lines[200] = "", "{broken", json.dumps({"text": "long " * 1500})
    (folder / "a.jsonl").write_text("\n".join(lines))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    table = pa.table({"text": [f"parquet {n} " + "x" * 50 for n in range(500)]})
    pq.write_table(table, folder / "c.parquet", row_group_size=23)
    for number in range(20):
        (folder / f"d{number:02d}.txt").write_text("small " * 20)
    (folder / "e.pdf").write_bytes(b"%PDF")
    (folder / "f.csv").write_text("text\n" + "".join(f"line {n}\n" for n in range(400)))
    (folder / "g.jsonl").write_text("")


@pytest.mark.parametrize("split_bytes", [1, 100, 2000, 10_000, 1 << 30])
def test_splits_give_every_document_once_and_in_order(tmp_path, split_bytes):
    write_folder(tmp_path / "data")
    source = FileSource(path=str(tmp_path / "data"))
    splits = plan_splits([source], split_bytes)
    assert [item for split in splits for item in read_split(split)] == list(read_files(source))
    assert plan_splits([source], split_bytes) == splits
    assert [pickle.loads(pickle.dumps(split)) for split in splits] == splits


def test_large_files_are_cut_small_ones_go_together_and_the_rest_is_one_each(tmp_path):
    write_folder(tmp_path / "data")
    splits = plan_splits([FileSource(path=str(tmp_path / "data"))], 2000)
    held = Counter(split.files[0].name for split in splits)
    assert held["a.jsonl"] > 10 and held["c.parquet"] > 5
    assert held["b.jsonl.gz"] == held["f.csv"] == 1
    assert max(len(split.files) for split in splits) > 10
    sizes = [split.bytes for split in splits if split.files[0].name == "a.jsonl"]
    assert sum(sizes) == (tmp_path / "data" / "a.jsonl").stat().st_size
    assert sorted(sizes)[-2] < 2000 + 300 and all("a.jsonl" in splits[n].label for n in range(3))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 30), max_size=40), st.integers(1, 50), st.booleans())
def test_byte_ranges_join_to_the_file_and_know_their_line(tmp_path_factory, lengths, split_bytes, ended):
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    data = b"\n".join(b"x" * length for length in lengths) + (b"\n" if ended else b"")
    path.write_bytes(data)
    parts = [part for part, _ in line_parts(path, split_bytes)]
    edges = [part.start for part in parts] + ([parts[-1].end] if parts else [])
    assert edges == sorted(set(edges)) and (not data or (edges[0], edges[-1]) == (0, len(data)))
    for part in parts:
        assert part.first_row == data[: part.start].count(b"\n") + 1 and part.size == len(data)
        assert part.start == 0 or data[part.start - 1 : part.start] == b"\n"
    assert all(part.end - part.start >= split_bytes for part in parts[:-1])


def test_a_line_over_the_limit_is_one_rejection_whichever_split_holds_it(tmp_path):
    rows = [b'{"text": "a"}'] * 10
    rows[4] = b'{"text": "' + b"x" * 5000 + b'"}'
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(rows))
    source = FileSource(path=str(tmp_path), max_line_bytes=1000)
    for split_bytes in (20, 1000, 1 << 20):
        items = [item for split in plan_splits([source], split_bytes) for item in read_split(split)]
        assert [(item.rule, item.where[-2:]) for item in items if isinstance(item, Rejected)] == [
            ("max_line_bytes", ":5")
        ]
        assert len(items) == 10


def test_what_happens_to_a_file_after_the_planning_is_said_and_the_rest_is_read(tmp_path):
    write_folder(tmp_path / "data")
    splits = plan_splits([FileSource(path=str(tmp_path / "data"))], 2000)
    (tmp_path / "data" / "d03.txt").unlink()
    with open(tmp_path / "data" / "a.jsonl", "a") as file:
        file.write("more\n")
    (tmp_path / "data" / "c.parquet").write_bytes(b"PAR1")
    items = [item for split in splits for item in read_split(split)]
    rules = Counter((item.meta["file"], item.rule) for item in items if isinstance(item, Rejected))
    assert rules["d03.txt", "vanished"] == 1
    assert rules["a.jsonl", "changed"] == sum(split.files[0].name == "a.jsonl" for split in splits)
    assert rules["c.parquet", "changed"] > 5
    assert sum(isinstance(item, Document) and item.meta["file"].startswith("d") for item in items) == 19


def test_splits_mean_the_same_in_another_folder(tmp_path, monkeypatch):
    write_folder(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    splits = plan_splits([FileSource(path="data")], 2000)
    before = [item for split in splits for item in read_split(split)]
    monkeypatch.chdir("/")
    assert [item for split in splits for item in read_split(split)] == before
    aside = [item.where for item in before if isinstance(item, Rejected)]
    assert "data/e.pdf" in aside and "data/a.jsonl:8" in aside


def test_many_small_files_are_not_one_unit(tmp_path, monkeypatch):
    monkeypatch.setattr(splitting, "SPLIT_FILES", 10)
    for number in range(13):
        (tmp_path / f"{number:02d}.txt").write_bytes(b"")
    assert [len(split.files) for split in plan_splits([FileSource(path=str(tmp_path))])] == [10, 3]


def test_packaged_texts_are_one_unit_and_a_missing_optional_one_is_noted(monkeypatch):
    def missing():
        raise DataError("the packaged text 'plays' is not installed", hint="Install it: pip install it")
        yield

    known = packaged_texts.registry()
    known["plays"] = packaged_texts.Packaged("plays", "", "", None, "", missing)
    monkeypatch.setattr(packaged_texts, "registry", lambda: known)
    notes: list[str] = []
    sources = [PackagedSource(packaged="plays", optional=True), PackagedSource(packaged="docstrings")]
    splits = plan_splits(sources, note=notes.append)
    assert [split.source.name for split in splits] == ["docstrings"] and splits[0].label == "docstrings"
    assert "plays was left out" in notes[0] and "pip install it" in notes[0]
    assert next(read_split(splits[0])).source == "docstrings"
    with pytest.raises(DataError, match="not installed"):
        plan_splits([PackagedSource(packaged="plays")])


def test_several_sources_are_planned_in_their_order(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "a.txt").write_text("text")
    splits = plan_splits([CodeSource(code=str(tmp_path)), FileSource(path=str(tmp_path / "a.txt"))])
    assert [item.id for split in splits for item in read_split(split)] == ["code/a.py", "files/a.txt"]
    with pytest.raises(DataError, match=r"no file ends in \.rs"):
        plan_splits([CodeSource(code=str(tmp_path), suffixes=(".rs",))])


# -------------------------------------------------------------------------------------------- Hugging Face datasets


@pytest.fixture
def offline(monkeypatch):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return datasets


def dataset_folder(folder):
    folder.mkdir()
    for shard in range(3):
        rows = [{"text": f"text {shard} {n}", "key": f"k{shard}{n}", "n": n} for n in range(4)]
        (folder / f"train-{shard}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "test.jsonl").write_text(json.dumps({"text": None, "key": "t", "n": 1}) + "\n")
    return folder


def test_a_dataset_folder_is_streamed_shard_by_shard(tmp_path, offline):
    source = HubSource(dataset=str(dataset_folder(tmp_path / "ds")), meta_columns=("n",), name="hub", licence="MIT")
    splits = plan_splits([source])
    assert [(split.shard, split.shards) for split in splits] == [(0, 3), (1, 3), (2, 3)]
    documents = [item for split in splits for item in read_split(split)]
    assert [document.text for document in documents] == [f"text {shard} {n}" for shard in range(3) for n in range(4)]
    assert documents[5].id == "hub/train/00001#2"
    assert documents[5].meta == {"file": "train/00001", "row": 2, "n": 1, "licence": "MIT"}
    named = HubSource(dataset=source.dataset, id_column="key", split="test", text_column="text")
    rejected = list(read_split(plan_splits([named])[0]))
    assert [(item.rule, item.where) for item in rejected] == [("column", f"{source.dataset}:test/00000:1")]
    state = fingerprint([source])
    (tmp_path / "ds" / "train-1.jsonl").write_text('{"text": "new", "key": "k", "n": 5}\n')
    assert fingerprint([source]) != state


def test_a_saved_dataset_is_read_too(tmp_path, offline):
    saved = offline.Dataset.from_dict({"text": ["a", "b"], "other": [1, 2]})
    saved.save_to_disk(str(tmp_path / "one"))
    offline.DatasetDict({"train": saved}).save_to_disk(str(tmp_path / "dict"))
    for name in ("one", "dict"):
        source = HubSource(dataset=str(tmp_path / name))
        assert [item.text for split in plan_splits([source]) for item in read_split(split)] == ["a", "b"]
    with pytest.raises(DataError, match="there is no split 'valid'"):
        plan_splits([HubSource(dataset=str(tmp_path / "dict"), split="valid")])


def test_what_cannot_be_read_of_the_hub_is_said_with_what_to_do(tmp_path, offline, monkeypatch):
    folder = dataset_folder(tmp_path / "ds")
    for wrong, words in [
        ({"dataset": "nobody/nothing-here"}, "HF_HUB_OFFLINE is set"),
        ({"dataset": str(folder), "split": "valid"}, "Bad split"),
        ({"dataset": str(folder), "config": "other"}, "not found"),
    ]:
        with pytest.raises(DataError) as caught:
            plan_splits([HubSource(**wrong)])
        assert words in str(caught.value)
    split = plan_splits([HubSource(dataset=str(folder), text_column="body")])[0]
    assert [(item.rule, "there are: text" in item.detail) for item in read_split(split)] == [("column", True)]
    (tmp_path / "script").mkdir()
    (tmp_path / "script" / "script.py").write_text("raise SystemExit('a script was run')")
    with pytest.raises(DataError, match="cannot be read"):
        plan_splits([HubSource(dataset=str(tmp_path / "script"))])

    real = hub_reading.open_dataset(HubSource(dataset=str(folder)))

    class Broken:
        num_shards, column_names = real.num_shards, None

        def shard(self, num_shards, index):
            yield {"text": "one"}
            raise ConnectionError("the line is dead")

    monkeypatch.setattr(hub_reading, "open_dataset", lambda source: Broken())
    reading = read_split(plan_splits([HubSource(dataset="org/name")])[0])
    assert next(reading).text == "one"
    with pytest.raises(DataError, match="the line is dead"):
        next(reading)


def test_a_dataset_that_changed_since_the_planning_is_refused(tmp_path, offline):
    folder = dataset_folder(tmp_path / "ds")
    split = plan_splits([HubSource(dataset=str(folder))])[0]
    (folder / "train-9.jsonl").write_text('{"text": "new", "key": "k", "n": 5}\n')
    with pytest.raises(DataError, match="4 files now, where it had 3"):
        list(read_split(split))


# ---------------------------------------------------------------------------------------------------- fingerprints


def test_a_fingerprint_tells_contents_names_and_further_files(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "list").write_text("x.org")
    source = FileSource(path=str(tmp_path / "a.txt"))
    first = fingerprint([source])
    assert fingerprint([source]) == first != fingerprint([source], [str(tmp_path / "list")])
    with_list = fingerprint([source], [str(tmp_path / "list")])
    (tmp_path / "list").write_text("y.org")
    assert fingerprint([source], [str(tmp_path / "list")]) != with_list
    (tmp_path / "a.txt").write_text("two")
    assert fingerprint([source]) != first
    assert fingerprint([HubSource(dataset="org/no-such")]) != fingerprint([HubSource(dataset="org/no-such", split="x")])
    (tmp_path / "m.py").write_text("x")
    code = fingerprint([CodeSource(code=str(tmp_path))])
    (tmp_path / "n.md").write_text("no code")
    assert fingerprint([CodeSource(code=str(tmp_path))]) == code
