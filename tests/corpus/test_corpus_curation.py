"""The whole pipeline: nothing lost without a reason, the same bytes every time, nothing held out that is trained on."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from corpus_texts import prose

from luopan.artifacts import sha256_file
from luopan.corpus import (
    CurateConfig,
    Document,
    FileSource,
    HeldOutConfig,
    PackagedSource,
    curate,
    curation,
    fingerprint,
    packaged,
    read_documents,
    read_rejected,
    read_texts,
    splits,
)
from luopan.corpus.dedup.exact import digests
from luopan.corpus.select import held_out, under_cap
from luopan.errors import ArtifactError, DataError, DiskFullError

LOOSE = CurateConfig(gopher_repetition=None, gopher_quality=None)


def write_rows(path: Path, texts) -> FileSource:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return FileSource(path=str(path), name=path.stem)


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a corpus, by its name inside."""
    return {
        path.relative_to(folder).as_posix(): sha256_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and curation.SCRATCH not in path.parts
    }


@pytest.fixture
def source(tmp_path) -> FileSource:
    folder = tmp_path / "in"
    folder.mkdir()
    texts = [prose(seed) for seed in range(60)]
    texts += [texts[3], texts[4].upper() + "  ", "too short", "spam eggs " * 100]
    write_rows(folder / "rows.jsonl", texts)
    with open(folder / "rows.jsonl", "a", encoding="utf-8") as file:
        file.write("{broken\n")
    (folder / "bad.txt").write_bytes(b"\xff\xfe\x00")
    (folder / "long.txt").write_text("\n\n".join(prose(seed) for seed in range(100, 130)), encoding="utf-8")
    return FileSource(path=str(folder), licence="CC0")


def test_every_document_is_kept_or_rejected_with_a_reason(source, tmp_path):
    config = CurateConfig(max_document_bytes=4096)
    made = curate([source], config, tmp_path / "out")
    train, held = list(read_documents(made.train)), list(read_documents(made.held_out))
    rejected = list(read_rejected(made.rejected))
    assert [(item.step, item.rule) for item in rejected] == [
        ("read", "encoding"),
        ("read", "json"),
        ("gopher_repetition", "max_top_ngram.2"),
        ("gopher_quality", "min_words"),
        ("exact", "exact"),
        ("exact", "exact"),
    ]
    assert rejected[1].where.endswith("rows.jsonl:65")
    assert rejected[2].where == "rows.jsonl:64" and rejected[2].value > rejected[2].threshold
    assert rejected[3].value == 2 and rejected[3].threshold == 50 and rejected[3].text == "too short"
    assert rejected[4].detail == "same text as files/rows.jsonl#4" and rejected[4].where == "rows.jsonl:61"
    steps = {step["step"]: step for step in made.funnel["steps"]}
    counts = [steps[name]["documents"] for name in ("found", "read", "pieces", "gopher_quality", "exact", "capped")]
    assert counts[0] == 60 + 4 + 1 + 1 + 1 and counts[1] == counts[0] - 2
    pieces = counts[2] - 64
    assert pieces > 4 and counts[3:] == [counts[2] - 2, counts[2] - 4, counts[2] - 4]
    assert len(train) + len(held) == counts[5] == steps["train"]["documents"] + steps["held_out"]["documents"]
    assert steps["train"]["bytes"] == sum(len(document.text.encode()) for document in train)
    assert sum(row["documents"] for row in made.funnel["rejected"]) == len(rejected)
    assert len({document.id for document in train + held}) == len(train) + len(held)
    assert {"files/long.txt/0001", "files/rows.jsonl#1"} <= {document.id for document in train + held}
    assert json.loads((tmp_path / "out" / "funnel.json").read_text()) == made.funnel


