from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest

from luopan.cli.main import run_verb


@pytest.fixture
def web(tmp_path: Path) -> Path:
    file = tmp_path / "web.jsonl.gz"
    with gzip.open(file, "wt", encoding="utf-8") as stream:
        for number in range(20):
            stream.write(json.dumps({"text": f"Some plain English words, number {number}, <b>&amp;</b>."}) + "\n")
    return file


@pytest.fixture
def chinese(tmp_path: Path) -> Path:
    (tmp_path / "story.txt").write_text("从前有一座山，山上有一座庙。" * 20, encoding="utf-8")
    return tmp_path / "story.txt"


def test_report(run_folder: Path, web: Path, chinese: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = [str(run_folder / "tokenizer"), str(run_folder / "sft")]
    page = tmp_path / "page.html"
    texts = ["--text", f"news/en={web}", "--text", str(chinese)]
    assert run_verb("tokenizer", ["report", *models, *texts, "--html", str(page), "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["name"], second["name"], first["vocabulary"]) == ("tokenizer", "sft", 384)
    assert [(cut["domain"], cut["unit"]) for cut in first["cuts"]] == [("news", "word"), ("story", "character")]
    assert first["cuts"][0]["language"] == "en"
    assert first["cuts"] == second["cuts"]
    html = page.read_text(encoding="utf-8")
    assert html.count("<svg") == 4 and "<script" not in html and "news (en)" in html
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", html)
    assert run_verb("tokenizer", ["report", *models, *texts]) == 0
    shown = capsys.readouterr().out
    assert "Tokenizers" in shown and "news" in shown and "bytes per" in shown


def test_report_reads_a_part_of_each_text(run_folder: Path, web: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(run_folder / "tokenizer")
    assert run_verb("tokenizer", ["report", model, "--text", str(web), "--max-bytes", "100", "--json"]) == 0
    cut = json.loads(capsys.readouterr().out)[0]["cuts"][0]
    assert cut["tokens"] * cut["bytes_per_token"] == pytest.approx(100)


@pytest.mark.parametrize(("content", "match"), [
    ('{"content": "x"}\n', "has no field `text`"), ("[1]\n", "not a row of JSON"), ("", "no text to measure"),
    ('{"text": "a"}\nno\n', ":2: is not a row"),
])  # fmt: skip
def test_texts_that_cannot_be_read(
    run_folder: Path, tmp_path: Path, content: str, match: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(content)
    assert run_verb("tokenizer", ["report", str(run_folder / "tokenizer"), "--text", str(file)]) == 2
    assert match in capsys.readouterr().err
    for arguments, message in ((["--text", "nowhere.txt"], "cannot be read"), ([], "at least one text")):
        assert run_verb("tokenizer", ["report", str(run_folder / "tokenizer"), *arguments]) == 2
        assert message in capsys.readouterr().err
    cut_off = tmp_path / "cut.jsonl.gz"
    cut_off.write_bytes(gzip.compress(b'{"text": "a"}\n' * 1000)[:-20])
    assert run_verb("tokenizer", ["report", str(run_folder / "tokenizer"), "--text", str(cut_off)]) == 2


def test_extend(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import luopan

    words = tmp_path / "words.txt"
    words.write_text("compass rose\n羅盤\n", encoding="utf-8")
    out = tmp_path / "bigger"
    arguments = ["extend", str(run_folder / "sft"), "--tokens", str(words), "--out", str(out)]
    assert run_verb("tokenizer", arguments) == 0
    assert "2 tokens added: vocabulary 384 -> 386, rows 384 -> 512" in capsys.readouterr().out
    model, tokenizer = luopan.load(out)
    assert model.config.vocab_size == 512 and tokenizer.encode("羅盤") == [385]
    assert luopan.TextGenerator(model, tokenizer).generate("羅盤", max_new_tokens=3, temperature=0) is not None
    assert run_verb("tokenizer", arguments) == 2
    assert "exists already" in capsys.readouterr().err
    assert run_verb("tokenizer", [*arguments[:-1], str(tmp_path / "other"), "--init", "zero"]) == 2


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("report", "extend"):
        assert run_verb("tokenizer", [command, "--help"]) == 0
        assert f"luopan tokenizer {command}" in capsys.readouterr().out


def test_names() -> None:
    from luopan.cli.tokenizer_report import names_of

    assert names_of(["runs/a/tokenizer", "package:carrier/qwen.tiktoken", "package:carrier/data", "a/name"]) == [
        "tokenizer", "qwen", "carrier", "name",
    ]  # fmt: skip
    assert names_of(["runs/a/tokenizer", "runs/b/tokenizer"]) == ["runs/a/tokenizer", "runs/b/tokenizer"]
