"""Models and adapters by name: what they are called, what they share, what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from serve_kit import running, tiny_model
from transformers import PreTrainedTokenizerFast

from luopan.errors import ModelError
from luopan.generate.text import TextGenerator
from luopan.model import hf
from luopan.model.adapter_config import AdapterConfig
from luopan.model.decoder import Decoder
from luopan.model.lora import attach, lora_layers, merge
from luopan.model.peft_files import load_adapter, save_adapter
from luopan.serve.models import ModelLoader, served_names
from luopan.serve.token_bytes import TokenBytes
from luopan.tokens.tokenizer import save_tokenizer


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A model's folder with two adapters beside it; the second replaces the embedding as well."""
    root = tmp_path_factory.mktemp("served")
    hf.save(tiny_model(len(tokenizer)), root / "base")
    save_tokenizer(tokenizer, root / "base")
    for number, saved in enumerate(((), ("embed_tokens",))):
        model = hf.load(root / "base")
        config = AdapterConfig(r=4, modules_to_save=saved)
        attach(model, config, seed=number)
        with torch.no_grad():
            for layer in lora_layers(model).values():
                layer.lora_B.normal_(0, 0.3, generator=torch.Generator().manual_seed(number))
            if saved:
                model.embed_tokens.weight.mul_(1.5)
        save_adapter(model, root / f"adapter-{number}", str(root / "base"), config)
    return root


def loaded(base: Path) -> tuple[ModelLoader, dict[str, Any]]:
    loader = ModelLoader(Path, device="cpu", max_batch=8)
    names = ("base", "adapter-0", "adapter-1")
    return loader, {name: loader.load(str(base / name), name, lambda _: {}) for name in names}


def test_adapters_share_the_weights_of_their_base(base: Path) -> None:
    _, models = loaded(base)
    places = {
        name: {p.data_ptr() for p in model.generator.model.parameters()} for name, model in models.items()
    }  # the storage, not the parameter, which is wrapped anew
    assert places["base"] <= places["adapter-0"]
    left = places["base"] - places["adapter-1"]
    assert left == {models["base"].generator.model.embed_tokens.weight.data_ptr()}, "only what it replaces is its own"
    assert models["adapter-0"].generator.model is not models["base"].generator.model


def test_adapters_say_what_merged_models_say(base: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    before: Decoder = hf.load(base / "base")
    _, models = loaded(base)
    for name, given in models.items():
        plain = hf.load(base / "base").eval()
        if name != "base":
            load_adapter(plain, base / name)
            merge(plain)
        want = TextGenerator(plain, tokenizer).generate("the cat", max_new_tokens=20, temperature=0)
        assert given.generator.generate("the cat", max_new_tokens=20, temperature=0) == want
    for (name, value), kept in zip(before.state_dict().items(), models["base"].generator.model.state_dict().values()):
        assert torch.equal(value, kept), f"loading adapters has changed the base: {name}"
    said = {name: m.generator.generate("the cat", max_new_tokens=20, temperature=0) for name, m in models.items()}
    assert len(set(said.values())) == 3, said


def test_adapters_are_models_of_a_server(base: Path) -> None:
    _, models = loaded(base)
    with running(list(models.values())) as server, server.client() as client:
        listed = [model.id for model in client.models.list().data]
        assert listed == ["base", "adapter-0", "adapter-1"]
        said = [client.completions.create(model=name, prompt="the", temperature=0).choices[0].text for name in listed]
        assert len(set(said)) == 3


def test_weights_of_fewer_bits(base: Path) -> None:
    for more in ({"dtype": "bfloat16"}, {"quantize": "int8"}):
        loader = ModelLoader(Path, device="cpu", max_batch=8, **more)
        model = loader.load(str(base / "base"), "base", lambda _: {})
        with running([model]) as server, server.client() as client:
            answer = client.completions.create(model="base", prompt="the cat", max_tokens=6)
            assert answer.choices[0].finish_reason in ("stop", "length")
        if "quantize" in more:
            with pytest.raises(ModelError, match="quantised"):
                loader.load(str(base / "adapter-0"), "x", lambda _: {})
        else:
            adapter = loader.load(str(base / "adapter-0"), "x", lambda _: {})
            assert {p.dtype for p in adapter.generator.model.parameters()} == {torch.bfloat16}
            assert adapter.generator.generate("the cat", max_new_tokens=3, temperature=0) is not None


def test_an_adapter_without_its_base(base: Path, tmp_path: Path) -> None:
    def find(name: str) -> Path:
        raise ModelError("no such model", where=name)

    with pytest.raises(ModelError, match="the adapter's base cannot be found") as caught:
        ModelLoader(find, device="cpu", max_batch=8).load(str(base / "adapter-0"), "x", lambda _: {})
    assert "adapter_config.json" in str(caught.value)


@pytest.mark.parametrize(
    ("models", "given", "want"),
    [
        (["runs/quickstart/sft"], [], ["sft"]),
        (["runs/a/sft", "runs/b/sft", "runs/b/dpo"], [], ["a/sft", "b/sft", "dpo"]),
        (["runs/a/sft/model"], [], ["sft"]),
        (["owner/name"], [], ["name"]),
        (["runs/a/sft", "runs/b/sft"], ["before", "after"], ["before", "after"]),
        (["runs/a/sft", "runs/b/sft"], ["sft"], ["sft", "b/sft"]),
    ],
)
def test_names(models: list[str], given: list[str], want: list[str]) -> None:
    assert served_names(models, given) == want


def test_names_that_cannot_be() -> None:
    for models, given in ((["a", "a"], []), (["a", "b"], ["x", "x"]), (["a"], ["x", "y"]), (["a"], [" "])):
        with pytest.raises(ModelError):
            served_names(models, given)


def test_bytes_of_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    found = TokenBytes(tokenizer)
    text = "naïve 🙂🦜 東京都ж\n\t  the cat <|im_end|> \x00é"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert b"".join(found[i] for i in ids) == text.encode()
    assert sum(found.characters(i) for i in ids) == len(text)
    parts = [i for i in ids if "�" in found.text(i)]
    assert parts and all(found.name(i).startswith("bytes:\\x") for i in parts)
    assert found[10**6] == b""


def test_bytes_of_sentencepiece_tokens() -> None:
    from tokenizers import Tokenizer, decoders, models

    vocab = {"<unk>": 0, "▁the": 1, "<0xE4>": 2, "<0x0A>": 3, "cat": 4}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>"))
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    found = TokenBytes(PreTrainedTokenizerFast(tokenizer_object=backend))
    assert [found[i] for i in (1, 2, 3, 4)] == [b" the", b"\xe4", b"\n", b"cat"]
