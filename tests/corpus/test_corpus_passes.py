"""Passes over splits: the same bytes with any number of workers, on Ray, after a fault; steps by source."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
from corpus_texts import WORDS, prose

from luopan.artifacts import FolderLock, sha256_file
from luopan.corpus import CurateConfig, Document, FileSource, curate, curation, passes, read_documents, read_rejected
from luopan.corpus.executor import LocalPool, OnRay
from luopan.corpus.files import list_files
from luopan.errors import DataError, DiskFullError, LockedError

SMALL = 1 << 16  # bytes of a split, so that a small corpus has several


def write_rows(path: Path, texts, **more) -> FileSource:
    rows = [{"text": text, "id": f"{path.stem}-{n % 97}"} for n, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return FileSource(path=str(path), name=path.stem, **more)


def varied(seed: int) -> str:
    """A long document; every seventh is nearly the one before it, every eleventh the same as the one before."""
    if seed % 11 == 10:
        return varied(seed - 1)
    if seed % 7 == 6:
        return varied(seed - 1).replace("river", "stream", 1)
    return prose(seed, words=400)


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> list[FileSource]:
    folder = tmp_path_factory.mktemp("in")
    one = write_rows(folder / "one.jsonl", [varied(n) for n in range(120)], id_column="id")
    other = write_rows(folder / "two.jsonl", [varied(n) for n in range(100, 200)])
    return [one, other]


def sums() -> dict[str, list[Document]]:
    return {"sums": [Document(f"sums/{n}", f"{n % 40}+1={n % 40 + 1}", "sums") for n in range(60)]}


def config(**more) -> CurateConfig:
    base = {"minhash": {}, "split_bytes": SMALL, "workers": 1, "repeated_spans": {}, "pii": {}}
    return CurateConfig.build({**base, **more})


def checksums(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def alone(sources, tmp_path_factory) -> Path:
    """The corpus as one process makes it."""
    folder = tmp_path_factory.mktemp("alone")
    curate(sources, config(), folder, streams=sums())
    return folder


def test_the_corpus_has_several_parts_and_lost_what_it_should(alone):
    assert len(list((alone / "train").iterdir())) >= 5
    rules = [(item.step, item.rule) for item in read_rejected(alone / "rejected")]
    assert rules.count(("exact", "exact")) >= 30 and rules.count(("minhash", "near")) >= 20
    ids = [document.id for part in ("train", "held_out") for document in read_documents(alone / part)]
    assert len(set(ids)) == len(ids)
    assert any(id.endswith("~2") for id in ids)  # the id column has each name twice
    kept = {document.id: document.text for part in ("train", "held_out") for document in read_documents(alone / part)}
    for item in read_rejected(alone / "rejected"):
        if item.step == "exact":
            twin = item.detail.removeprefix("same text as ")
            assert item.text is None and twin
        if item.step == "minhash":
            assert item.text and item.detail.startswith("much the same text as ")
            near = item.detail.removeprefix("much the same text as ")
            assert near in kept or f"{near}~2" in kept
    funnel = json.loads((alone / "funnel.json").read_text())
    assert sum(row["documents"] for row in funnel["rejected"]) == len(rules)
    assert "have an id that came before" in " ".join(funnel["notes"])


def test_two_workers_write_the_same_bytes(sources, alone, tmp_path):
    curate(sources, config(workers=2), tmp_path / "out", streams=sums())
    assert checksums(tmp_path / "out") == checksums(alone)


def test_ray_writes_the_same_bytes(sources, alone, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    try:
        curate(sources, config(workers=2, executor="ray"), tmp_path / "out", streams=sums())
        with pytest.raises(DataError, match="no such file"):  # the user's mistake comes back as it is
            OnRay(2).map(partial(list_files, suffixes=()), ["/nowhere/at/all"])
    finally:
        ray.shutdown()
    assert checksums(tmp_path / "out") == checksums(alone)


@pytest.mark.parametrize("fault", [("pass_a", 3), ("pass_c", 2), ("pass_d", 1)])
def test_a_run_that_was_cut_off_goes_on_and_ends_in_the_same_bytes(sources, alone, tmp_path, monkeypatch, fault):
    name, after = fault
    calls: list[int] = []
    real = getattr(passes, name)

    def failing(task, **options):
        calls.append(task.number)
        if len(calls) > after:
            raise OSError(28, "No space left on device")
        return real(task, **options)

    monkeypatch.setattr(curation, name, failing)
    with pytest.raises(DiskFullError):
        curate(sources, config(), tmp_path / "out", streams=sums())
    monkeypatch.undo()
    reads: list[int] = []
    original = passes.read_split
    monkeypatch.setattr(passes, "read_split", lambda split: reads.append(1) or original(split))
    curate(sources, config(), tmp_path / "out", streams=sums())
    assert checksums(tmp_path / "out") == checksums(alone)
    if name == "pass_a":
        assert 0 < len(reads) < len(list((alone / "train").iterdir()))
    else:
        assert not reads  # everything was read before


def test_other_settings_do_not_go_on_from_old_work(sources, tmp_path, monkeypatch):
    monkeypatch.setattr(curation, "pass_d", lambda *args, **options: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(DiskFullError):
        curate(sources, config(), tmp_path / "out")
    monkeypatch.undo()
    strict = {"gopher_quality": {"min_words": 10_000}}
    with pytest.raises(DataError, match="no document is left"):
        curate(sources, config(**strict), tmp_path / "out")


def test_paragraphs_and_lines_that_came_before_are_dropped(tmp_path):
    boiler = " ".join(WORDS[:24]) + "."
    texts = [prose(n, words=200) + "\n\n" + boiler for n in range(60)]
    settings = config(exact={"paragraph": True}, split_bytes=SMALL)
    made = curate([write_rows(tmp_path / "a.jsonl", texts)], settings, tmp_path / "out")
    kept = [document.text for part in (made.train, made.held_out) for document in read_documents(part)]
    assert sum(boiler in text for text in kept) == 1 and len(kept) == 60
    exact = next(step for step in made.funnel["steps"] if step["step"] == "exact")
    assert sum(exact["counts"].values()) >= 59


def test_steps_of_a_source_replace_those_of_the_stage(tmp_path):
    short = [f"{n} {prose(n, words=20)}" for n in range(40)]
    sources = [write_rows(tmp_path / f"{name}.jsonl", short) for name in ("a", "b", "c")]
    settings = CurateConfig.build(
        {
            "max_document_bytes": None,
            "gopher_repetition": None,
            "per_source": {"b": {"gopher_quality": {"min_words": 5}}, "c": {"preset": "code"}},
            "exact": None,
            "minhash": None,
        }
    )
    assert settings.steps_for("b").max_document_bytes is None and settings.steps_for("b").gopher_repetition is None
    assert settings.steps_for("c").gopher_quality is None and settings.steps_for("c").max_document_bytes == 65_536
    made = curate(sources, settings, tmp_path / "out")
    kept = {name: sum(part["documents"].values()) for name, part in made.card["sources"].items()}
    assert kept == {"a": 0, "b": 40, "c": 40}
    with pytest.raises(DataError, match="per_source names 'd'"):
        curate(sources, CurateConfig.build({"per_source": {"d": {}}}), tmp_path / "out")


def test_a_dead_worker_is_named():
    pool = LocalPool(2)
    try:
        with pytest.raises(DataError, match="worker process died"):
            pool.map(die, [1, 2])
    finally:
        pool.close()


def die(number: int) -> None:
    import os

    os._exit(9)


def test_a_corpus_of_ours_is_no_source_as_a_whole(alone, tmp_path):
    with pytest.raises(DataError, match="is a corpus that luopan made") as caught:
        curate([FileSource(path=str(alone))], CurateConfig(), tmp_path / "out")
    assert f"{alone}/train" in str(caught.value)
    with pytest.raises(DataError, match="is a corpus that luopan made"):
        shutil.copytree(alone, tmp_path / "in" / "corpus")
        curate([FileSource(path=str(tmp_path / "in"))], CurateConfig(), tmp_path / "out")
    made = curate([FileSource(path=str(alone / "train"))], CurateConfig(minhash=None), tmp_path / "out")
    assert made.card["documents"]["train"] > 0


def test_two_runs_in_one_folder_are_refused(sources, tmp_path):
    with FolderLock(tmp_path / "out" / curation.SCRATCH), pytest.raises(LockedError, match="another process"):
        curate(sources, config(), tmp_path / "out")


def test_a_source_of_which_nothing_can_be_read_stops_a_run_and_one_that_is_lost_is_noted(tmp_path):
    good = write_rows(tmp_path / "good.jsonl", [prose(n) for n in range(40)])
    bad = write_rows(tmp_path / "bad.jsonl", [prose(n) for n in range(100, 140)], text_column="body")
    with pytest.raises(DataError, match="nothing of bad could be read") as caught:
        curate([good, bad], CurateConfig(), tmp_path / "out")
    assert "no column 'body'" in str(caught.value)
    short = write_rows(tmp_path / "short.jsonl", ["too short"] * 5)
    made = curate([good, short], CurateConfig(), tmp_path / "out")
    notes = " | ".join(made.funnel["notes"])
    assert "nothing is left of short, of which 5 were found" in notes
    assert "8 of 40 documents of good are held out, because held_out.min_documents is 8" in notes
