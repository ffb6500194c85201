"""Rows of files as users have them."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from luopan.errors import DataError
from luopan.stages.rows import read_rows


def test_every_value_of_a_csv_is_text(tmp_path: Path) -> None:
    file = tmp_path / "talks.csv"
    file.write_text(
        '\ufeffprompt,completion\r\n1 + 6?,007\r\n"Say ""NA"",\nplease.",NA\r\n\r\nlong,' + "x" * 200_000 + "\r\n"
    )
    rows = [row.values for row in read_rows(file)]
    assert rows == [
        {"prompt": "1 + 6?", "completion": "007"},
        {"prompt": 'Say "NA",\nplease.', "completion": "NA"},
        {"prompt": "long", "completion": "x" * 200_000},
    ]


def test_a_csv_row_that_does_not_fit_is_one_fault(tmp_path: Path) -> None:
    file = tmp_path / "talks.csv.gz"
    file.write_bytes(gzip.compress(b"prompt,completion\na,b\na,b,c\n,d\n"))
    rows = list(read_rows(file))
    assert [row.fault for row in rows] == ["", "3 values, the header has 2 names", ""]
    assert rows[2].values == {"prompt": None, "completion": "d"} and rows[1].where.endswith(":2")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a,b\n\xff,1\n", "row 1: 'utf-8' codec"),
        (b'a,b\nx,"never closed\n', "row 1: unexpected end"),
        (b"a,b\n" + b"x,y\n" * 100 + b"\xff,1\n", "row 101: 'utf-8' codec"),
        (b"a,a\n1,2\n", "the header names a twice"),
        (b"a,b\n", "the file has no rows"),
        (b"", "the file has no rows"),
    ],
)
def test_a_csv_that_is_none_says_so(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "bad.csv"
    file.write_bytes(content)
    with pytest.raises(DataError, match=said):
        list(read_rows(file))


def test_json_may_hold_lines(tmp_path: Path) -> None:
    file = tmp_path / "talks.json"
    file.write_text('{"a": 1}\n{"a": 2}\n{"a": \n')
    rows = list(read_rows(file))
    assert [row.values for row in rows] == [{"a": 1}, {"a": 2}, None] and "not JSON" in rows[2].fault
    file.write_text('[{"a": 1}, 5]')
    assert [row.fault for row in read_rows(file)] == ["", "not an object but a int"]
    file.write_text('{"a": 1}\n')
    assert [row.values for row in read_rows(file)] == [{"a": 1}]
    file = tmp_path / "talks.csv"
    file.write_text("\n\na,b,,\n1,2,,\n")
    assert [row.values for row in read_rows(file)] == [{"a": "1", "b": "2", "column 3": None, "column 4": None}]
    file = tmp_path / "talks.json"
    for text in ('[{"a": 1}', '{"a": \n}}', "nothing"):
        file.write_text(text)
        with pytest.raises(DataError, match="not JSON"):
            list(read_rows(file))
