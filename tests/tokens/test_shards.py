from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from luopan.errors import ArtifactError, DataError, DiskFullError
from luopan.tokens import shards as module
from luopan.tokens.rows import TokenRows
from luopan.tokens.shards import TokenShards, write_shards

EOS = 0


def documents(seed: int = 0, number: int = 60, vocab_size: int = 500) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [[*rng.integers(1, vocab_size, rng.integers(0, 30)).tolist(), EOS] for _ in range(number)]


@pytest.mark.parametrize(("vocab_size", "tokens_per_shard"), [(500, 1 << 20), (500, 100), (70_000, 200)])
def test_documents_come_back(tmp_path: Path, vocab_size: int, tokens_per_shard: int) -> None:
    docs = documents(vocab_size=vocab_size)
    written = write_shards(docs, tmp_path / "s", vocab_size, EOS, tokens_per_shard=tokens_per_shard)
    opened = TokenShards(tmp_path / "s")
    for store in (written, opened):
        assert [d.tolist() for d in store] == docs
        assert store.lengths.tolist() == [len(d) for d in docs]
        assert (len(store), store.num_tokens, store.vocab_size, store.eos_id) == (
            60,
            sum(map(len, docs)),
            vocab_size,
            EOS,
        )
    assert (len(list((tmp_path / "s").glob("tokens-*.bin"))) > 1) == (tokens_per_shard < 1 << 20)
    size = sum(p.stat().st_size for p in (tmp_path / "s").glob("tokens-*.bin"))
    assert size == opened.num_tokens * (2 if vocab_size <= 65536 else 4)
    assert opened.document(7, 1, 3).tolist() == docs[7][1:3]
    assert opened.document(5).dtype == np.int64
    assert os.listdir(tmp_path) == ["s"]


def test_the_largest_token_of_two_bytes(tmp_path: Path) -> None:
    store = write_shards([[65535, EOS]], tmp_path / "s", 65536, EOS)
    assert store.document(0).tolist() == [65535, EOS]
    assert (tmp_path / "s" / "tokens-00000.bin").stat().st_size == 4
    store = write_shards([[65536, EOS]], tmp_path / "s", 65537, EOS)
    assert store.document(0).tolist() == [65536, EOS]


def test_every_document_ends(tmp_path: Path) -> None:
    store = write_shards([[1, 2], [], [3, EOS], np.array([4])], tmp_path / "s", 10, EOS)
    assert [d.tolist() for d in store] == [[1, 2, EOS], [EOS], [3, EOS], [4, EOS]]


def test_same_documents_same_bytes(tmp_path: Path) -> None:
    one = write_shards(documents(), tmp_path / "a", 500, EOS)
    two = write_shards(iter(documents()), tmp_path / "b", 500, EOS)
    assert one.content == two.content != write_shards(documents(1), tmp_path / "c", 500, EOS).content
    assert (tmp_path / "a" / "index.json").read_bytes() == (tmp_path / "b" / "index.json").read_bytes()


@pytest.mark.parametrize(("docs", "match"), [
    ([[1, EOS], [2, 10, EOS]], "token 10 is not in a vocabulary of 10"),
    ([[1, EOS], [-100, EOS]], "token -100"),
    ([], "no documents"),
])  # fmt: skip
def test_bad_documents_leave_what_was_there(tmp_path: Path, docs: list[list[int]], match: str) -> None:
    write_shards([[5, EOS]], tmp_path / "s", 10, EOS)
    with pytest.raises(DataError, match=match) as caught:
        write_shards(docs, tmp_path / "s", 10, EOS)
    if docs:
        assert caught.value.where == "document 1"
    assert TokenShards(tmp_path / "s").document(0).tolist() == [5, EOS]
    assert os.listdir(tmp_path) == ["s"]


