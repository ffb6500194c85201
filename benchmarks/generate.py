"""Sampling speed, side by side with transformers.generate on the same weights.

    python benchmarks/generate.py [--shape 5.5M | 135M | --hidden-size 128 --layers 3 ...] [--batch 1 16 128]
                                  [--ragged] [--ends 32] [--threads 2]

Both sample at temperature 1 without filters from prompts of --prompt-tokens tokens (--ragged: of an eighth of that to
all of it, padded on the left for transformers), and both are made to write exactly --new-tokens. With --ends N answers
end as answers do, at a stop token that comes after N tokens on average, --new-tokens at most; transformers goes on
until the longest is done. Rates are of the tokens up to the ends.

The two run in turn and the median of the ratios of neighbouring pairs is reported, so that a machine that is busy at
times is unfair to neither. "shared" gives every eight requests one prompt, as groups of rollouts have; transformers
reads each of them, we read it once. Only generated tokens count; reading the prompts is in the time. The C library's
allocator is tuned for both, as the command line does it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from turns import SHAPES, model_config

from luopan.generate.config import SamplingParams
from luopan.generate.engine import Engine
from luopan.model import hf
from luopan.model.config import ModelConfig
from luopan.model.decoder import Decoder
from luopan.train.device import tune_allocator


def main() -> None:
    options = parse()
    tune_allocator()
    torch.set_num_threads(options.threads)
    length = options.prompt_tokens + options.new_tokens
    if options.shape:
        config = model_config(options.shape, length)
        options.vocab_size = config.vocab_size
    else:
        config = ModelConfig(
            vocab_size=options.vocab_size,
            hidden_size=options.hidden_size,
            intermediate_size=options.intermediate_size,
            num_hidden_layers=options.layers,
            num_attention_heads=options.heads,
            max_position_embeddings=length,
        )
    model = Decoder(config).eval()
    peer = load_peer(model)
    print(
        f"{model.config.num_parameters() / 1e6:.2f}M parameters, torch {torch.__version__}, {options.threads} threads"
    )
    ends = end_tokens(options)
    print(f"{'batch':>5} {'prompts':>8} {'ours tok/s':>11} {'best':>8} {'transformers':>13} {'ratio':>7}")
    for batch in options.batch:
        for shared in (False, True) if batch >= 8 else (False,):
            prompts = make_prompts(batch, options, shared)
            report(
                batch, shared, lambda p=prompts: run_ours(model, p, options, ends),
                lambda p=prompts: run_theirs(peer, p, options, ends), options.rounds,
            )  # fmt: skip


def report(batch: int, shared: bool, ours: Callable[[], int], theirs: Callable[[], int], rounds: int) -> None:
    """Take both in turn and print medians of their rates, in tokens per second."""
    ours(), theirs()  # first calls allocate
    pairs = [(rate(ours), rate(theirs)) for _ in range(rounds)]
    mine, other = (statistics.median(column) for column in zip(*pairs))
    ratio = statistics.median(a / b for a, b in pairs)
    best = max(a for a, _ in pairs)
    kind = "shared" if shared else "distinct"
    print(f"{batch:>5} {kind:>8} {mine:>11,.0f} {best:>8,.0f} {other:>13,.0f} {ratio:>6.1f}x")


def rate(function: Callable[[], int]) -> float:
    """Tokens per second of a call that says how many it made."""
    start = time.perf_counter()
    return function() / (time.perf_counter() - start)


def end_tokens(options: argparse.Namespace) -> list[int]:
    """So many stop tokens that random weights meet one after --ends tokens on average."""
    return list(range(round(options.vocab_size / options.ends))) if options.ends else []


def make_prompts(batch: int, options: argparse.Namespace, shared: bool) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    longest = options.prompt_tokens
    ids = torch.randint(options.vocab_size, (batch, longest), generator=generator).tolist()
    shortest = longest // 8 if options.ragged else longest
    lengths = torch.randint(shortest, longest + 1, (batch,), generator=generator).tolist()
    return [ids[j][: lengths[j]] for j in (i // 8 * 8 if shared else i for i in range(batch))]


def run_ours(model: Decoder, prompts: list[list[int]], options: argparse.Namespace, ends: list[int]) -> int:
    engine = Engine(model, eos_ids=ends, max_batch=len(prompts))
    done = engine.generate(prompts, SamplingParams(max_new_tokens=options.new_tokens), seed=0)
    assert ends or all(len(completion.tokens) == options.new_tokens for completion in done)
    return sum(len(completion.tokens) for completion in done)


def run_theirs(peer: Any, prompts: list[list[int]], options: argparse.Namespace, ends: list[int]) -> int:
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    ending: dict[str, Any] = {"eos_token_id": ends} if ends else {"min_new_tokens": options.new_tokens}
    with torch.inference_mode():
        out = peer.generate(
            ids,
            attention_mask=mask,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=options.new_tokens,
            pad_token_id=0,
            **ending,
        )
    said = out[:, width:]
    if not ends:
        assert said.shape[1] == options.new_tokens
        return said.numel()
    over = torch.isin(said, torch.tensor(ends))
    # Up to and with the first end.
    return int(((over.cumsum(1) - over.long()) == 0).sum())


def load_peer(model: Decoder) -> Any:
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        hf.save(model, Path(folder))
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (
        ("hidden-size", 128),
        ("intermediate-size", 344),
        ("layers", 3),
        ("heads", 4),
        ("vocab-size", 2048),
        ("prompt-tokens", 40),
        ("new-tokens", 40),
        ("threads", torch.get_num_threads()),
        ("ends", 0),
        ("rounds", 9),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--shape", choices=SHAPES, help="instead of the sizes one by one")
    parser.add_argument("--ragged", action="store_true", help="prompts of different lengths")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16, 128])
    return parser.parse_args()


if __name__ == "__main__":
    main()