def test_the_result_is_the_same_bytes_every_time_and_everywhere(source, tmp_path):
    curate([source], CurateConfig(), tmp_path / "one")
    os.rename(source.path, tmp_path / "moved")
    curate([source.model_copy(update={"path": str(tmp_path / "moved")})], CurateConfig(), tmp_path / "two")
    for name in ("train/00000.parquet", "held_out/00000.parquet", "funnel.json", "card.json"):
        one, two = ((tmp_path / folder / name).read_bytes() for folder in ("one", "two"))
        moved = one.replace(source.path.encode(), str(tmp_path / "moved").encode())
        assert moved == two, name
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == [
        "card.html",
        "card.json",
        "funnel.json",
        "held_out",
        "rejected",
        "train",
    ]


def test_held_out_text_is_not_trained_on_even_if_it_stands_twice(tmp_path):
    texts = [prose(seed % 50) if seed % 3 else prose(seed % 50).replace(" ", "  ").title() for seed in range(400)]
    config = LOOSE.model_copy(update={"held_out": HeldOutConfig(fraction=0.3)})
    made = curate([write_rows(tmp_path / "a.jsonl", texts)], config, tmp_path / "out")
    train, held = (set(map(bytes, digests(list(read_texts(part))))) for part in (made.train, made.held_out))
    assert len(train) + len(held) == 50 and len(held) >= 8 and not train & held


def test_more_data_moves_nothing_from_the_held_out_part_to_training(tmp_path):
    config = LOOSE.model_copy(update={"held_out": HeldOutConfig(fraction=0.1, min_documents=0)})
    small = curate([write_rows(tmp_path / "a.jsonl", map(prose, range(200)))], config, tmp_path / "small")
    large = curate([write_rows(tmp_path / "a.jsonl", map(prose, range(400)))], config, tmp_path / "large")
    held = {document.id for document in read_documents(small.held_out)}
    assert 8 < len(held) < 35 and held <= {document.id for document in read_documents(large.held_out)}


def test_a_cap_keeps_a_fixed_sample_and_says_what_went(tmp_path):
    one = write_rows(tmp_path / "a.jsonl", map(prose, range(100)))
    other = write_rows(tmp_path / "b.jsonl", map(prose, range(200, 300)))
    caps = {20_000: set(), 30_000: set()}
    for cap, kept in caps.items():
        capped = one.model_copy(update={"max_bytes": cap})
        made = curate([capped, other], LOOSE, tmp_path / "out")
        card = made.card["sources"]
        assert cap - 1000 < sum(card["a"]["bytes"].values()) <= cap
        assert sum(card["b"]["documents"].values()) == 100
        kept |= {document.id for path in (made.train, made.held_out) for document in read_documents(path)}
        rejected = list(read_rejected(made.rejected))
        assert {(item.step, item.rule, item.source, item.threshold) for item in rejected} == {
            ("cap", "max_bytes", "a", cap)
        }
        assert len(rejected) == 200 - len(kept) and rejected[0].text is None and rejected[0].bytes > 0
    assert caps[20_000] < caps[30_000]


def test_selection_on_hand_worked_keys():
    keys = np.array([2**63, 2**62, 2**61, 2**64 - 1], np.uint64)  # a half, a quarter, an eighth, nearly one
    sizes = np.array([10, 20, 30, 40])
    assert under_cap(keys, sizes, 50).tolist() == [False, True, True, False]
    assert under_cap(keys, sizes, None).all()
    pick = lambda **values: held_out(keys, sizes, HeldOutConfig(**values)).tolist()  # noqa: E731
    assert pick(fraction=0.2, min_documents=0) == [False, False, True, False]
    assert pick(fraction=0.3, min_documents=0) == [False, True, True, False]
    assert pick(fraction=0.5, min_documents=4) == [False, True, True, False]  # never more than half
    assert pick(fraction=0.0, min_documents=1) == [False, False, True, False]
    assert pick(fraction=0.0, min_documents=0) == [False] * 4
    assert pick(fraction=0.5, max_bytes=45) == [False, False, True, False]
    assert pick(fraction=0.5, max_bytes=1) == [False, False, True, False]  # at least one


