"""A model folder as a GGUF file, llama.cpp's format: shape, tokenizer, chat template and weights in one.

`gguf_plan` reads everything but the weights and refuses what cannot be; `write_gguf` then writes. What comes out is
read by llama.cpp (and so by Ollama, LM Studio …) with the same greedy tokens as our engine in fp32 (tested), and back
by `tokens/gguf.py`. Limits: the whole model passes through the memory, in fp32 tensor by tensor; one file, not split.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luopan.artifacts.files import mend_os_errors
from luopan.errors import ModelError
from luopan.model import hf
from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder
from luopan.model.gguf_shapes import GgufArchitecture, gguf_architecture, gguf_keys
from luopan.model.gguf_tensors import bytes_of, gguf_tensors, need_gguf, packed, type_of
from luopan.tokens.gguf_quantise import LLAMA_TYPES, check_type, quantise
from luopan.tokens.gguf_vocab import Vocabulary, vocabulary
from luopan.tokens.tokenizer import load_tokenizer


@dataclass(frozen=True)
class GgufPlan:
    """What will be written, checked. `file_bytes`: about the size of the weights in the file."""

    folder: Path
    config: ModelConfig
    architecture: GgufArchitecture
    vocabulary: Vocabulary
    kind: str
    file_bytes: int


@dataclass(frozen=True)
class GgufFacts:
    """What a file says about itself beside shape and tokenizer; None and empty are left out."""

    name: str
    description: str | None = None
    license: str | None = None
    languages: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    base_model: str | None = None
    sampling: Mapping[str, Any] | None = None


def gguf_plan(folder: Path, kind: str = "f16", *, inexact: bool = False) -> GgufPlan:
    """Check that the model in `folder` can be written in the type `kind`. Raises ModelError that names what cannot.

    `inexact` as in `vocabulary`.
    """
    need_gguf()
    check_type(kind)
    config = hf.read_config(folder)
    architecture = gguf_architecture(config, where=folder)
    made = vocabulary(load_tokenizer(folder), config.vocab_size, inexact=inexact)
    with torch.device("meta"):
        parameters = dict(Decoder(config).named_parameters())
    shapes = {name: tuple(value.shape) for name, value in parameters.items()}
    size = bytes_of(shapes, "f32") if kind in LLAMA_TYPES else bytes_of(shapes, kind)
    return GgufPlan(folder, config, architecture, made, kind, size)


def write_gguf(plan: GgufPlan, file: Path, facts: GgufFacts) -> None:
    """Write the file. Raises ModelError for weights that do not fit the configuration or the type."""
    if plan.kind not in LLAMA_TYPES:
        _write(plan, file, facts, plan.kind)
        return
    whole = file.with_name(f".{file.stem}.f32.gguf")
    try:
        _write(plan, whole, facts, "f32")
        quantise(whole, file, plan.kind)
    finally:
        whole.unlink(missing_ok=True)


def _write(plan: GgufPlan, file: Path, facts: GgufFacts, kind: str) -> None:
    from gguf import GGUFWriter, LlamaFileType

    writer = GGUFWriter(file, plan.architecture.name)
    writer.add_type("model")
    writer.add_quantization_version(2)
    writer.add_file_type(LlamaFileType.ALL_F32 if kind == "f32" else LlamaFileType[f"MOSTLY_{kind.upper()}"])
    _add_facts(writer, facts)
    for key, value in gguf_keys(plan.config, plan.architecture).items():
        _add_key(writer, f"{plan.architecture.name}.{key}", value)
    _add_vocabulary(writer, plan.vocabulary)
    for name, value in gguf_tensors(plan.config, plan.architecture, _weights(plan)):
        data, qtype = packed(name, value, type_of(name, value.shape, kind))
        writer.add_tensor(name, data, raw_dtype=qtype)
    with mend_os_errors(file):
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _weights(plan: GgufPlan) -> dict[str, Tensor]:
    """The parameters, as stored, under our names."""
    state = hf.import_state_dict(plan.config, hf.read_tensors(plan.folder), where=plan.folder)
    with torch.device("meta"):
        wanted = [name for name, _ in Decoder(plan.config).named_parameters()]
    return {name: state[name] for name in wanted}


def _add_key(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_string(key, value)


def _add_facts(writer: Any, facts: GgufFacts) -> None:
    writer.add_name(facts.name)
    if facts.description:
        writer.add_description(facts.description)
    if facts.license:
        writer.add_license(facts.license)
    if facts.languages:
        writer.add_languages(list(facts.languages))
    if facts.tags:
        writer.add_tags(list(facts.tags))
    if facts.base_model:
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, facts.base_model)
    known = {
        "temperature": writer.add_sampling_temp,
        "top_k": writer.add_sampling_top_k,
        "top_p": writer.add_sampling_top_p,
        "min_p": writer.add_sampling_min_p,
        "repetition_penalty": writer.add_sampling_penalty_repeat,
    }
    for name, value in (facts.sampling or {}).items():
        if name in known:
            known[name](value)


def _add_vocabulary(writer: Any, made: Vocabulary) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(made.pre)
    writer.add_token_list(made.tokens)
    writer.add_token_types(made.kinds)
    if not made.merges:
        raise ModelError("the tokenizer has no merges, without which llama.cpp reads no vocabulary")
    writer.add_token_merges(made.merges)
    for name, at in made.special.items():
        writer.add_uint32(f"tokenizer.ggml.{ {'unk': 'unknown', 'pad': 'padding'}.get(name, name) }_token_id", at)
    writer.add_add_bos_token(made.add_bos)
    writer.add_add_eos_token(made.add_eos)
    writer.add_add_space_prefix(False)
    if made.chat_template:
        writer.add_chat_template(made.chat_template)