@pytest.mark.parametrize("name", ["tokens-00000.bin", "tokens-00001.bin", "lengths.npy", "index.json"])
def test_a_flipped_bit_is_found(tmp_path: Path, name: str) -> None:
    write_shards(documents(), tmp_path / "s", 500, EOS, tokens_per_shard=400)
    path = tmp_path / "s" / name
    whole = path.read_bytes()
    for position in {0, 9, len(whole) // 2, len(whole) - 2}:
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(ArtifactError) as caught:
            TokenShards(tmp_path / "s")
        assert name in str(caught.value.where)
    path.write_bytes(whole)
    TokenShards(tmp_path / "s")


def test_missing_and_short_files_are_found_without_checksums_too(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no token shards here"):
        TokenShards(tmp_path / "s")
    write_shards(documents(), tmp_path / "s", 500, EOS)
    path = tmp_path / "s" / "tokens-00000.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:-2])
    with pytest.raises(ArtifactError, match=f"has {len(whole) - 2} bytes instead of {len(whole)}"):
        TokenShards(tmp_path / "s", verify=False)
    path.unlink()
    with pytest.raises(ArtifactError, match="missing"):
        TokenShards(tmp_path / "s", verify=False)


def test_an_index_of_another_version_is_refused(tmp_path: Path) -> None:
    write_shards(documents(), tmp_path / "s", 500, EOS)
    path = tmp_path / "s" / "index.json"
    index = json.loads(path.read_text())
    del index["content"]
    index["format"] = "luopan token shards 0"
    index["content"] = module.stable_hash(index)
    path.write_text(json.dumps(index))
    with pytest.raises(ArtifactError, match="another version"):
        TokenShards(tmp_path / "s")


def test_dying_in_the_middle_leaves_nothing_half_written(tmp_path: Path) -> None:
    def dying() -> Iterator[list[int]]:
        yield from documents()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(dying(), tmp_path / "s", 500, EOS)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_said_plainly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shards([[5, EOS]], tmp_path / "s", 10, EOS)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.np, "save", full)
    with pytest.raises(DiskFullError, match="disk is full"):
        write_shards(documents(), tmp_path / "s", 500, EOS)
    assert TokenShards(tmp_path / "s").num_documents == 1
    assert os.listdir(tmp_path) == ["s"]


@pytest.mark.parametrize("number", [-1, 60])
def test_documents_out_of_range(tmp_path: Path, number: int) -> None:
    store = write_shards(documents(), tmp_path / "s", 500, EOS)
    with pytest.raises(IndexError):
        store.document(number)
    with pytest.raises(IndexError):
        store.document(0, 0, 1000)


def test_rows_of_a_run(tmp_path: Path) -> None:
    web = write_shards(documents(1), tmp_path / "web", 500, EOS)
    books = write_shards(documents(2), tmp_path / "books", 500, EOS, tokens_per_shard=50)
    rows = TokenRows({"web": web, "books": books}, {"web": 2, "books": 1}, 32, seed=4)
    batch = rows.batch(range(6))
    assert batch.input_ids.shape == (6, 32)
    assert batch.num_tokens == 6 * 32
    assert batch.labels.equal(batch.input_ids)
    for n in range(6):
        plan = rows.order.row(n)
        store = {"web": web, "books": books}[plan.source]
        assert batch.input_ids[n].tolist() == [
            t for p in plan.pieces for t in store.document(p.document)[p.start : p.stop]
        ]
    borders = (batch.document_ids[:, 1:] != batch.document_ids[:, :-1]).sum()
    assert batch.num_targets == 6 * 31 - int(borders)
    restarts = batch.position_ids[:, 1:] == 0
    assert restarts.equal(batch.document_ids[:, 1:] != batch.document_ids[:, :-1])
    # The end of a document is learned, its successor is not predicted from it.
    ends = batch.input_ids[:, :-1] == EOS
    index, _, _ = batch.targets()
    flat = {int(i) for i in index}
    assert not [1 for b, t in ends.nonzero().tolist() if b * 32 + t in flat]
    assert EOS in batch.targets()[1].tolist()


def test_sources_of_different_vocabularies_are_refused(tmp_path: Path) -> None:
    a = write_shards([[1, EOS]], tmp_path / "a", 10, EOS)
    b = write_shards([[1, EOS]], tmp_path / "b", 12, EOS)
    with pytest.raises(DataError, match="different vocabularies"):
        TokenRows({"a": a, "b": b}, None, 8, seed=0)