def test_streams_are_split_and_deduplicated_but_not_filtered(source, tmp_path):
    sums = [Document(f"sums/{n}", f"{n % 40}+1={n % 40 + 1}", "sums") for n in range(60)]
    made = curate([source], CurateConfig(), tmp_path / "out", streams={"sums": iter(sums)})
    assert made.card["sources"]["sums"]["documents"] == {"train": 32, "held_out": 8}
    assert "0+1=1" in set(read_texts(made.train, "sums")) | set(read_texts(made.held_out, "sums"))


def test_the_data_card_adds_up(source, tmp_path):
    made = curate([source], CurateConfig(), tmp_path / "out")
    card, texts = made.card, list(read_texts(made.train))
    assert card["documents"]["train"] == len(texts)
    assert card["bytes"]["train"] == sum(len(text.encode()) for text in texts)
    texts += read_texts(made.held_out)
    assert sum(bucket["documents"] for bucket in card["length_histogram"]) == len(texts)
    for bucket in card["length_histogram"]:
        assert bucket["documents"] == sum(bucket["from"] <= len(text.encode()) < bucket["to"] for text in texts)
    edges = [(bucket["from"], bucket["to"]) for bucket in card["length_histogram"]]
    assert edges[:3] == [(0, 64), (64, 128), (128, 256)]
    told = card["sources"]["files"]
    assert told["licence"] == "CC0" and told["origin"] == source.path
    assert len(told["samples"]) == 3 and all(any(text.startswith(s["text"]) for text in texts) for s in told["samples"])


