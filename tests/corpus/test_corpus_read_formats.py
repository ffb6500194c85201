"""The formats beyond plain text and JSON lines: CSV, JSON, parquet, code; and what is wrong with them."""

from __future__ import annotations

import gzip
import json
import os
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from luopan.corpus import read_json as json_reading
from luopan.corpus.batch import to_json
from luopan.corpus.document import Document, Rejected
from luopan.corpus.lines import open_binary
from luopan.corpus.read import read_file, read_files
from luopan.corpus.source_config import CodeSource, FileSource


def read(path, **options):
    return parted(read_files(FileSource(path=str(path), **options)))


def parted(items):
    items = list(items)
    return [item for item in items if isinstance(item, Document)], [
        item for item in items if isinstance(item, Rejected)
    ]


# ------------------------------------------------------------------------------------------------------------- CSV


def test_csv_rows_with_quotes_commas_and_line_ends_inside(tmp_path):
    (tmp_path / "a.csv").write_text('id,text\n1,"one, ""quoted""\nsecond line"\n\n2,two\n', encoding="utf-8")
    (tmp_path / "b.tsv").write_text("text\tid\nthree, four\t3\n", encoding="utf-8")
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress(b"\xef\xbb\xbftext,id\r\nfive,5\r\n"))
    documents, rejected = read(tmp_path, meta_columns=("id",))
    assert rejected == []
    assert [document.text for document in documents] == ['one, "quoted"\nsecond line', "two", "three, four", "five"]
    assert [document.id for document in documents] == [
        "files/a.csv#2",
        "files/a.csv#5",
        "files/b.tsv#2",
        "files/c.csv.gz#2",
    ]
    assert documents[1].meta == {"file": "a.csv", "row": 5, "id": "2"}


def test_bad_csv_rows_are_set_aside_with_their_line_and_the_rest_is_read(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'text,n\ngood,1\none,two,three\nb\x00d,1\ncaf\xe9,1\n"qu"ote,1\nlast,2\n')
    documents, rejected = read(path)
    assert [(document.text, document.meta["row"]) for document in documents] == [("good", 2), ("last", 7)]
    assert [(item.where, item.rule) for item in rejected] == [
        (f"{path}:3", "csv"),
        (f"{path}:4", "binary"),
        (f"{path}:5", "encoding"),
        (f"{path}:6", "csv"),
    ]
    assert "3 fields, where the first line names 2" in rejected[0].detail


@pytest.mark.parametrize(("limit", "rule"), [(64 << 20, "csv"), (100, "max_line_bytes")])
def test_a_quote_that_never_closes_costs_the_rest_and_says_so(tmp_path, limit, rule):
    path = tmp_path / "a.csv"
    path.write_text('text\ngood\n"open\n' + "swallowed\n" * 50)
    documents, rejected = read(path, max_line_bytes=limit)
    assert [document.text for document in documents] == ["good"]
    assert [(item.rule, item.where) for item in rejected] == [(rule, f"{path}:3")]
    assert rejected[0].bytes >= 500 and "quote never closes" in rejected[0].detail


@pytest.mark.parametrize(
    ("content", "words"),
    [("body,n\nx,1\n", "there are: body, n"), ("text,text\na,b\n", "two columns are called 'text'")],
)
def test_a_csv_file_without_the_column_is_set_aside_whole(tmp_path, content, words):
    (tmp_path / "a.csv").write_text(content)
    documents, rejected = read(tmp_path)
    assert documents == [] and [item.rule for item in rejected] == ["column"] and words in rejected[0].detail


# ------------------------------------------------------------------------------------------------------------ JSON


@pytest.mark.parametrize(
    "written",
    [
        lambda rows: json.dumps(rows),
        lambda rows: json.dumps(rows, indent=2),
        lambda rows: "\n".join(json.dumps(row, indent=1) for row in rows),
        lambda rows: "".join(json.dumps(row) for row in rows),
    ],
)
@pytest.mark.parametrize("chunk", [3, 1 << 20])
def test_json_as_a_list_or_one_after_the_other(tmp_path, monkeypatch, written, chunk):
    monkeypatch.setattr(json_reading, "CHUNK", chunk)
    rows = [{"text": f'tëxt {n} \\ "q" \n'} for n in range(20)]
    (tmp_path / "a.json").write_text(written(rows), encoding="utf-8")
    documents, rejected = read(tmp_path)
    assert rejected == [] and [document.text for document in documents] == [row["text"] for row in rows]
    assert documents[19].id == "files/a.json#20"


