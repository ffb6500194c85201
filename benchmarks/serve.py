"""What a client of the server waits for: time to the first token and from token to token, under many streams at once.

    .venv/bin/python benchmarks/serve.py [MODEL] [--streams 32] [--tokens 128] [--url http://127.0.0.1:8000]

Without MODEL: the shape of 5.5M parameters with random weights. The server runs in a process of its own, the clients in
this one; they share the machine's cores. Beside it stands what the engine does without a server: the same requests in
one session, which is the most that a server could give.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx


@dataclass
class Stream:
    """What one client saw, in seconds."""

    first: float = 0.0
    gaps: list[float] = field(default_factory=list)
    tokens: int = 0


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="a stage, a Hugging Face folder or a hub id")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=128, help="of each answer")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of each prompt")
    parser.add_argument("--url", help="a server that runs already; the first of its models is asked")
    asked = parser.parse_args()
    if asked.url:
        measure(asked.url, asked)
        return
    with tempfile.TemporaryDirectory() as folder:
        model = asked.model or str(random_model(Path(folder) / "random"))
        without_server(model, asked)
        command = [sys.executable, "-m", "luopan", "serve", model, "--port", "0", "--no-page"]
        command += ["--max-batch", str(max(asked.streams))]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stderr is not None
                line = next(line for line in process.stderr if line.startswith("serving"))
                found = re.search(r"http://\S+?(?=/v1)", line)
                assert found is not None, line
                measure(found[0], asked)
            finally:
                process.terminate()


def random_model(folder: Path) -> Path:
    """The quickstart's shape, 5.5M parameters, with a tokenizer of its vocabulary and random weights."""
    from luopan.model import hf
    from luopan.model.config import ModelConfig
    from luopan.model.decoder import Decoder
    from luopan.tokens.config import TokenizerConfig
    from luopan.tokens.tokenizer import save_tokenizer, train_tokenizer

    texts = [path.read_text(encoding="utf-8") for path in Path(__file__).parents[1].glob("src/**/*.py")]
    config = ModelConfig(
        vocab_size=2048, hidden_size=256, intermediate_size=688, num_hidden_layers=6, num_attention_heads=8,
        num_key_value_heads=4, max_position_embeddings=1024,
    )  # fmt: skip
    model = Decoder(config)
    model.reset_parameters(0)
    hf.save(model, folder)
    save_tokenizer(train_tokenizer(texts, TokenizerConfig(vocab_size=2048)), folder)
    return folder


def without_server(model: str, asked: argparse.Namespace) -> None:
    """Tokens per second of the engine alone, for the same prompts."""
    from luopan.generate.config import SamplingParams
    from luopan.generate.text import TextGenerator
    from luopan.pipeline.models import resolve_model

    generator = TextGenerator(*resolve_model(model))
    params = SamplingParams(max_new_tokens=asked.tokens, min_new_tokens=asked.tokens, seed=0)
    for count in asked.streams:
        prompts = [[10 + number] * asked.prompt for number in range(count)]
        generator.engine.generate(prompts, params)
        began = time.perf_counter()
        generator.engine.generate(prompts, params)
        seconds = time.perf_counter() - began
        print(f"engine alone   {count:3} at once  {count * asked.tokens / seconds:8.0f} tokens/s", flush=True)


def measure(url: str, asked: argparse.Namespace) -> None:
    """All counts of streams against the server at `url`."""
    name = httpx.get(f"{url}/v1/models").json()["data"][0]["id"]
    asyncio.run(rounds(url, name, asked))


async def rounds(url: str, name: str, asked: argparse.Namespace) -> None:
    """One line for each count."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        for count in asked.streams:
            for _ in range(2):  # the first round warms up
                began = time.perf_counter()
                streams = await asyncio.gather(*(one(client, name, number, asked) for number in range(count)))
                seconds = time.perf_counter() - began
            report(count, streams, seconds)


async def one(client: httpx.AsyncClient, name: str, number: int, asked: argparse.Namespace) -> Stream:
    """One client's stream; a chunk with several tokens (they came while it was being read) counts as so many gaps."""
    body = {
        "model": name, "prompt": [10 + number] * asked.prompt, "max_tokens": asked.tokens, "stream": True,
        "min_tokens": asked.tokens, "seed": number, "logprobs": 0,
    }  # fmt: skip
    seen = Stream()
    last = began = time.perf_counter()
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            now = time.perf_counter()
            logprobs = json.loads(line[6:])["choices"][0]["logprobs"]
            tokens = len(logprobs["tokens"]) if logprobs else 0
            if seen.tokens == 0:
                seen.first = now - began
            elif tokens:
                seen.gaps += [(now - last) / tokens] * tokens
            seen.tokens += tokens
            last = now if tokens else last
    return seen


def report(count: int, streams: list[Stream], seconds: float) -> None:
    """A line of figures."""
    gaps = sorted(gap for stream in streams for gap in stream.gaps)
    first = sorted(stream.first for stream in streams)
    tokens = sum(stream.tokens for stream in streams)
    print(
        f"through HTTP   {count:3} streams  {tokens / seconds:8.0f} tokens/s   first token p50 "
        f"{1e3 * statistics.median(first):.0f} ms, worst {1e3 * first[-1]:.0f} ms   between tokens p50 "
        f"{1e3 * statistics.median(gaps):.1f} ms, p99 {1e3 * gaps[int(0.99 * (len(gaps) - 1))]:.1f} ms",
        flush=True,
    )


if __name__ == "__main__":
    main()
