"""Greedy decoding of several requests at once, side by side with llama.cpp on the same weights.

    python benchmarks/llama.py [--shape 5.5M | 135M | --model FOLDER] [--batch 1 16] [--types f32 bf16]

Needs llama-cpp-python (`pip install luopan[llama]` compiles it, with the processor's own instructions). The weights are
written as GGUF by the code of `luopan export`, once for each type, and read by llama.cpp, whose keys and values stay in
its default type (f16). Prompts are read, then every request takes its likeliest token --new-tokens times; both are
timed from the first token of the prompts to the last of the answers, in turn, and the median of the ratios is reported.
Also how many of the tokens are the same: in f32 they should be all, but for ties in the last digits.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from turns import SHAPES, model_config

from luopan.generate.config import SamplingParams
from luopan.generate.engine import Engine
from luopan.model import hf
from luopan.model.decoder import Decoder
from luopan.train.device import tune_allocator


def main() -> None:
    options = parse()
    tune_allocator()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.model or made_up(options, Path(scratch) / "model")
        model = hf.load(folder).eval()
        print(f"{model.config.num_parameters() / 1e6:.1f}M parameters, {options.threads} threads")
        print(f"{'type':>5} {'batch':>5} {'ours tok/s':>11} {'llama.cpp':>10} {'ratio':>7} {'same tokens':>12}")
        for kind in options.types:
            peer = Llama(gguf(folder, Path(scratch), kind), options)
            for batch in options.batch:
                compare(model, peer, kind, batch, options)
            peer.close()


def compare(model: Decoder, peer: Llama, kind: str, batch: int, options: argparse.Namespace) -> None:
    prompts = make_prompts(batch, model.config.vocab_size, options.prompt_tokens)
    params = SamplingParams(max_new_tokens=options.new_tokens, temperature=0)
    ours, theirs, pairs = [], [], []
    for round_ in range(options.rounds + 1):
        start = time.perf_counter()
        ours = [done.tokens for done in Engine(model, eos_ids=[], max_batch=batch).generate(prompts, params)]
        middle = time.perf_counter()
        theirs = peer.generate(prompts, options.new_tokens)
        if round_:  # the first calls allocate
            pairs.append((middle - start, time.perf_counter() - middle))
    mine, other = (statistics.median(column) for column in zip(*pairs))
    ratio = statistics.median(b / a for a, b in pairs)
    total = batch * options.new_tokens
    same = sum(a == b for one, two in zip(ours, theirs) for a, b in zip(one, two)) / total
    print(f"{kind:>5} {batch:>5} {total / mine:>11,.0f} {total / other:>10,.0f} {ratio:>6.2f}x {same:>11.1%}")


class Llama:
    """llama.cpp's batched decoding through its C interface."""

    def __init__(self, file: Path, options: argparse.Namespace) -> None:
        import llama_cpp

        self.lib: Any = llama_cpp
        self.silence = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
        llama_cpp.llama_log_set(self.silence, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(str(file).encode(), llama_cpp.llama_model_default_params())
        assert self.model, f"llama.cpp does not load {file}"
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        most = max(options.batch)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = most * (options.prompt_tokens + options.new_tokens)
        params.n_batch = params.n_ubatch = 2048
        params.n_seq_max = most
        params.n_threads = params.n_threads_batch = options.threads
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.batch = llama_cpp.llama_batch_init(params.n_ctx, 0, 1)

    def generate(self, prompts: list[list[int]], count: int) -> list[list[int]]:
        """The likeliest tokens after each prompt."""
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)
        items = [(token, place, row, place == len(prompt) - 1) for row, prompt in enumerate(prompts)
                 for place, token in enumerate(prompt)]  # fmt: skip
        said: list[list[int]] = [[] for _ in prompts]
        for _ in range(count):
            for row, logits in self._decode(items):
                said[row].append(int(logits.argmax()))
            items = [(one[-1], len(prompts[row]) + len(one) - 1, row, True) for row, one in enumerate(said)]
        return said

    def _decode(self, items: list[tuple[int, int, int, bool]]) -> list[tuple[int, np.ndarray]]:
        batch = self.batch
        for place, (token, position, row, wanted) in enumerate(items):
            batch.token[place], batch.pos[place], batch.logits[place] = token, position, wanted
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, row
        batch.n_tokens = len(items)
        assert self.lib.llama_decode(self.context, batch) == 0
        found = []
        for place, (_, _, row, wanted) in enumerate(items):
            if wanted:
                pointer = self.lib.llama_get_logits_ith(self.context, place)
                found.append((row, np.ctypeslib.as_array(pointer, (self.vocab,))))
        return found

    def close(self) -> None:
        """Give its memory back."""
        self.lib.llama_batch_free(self.batch)
        self.lib.llama_free(self.context)
        self.lib.llama_model_free(self.model)


def make_prompts(batch: int, vocab_size: int, longest: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(longest // 8, longest + 1, (batch,), generator=generator).tolist()
    return [torch.randint(vocab_size, (length,), generator=generator).tolist() for length in lengths]


def made_up(options: argparse.Namespace, folder: Path) -> Path:
    """A folder with random weights of a shape and a tokenizer of that size."""
    from luopan.tokens.config import TokenizerConfig
    from luopan.tokens.tokenizer import save_tokenizer, train_tokenizer

    config = model_config(options.shape, options.prompt_tokens + options.new_tokens)
    words = [f"{one}{other} " * 3 for one in "abcdefghijklmnop" for other in "abcdefghijklmnop"]
    tokenizer = train_tokenizer(words, TokenizerConfig(vocab_size=384, whitespace="lines"))
    # The rest of the vocabulary has no text; prompts are numbers here.
    tokenizer.add_tokens([f"<extra_{number}>" for number in range(config.vocab_size - len(tokenizer))])
    hf.save(Decoder(config), folder)
    save_tokenizer(tokenizer, folder)
    return folder


def gguf(folder: Path, scratch: Path, kind: str) -> Path:
    """The model as a GGUF file."""
    from luopan.pipeline.export_gguf import GgufOptions, export_gguf

    target = scratch / f"gguf-{kind}"
    export_gguf(folder, target, GgufOptions(kind=kind, inexact_tokenizer=True))
    return next(target.glob("*.gguf"))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="5.5M")
    parser.add_argument("--model", type=Path, help="a Hugging Face folder instead of made-up weights")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--types", nargs="+", default=["f32", "bf16"])
    for name, default in (
        ("prompt-tokens", 64),
        ("new-tokens", 64),
        ("threads", torch.get_num_threads()),
        ("rounds", 5),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


if __name__ == "__main__":
    main()
