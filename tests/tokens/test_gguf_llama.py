"""llama.cpp itself reads what is written: the same logits, greedy tokens and cuts of text as here. Compiled for
minutes, so these tests are slow ones; without llama-cpp-python they are skipped."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf_toys import MODELS, nasty, save, toy
from test_gguf_vocab import foreign
from transformers import PreTrainedTokenizerFast

from luopan.generate.config import SamplingParams
from luopan.generate.engine import Engine
from luopan.model import hf
from luopan.tokens.chat import encode_prompt
from luopan.tokens.config import GPT4_WORDS, TokenizerConfig
from luopan.tokens.gguf_quantise import LLAMA_TYPES
from luopan.tokens.gguf_write import GgufFacts, gguf_plan, write_gguf
from luopan.tokens.tokenizer import train_tokenizer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("llama_cpp") is None,
        reason="needs llama-cpp-python: pip install luopan[llama], which `make test-all` does",
    ),
]
F32 = 0  # ggml's number of the type, for an exact cache


@pytest.fixture(scope="module")
def lines(texts: list[str]) -> PreTrainedTokenizerFast:
    return train_tokenizer(texts, TokenizerConfig(vocab_size=768, whitespace="lines"))


@contextmanager
def opened(file: Path, **more: Any) -> Iterator[Any]:
    from llama_cpp import Llama

    model = Llama(str(file), n_ctx=256, n_threads=1, verbose=False, type_k=F32, type_v=F32, logits_all=True, **more)
    try:
        yield model
    finally:
        model.close()


def write(folder: Path, file: Path, kind: str = "f32") -> Path:
    write_gguf(gguf_plan(folder, kind), file, GgufFacts(name="toy"))
    return file


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_greedy_tokens_are_ours(tmp_path: Path, lines: PreTrainedTokenizerFast, name: str) -> None:
    folder = save(toy(name, len(lines)), lines, tmp_path / "model")
    model = hf.load(folder).eval()
    prompt = torch.randint(8, 768, (150,), generator=torch.Generator().manual_seed(3)).tolist()
    with torch.no_grad():
        ours = model(torch.tensor([prompt]))[0].numpy()
    made = Engine(model, eos_ids=[], pad_id=3, max_batch=1).generate(
        [prompt], SamplingParams(max_new_tokens=40, temperature=0.0)
    )[0]
    with opened(write(folder, tmp_path / "toy.gguf")) as llama:
        llama.eval(prompt)
        theirs = np.array(llama._scores[: len(prompt)])
        assert np.abs(theirs - ours).max() < 2e-3 * np.abs(ours).max()
        llama.reset()
        tokens = []
        for token in llama.generate(prompt, temp=0.0, top_k=1, repeat_penalty=1.0):
            tokens.append(token)
            if len(tokens) == 40:
                break
    assert tokens == made.tokens


def tokenised(llama: Any, text: str) -> list[int]:
    return list(llama.tokenize(text.encode(), add_bos=False, special=True))


@pytest.mark.parametrize("kind", ["lines", "lines joined digits", "llama-bpe", "dbrx", "qwen2"])
def test_text_is_cut_as_here(tmp_path: Path, texts: list[str], kind: str) -> None:
    if kind.startswith("lines"):
        settings: dict[str, Any] = {"split_digits": False} if "joined" in kind else {}
        made = train_tokenizer(texts, TokenizerConfig(vocab_size=768, whitespace="lines", **settings))
    else:
        made = foreign(GPT4_WORDS % ("" if kind == "qwen2" else "{1,3}"), ignore_merges=kind == "llama-bpe")
    folder = save(toy("llama", len(made)), made, tmp_path / "model")
    with opened(write(folder, tmp_path / "toy.gguf", "q8_0")) as llama:
        strings = [*nasty(3000), *nasty(500, seed=1, control=False), *texts[:20]]
        wrong = [text for text in strings if tokenised(llama, text) != made(text, add_special_tokens=False).input_ids]
    assert not wrong, f"{len(wrong)} of {len(strings)}, such as {wrong[0]!r}"


def test_the_chat_template_renders_the_same_prompt(tmp_path: Path, lines: PreTrainedTokenizerFast) -> None:
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    folder = save(toy("qwen3", len(lines)), lines, tmp_path / "model")
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello!\n\nWho are you?"},
        {"role": "assistant", "content": "I am a test."},
        {"role": "user", "content": "Sure?"},
    ]
    with opened(write(folder, tmp_path / "toy.gguf")) as llama:
        source = llama.metadata["tokenizer.chat_template"]
        formatter = Jinja2ChatFormatter(template=source, eos_token="<|endoftext|>", bos_token="")
        for thinking in (False, True):
            theirs = formatter(messages=messages, enable_thinking=thinking).prompt
            ours = lines.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
            )
            assert theirs == ours
            assert tokenised(llama, theirs) == list(encode_prompt(lines, messages, enable_thinking=thinking))
        assert llama.token_eos() == 0
        stops = {at for at in range(8) if _is_end(llama, at)}
    assert stops == {0, 2}  # <|endoftext|> and <|im_end|>


def _is_end(llama: Any, token: int) -> bool:
    import llama_cpp

    return bool(llama_cpp.llama_vocab_is_eog(llama_cpp.llama_model_get_vocab(llama._model.model), token))


@pytest.mark.parametrize("kind", ["bf16", "q8_0", "q5_1", "q4_0", *LLAMA_TYPES])
def test_every_type_loads(tmp_path: Path, lines: PreTrainedTokenizerFast, kind: str) -> None:
    folder = save(
        toy("llama", len(lines), hidden_size=256, intermediate_size=512, initializer_range=0.03),
        lines,
        tmp_path / "model",
    )
    model = hf.load(folder).eval()
    prompt = list(range(8, 40))
    with torch.no_grad():
        ours = model(torch.tensor([prompt]))[0]
    with opened(write(folder, tmp_path / "toy.gguf", kind)) as llama:
        llama.eval(prompt)
        theirs = torch.from_numpy(np.array(llama._scores[: len(prompt)]))
    likeness = torch.cosine_similarity(ours.flatten(), theirs.flatten(), 0)
    bound = {"q2": 0.8, "q3": 0.8, "q4": 0.93, "iq": 0.93}.get(kind[:2], 0.98)  # logits of random weights: 0 by chance
    assert likeness > bound
    assert list(tmp_path.glob(".*")) == []


def test_our_types_are_llama_cpps_own(tmp_path: Path, lines: PreTrainedTokenizerFast) -> None:
    """The package rounds as llama.cpp does: its quantiser leaves a file of ours in q8_0 as it is."""
    import llama_cpp
    from gguf import GGUFReader

    folder = save(toy("llama", len(lines)), lines, tmp_path / "model")
    whole, ours, theirs = (tmp_path / name for name in ("f32.gguf", "ours.gguf", "theirs.gguf"))
    write(folder, whole), write(folder, ours, "q8_0")
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0
    assert llama_cpp.llama_model_quantize(str(whole).encode(), str(theirs).encode(), ctypes.byref(params)) == 0
    found = [{tensor.name: tensor for tensor in GGUFReader(file).tensors} for file in (ours, theirs)]
    assert found[0].keys() == found[1].keys()
    for name, tensor in found[0].items():
        assert tensor.tensor_type == found[1][name].tensor_type, name
        assert np.array_equal(tensor.data, found[1][name].data), name
