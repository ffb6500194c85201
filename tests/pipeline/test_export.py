"""Exports: what is written loads, half models are refused in one line, and a failure leaves nothing behind."""

from __future__ import annotations

import ast
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from export_toys import make_run
from transformers import AutoModelForCausalLM, AutoTokenizer

from luopan.artifacts import files as artifact_files
from luopan.cli.main import run_verb
from luopan.errors import ArtifactError, DiskFullError, LuopanError, ModelError
from luopan.model import hf
from luopan.model.adapter_config import AdapterConfig
from luopan.model.lora import attach, merged
from luopan.model.peft_files import save_adapter
from luopan.pipeline import export_gguf as export_gguf_module
from luopan.pipeline.card_facts import CardOptions
from luopan.pipeline.export import export_hf
from luopan.pipeline.export_adapter import export_adapter
from luopan.pipeline.export_folder import new_folder
from luopan.pipeline.export_gguf import GgufOptions, export_gguf
from luopan.tokens.gguf import convert_gguf
from luopan.tokens.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run") / "toy")


@pytest.fixture
def stage(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may break, without the manifest's checksums."""
    shutil.copytree(made.parent, tmp_path / "toy")
    (tmp_path / "toy" / "sft" / "manifest.json").unlink()
    return tmp_path / "toy" / "sft"


def logits(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        return hf.load(folder).eval()(torch.arange(40)[None])


def test_hf_folder_loads_and_keeps_its_stops(made: Path, tmp_path: Path) -> None:
    out = export_hf(made, tmp_path / "out", card=CardOptions(license="mit")).folder
    theirs = AutoModelForCausalLM.from_pretrained(out).eval()
    with torch.no_grad():
        assert torch.allclose(theirs(torch.arange(40)[None]).logits, logits(made / "model"), atol=1e-5)
    assert theirs.generation_config.eos_token_id == [2, 0]
    assert AutoTokenizer.from_pretrained(out).chat_template == load_tokenizer(made / "model").chat_template
    for name in ("README.md", "luopan_lineage.json", "luopan_card.json", "loss.png"):
        assert (out / name).is_file()


def test_vllms_names_are_those_of_the_folder(made: Path, tmp_path: Path) -> None:
    """vLLM looks `architectures` up by name; its list of models has Qwen3ForCausalLM (not run here: CUDA wheels)."""
    found = export_hf(made, tmp_path / "out")
    config = json.loads((found.folder / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert type(AutoModelForCausalLM.from_pretrained(found.folder)).__name__ == "Qwen3ForCausalLM"
    command = next(line for line in found.commands if line.startswith("vLLM"))
    assert command == (
        f"vLLM: vllm serve {found.folder} --enable-auto-tool-choice --tool-call-parser hermes --reasoning-parser qwen3"
    )
    assert any("sglang.launch_server" in line for line in found.commands)


def test_another_dtype_and_architecture_keep_the_rest(made: Path, tmp_path: Path) -> None:
    out = export_hf(made, tmp_path / "out", dtype="bf16").folder
    assert hf.load(out, dtype=None).embed_tokens.weight.dtype == torch.bfloat16
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == [2, 0]
    assert json.loads((out / "config.json").read_text())["eos_token_id"] == [2, 0]
    with pytest.raises(ModelError, match="q8_0"):
        export_hf(made, tmp_path / "more", dtype="q8_0")
    with pytest.raises(ModelError, match="llama cannot express qk_norm true"):
        export_hf(made, tmp_path / "more", architecture="llama")


def test_own_form_needs_to_be_asked_for(tmp_path: Path) -> None:
    sft = make_run(tmp_path / "toy", attention_sinks=True)
    with pytest.raises(ModelError, match="attention_sinks true"):
        export_hf(sft, tmp_path / "out")
    with pytest.raises(ModelError, match="GGUF cannot express attention_sinks true"):
        export_gguf(sft, tmp_path / "out")
    found = export_hf(sft, tmp_path / "out", architecture="luopan")
    assert torch.equal(logits(found.folder), logits(sft / "model")) and "luopan's own form" in found.notes[0]


def test_gguf_folder(made: Path, tmp_path: Path) -> None:
    found = export_gguf(made, tmp_path / "toy-gguf", GgufOptions("f32", system="Be kind."), card=CardOptions("mit"))
    assert sorted(path.name for path in found.folder.iterdir()) == [
        "Modelfile", "README.md", "loss.png", "luopan_card.json", "luopan_lineage.json", "toy-gguf-f32.gguf"
    ]  # fmt: skip
    convert_gguf(found.folder / "toy-gguf-f32.gguf", tmp_path / "again")
    assert torch.allclose(logits(tmp_path / "again"), logits(made / "model"), atol=1e-5)
    text = (found.folder / "Modelfile").read_text()
    assert text.startswith("FROM ./toy-gguf-f32.gguf\n") and 'SYSTEM """Be kind."""' in text
    assert 'PARAMETER stop "<|im_end|>"' in text and "PARAMETER num_ctx 128" in text
    assert any("whole words" in note for note in found.notes)
    assert any(line.startswith("Ollama: ollama create toy-gguf-f32 -f ") for line in found.commands)


def test_a_tokenizer_that_llama_cpp_cannot_have(tmp_path: Path) -> None:
    sft = make_run(tmp_path / "toy", whitespace="words")
    with pytest.raises(ModelError, match="line break"):
        export_gguf(sft, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    found = export_gguf(sft, tmp_path / "out", GgufOptions(inexact_tokenizer=True))
    assert "inexact tokenizer" in found.notes[0] and "inexact tokenizer" in (found.folder / "README.md").read_text()


def damage_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def drop_tensor(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def cut_weights(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def smaller_model(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:500].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 500}))


BROKEN = {
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no model.safetensors"),
    "a pickle": (pickle_only, "no model.safetensors"),
    "cut weights": (cut_weights, "damaged or no safetensors"),
    "a tensor missing": (drop_tensor, "tensors are missing, the first is model.norm.weight"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer"),
    "config cut": (damage_config, "not JSON"),
    "vocabulary mismatch": (smaller_model, "the tokenizer has 512 tokens and the model an embedding of 500"),
}


@pytest.mark.parametrize("to", ["hf", "gguf"])
@pytest.mark.parametrize("what", BROKEN)
def test_half_a_model_is_refused_in_one_line(
    stage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str, to: str
) -> None:
    breaks, message = BROKEN[what]
    breaks(stage / "model")
    assert run_verb("export", [str(stage), "--to", to, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said and len(said.strip().splitlines()) <= 2
    assert not [path.name for path in tmp_path.iterdir() if "out" in path.name]


def test_damage_is_found_by_checksum_first(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made.parent, tmp_path / "toy")
    weights = tmp_path / "toy" / "sft" / "model" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    for export in (export_hf, export_gguf):
        with pytest.raises(ArtifactError, match="checksum differs"):
            export(tmp_path / "toy" / "sft", tmp_path / "out")  # type: ignore[operator]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, ModelError("no")])
def test_an_interrupted_export_leaves_nothing(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Any
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise failure

    monkeypatch.setattr(export_gguf_module, "atomic_write_text", fail)  # the GGUF file is written by then
    with pytest.raises((KeyboardInterrupt, ModelError)):
        export_gguf(made, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_two_exports_to_one_target_do_not_mix(tmp_path: Path) -> None:
    target = tmp_path / "o.u+t"
    with new_folder(target, 0) as first:
        (first / "weights").write_text("first")
        with pytest.raises(ArtifactError, match="not overwritten"), new_folder(target, 0) as second:
            assert second != first and not list(second.iterdir())
            (second / "weights").write_text("second")
            (second / "more").write_text("second")
            target.mkdir()
        assert not second.exists() and (first / "weights").read_text() == "first"
        target.rmdir()
    assert [path.name for path in target.iterdir()] == ["weights"] and list(tmp_path.iterdir()) == [target]
    assert (target / "weights").read_text() == "first"


def test_what_a_killed_export_left_is_removed(tmp_path: Path) -> None:
    target = tmp_path / "out"
    code = (
        "import os, pathlib, sys\nfrom luopan.pipeline.export_folder import new_folder\n"
        "with new_folder(pathlib.Path(sys.argv[1]), 0) as partial:\n"
        "    (partial / 'half').write_text('x')\n    os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(target)]).returncode == 9
    (left,) = tmp_path.iterdir()
    (tmp_path / ".out.partial").mkdir()  # of an older version
    (tmp_path / ".out.notes.partial").mkdir()  # of nobody here
    with new_folder(target, 0) as partial:
        assert partial != left and not left.exists() and not list(partial.iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.notes.partial", "out"]


def test_names_with_spaces_are_quoted_in_commands(made: Path, tmp_path: Path) -> None:
    target = tmp_path / 'my $(model) "x"'
    folders = [export_hf(made, target / "hf x"), export_gguf(made, target / "gguf x")]
    for found in folders:
        for command in found.commands:
            words = shlex.split(command.split(": ", 1)[1])
            assert any(word.startswith(str(found.folder)) for word in words), command
    command = next(line for line in folders[1].commands if line.startswith("llama.cpp"))
    assert str(folders[1].folder / "gguf x-f16.gguf") in shlex.split(command)
    for found in folders:
        card = (found.folder / "README.md").read_text()
        for block in card.split("```python\n")[1:]:
            ast.parse(block.split("```")[0])
        for block in card.split("```sh\n")[1:]:
            assert any(word.startswith(found.folder.name) for word in shlex.split(block.split("```")[0]))


def test_what_exists_is_not_overwritten(made: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("out", "link"):
        for export in (export_hf, export_gguf):
            with pytest.raises(ArtifactError, match="not overwritten"):
                export(made, tmp_path / name)  # type: ignore[operator]


def test_a_full_disk_is_told_before_anything_is_written(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifact_files.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(DiskFullError):
        export_gguf(made, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def with_adapter(stage: Path, base: str) -> tuple[Path, torch.Tensor]:
    """The stage with an adapter of random weights beside a merged model; and the merged model's logits."""
    model = hf.load(stage / "model").eval()
    attach(model, AdapterConfig(r=4, lora_alpha=8), 0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("lora_B"):
                value.normal_(0, 0.1)
    save_adapter(model, stage / "adapter", base, AdapterConfig(r=4, lora_alpha=8))
    with torch.no_grad(), merged(model):
        return stage / "adapter", model(torch.arange(40)[None])


def test_an_adapter_loads_with_peft_on_its_base(stage: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    base = stage / "model"
    _, wanted = with_adapter(stage, str(base))
    found = export_adapter(stage, tmp_path / "out", card=CardOptions(license="mit"))
    assert "path of this machine" in found.notes[0]
    config = json.loads((found.folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base)
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), found.folder).eval()
    with torch.no_grad():
        assert torch.allclose(theirs(torch.arange(40)[None]).logits, wanted, atol=1e-4)
    assert AutoTokenizer.from_pretrained(found.folder).eos_token == "<|endoftext|>"
    assert str(tmp_path) not in (found.folder / "README.md").read_text()


def test_an_adapters_base_can_be_named(stage: Path, tmp_path: Path) -> None:
    with_adapter(stage, str(stage / "model"))
    found = export_adapter(stage, tmp_path / "out", card=CardOptions(base_model="owner/base"))
    assert json.loads((found.folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "owner/base"
    card = (found.folder / "README.md").read_text()
    assert "library_name: peft" in card and "base_model: owner/base" in card and not found.notes


def test_an_adapters_base_with_a_space_is_quoted(stage: Path, tmp_path: Path) -> None:
    base = stage.rename(stage.parent / "a base")
    with_adapter(base, str(base))
    found = export_adapter(base, tmp_path / "o u t")
    card = (found.folder / "README.md").read_text()
    words = shlex.split(next(line for line in card.splitlines() if line.startswith("vllm serve")))
    assert words == ["vllm", "serve", "a base", "--enable-lora", "--lora-modules", "o u t=o u t"]


def test_no_adapter_or_half_of_one(stage: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no adapter in this folder"):
        export_adapter(stage, tmp_path / "out")
    folder, _ = with_adapter(stage, "owner/base")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match="not whole"):
        export_adapter(stage, tmp_path / "out")
    with pytest.raises(LuopanError, match="no such folder"):
        export_adapter(tmp_path / "nowhere", tmp_path / "out")


@pytest.mark.parametrize(("words", "message"), [
    (["--to", "hf", "--system", "x"], "--system has no effect with --to hf"),
    (["--to", "adapter", "--quantize", "q8_0"], "--quantize has no effect"),
    (["--to", "gguf", "--architecture", "llama"], "--architecture has no effect"),
    (["--to", "gguf", "--quantize", "q9"], "there is no type 'q9'"),
    (["--license", "a/b?"], "no name of a licence"),
    (["--language", "English please"], "no language code"),
])  # fmt: skip
def test_options_without_effect_or_sense(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert run_verb("export", [str(made), "--out", str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
