"""The verbs that need a model, with a tiny one made of noise: what they print, what they refuse, what they leave."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import luopan
from luopan.cli.main import run_verb

Captured = pytest.CaptureFixture[str]


def call(capsys: Captured, *arguments: str, code: int = 0) -> str:
    found = run_verb(arguments[0], arguments[1:])
    said = capsys.readouterr()
    assert found == code, said.err
    return said.out


@pytest.fixture
def sft(run_folder: Path) -> str:
    return str(run_folder / "sft")


def test_load_takes_a_stage_or_a_folder(sft: str) -> None:
    model, tokenizer = luopan.load(sft)
    again, _ = luopan.load(f"{sft}/model")
    ids = torch.tensor([tokenizer("The quick brown fox").input_ids], device=next(model.parameters()).device)
    assert model(ids).shape == (1, ids.shape[1], 384)
    assert torch.equal(model(ids), again(ids)) and not model.training
    text = luopan.TextGenerator(model, tokenizer).generate("The quick", max_new_tokens=5, temperature=0)
    assert isinstance(text, str)


def test_generate_prints_text_and_json(sft: str, capsys: Captured) -> None:
    asked = ("generate", sft, "--prompt", "The quick", "--max-new-tokens", "8", "--temperature", "0")
    text = call(capsys, *asked)
    row = json.loads(call(capsys, *asked, "--json"))
    assert row["text"] + "\n" == text
    assert row["prompt"] == "The quick" and row["completion_tokens"] <= 8
    assert row["finish_reason"] in ("stop", "length")


def test_generate_offers_tools_and_prints_calls(sft: str, capsys: Captured, tmp_path: Path) -> None:
    from luopan.cli.generate_verb import print_replies
    from luopan.generate.replies import ToolCall
    from luopan.generate.text import Reply

    file = tmp_path / "tools.json"
    file.write_text('[{"name": "add"}]')
    asked = (
        "generate",
        sft,
        "--prompt",
        "The quick",
        "--chat",
        "--json",
        "--temperature",
        "0",
        "--max-new-tokens",
        "4",
    )
    more = json.loads(call(capsys, *asked, "--tools", str(file)))["prompt_tokens"]
    assert more > json.loads(call(capsys, *asked))["prompt_tokens"]
    for text in ("{}", "[]", "[1]", "{", None):
        (file.write_text(text)) if text else file.unlink()
        assert run_verb("generate", [*asked[1:], "--tools", str(file)]) == 2
        assert "tools" in capsys.readouterr().err
    reply = Reply("So.", None, [1, 2], "stop", [0.0, 0.0], 3, tool_calls=[ToolCall("c1", "add", '{"a": "東"}')])
    print_replies(["Hi"], [reply], True)
    (found,) = json.loads(capsys.readouterr().out)["tool_calls"]
    assert found == {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": "東"}'}}
    print_replies(["Hi"], [reply], False)
    assert capsys.readouterr().out == 'So.\nadd {"a": "東"}\n'


def test_generate_several_prompts_and_standard_input(
    sft: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = call(
        capsys, "generate", sft, "--prompt", "The", "--prompt", "Who", "--json", "--max-new-tokens", "4"
    ).splitlines()
    assert [json.loads(line)["prompt"] for line in lines] == ["The", "Who"]
    monkeypatch.setattr("sys.stdin", io.StringIO("The quick"))
    assert json.loads(call(capsys, "generate", sft, "--json", "--max-new-tokens", "4"))["prompt"] == "The quick"


def test_generate_seeds_and_stops(sft: str, capsys: Captured) -> None:
    def asked(*options: str) -> dict[str, Any]:
        given = ("--prompt", "The quick", "--max-new-tokens", "12", "--json")
        return json.loads(call(capsys, "generate", sft, *given, *options))

    hot = ("--temperature", "1.5", "--seed")
    assert asked(*hot, "3")["text"] == asked(*hot, "3")["text"] != asked(*hot, "4")["text"]
    text = asked(*hot, "3")["text"]
    assert asked(*hot, "3", "--stop", text[2:4])["text"] == text[: text.index(text[2:4])]


def test_generate_refuses_options_without_effect(sft: str, capsys: Captured) -> None:
    for options, message in (
        (("--temperature", "0", "--top-k", "5"), "top_k has no effect at temperature 0"),
        (("--top-p", "7"), "top_p"),
        (("--system", "x"), "no effect without --chat"),
        (("--prompt", ""), "the prompt is empty"),
        (("--prompt", "word " * 500), "context"),
    ):
        assert run_verb("generate", [sft, "--prompt", "The", *options]) == 2
        said = capsys.readouterr()
        assert message in said.err and "Traceback" not in said.err and not said.out


def test_chat_through_a_pipe(sft: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    saved = tmp_path / "talk.jsonl"
    turns = [
        "/system You are a fox.",
        "Who are you?",
        "/think on",
        "12 + 34",
        f"/save {saved}",
        "/reset",
        "/x",
        "/quit",
    ]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join([*turns, "never read"]) + "\n"))
    output = call(capsys, "chat", sft, "--max-new-tokens", "6", "--temperature", "1", "--seed", "1")
    assert "system prompt: You are a fox." in output and "thinking on" in output and "no such command" in output
    assert "\x1b" not in output, "no colour in a pipe"
    messages = json.loads(saved.read_text())["messages"]
    assert [message["content"] for message in messages if message["role"] == "user"] == ["Who are you?", "12 + 34"]
    assert messages[2]["content"] in output


def test_chat_outlives_a_full_context(sft: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("The quick brown fox jumps\n" * 12))
    output = call(capsys, "chat", sft, "--max-new-tokens", "10", "--temperature", "1", "--seed", "1")
    assert "the model's context is full" in output and "error" not in output
    monkeypatch.setattr("sys.stdin", io.StringIO("word " * 400 + "\n" + "Who are you?\n"))
    output = call(capsys, "chat", sft, "--max-new-tokens", "10", "--temperature", "1", "--seed", "1")
    assert "error: " in output and "context" in output


def test_eval_prints_a_table_and_json(sft: str, capsys: Captured) -> None:
    asked = ("eval", sft, "--tasks", "addition,identity", "--cases", "4", "--max-new-tokens", "6")
    table = call(capsys, *asked)
    assert "addition" in table and "identity" in table and "all" in table
    report = json.loads(call(capsys, *asked, "--json"))
    assert report["skills"]["addition"]["n"] == 4 and report["skills"]["addition"]["accuracy"] == 0
    assert "addition" in call(capsys, "eval", sft, "--tasks", "list")
    assert run_verb("eval", [sft, "--tasks", "adition"]) == 2
    assert 'unknown task "adition"; did you mean "addition"?' in capsys.readouterr().err


def test_tokenizer_info_and_compare(run_folder: Path, sft: str, capsys: Captured, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog.")
    facts = json.loads(call(capsys, "tokenizer", "info", sft, "--text", str(text), "--json"))
    assert facts["vocabulary"] == 384 and facts["chat_template"] and facts["bytes_per_token"] > 1
    both = call(capsys, "tokenizer", "compare", sft, str(run_folder / "tokenizer"), "--text", str(text))
    assert len(both.splitlines()) == 3 and both.splitlines()[1].split()[1:] == both.splitlines()[2].split()[1:]
    for arguments, message in (
        (["compare", sft], "--text"),
        (["compare", sft, "--text", str(tmp_path / "none")], "cannot be read"),
        (["info", str(tmp_path)], "no tokenizer in this folder"),
    ):
        assert run_verb("tokenizer", arguments) == 2
        assert message in capsys.readouterr().err


def test_template_shows_what_is_trained(sft: str, capsys: Captured, tmp_path: Path) -> None:
    file = tmp_path / "talks.jsonl"
    good = [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "A fox."}]
    file.write_text(json.dumps({"messages": good}) + "\n\n" + json.dumps({"messages": good[:1]}) + "\n")
    assert run_verb("template", ["render", str(file), "--model", sft]) == 1
    said = capsys.readouterr()
    assert "⟦A fox.<|im_end|>⟧" in said.out and "⟦Who" not in said.out
    assert f"{file}:3: no assistant turn" in said.err
    page = tmp_path / "mask.html"
    run_verb("template", ["render", str(file), "--model", sft, "--html", str(page), "--limit", "1"])
    assert "<mark>A fox." in page.read_text()
    fine = json.dumps({"messages": good})
    for text, message, code in (
        ("{\n" + fine, ":1: not JSON", 1),
        ('{"text": 3}\n' + fine, ":1: no list in the column `messages`", 1),
        ("", "no rows", 2),
    ):
        file.write_text(text)
        capsys.readouterr()
        assert run_verb("template", ["render", str(file), "--model", sft]) == code
        said = capsys.readouterr()
        assert message in said.err
        assert ("⟦A fox." in said.out) == (code == 1)  # a bad row takes no good one with it


def test_export_copies_the_model_with_its_lineage(sft: str, capsys: Captured, tmp_path: Path) -> None:
    out = tmp_path / "out"
    call(capsys, "export", sft, "--to", "hf", "--out", str(out))
    weights = Path(sft, "model", "model.safetensors").read_bytes()
    assert (out / "model.safetensors").read_bytes() == weights
    lineage = json.loads(call(capsys, "report", str(out), "--json"))
    assert [step["name"] for step in lineage] == ["tokenizer", "sft"]
    assert run_verb("export", [sft, "--out", str(out)]) == 2
    assert "not overwritten" in capsys.readouterr().err
    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_pretrained(out).config.vocab_size == 384


def test_export_as_another_architecture(sft: str, capsys: Captured, tmp_path: Path) -> None:
    call(capsys, "export", sft, "--out", str(tmp_path / "mistral"), "--architecture", "mistral")
    config = json.loads((tmp_path / "mistral" / "config.json").read_text())
    assert config["model_type"] == "mistral"
    one, _ = luopan.load(sft)
    other, _ = luopan.load(tmp_path / "mistral")
    ids = torch.arange(20)[None].to(next(one.parameters()).device)
    assert torch.allclose(one(ids), other(ids))


def test_report_of_a_run_and_of_a_stage(run_folder: Path, sft: str, capsys: Captured) -> None:
    text = call(capsys, "report", str(run_folder))
    assert "accuracy" in text and "0.25" in text and "no report.html yet" in text
    text = call(capsys, "report", sft)
    assert "sft (sft) as recorded" in text and "tokenizer: tokenizer" in text


def test_export_of_a_damaged_model_is_refused(run_folder: Path, capsys: Captured, tmp_path: Path) -> None:
    shutil.copytree(run_folder, tmp_path / "run")
    weights = tmp_path / "run" / "sft" / "model" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert run_verb("export", [str(tmp_path / "run" / "sft"), "--out", str(tmp_path / "out")]) == 2
    assert "checksum differs" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
