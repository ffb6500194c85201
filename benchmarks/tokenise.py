"""Texts to token shards, side by side with `datasets.map` and `tokenizers`, on one core and on two.

    python benchmarks/tokenise.py TEXTS.jsonl… [--tokenizer FOLDER] [--workers 1 2] [--megabytes 50] [--rounds 3]

Both read the same texts from one Arrow dataset and leave token numbers on disk: `datasets` as Arrow files made by
`map(batched=True)` of the tokenizer (`num_proc` processes), we as checked shards (SHA-256 of every file included in the
time). Both are timed from a fresh start with nothing in a cache, in turn; the median of the ratios is reported. The
first document and the number of tokens are compared, so that both have done the same work. Starting processes is in
the time of both. Without --tokenizer one of 16,384 tokens is trained on the texts first.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def main() -> None:
    options = parse()
    # One thread in each process: cores are compared, not schedulers. Read when `tokenizers` starts its threads.
    os.environ["RAYON_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        compare(options, Path(folder))


def compare(options: argparse.Namespace, folder: Path) -> None:
    from datasets import Dataset

    from luopan.tokens.config import TokenizerConfig
    from luopan.tokens.tokenizer import load_tokenizer, train_tokenizer

    texts = list(take(options.texts, options.megabytes * 10**6))
    size = sum(len(text.encode()) for text in texts) / 1e6
    tokenizer = (
        load_tokenizer(options.tokenizer)
        if options.tokenizer
        else train_tokenizer(texts, TokenizerConfig(vocab_size=16384))
    )
    Dataset.from_dict({"text": texts}).save_to_disk(str(folder / "texts"))
    print(f"{len(texts)} documents, {size:.1f} MB, {len(tokenizer)} tokens in the vocabulary")
    print(f"{'workers':>7} {'ours MB/s':>10} {'datasets MB/s':>14} {'ratio':>7}")
    for workers in options.workers:
        pairs = []
        for _ in range(options.rounds):
            mine, own = ours(folder, tokenizer, workers)
            peer, other = theirs(folder, tokenizer, workers)
            assert own == other, (own, other)
            pairs.append((mine, peer))
        first, second = (statistics.median(column) for column in zip(*pairs))
        ratio = statistics.median(peer / mine for mine, peer in pairs)
        print(f"{workers:>7} {size / first:>10.2f} {size / second:>14.2f} {ratio:>6.2f}x")


def ours(folder: Path, tokenizer: Any, workers: int) -> tuple[float, tuple[int, list[int]]]:
    """Seconds, and (tokens in all, the first document)."""
    from datasets import load_from_disk

    from luopan.tokens.encode import TextEncoder
    from luopan.tokens.shards import write_shards
    from luopan.tokens.tokenizer import document_frame, plain_backend

    start = time.perf_counter()
    rows = load_from_disk(str(folder / "texts"))
    # A new encoder each time: its table of words begins empty.
    encoder = TextEncoder(plain_backend(tokenizer).to_str(), *document_frame(tokenizer), len(tokenizer))
    from luopan.tokens.encode import encode_documents

    texts = (text for batch in rows.iter(1000) for text in batch["text"])
    documents = encode_documents(encoder, texts, workers=workers)
    store = write_shards(documents, folder / "ours", len(tokenizer), tokenizer.eos_token_id)
    seconds = time.perf_counter() - start
    return seconds, (store.num_tokens, store.document(0).tolist())


def theirs(folder: Path, tokenizer: Any, workers: int) -> tuple[float, tuple[int, list[int]]]:
    from datasets import load_from_disk

    start = time.perf_counter()
    rows = load_from_disk(str(folder / "texts"))
    cached = folder / "theirs"
    shutil.rmtree(cached, ignore_errors=True)
    cached.mkdir()
    mapped = rows.map(
        tokenise,
        batched=True,
        num_proc=workers if workers > 1 else None,
        remove_columns=["text"],
        fn_kwargs={"tokenizer": tokenizer, "end": tokenizer.eos_token},
        cache_file_name=str(cached / "tokens.arrow"),
        load_from_cache_file=False,
    )
    seconds = time.perf_counter() - start
    return seconds, (sum(mapped["length"]), mapped[0]["input_ids"])


def tokenise(batch: dict[str, list[str]], tokenizer: Any, end: str) -> dict[str, list[Any]]:
    ids = tokenizer([text + end for text in batch["text"]], return_attention_mask=False)["input_ids"]
    return {"input_ids": ids, "length": [len(row) for row in ids]}


def take(files: list[Path], limit: int) -> Iterator[str]:
    """The field `text` of the rows of .jsonl and .jsonl.zst files, until there are `limit` bytes; each file alike."""
    each = limit / len(files)
    for file in files:
        left = each
        for line in lines(file):
            text = json.loads(line)["text"]
            yield text
            left -= len(text.encode())
            if left <= 0:
                break


def lines(file: Path) -> Iterator[str]:
    if file.suffix != ".zst":
        with file.open(encoding="utf-8") as stream:
            yield from stream
        return
    import io

    import zstandard

    with file.open("rb") as packed:
        stream = zstandard.ZstdDecompressor().stream_reader(packed)
        yield from itertools.takewhile(bool, io.TextIOWrapper(stream, encoding="utf-8"))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path, nargs="+")
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--megabytes", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
