"""GGUF files, llama.cpp's format, as Hugging Face folders that luopan reads.

`transformers` undoes the quantisation and rebuilds the tokenizer, so what comes out are the weights that llama.cpp
computes with, as fp32: a model quantised to four bits does not get its lost digits back. The format holds tensors and
plain values, no code. Needs `gguf` and `accelerate` (the extra `gguf`).
"""

from __future__ import annotations

import importlib.util
import io
from contextlib import redirect_stderr
from pathlib import Path

from luopan.errors import ModelError
from luopan.model import hf
from luopan.model.decoder import Decoder
from luopan.tokens.tokenizer import save_tokenizer

NEEDS = ("gguf", "accelerate")


def check_gguf(file: Path) -> None:
    """ModelError for a file that is none, or where a package is missing that reads it."""
    if not file.is_file():
        raise ModelError("there is no such file", where=file)
    with file.open("rb") as opened:
        if opened.read(4) != b"GGUF":
            raise ModelError("is no GGUF file: it does not begin with GGUF", where=file)
    if missing := [name for name in NEEDS if importlib.util.find_spec(name) is None]:
        raise ModelError(f"reading GGUF needs {' and '.join(missing)}", where=file, hint="pip install luopan[gguf]")


def convert_gguf(file: Path, folder: Path) -> None:
    """Write the model in `file` to `folder` as a Hugging Face folder in fp32. Raises ModelError for what cannot be."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

    check_gguf(file)
    try:
        with redirect_stderr(io.StringIO()):  # two progress bars that cannot be turned off
            model = AutoModelForCausalLM.from_pretrained(str(file.parent), gguf_file=file.name, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    except Exception as error:  # a damaged file fails the parser in many ways
        raise ModelError(
            f"cannot be read: {(str(error) or type(error).__name__).splitlines()[0]}", where=file
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError("its tokenizer has no fast form", where=file)
    values = {name: value for name, value in model.config.to_dict().items() if name != "quantization_config"}
    config = hf.from_hf_config(values)
    decoder = Decoder(config)
    decoder.load_state_dict(hf.import_state_dict(config, model.state_dict(), where=file), assign=True)
    folder.mkdir(parents=True, exist_ok=True)
    hf.save(decoder, folder, architecture="auto", eos_token_id=tokenizer.eos_token_id)
    save_tokenizer(tokenizer, folder)
