"""A model from elsewhere: found, completed, checked, handed on with the same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from stage_toys import tiny_chat, workspace

from luopan.errors import LuopanError, ModelError
from luopan.model import hf
from luopan.recipe.sft_specs import ImportSpec
from luopan.stages.common import Chat, save_model
from luopan.stages.imported import Imported, find_model, read_template
from luopan.tokens.chat import encode_chat, end_of_turn_id, stop_ids
from luopan.tokens.tokenizer import load_tokenizer, save_tokenizer

TALK = [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Hello! How can I help you?"}]


def spec(path: Path | str, **more: Any) -> ImportSpec:
    return ImportSpec(kind="import", path=str(path), **more)


@pytest.fixture
def source(tmp_path: Path, chat: Chat) -> Path:
    """A folder as other software leaves it: `model` below a stage's folder."""
    save_model(chat, tmp_path / "source")
    return tmp_path / "source" / "model"


def bare(folder: Path, **changes: Any) -> None:
    """The folder's tokenizer with some of its settings changed; None takes one away."""
    tokenizer = load_tokenizer(folder)
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    save_tokenizer(tokenizer, folder)


def test_the_weights_come_through_as_they_were(tmp_path: Path, source: Path, chat: Chat) -> None:
    out = workspace(tmp_path / "base")
    Imported.check(spec(source))
    metrics = Imported.run(spec(source), {}, out)
    assert metrics["parameters"] == chat.model.config.num_parameters()
    again = hf.load(out.path / "model")
    assert all(torch.equal(one, other) for one, other in zip(chat.model.parameters(), again.parameters(), strict=True))
    assert not (out.path / "work").exists()
    report = json.loads((out.path / "stage_report.json").read_text())
    assert report["tables"][0]["rows"][0] == ["chat template", "marks what is trained", "marks what is trained"]


def test_a_template_of_ours_by_name_and_from_a_file(tmp_path: Path, source: Path) -> None:
    bare(source, chat_template=None)
    out = workspace(tmp_path / "named")
    Imported.run(spec(source, chat_template="luopan"), {}, out)
    tokenizer = load_tokenizer(out.path / "model")
    assert tokenizer.chat_template == read_template("luopan")
    assert encode_chat(tokenizer, TALK).num_trained > 5
    file = tmp_path / "mine.jinja"
    file.write_text(
        "{% for m in messages %}{{ m.role }}: {% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    )
    assert read_template(str(file)) == file.read_text()
    with pytest.raises(ModelError, match="no chat template 'chatlm'"):
        read_template("chatlm")
    file.write_text("{% for %}")
    with pytest.raises(ModelError, match="not valid Jinja"):
        read_template(str(file))


def test_a_template_whose_tokens_are_unknown_names_them_and_they_can_be_added(tmp_path: Path, source: Path) -> None:
    wanted = spec(source, chat_template="llama3")
    with pytest.raises(ModelError, match=r"lacks .*<\|start_header_id\|>") as caught:
        Imported.run(wanted, {}, workspace(tmp_path / "refused"))
    assert caught.value.hint is not None and caught.value.hint.startswith("Set add_tokens: ['<|")
    tokens = tuple(json.loads(caught.value.hint.removeprefix("Set add_tokens: ").replace("'", '"')))
    out = workspace(tmp_path / "completed")
    Imported.run(spec(source, chat_template="llama3", add_tokens=tokens), {}, out)
    tokenizer, model = load_tokenizer(out.path / "model"), hf.load(out.path / "model")
    assert model.config.vocab_size >= len(tokenizer)
    assert len(encode_chat(tokenizer, TALK).input_ids) < 60
    assert tokenizer.convert_ids_to_tokens(end_of_turn_id(tokenizer)) == "<|eot_id|>"
    for token in tokens:
        ids = tokenizer(token, add_special_tokens=False).input_ids
        assert (len(ids) == 1 and ids[0] in tokenizer.all_special_ids) or token not in tokenizer.all_special_tokens


def test_a_padding_token_that_stops_is_replaced(tmp_path: Path, source: Path) -> None:
    bare(source, pad_token="<|im_end|>")
    out = workspace(tmp_path / "base")
    Imported.run(spec(source), {}, out)
    tokenizer = load_tokenizer(out.path / "model")
    assert tokenizer.pad_token_id not in stop_ids(tokenizer)
    saved = json.loads((out.path / "model" / "generation_config.json").read_text())
    assert saved["pad_token_id"] == tokenizer.pad_token_id and saved["eos_token_id"] == stop_ids(tokenizer)
    rows = json.loads((out.path / "stage_report.json").read_text())["tables"][0]["rows"]
    assert ["padding token", "<|im_end|>, which ends a turn", "<|pad|>"] in rows
    with pytest.raises(ModelError, match="is the token that ends a turn"):
        Imported.run(spec(source, pad_token="<|im_end|>"), {}, workspace(tmp_path / "wrong"))
    with pytest.raises(ModelError, match="is no token of the vocabulary"):
        Imported.run(spec(source, pad_token="<nothing>"), {}, workspace(tmp_path / "gone"))


def test_what_is_missing_is_said(tmp_path: Path, source: Path) -> None:
    said: list[str] = []
    bare(source, chat_template=None)
    out = workspace(tmp_path / "base")
    out.progress.note = said.append  # type: ignore[method-assign]
    Imported.run(spec(source), {}, out)
    assert any("chat template: none. Set chat_template: chatml" in line for line in said)


def test_where_a_model_is_looked_for(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_model(str(source)) == source
    folder = tmp_path / "ggufs"
    folder.mkdir()
    with pytest.raises(ModelError, match="no model in this folder"):
        find_model(str(folder))
    (folder / "one.gguf").write_bytes(b"GGUF")
    assert find_model(str(folder)) == folder / "one.gguf"
    (folder / "two.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="several"):
        find_model(str(folder))
    (tmp_path / "weights.bin").write_bytes(b"")
    with pytest.raises(ModelError, match="is no model"):
        find_model(str(tmp_path / "weights.bin"))
    with pytest.raises(ModelError, match="no such file or folder"):
        find_model(str(tmp_path / "gone" / "deeper"))
    with pytest.raises(LuopanError, match="no package"):
        find_model("package:not_installed_here/x.gguf")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="hub"):
        find_model("owner/surely-not-cached@main")


def test_other_weights_under_the_same_path_are_another_model(tmp_path: Path, source: Path, chat: Chat) -> None:
    first = Imported.fingerprint(spec(source))
    assert Imported.fingerprint(spec(source)) == first != Imported.fingerprint(spec(source, chat_template="chatml"))
    save_model(tiny_chat(seed=5), tmp_path / "source")
    assert Imported.fingerprint(spec(source)) != first
