"""Training steps beside transformers': same shapes, same packed rows, same optimizer, interleaved on the same machine.

    python benchmarks/train.py [--hidden 128 --layers 3 --vocab 2048 --rows 16 --length 256 --documents 5]

Both models see documents that cannot see each other: ours by its layout, transformers by a block-diagonal mask (SDPA).
Prints the median step of each, tokens per second, and the ratio of the medians.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from itertools import pairwise

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does

import numpy as np
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM
from transformers import __version__ as transformers_version

from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder
from luopan.tokens.batch import Batch, collate
from luopan.tokens.example import Example
from luopan.train.device import tune_allocator
from luopan.train.losses import causal_lm_loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("hidden", 128), ("layers", 3), ("vocab", 2048), ("rows", 16), ("length", 256)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--documents", type=int, default=5, help="per row")
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    tune_allocator()
    batch = random_batch(arguments)
    ours, theirs = our_step(arguments, batch), their_step(arguments, batch)
    for step in (ours, theirs):
        step(), step()
    times: dict[str, list[float]] = {"luopan": [], "transformers": []}
    for _ in range(arguments.repeats):
        for name, step in (("luopan", ours), ("transformers", theirs)):
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    tokens = arguments.rows * arguments.length
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"transformers {transformers_version}")
    for name, value in medians.items():
        print(f"{name:13} {value * 1e3:7.1f} ms a step  {tokens / value:9,.0f} tokens/s")
    print(f"ratio         {medians['transformers'] / medians['luopan']:.2f}x")


def random_batch(arguments: argparse.Namespace) -> Batch:
    """Rows of `documents` documents of random lengths and tokens."""
    generator = np.random.default_rng(0)
    rows = []
    for _ in range(arguments.rows):
        inner = generator.choice(np.arange(8, arguments.length - 8), arguments.documents - 1, replace=False)
        cuts = [0, *sorted(inner.tolist()), arguments.length]
        row = [generator.integers(0, arguments.vocab, stop - start) for start, stop in pairwise(cuts)]
        rows.append([Example(ids, ids) for ids in row])
    return collate(rows, arguments.length, 0)


def shape(arguments: argparse.Namespace) -> dict[str, int]:
    return {
        "vocab_size": arguments.vocab,
        "hidden_size": arguments.hidden,
        "intermediate_size": arguments.hidden * 8 // 3 // 8 * 8,
        "num_hidden_layers": arguments.layers,
        "num_attention_heads": max(1, arguments.hidden // 32),
        "max_position_embeddings": arguments.length,
    }


def our_step(arguments: argparse.Namespace, batch: Batch) -> Callable[[], None]:
    model = Decoder(ModelConfig(**shape(arguments)))
    model.reset_parameters(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        term = causal_lm_loss(model, batch)
        (term.total / term.weight).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def their_step(arguments: argparse.Namespace, batch: Batch) -> Callable[[], None]:
    config = LlamaConfig(**shape(arguments), tie_word_embeddings=True, attn_implementation="sdpa")
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    mask = batch.layout.mask()
    mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    index, targets, _ = batch.targets()

    def step() -> None:
        logits = model(batch.input_ids, attention_mask=mask, position_ids=batch.position_ids).logits
        F.cross_entropy(logits.flatten(0, 1)[index], targets).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


if __name__ == "__main__":
    main()
