"""Web pages: HTML files and web archives, in whatever encoding and packing, and what is wrong with them."""

from __future__ import annotations

import gzip
import zlib

import pytest

from luopan.corpus.document import Document, Rejected
from luopan.corpus.read import read_files
from luopan.corpus.read_html import decoded
from luopan.corpus.source_config import FileSource


def read(path, **options):
    return parted(read_files(FileSource(path=str(path), **options)))


def parted(items):
    items = list(items)
    return [item for item in items if isinstance(item, Document)], [
        item for item in items if isinstance(item, Rejected)
    ]


def warc(*records):
    parts = []
    for kind, headers, body in records:
        head = {"WARC-Type": kind, "WARC-Date": "2024-01-02T03:04:05Z", **headers, "Content-Length": len(body)}
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        parts.append(b"WARC/1.0\r\n" + lines.encode() + b"\r\n" + body + b"\r\n\r\n")
    return parts


def answer(body, *headers, status="200 OK"):
    return f"HTTP/1.1 {status}\r\n".encode() + b"".join(h.encode() + b"\r\n" for h in headers) + b"\r\n" + body


PAGE = "<html><head><meta charset=utf-8><title>T</title></head><body><p>Grüße, page {}</p></body></html>"


# ------------------------------------------------------------------------------------------------------------ HTML


@pytest.mark.parametrize(
    ("data", "said", "text"),
    [
        ("<p>Grüße".encode(), None, "<p>Grüße"),
        ("<p>Grüße".encode("latin-1"), "ISO-8859-1", "<p>Grüße"),
        ('<meta charset="windows-1251"><p>Привет'.encode("cp1251"), None, '<meta charset="windows-1251"><p>Привет'),
        ("<meta charset=gb2312>中文𠀀".encode("gb18030"), None, "<meta charset=gb2312>中文𠀀"),
        ("<p>Grüße".encode(), "us-ascii", "<p>GrÃ¼ÃŸe"),
        (b"\xff\xfe" + "<p>x".encode("utf-16-le"), "utf-8", "<p>x"),
        ("<p>Grüße".encode(), "no-such-thing", "<p>Grüße"),
        ("<p>Grüße".encode(), "unicode_escape", "<p>Grüße"),
        ("<p>日本".encode(), "shift_jis-x", "<p>日本"),
        (b"<p>" + b"x" * 2000 + b"\xff", None, "<p>" + "x" * 2000 + "\ufffd"),
        (b"<p>" + b"x" * 2000 + b"\0", None, "<p>" + "x" * 2000 + "\ufffd"),
    ],
)
def test_a_page_is_read_in_the_encoding_that_it_says(data, said, text):
    assert decoded(data, said) == (text, "")


@pytest.mark.parametrize("data", ["<p>Grüße".encode("latin-1"), b"\x89PNG\0\0\0\0"])
def test_a_page_that_says_no_encoding_and_is_no_utf8_is_set_aside(tmp_path, data):
    (tmp_path / "a.html").write_bytes(data)
    documents, rejected = read(tmp_path)
    assert documents == [] and [item.rule for item in rejected] == ["encoding"]
    assert "characters are not UTF-8" in rejected[0].detail


def test_a_html_file_is_a_document_of_raw_html(tmp_path):
    (tmp_path / "a.html").write_text(PAGE.format(1), encoding="utf-8")
    (tmp_path / "b.htm").write_text("x" * 100)
    documents, rejected = read(tmp_path, max_line_bytes=200)
    assert documents[0].text == PAGE.format(1) and documents[0].meta == {"file": "a.html", "format": "html"}
    assert read(tmp_path, max_line_bytes=50)[1][1].rule == "max_line_bytes" and rejected == []


# ----------------------------------------------------------------------------------------------------------- WARC


