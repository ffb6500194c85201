"""Mutated files of every format: a document, a reason, or a DataError; never another exception, never something that
cannot be stored."""

from __future__ import annotations

import gzip
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from luopan.corpus.batch import DocumentBatch, to_json
from luopan.corpus.document import Document, Rejected
from luopan.corpus.read import read_files
from luopan.corpus.source_config import CodeSource, FileSource
from luopan.corpus.splits import plan_splits, read_split
from luopan.errors import DataError

LIMIT = 20_000
ROWS = [
    {"text": f"Row {n}: Grüße, 世界 “quoted”, a\ttab\nand a line. " * (n % 4), "k": n, "url": f"https://x.org/{n}"}
    for n in range(40)
]


def seeds(folder):
    """A sound file of each format: (name, bytes)."""
    lines = "\n".join(json.dumps(row, ensure_ascii=row["k"] % 2 == 0) for row in ROWS).encode()
    table = pa.Table.from_pylist(ROWS)
    files = {"a.jsonl": lines, "a.json": json.dumps(ROWS, indent=1).encode(), "a.txt": ROWS[3]["text"].encode() * 9}
    for name, options in {"a.parquet": {}, "b.parquet": {"compression": "zstd", "row_group_size": 7}}.items():
        pq.write_table(table, folder / name, **options)
        files[name] = (folder / name).read_bytes()
        (folder / name).unlink()
    quoted = ["text,k,url"] + [
        '"{}",{},{}'.format(row["text"].replace('"', '""'), row["k"], row["url"]) for row in ROWS
    ]
    files["a.csv"] = "\n".join(quoted).encode()
    page = "<html><head><meta charset=utf-8></head><body><p>Grüße {}</p></body></html>"
    files["a.html"] = page.format(1).encode()
    records = []
    for number in range(6):
        body = page.format(number).encode()
        headers = "Content-Type: text/html\r\n"
        if number % 3 == 1:
            body, headers = gzip.compress(body), headers + "Content-Encoding: gzip\r\n"
        if number % 3 == 2:
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
            headers += "Transfer-Encoding: chunked\r\n"
        body = f"HTTP/1.1 200 OK\r\n{headers}\r\n".encode() + body
        head = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: https://x.org/{number}\r\n"
        records.append(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body + b"\r\n\r\n")
    files["a.warc"] = b"".join(records)
    files["b.warc.gz"] = b"".join(map(gzip.compress, records))
    files["a.py"] = b"# -*- coding: latin-1 -*-\nx = '\xe9'\n" * 5
    for name in ("a.jsonl", "a.json", "a.txt", "a.csv", "a.html"):
        files[f"{name}.gz"] = gzip.compress(files[name])
        files[f"{name}.zst"] = zstandard.ZstdCompressor(write_checksum=True).compress(files[name])
    return files


TOKENS = [b"\0", b'"', b"\\", b"\n", b"\r", b"{", b"[", b"]", b",", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80",
          b"\\ud800", b"charset=utf-16", b"coding: utf-7", b"Content-Length: 99999999999999999999\r\n", b"WARC/1.0\r\n",
          b"Transfer-Encoding: chunked\r\n", b"999999999999", b"-1", b"NaN", b"1e999", b"\r\n\r\n", b"\x1f\x8b",
          b"\x28\xb5\x2f\xfd", b"PAR1", b'{"text": 1}', b"<" * 50, b"[" * 2000, b'"' * 3]  # fmt: skip


def mutated(data, other, random):
    """`data` with one to four changes."""
    data = bytearray(data)
    for _ in range(random.randint(1, 4)):
        at, size = random.randint(0, len(data)), random.choice((1, 1, 2, 8, 64, 1000))
        kind = random.randrange(7)
        if kind == 0:
            del data[at:]
        elif kind == 1:
            del data[at : at + size]
        elif kind == 2:
            data[at:at] = random.choice(TOKENS)
        elif kind == 3:
            data[at : at + size] = random.randbytes(size)
        elif kind == 4 and at < len(data):
            data[at] ^= 1 << random.randrange(8)
        elif kind == 5:
            data[at:at] = data[max(0, at - size) : at] * random.randint(1, 20)
        else:
            cut = random.randint(0, len(other))
            data[at : at + size] = other[cut : cut + size]
    return bytes(data)


def variants(name, files, random):
    """A mutated file: the bytes on disk changed, or, for packed ones, what is packed."""
    data, other = files[name], files[random.choice(sorted(files))]
    inner = name.removesuffix(".gz")
    if inner in files and inner != name and random.random() < 0.5:
        return gzip.compress(mutated(files[inner], other, random), 1)
    return mutated(data, other, random)


def check(items):
    """Everything that was read can be stored and says where it stands."""
    documents = [item for item in items if isinstance(item, Document)]
    rejected = [item for item in items if isinstance(item, Rejected)]
    assert len(documents) + len(rejected) == len(items)
    DocumentBatch.of(documents)
    for item in rejected:
        assert item.step == "read" and item.rule and item.detail and item.where
        assert item.value is None or item.value == float(item.value)
        row = [item.id, item.source, item.detail, item.where, item.text or "", to_json(item.meta), item.reason()]
        pa.array(row, pa.string())
    ids = [item.meta["row"] for item in documents if "row" in item.meta]
    assert ids == sorted(set(ids))


def source_of(path, more_columns):
    if path.suffix == ".py":
        return CodeSource(code=str(path), max_line_bytes=LIMIT)
    columns = {"id_column": "k", "url_column": "url", "meta_columns": ("k",)} if more_columns else {}
    return FileSource(path=str(path), max_line_bytes=LIMIT, **columns)


def fuzz(folder, number, seed):
    files = seeds(folder)
    names = sorted(files)
    generator = random.Random(seed)
    refused = 0
    for turn in range(number):
        name = names[turn % len(names)]
        path = folder / name
        path.write_bytes(variants(name, files, generator))
        source = source_of(path, turn % 3 == 0)
        try:
            items = list(read_files(source))
            check(items)
            if turn % 5 == 0:
                assert [item for split in plan_splits([source], 500) for item in read_split(split)] == items
        except DataError:
            refused += 1
        except BaseException:
            (folder / f"failed-{turn}-{name}").write_bytes(path.read_bytes())
            raise
        path.unlink()
    return refused


def test_mutated_files_of_every_format(tmp_path):
    assert fuzz(tmp_path, 500, seed=1) == 0


@pytest.mark.slow
def test_ten_thousand_mutated_files(tmp_path):
    assert fuzz(tmp_path, 10_000, seed=2) == 0


def test_the_files_are_sound_before_they_are_mutated(tmp_path):
    for name, data in seeds(tmp_path).items():
        (tmp_path / name).write_bytes(data)
        source = CodeSource(code=str(tmp_path)) if name == "a.py" else FileSource(path=str(tmp_path / name))
        items = list(read_files(source))
        assert items and all(isinstance(item, Document) for item in items), name
