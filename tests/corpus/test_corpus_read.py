"""Reading files: every format, and every way in which a file can be bad."""

from __future__ import annotations

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from luopan.corpus import read as reading
from luopan.corpus import read_text as text_reading
from luopan.corpus.document import Document, Rejected
from luopan.corpus.read import read_files
from luopan.corpus.source_config import FileSource
from luopan.errors import DataError


def read(path, **options):
    items = list(read_files(FileSource(path=str(path), **options)))
    return [item for item in items if isinstance(item, Document)], [
        item for item in items if isinstance(item, Rejected)
    ]


def jsonl(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_a_folder_is_read_in_the_order_of_names_whatever_its_formats(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_text("plain")
    (tmp_path / "a.md").write_text("# mark")
    (tmp_path / "sub" / "c.jsonl").write_bytes(jsonl({"text": "one"}, {"text": "two"}))
    (tmp_path / "sub" / "d.jsonl.gz").write_bytes(gzip.compress(jsonl({"text": "three"})))
    frames = zstandard.compress(jsonl({"text": "four"})) + zstandard.compress(jsonl({"text": "five"}))
    (tmp_path / "sub" / "e.jsonl.zst").write_bytes(frames)
    pq.write_table(pa.table({"text": ["six"], "other": [1]}), tmp_path / "sub" / "f.parquet")
    (tmp_path / ".hidden.txt").write_text("no")
    (tmp_path / "g.pdf").write_bytes(b"%PDF")
    documents, rejected = read(tmp_path)
    assert [document.text for document in documents] == [
        "# mark",
        "plain",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
    ]
    assert [document.id for document in documents][1:4] == ["files/b.txt", "files/sub/c.jsonl#1", "files/sub/c.jsonl#2"]
    assert [(item.rule, item.id) for item in rejected] == [("kind", "files/g.pdf")]


def test_ids_do_not_depend_on_where_the_folder_lies(tmp_path):
    for place in ("here", "there/deeper"):
        (tmp_path / place / "data").mkdir(parents=True)
        (tmp_path / place / "data" / "x.jsonl").write_bytes(jsonl({"text": "t"}))
    ids = [
        read(tmp_path / "here" / "data")[0][0].id,
        read(tmp_path / "there/deeper/data")[0][0].id,
        read(f"{tmp_path}/here/data/*.jsonl")[0][0].id,
        read(tmp_path / "here/data/x.jsonl")[0][0].id,
    ]
    assert ids == ["files/x.jsonl#1"] * 4


def test_columns_are_mapped(tmp_path):
    rows = [{"body": "text one", "key": "k1", "year": 1900}, {"body": "text two", "key": "k2", "year": 1901}]
    (tmp_path / "a.jsonl").write_bytes(jsonl(*rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b.parquet")
    documents, rejected = read(
        tmp_path, name="mine", text_column="body", id_column="key", meta_columns=("year",), licence="CC0"
    )
    assert rejected == []
    assert [document.id for document in documents] == ["mine/k1", "mine/k2"] * 2
    assert documents[1].meta == {"file": "a.jsonl", "row": 2, "year": 1901, "licence": "CC0"}
    assert documents[3].meta == {"file": "b.parquet", "row": 2, "year": 1901, "licence": "CC0"}


def test_bad_lines_are_set_aside_with_file_line_and_reason_and_the_rest_is_read(tmp_path):
    path = tmp_path / "x.jsonl"
    lines = [
        b'{"text": "good"}',
        b'{"text": "cut of',
        b"",
        b'{"body": "no text"}',
        b'{"text": 7}',
        b"[1, 2]",
        b'{"text": "caf\xe9"}',
        b'{"text": "half \\ud800"}',
        b'{"text": "also good"}',
    ]
    path.write_bytes(b"\n".join(lines))
    documents, rejected = read(path)
    assert [document.text for document in documents] == ["good", "also good"]
    assert documents[1].meta["row"] == 9
    assert [(item.where, item.rule) for item in rejected] == [
        (f"{path}:2", "json"),
        (f"{path}:4", "column"),
        (f"{path}:5", "column"),
        (f"{path}:6", "row"),
        (f"{path}:7", "encoding"),
        (f"{path}:8", "encoding"),
    ]
    assert "Unterminated string" in rejected[0].detail and rejected[0].text == '{"text": "cut of'
    assert "no column 'text' (there are: body)" in rejected[1].detail
    assert "holds int" in rejected[2].detail
    offset = path.read_bytes().index(b"\xe9")
    assert rejected[4].value == offset and f"byte {offset} is not UTF-8" in rejected[4].detail


@pytest.mark.parametrize(
    ("content", "rule", "offset"),
    [
        (b"fine text\x00\x01", "binary", 9),
        (b"caf\xe9 au lait", "encoding", 3),
        (b"ends inside \xe2\x82", "encoding", 12),
        ("two bytes each".encode("utf-16"), "encoding", 0),
    ],
)
def test_a_file_that_is_no_utf8_text_is_set_aside_with_the_byte_offset(tmp_path, content, rule, offset):
    (tmp_path / "bad.txt").write_bytes(content)
    (tmp_path / "good.txt").write_text("good")
    documents, rejected = read(tmp_path)
    assert [document.text for document in documents] == ["good"]
    assert (rejected[0].rule, rejected[0].value) == (rule, offset)
    assert rejected[0].where.endswith("bad.txt")
    if offset:
        assert str(offset) in rejected[0].detail


def test_a_fault_at_the_border_of_two_blocks_has_the_right_offset(tmp_path, monkeypatch):
    monkeypatch.setattr(text_reading, "SEGMENT", 8)
    (tmp_path / "a.txt").write_bytes("abcdefg€uvw".encode() + b"\xff")  # the euro sign spans bytes 7 to 9
    assert read(tmp_path)[1][0].value == 13
    (tmp_path / "a.txt").write_bytes(b"abcdefg\xe2\x82xyz")
    assert read(tmp_path)[1][0].value == 7


def test_a_large_text_file_becomes_several_documents_that_join_to_the_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(text_reading, "SEGMENT", 64)
    text = "\n\n".join(f"Paragraph {n} of the tale, é." for n in range(20))
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    documents, _ = read(tmp_path)
    assert len(documents) > 3 and "".join(document.text for document in documents) == text
    assert all(document.text.startswith("Paragraph") for document in documents)
    assert len({document.id for document in documents}) == len(documents)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhello")
    (tmp_path / "b.jsonl").write_bytes(b"\xef\xbb\xbf" + jsonl({"text": "row"}))
    assert [document.text for document in read(tmp_path)[0]] == ["hello", "row"]


@pytest.mark.parametrize("kind", ["gz", "zst"])
@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_compressed_file_is_reported_and_never_ends_silently(tmp_path, kind, damage):
    rows = jsonl(*({"text": f"row {n} {n * 7919 % 1000}"} for n in range(5000)))
    data = gzip.compress(rows) if kind == "gz" else zstandard.ZstdCompressor(write_checksum=True).compress(rows)
    data = data[:-20] if damage == "cut" else data[: len(data) // 2] + b"\x55\xaa\x55\xaa" + data[len(data) // 2 + 4 :]
    (tmp_path / f"x.jsonl.{kind}").write_bytes(data)
    documents, rejected = read(tmp_path)
    assert len(documents) < 5000
    assert rejected[-1].rule == "damaged" and "damaged" in rejected[-1].detail


def test_a_broken_parquet_file_and_one_without_the_column_are_set_aside(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 this is none PAR1")
    pq.write_table(pa.table({"content": ["x"]}), tmp_path / "b.parquet")
    _, rejected = read(tmp_path)
    assert [item.rule for item in rejected] == ["damaged", "column"]
    assert "there are: content" in rejected[1].detail


def test_an_unreadable_file_is_set_aside(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("a")

    def refuse(source, found, part):
        raise PermissionError(13, "Permission denied")
        yield

    monkeypatch.setitem(reading.READERS, ".txt", refuse)
    assert [(item.rule, item.detail) for item in read(tmp_path)[1]] == [("unreadable", "Permission denied")]


def test_a_missing_path_says_what_is_there(tmp_path):
    (tmp_path / "stories").mkdir()
    with pytest.raises(DataError, match="no such file or folder") as caught:
        read(tmp_path / "storys")
    assert caught.value.where == str(tmp_path / "storys") and f"Did you mean {tmp_path}/stories?" in str(caught.value)
    with pytest.raises(DataError, match="holds: stories"):
        read(tmp_path / "other")


@pytest.mark.parametrize("names", [[], ["a.pdf", "b.docx"]])
def test_a_folder_without_text_says_what_is_read(tmp_path, names):
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match="no text to read") as caught:
        read(tmp_path)
    assert ".jsonl" in str(caught.value) and ".zst" in str(caught.value)
    assert all(name[1:] in str(caught.value) for name in names)


def test_a_folder_with_a_link_to_itself_is_read_once(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "again").symlink_to(tmp_path)
    assert len(read(tmp_path)[0]) == 1