def records():
    url = {"WARC-Target-URI": "https://example.org/{}"}
    zipped = gzip.compress(PAGE.format(3).encode())
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (b"<html><p>in ", b"two parts")) + b"0\r\n\r\n"
    return warc(
        ("warcinfo", {}, b"software: none"),
        ("request", url, b"GET / HTTP/1.1\r\n\r\n"),
        ("response", {**url, "Content-Type": "application/http"},
         answer(PAGE.format(2).encode(), "Content-Type: text/html; charset=UTF-8")),
        ("response", url, answer(zipped, "Content-Type: text/html", "Content-Encoding: gzip")),
        ("response", url, answer(chunked, "Content-Type: text/html", "Transfer-Encoding: chunked")),
        ("response", url, answer(zlib.compress(b"flat")[2:-4], "Content-Type: text/plain",
                                "Content-Encoding: deflate")),
        ("response", url, answer(b"gone", "Content-Type: text/html", status="404 Not Found")),
        ("response", url, answer(b"\x89PNG", "Content-Type: image/png")),
        ("response", url, answer(b"x", "Content-Type: text/html", "Content-Encoding: br")),
        ("conversion", {**url, "Content-Type": "text/plain"}, "Plain ünd simple".encode()),
        ("response", url, answer(b"<!DOCTYPE html><p>no type")),
    )  # fmt: skip


@pytest.mark.parametrize("packed", [False, True])
def test_the_pages_of_an_archive(tmp_path, packed):
    path = tmp_path / ("a.warc.gz" if packed else "a.warc")
    path.write_bytes(b"".join(gzip.compress(record) if packed else record for record in records()))
    documents, rejected = read(path)
    assert [document.text for document in documents] == [
        PAGE.format(2),
        PAGE.format(3),
        "<html><p>in two parts",
        "flat",
        "Plain ünd simple",
        "<!DOCTYPE html><p>no type",
    ]
    assert [document.meta["row"] for document in documents] == [3, 4, 5, 6, 10, 11]
    assert [document.meta.get("format") for document in documents] == ["html", "html", "html", None, None, "html"]
    assert documents[0].meta["url"] == "https://example.org/{}" and documents[0].meta["date"][:4] == "2024"
    assert documents[0].id == f"files/{path.name}#3"
    assert [(item.rule, item.value, item.where) for item in rejected] == [
        ("status", 404, f"{path}:7"),
        ("content_type", None, f"{path}:8"),
        ("http", None, f"{path}:9"),
    ]
    assert rejected[0].meta["url"] == "https://example.org/{}"


def test_reading_goes_on_after_a_damaged_record(tmp_path):
    parts = records()
    parts[3] = b"rubbish\nmore rubbish\n" + parts[3].replace(b"Content-Length: ", b"Content-Length: x")
    parts[5] = parts[5].replace(b"WARC/1.0", b"WRAC/1.0")
    (tmp_path / "a.warc").write_bytes(b"".join(parts))
    documents, rejected = read(tmp_path)
    assert [document.text for document in documents][:2] == [PAGE.format(2), "<html><p>in two parts"]
    assert len(documents) == 4
    faults = [item.detail for item in rejected if item.rule == "warc"]
    assert "no record begins here" in faults and any("Content-Length is x" in fault for fault in faults)


def test_a_cut_archive_and_a_record_that_is_too_long_are_said(tmp_path):
    (tmp_path / "a.warc").write_bytes(b"".join(records()[:3])[:-60])
    assert [(item.rule, "cut short" in item.detail) for item in read(tmp_path)[1]] == [("warc", True)]
    (tmp_path / "a.warc").write_bytes(b"".join(records()[2:6]))
    documents, rejected = read(tmp_path, max_line_bytes=120)
    assert {item.rule for item in rejected} == {"max_line_bytes"} and documents[-1].text == "flat"
    bomb = gzip.compress(bytes(1 << 20))
    (tmp_path / "a.warc").write_bytes(
        warc(("response", {}, answer(bomb, "Content-Type: text/html", "Content-Encoding: gzip")))[0]
    )
    assert "unpacks to more than" in read(tmp_path, max_line_bytes=10_000)[1][0].detail
