"""`luopan template`: lint, list, show, and render of any format, in the terminal and as a page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from luopan.cli.main import run_verb
from luopan.tokens.templates import TEMPLATES, template_source
from luopan.tokens.tokenizer import load_tokenizer

Captured = pytest.CaptureFixture[str]
ASKED, SAID = {"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "A fox."}


@pytest.fixture
def sft(run_folder: Path) -> str:
    return str(run_folder / "sft")


def rendered(file: Path, sft: str, capsys: Captured, *more: str, code: int = 0) -> tuple[str, str]:
    capsys.readouterr()
    assert run_verb("template", ["render", str(file), "--model", sft, *more]) == code
    said = capsys.readouterr()
    return said.out, said.err


def test_lint_of_a_model_is_clean_and_counts(sft: str, capsys: Captured) -> None:
    assert run_verb("template", ["lint", sft, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] and report["counts"]["error"] == 0
    assert {"rule", "severity", "where", "message", "hint", "example"} == set(report["findings"][0])


def test_lint_reads_which_stops_a_model_announces(run_folder: Path, tmp_path: Path, capsys: Captured) -> None:
    model = tmp_path / "model"
    shutil.copytree(run_folder / "sft" / "model", model)
    tokenizer = load_tokenizer(model)
    for stop, expected in ((tokenizer.get_vocab()["<|im_end|>"], False), ([tokenizer.eos_token_id], True)):
        (model / "generation_config.json").write_text(json.dumps({"eos_token_id": stop}))
        assert run_verb("template", ["lint", str(model)]) == 0
        assert ("stop-unannounced" in capsys.readouterr().out) is expected


@pytest.mark.parametrize("name", TEMPLATES)
def test_lint_of_a_shipped_template_needs_no_model(name: str, capsys: Captured) -> None:
    assert run_verb("template", ["lint", name]) == 0
    assert "error:" not in capsys.readouterr().out


def test_lint_of_a_file(tmp_path: Path, sft: str, capsys: Captured) -> None:
    file = tmp_path / "chat.jinja"
    file.write_text(template_source("luopan").replace("{%- if tools -%}", "{%- if false -%}"))
    for more in ([], ["--model", sft]):
        assert run_verb("template", ["lint", str(file), *more]) == 1
        said = capsys.readouterr().out
        assert "error: dropped: it is not in the text" in said and "in tools name; tools description;" in said
    file.write_text("{% if %}")
    assert run_verb("template", ["lint", str(file), "--model", sft]) == 1
    assert "in line 1" in capsys.readouterr().out
    assert run_verb("template", ["lint", str(tmp_path / "none.jinja")]) == 2
    assert "no such file" in capsys.readouterr().err


def test_list_and_show(capsys: Captured) -> None:
    assert run_verb("template", ["list"]) == 0
    said = capsys.readouterr().out
    assert all(f"{name}: " in said for name in TEMPLATES)
    assert run_verb("template", ["list", "--json"]) == 0
    assert [info["name"] for info in json.loads(capsys.readouterr().out)] == list(TEMPLATES)
    assert run_verb("template", ["show", "qwen3"]) == 0
    assert capsys.readouterr().out == template_source("qwen3")
    assert run_verb("template", ["show", "qwen9"]) == 2
    assert "Known: luopan" in capsys.readouterr().err


def test_render_takes_every_format(sft: str, tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "rows.jsonl"
    alpaca = {"instruction": "Who are you?", "input": "", "output": "A fox."}
    sharegpt = {"conversations": [{"from": "human", "value": "Who are you?"}, {"from": "gpt", "value": "A fox."}]}
    pair = {"prompt": "Who are you?", "chosen": "A fox.", "rejected": "A dog."}
    for row, decision in ((alpaca, "Alpaca"), (sharegpt, "ShareGPT"), (pair, "preference")):
        file.write_text(json.dumps(row) + "\n")
        out, err = rendered(file, sft, capsys)
        assert "⟦A fox.<|im_end|>⟧" in out and f"{file}: {decision}" in err
        assert ("(rejected)" in out and "⟦A dog.<|im_end|>⟧" in out) == (row is pair)
    file.write_text(json.dumps({"text": "A fox ran."}) + "\n")
    assert "⟦A fox ran.<|endoftext|>⟧" in rendered(file, sft, capsys)[0]
    file.write_text(json.dumps({"messages": [ASKED, SAID]}) + "\n")
    assert rendered(file, sft, capsys)[1] == ""  # nothing was decided


def test_render_says_what_is_trained_on(sft: str, tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"messages": [ASKED, SAID, ASKED, {**SAID, "content": "Still a fox."}]}) + "\n")
    both = rendered(file, sft, capsys)[0]
    assert "⟦A fox.<|im_end|>⟧" in both and "⟦Still a fox.<|im_end|>⟧" in both
    last = rendered(file, sft, capsys, "--train-on", "last_turn")[0]
    assert "⟦A fox." not in last and "⟦Still a fox.<|im_end|>⟧" in last
    assert rendered(file, sft, capsys, "--train-on", "all")[0].count("⟦") == 1


def test_render_with_another_template(sft: str, tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"messages": [ASKED, SAID]}) + "\n")
    assert "/no_think" in rendered(file, sft, capsys)[0]
    assert "/no_think" not in rendered(file, sft, capsys, "--template", "chatml")[0]
    own = tmp_path / "own.jinja"
    own.write_text(template_source("chatml").replace("'assistant\\n'", "'model\\n'"))
    assert "⟦A fox." in rendered(file, sft, capsys, "--template", str(own))[0]
    err = rendered(file, sft, capsys, "--template", "llama3", code=2)[1]
    assert "the vocabulary lacks what this template writes: <|begin_of_text|>" in err


def test_the_page_escapes_what_rows_say_and_names_the_faults(sft: str, tmp_path: Path, capsys: Captured) -> None:
    file, page = tmp_path / "rows.jsonl", tmp_path / "mask.html"
    bad = {"role": "assistant", "content": "<script>alert(1)</script>"}
    file.write_text(json.dumps({"messages": [ASKED, bad]}) + "\n" + json.dumps({"messages": [ASKED]}) + "\n")
    rendered(file, sft, capsys, "--html", str(page), code=1)
    text = page.read_text()
    assert "<mark>&lt;script&gt;alert(1)&lt;/script&gt;&lt;|im_end|&gt;</mark>" in text and "<script>" not in text
    assert "no assistant turn" in text and "Content-Security-Policy" in text and "prefers-color-scheme: dark" in text