@pytest.mark.parametrize(
    ("content", "good", "rule", "words"),
    [
        (b'[{"text": "a"}, {"text": "b"', 1, "json", "the rest of the file is not read"),
        (b'[{"text": "a"} {"text": "b"}]', 1, "json", "a comma is missing"),
        (b'[{"text": "a"}', 1, "json", "not closed"),
        (b'[{"text": "a"}] 7', 1, "json", "after the list"),
        (b'{"text": "a"} nonsense {"text": "b"}' + b" " * 100, 1, "json", "Expecting value"),
        (b'{"text": "a"}' + b" " * 2_000_000 + b'{"text": "\xff"}', 1, "encoding", "is not UTF-8"),
        (b"[" * 100_000, 0, "json", "recursion"),
        (b'[{"text": "a"}, 12, 13]', 1, "row", "int"),
    ],
)
def test_bad_json_says_the_row_and_what_is_lost(tmp_path, content, good, rule, words):
    (tmp_path / "a.json").write_bytes(content)
    documents, rejected = read(tmp_path)
    assert len(documents) == good
    assert {item.rule for item in rejected} == {rule} and words in rejected[0].detail
    assert rejected[0].where.endswith(f"a.json:{good + 1}")


@pytest.mark.parametrize("chunk", [1, 2, 1 << 20])
def test_a_number_at_the_border_of_two_blocks_is_one_value(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(json_reading, "CHUNK", chunk)
    (tmp_path / "a.json").write_text("[1234, 5678, 9]")
    assert [item.where[-2:] for item in read(tmp_path)[1]] == [":1", ":2", ":3"]


def test_a_value_of_json_that_is_too_long_is_set_aside(tmp_path):
    (tmp_path / "a.json").write_text('[{"text": "a"}, {"text": "' + "x" * 3_000_000)
    documents, rejected = read(tmp_path, max_line_bytes=1 << 20)
    assert len(documents) == 1 and [item.rule for item in rejected] == ["max_line_bytes"]


# ------------------------------------------------------------------------------------------------- lines and limits


@pytest.mark.parametrize("pack", [lambda data: data, gzip.compress, zstandard.compress])
def test_a_line_that_is_too_long_is_set_aside_in_flat_memory(tmp_path, pack):
    suffix = {gzip.compress: ".gz", zstandard.compress: ".zst"}.get(pack, "")
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(pack(b'{"text": "a"}\n{"text": "' + b"x" * (40 << 20) + b'"}\n{"text": "b"}\n'))
    tracemalloc.start()
    documents, rejected = read(path, max_line_bytes=1 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [(document.text, document.meta["row"]) for document in documents] == [("a", 1), ("b", 3)]
    assert [(item.rule, item.where, item.threshold) for item in rejected] == [("max_line_bytes", f"{path}:2", 1 << 20)]
    assert rejected[0].value == rejected[0].bytes == (40 << 20) + 13
    assert rejected[0].text.startswith('{"text": "xxx') and peak < 38 << 20


def test_a_zstandard_bomb_is_unpacked_in_flat_memory(tmp_path):
    path = tmp_path / "a.txt.zst"
    path.write_bytes(zstandard.ZstdCompressor(level=19).compress(bytes(120 << 20)))
    with open_binary(path) as stream:
        tracemalloc.start()
        size = sum(len(block) for block in iter(lambda: stream.read(1 << 20), b""))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert size == 120 << 20 and peak < 40 << 20


def test_every_text_format_may_be_packed(tmp_path):
    for name, data in {
        "a.txt": b"plain",
        "b.md": b"# mark",
        "c.html": b"<p>page",
        "d.json": b'{"text": "row"}',
    }.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(data))
        (tmp_path / f"{name}.zst").write_bytes(zstandard.compress(data))
    documents, rejected = read(tmp_path)
    assert rejected == [] and [document.text for document in documents] == [
        text for text in ("plain", "# mark", "<p>page", "row") for _ in range(2)
    ]


def test_a_file_that_is_gone_when_it_is_read_is_set_aside(tmp_path):
    for name in ("a.txt", "b.jsonl", "c.parquet", "d.csv", "e.html", "f.warc.gz", "g.json.zst"):
        os.symlink(tmp_path / "nowhere", tmp_path / name)
    documents, rejected = read(tmp_path)
    assert documents == [] and [item.rule for item in rejected] == ["vanished"] * 7


def test_damage_says_how_far_the_reading_came(tmp_path):
    data = gzip.compress(b'{"text": "a"}\n' * 100)
    (tmp_path / "a.jsonl.gz").write_bytes(data[:-9])
    documents, rejected = read(tmp_path)
    assert rejected[-1].rule == "damaged"
    assert not documents or f"(after row {len(documents)})" in rejected[-1].detail


def test_a_file_name_that_is_no_utf8_can_be_stored(tmp_path):
    with open(os.fsencode(tmp_path) + b"/caf\xe9.txt", "wb") as file:
        file.write(b"text")
    with open(os.fsencode(tmp_path) + b"/caf\xe9.bin", "wb") as file:
        file.write(b"\0")
    documents, rejected = read(tmp_path)
    assert documents[0].id == "files/caf\\xe9.txt"
    pa.array([documents[0].id, rejected[0].where, rejected[0].id], pa.string())


def test_halves_of_surrogate_pairs_anywhere_in_a_row_are_found(tmp_path):
    rows = ['{"text": "a", "k": "\\ud800"}', '{"text": "a", "k": {"deep": ["\\udc00"]}}', '{"text": "a", "k": "fine"}']
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    documents, rejected = read(tmp_path, meta_columns=("k",))
    assert len(documents) == 1 and [item.rule for item in rejected] == ["encoding", "encoding"]
    for document in documents:
        to_json(document.meta).encode()
    for item in rejected:
        f"{item.detail}{item.text}{to_json(item.meta)}".encode()


# --------------------------------------------------------------------------------------------------------- parquet


def test_a_parquet_row_that_is_no_utf8_costs_that_row_alone(tmp_path):
    column = pa.array([b"one", b"caf\xe9", b"three"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    documents, rejected = read(tmp_path)
    assert [(document.text, document.meta["row"]) for document in documents] == [("one", 1), ("three", 3)]
    assert [(item.rule, item.where[-2:]) for item in rejected] == [("encoding", ":2")]


def test_parquet_columns_of_other_types(tmp_path):
    table = pa.table(
        {
            "text": pa.array(["a", None, "b"]).dictionary_encode(),
            "url": ["https://x.org/1", None, None],
            "when": pa.array([10**18 + 7, 5, None], pa.timestamp("ns")),
            "number": [1, 2, 3],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    documents, rejected = read(tmp_path, url_column="url", meta_columns=("when", "number"))
    assert [document.text for document in documents] == ["a", "b"]
    assert documents[0].meta["url"] == "https://x.org/1" and "url" not in documents[1].meta
    assert [item.detail for item in rejected] == ["column 'text' holds nothing (null)"]
    assert all(to_json(document.meta) for document in documents)
    assert {item.detail for item in read(tmp_path, text_column="number")[1]} == {"column 'number' holds int, not text"}


# ----------------------------------------------------------------------------------------------------------- code


def test_a_source_tree_is_read_with_path_and_language(tmp_path):
    for name, data in {
        "pkg/a.py": b"# -*- coding: latin-1 -*-\nx = '\xe9'\n",
        "pkg/b.py": "y = 'é'\n".encode(),
        "pkg/c.rs": b"fn main() {}\n",
        "pkg/d.txt": b"no code",
        "node_modules/e.py": b"left = 'out'\n",
        "f.py": b"bad = '\xe9'\n",
        "g.py": b"\0",
        "h.py": b"z = 1\n" * 1000,
        "i.py": b"# coding: rot13\nkyrne\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    source = CodeSource(code=str(tmp_path), suffixes=(".py", ".rs"), licence="MIT", max_line_bytes=5000)
    documents, rejected = parted(read_files(source))
    assert [(document.id, document.meta["language"]) for document in documents] == [
        ("code/i.py", "python"),
        ("code/pkg/a.py", "python"),
        ("code/pkg/b.py", "python"),
        ("code/pkg/c.rs", "rust"),
    ]
    assert "'é'" in documents[1].text and documents[2].text == "y = 'é'\n" and "kyrne" in documents[0].text
    assert documents[1].meta == {"file": "pkg/a.py", "language": "python", "licence": "MIT"}
    assert [(item.id, item.rule) for item in rejected] == [
        ("code/f.py", "encoding"),
        ("code/g.py", "binary"),
        ("code/h.py", "max_line_bytes"),
    ]


def test_a_column_of_web_pages_is_marked_as_such(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"html": "<p>page", "u": "https://x.org"}))
    documents, _ = read(tmp_path, text_column="html", url_column="u", text_format="html")
    assert documents[0].meta == {"file": "a.jsonl", "row": 1, "format": "html", "url": "https://x.org"}


def test_readers_say_when_a_file_was_changed_under_them(tmp_path):
    from luopan.corpus.files import find_files
    from luopan.corpus.read_rows import Part

    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    found = find_files(str(tmp_path))[0]
    source = FileSource(path=str(tmp_path))
    _, rejected = parted(read_file(source, found, Part(0, 14, 1, size=99)))
    assert [item.rule for item in rejected] == ["changed"]