def test_ids_from_the_users_column_are_made_unique(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": prose(n), "key": "same"}) + "\n" for n in range(20)))
    made = curate([FileSource(path=str(path), id_column="key")], LOOSE, tmp_path / "out")
    ids = [document.id for part in (made.train, made.held_out) for document in read_documents(part)]
    assert len(set(ids)) == 20 and "files/same" in ids and "files/same~20" in ids


@pytest.mark.parametrize("steps", [{"exact": None, "minhash": None}, {"normalise": None}, {"max_document_bytes": None}])
def test_steps_can_be_turned_off(source, tmp_path, steps):
    default = curate([source], CurateConfig(max_document_bytes=4096), tmp_path / "a")
    without = curate([source], CurateConfig(**{"max_document_bytes": 4096, **steps}), tmp_path / "b")
    assert default.card["documents"] != without.card["documents"] or "normalise" in steps
    rejected = {(row["step"], row["rule"]) for row in without.funnel["rejected"]}
    assert (("exact", "exact") in rejected) == ("exact" not in steps)


def test_an_empty_corpus_says_what_took_the_documents(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.txt").write_text("too short")
    (folder / "b.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match="no document is left of 2") as caught:
        curate([FileSource(path=str(folder))], CurateConfig(), tmp_path / "out")
    told = str(caught.value)
    assert "a.txt: min_words 2 (limit 50)" in told and "byte 3 is not UTF-8" in told and "loosen" in told
    assert not (tmp_path / "out" / "train").exists()


def test_an_empty_file_is_an_empty_corpus(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match="no document is left of 0"):
        curate([FileSource(path=str(tmp_path / "in"))], CurateConfig(), tmp_path / "out")
    (tmp_path / "in" / "a.txt").write_bytes(b"\x00")
    with pytest.raises(DataError, match="UTF-8"):
        curate([FileSource(path=str(tmp_path / "in"))], CurateConfig(), tmp_path / "out")
    (tmp_path / "in" / "a.txt").write_text("")
    with pytest.raises(DataError, match="normalise/empty"):
        curate([FileSource(path=str(tmp_path / "in"))], CurateConfig(), tmp_path / "out")


def test_one_document_is_too_few_to_hold_one_out(tmp_path):
    source = write_rows(tmp_path / "a.jsonl", [prose(1)])
    with pytest.raises(DataError, match="too few to hold one out"):
        curate([source], CurateConfig(), tmp_path / "out")
    config = CurateConfig(held_out=HeldOutConfig(fraction=0, min_documents=0))
    assert curate([source], config, tmp_path / "out").card["documents"] == {"train": 1, "held_out": 0}


def test_one_long_file_is_cut_so_that_some_can_be_held_out(tmp_path):
    (tmp_path / "book.txt").write_text("\n\n".join(prose(seed) for seed in range(400)))
    made = curate(
        [FileSource(path=str(tmp_path / "book.txt"))], CurateConfig(max_document_bytes=8192), tmp_path / "out"
    )
    assert made.card["documents"]["held_out"] >= 8 // 2 and made.card["documents"]["train"] > 8 // 2


def test_a_cap_below_every_document_is_an_error(tmp_path):
    source = write_rows(tmp_path / "a.jsonl", map(prose, range(20))).model_copy(update={"max_bytes": 10})
    with pytest.raises(DataError, match="max_bytes leaves no document"):
        curate([source], LOOSE, tmp_path / "out")


def test_a_missing_package_is_noted_if_it_is_optional_and_an_error_if_not(source, tmp_path, monkeypatch):
    def missing(name):
        raise DataError("the packaged text 'plays' is not installed", hint="Install it: pip install x")

    monkeypatch.setattr(splits, "check_packaged", missing)
    made = curate([source, PackagedSource(packaged="plays", optional=True)], CurateConfig(), tmp_path / "out")
    assert "pip install x" in made.funnel["notes"][0]
    assert made.card["sources"]["plays"]["documents"] == {"train": 0, "held_out": 0}
    with pytest.raises(DataError, match="not installed"):
        curate([source, PackagedSource(packaged="plays")], CurateConfig(), tmp_path / "out")


def test_two_sources_of_one_name_are_an_error(source, tmp_path):
    with pytest.raises(DataError, match="two sources are called 'files'"):
        curate([source, source], CurateConfig(), tmp_path / "out")


def test_a_failure_half_way_leaves_the_old_corpus_whole(source, tmp_path, monkeypatch):
    out = tmp_path / "out"
    curate([source], CurateConfig(), out)
    before = checksums(out)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(curation, "pass_d", full)
    with pytest.raises(DiskFullError):
        curate([source], LOOSE, out)
    assert checksums(out) == before
    monkeypatch.undo()
    curate([source], CurateConfig(), out)  # what was left over does not stand in the way
    assert checksums(out) == before and not (out / curation.SCRATCH).exists()


@pytest.mark.parametrize(("number", "error"), [(28, DiskFullError), (30, ArtifactError), (13, ArtifactError)])
def test_a_full_or_read_only_disk_is_the_users_error(source, tmp_path, monkeypatch, number, error):
    def refuse(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(curation.store.pq.ParquetWriter, "write_table", refuse)
    with pytest.raises(error):
        curate([source], CurateConfig(), tmp_path / "out")
    assert checksums(tmp_path / "out") == {}


def test_the_fingerprint_follows_contents_and_names_not_places(source, tmp_path, monkeypatch):
    first = fingerprint([source])
    os.utime(Path(source.path) / "long.txt", (1, 1))
    assert fingerprint([source]) == first
    os.rename(source.path, tmp_path / "elsewhere")
    moved = source.model_copy(update={"path": str(tmp_path / "elsewhere")})
    assert fingerprint([moved]) == first
    with open(tmp_path / "elsewhere" / "long.txt", "r+") as file:
        file.write("#")  # the size stays
    assert fingerprint([moved]) != first
    text = PackagedSource(packaged="scripture")
    installed = fingerprint([text])

    def absent(name):
        raise packaged.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(packaged.importlib.metadata, "version", absent)
    assert fingerprint([text]) != installed
    with pytest.raises(DataError, match="no such file"):
        fingerprint([source])


def test_reading_back_says_what_is_wrong(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        list(read_texts(tmp_path / "none.parquet"))
    (tmp_path / "x.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(DataError, match="damaged"):
        list(read_texts(tmp_path / "x.parquet"))


def test_normalisation_reaches_the_corpus(tmp_path):
    source = write_rows(tmp_path / "a.jsonl", [f"a\r\nb{n}\x07  " for n in range(20)])
    made = curate([source], LOOSE, tmp_path / "o")
    assert all("\r" not in text and "\x07" not in text and not text.endswith(" ") for text in read_texts(made.train))
