"""Near duplicates side by side with datatrove: speed of all stages, and how many planted ones each finds.

    python benchmarks/corpus_minhash.py [--documents 600] [--text web.jsonl …] [--rounds 3]

Both work on one core through the same documents with 14 buckets of 8 hashes over word 5-grams: signatures, buckets,
clusters, and the pass that leaves the duplicates out. The two take turns; the time is that of the processor, the median
of the rounds. Half the documents have a copy in which the last words are others, so many that the sets of 5-grams are
similar by .5 to .95; the table shows which share of them each side drops and what 1 - (1 - s^8)^14 says. Without --text
the documents are made-up words with the lengths of web pages. The other steps of this kind are timed as well: exact
digests, repeated lines, decontamination (against a set made of the same words), repeated spans.

Needs the extra `data`, datatrove with its English word splitter: pip install datatrove[processing] spacy
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DATATROVE_COLORIZE_LOGS", "0")

import numpy as np

from luopan.corpus.batch import DocumentBatch
from luopan.corpus.dedup import exact, units
from luopan.corpus.dedup.cluster import near_twins
from luopan.corpus.dedup.minhash import signatures
from luopan.corpus.dedup_config import DecontaminateConfig, ExactConfig, MinHashConfig, SpanConfig
from luopan.corpus.document import Document
from luopan.corpus.executor import InProcess
from luopan.corpus.steps.decontaminate import decontaminate
from luopan.corpus.steps.repeated_spans import repeated_spans

LEVELS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
BATCH = 256
CONFIG = MinHashConfig()


def main() -> None:
    options = parse()
    source = random.Random(options.seed)
    originals = read_texts(options.text, options.documents) if options.text else made_up(options.documents, source)
    texts, planted = with_copies(originals, source)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    print(f"{len(texts):,} documents, {megabytes:.2f} MB; {platform.processor() or platform.machine()}, one core")
    sides: dict[str, Callable[[Sequence[str], Path], set[int]]] = {"luopan": run_ours}
    if not options.alone:
        sides["datatrove"] = run_theirs
    times: dict[str, list[float]] = {name: [] for name in sides}
    dropped: dict[str, set[int]] = {}
    for run in sides.values():  # imports and tables that are built once
        with tempfile.TemporaryDirectory() as folder:
            run(texts[:5], Path(folder))
    for _ in range(options.rounds):
        for name, run in sides.items():
            with tempfile.TemporaryDirectory() as folder:
                began = time.process_time()
                dropped[name] = run(texts, Path(folder))
                times[name].append(time.process_time() - began)
    report_speed(times, len(texts), megabytes)
    report_recall(dropped, planted)
    report_steps(texts, megabytes, options.rounds)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=600, help="originals; half as many copies come on top")
    parser.add_argument("--text", nargs="*", type=Path, default=[], help=".jsonl files with a column `text`")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--alone", action="store_true", help="without datatrove")
    return parser.parse_args()


def made_up(count: int, source: random.Random) -> list[str]:
    """Texts of made-up words, frequent ones more often, with the punctuation and about the lengths of web pages."""
    syllables = [a + b for a in "bcdfghklmnprstvw" for b in ("a", "e", "i", "o", "u", "an", "er", "is")]
    words = ["".join(source.choices(syllables, k=source.randrange(1, 4))) for _ in range(20_000)]
    weights = [1 / (rank + 10) for rank in range(len(words))]
    texts = []
    for _ in range(count):
        drawn = source.choices(words, weights, k=min(3000, max(40, round(source.lognormvariate(5.5, 0.8)))))
        marks = source.choices(["", ",", ".", ".\n"], [80, 8, 9, 3], k=len(drawn))
        texts.append(" ".join(word + mark for word, mark in zip(drawn, marks)))
    return texts


def read_texts(files: Sequence[Path], count: int) -> list[str]:
    """The first `count` texts of .jsonl files, cut to 8,000 characters."""
    texts: list[str] = []
    for file in files:
        with open(file, encoding="utf-8") as lines:
            for line in lines:
                texts.append(json.loads(line)["text"][:8000])
    return texts[:count]


def with_copies(originals: Sequence[str], source: random.Random) -> tuple[list[str], list[tuple[int, float]]]:
    """(all texts, the copies' [(number, similarity)]): of every other long text one whose last words are new."""
    texts, planted = list(originals), []
    long = [text for text in originals if len(text.split()) > 60]
    for number, text in enumerate(long[::2]):
        words = text.split()
        wanted = LEVELS[number % len(LEVELS)]
        shared = round((len(words) - 4) * 2 * wanted / (1 + wanted)) + 4
        new = [f"q{source.getrandbits(40):x}" for _ in range(len(words) - shared)]
        copy = " ".join(words[:shared] + new)
        planted.append((len(texts), similarity(text, copy)))
        texts.append(copy)
    return texts, planted


def similarity(one: str, other: str, n: int = 5) -> float:
    """Jaccard similarity of the sets of word n-grams."""
    sets = []
    for text in (one, other):
        words = ["".join(c for c in word if c.isalnum()).lower() for word in text.split()]
        words = [word for word in words if word]
        sets.append({tuple(words[at : at + n]) for at in range(len(words) - n + 1)})
    return len(sets[0] & sets[1]) / max(1, len(sets[0] | sets[1]))


def batches(texts: Sequence[str]) -> Iterator[DocumentBatch]:
    for at in range(0, len(texts), BATCH):
        some = enumerate(texts[at : at + BATCH], at)
        yield DocumentBatch.of([Document(str(number), text, "bench") for number, text in some])


def run_ours(texts: Sequence[str], folder: Path) -> set[int]:
    """Numbers of the documents that go."""
    keys = np.concatenate([signatures(batch, CONFIG) for batch in batches(texts)])
    np.save(folder / "keys.npy", keys)
    np.save(folder / "alive.npy", np.ones(len(keys), bool))
    (found,) = near_twins([folder / "keys.npy"], [folder / "alive.npy"], folder, InProcess(), CONFIG)
    stays = np.load(found) < 0
    left = [
        batch.keep(stays[at : at + len(batch)].tolist())
        for at, batch in zip(range(0, len(texts), BATCH), batches(texts))
    ]
    assert sum(map(len, left)) == stays.sum()
    return set(np.flatnonzero(~stays).tolist())


def run_theirs(texts: Sequence[str], folder: Path) -> set[int]:
    """Numbers of the documents that datatrove's four stages drop; its steps are called without its executor."""
    import xxhash
    from datatrove.data import Document as TheirDocument
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.utils.logging import logger

    logger.disable("datatrove")
    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)

    def documents() -> Iterator[Any]:
        return (TheirDocument(text=text, id=str(number)) for number, text in enumerate(texts))

    steps = [str(folder / name) for name in ("signatures", "buckets", "remove")]
    first = MinhashDedupSignature(steps[0], config)
    # Its own wrapper hands text to xxhash, which takes bytes only since version 4.
    first._hash_func = lambda words: xxhash.xxh64_intdigest(words.encode())
    first.run(documents(), 0, 1)
    for bucket in range(14):
        MinhashDedupBuckets(steps[0], steps[1], config=config).run(None, bucket, 14)
    MinhashDedupCluster(steps[1], steps[2], config).run(None, 0, 1)
    kept = {int(document.id) for document in MinhashDedupFilter(steps[2]).run(documents(), 0, 1)}
    return set(range(len(texts))) - kept


def report_speed(times: dict[str, list[float]], count: int, megabytes: float) -> None:
    print(f"\n{'MinHash, all stages':<22}{'documents/s':>13}{'MB/s':>8}{'ms/MB':>9}")
    middle = {name: statistics.median(seconds) for name, seconds in times.items()}
    for name, seconds in middle.items():
        print(f"{name:<22}{count / seconds:>13,.0f}{megabytes / seconds:>8.2f}{1e3 * seconds / megabytes:>9.1f}")
    if len(middle) == 2:
        print(f"{'ratio':<22}{middle['datatrove'] / middle['luopan']:>13.1f}")


def report_recall(dropped: dict[str, set[int]], planted: Sequence[tuple[int, float]]) -> None:
    print(f"\n{'similarity':<12}{'copies':>8}{'theory':>9}" + "".join(f"{name:>12}" for name in dropped))
    for low, high in pairwise((*LEVELS, 1.0)):
        own = [(number, s) for number, s in planted if low - 0.02 <= s < high - 0.02]
        if own:
            theory = statistics.mean(1 - (1 - s**8) ** 14 for _, s in own)
            shares = [sum(number in gone for number, _ in own) / len(own) for gone in dropped.values()]
            middle = statistics.mean(s for _, s in own)
            print(f"{middle:<12.3f}{len(own):>8}{theory:>9.2f}" + "".join(f"{share:>12.2f}" for share in shares))
    copies = {number for number, _ in planted}
    for name, gone in dropped.items():
        print(f"{name} drops {len(gone - copies)} documents that are no planted copy")


def report_steps(texts: Sequence[str], megabytes: float, rounds: int) -> None:
    """Processor time of the other steps on the same batches."""
    all_batches = list(batches(texts))
    for batch in all_batches:
        assert batch.texts is not None  # out of Arrow once, as in a run
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "questions.jsonl"
        rows = [json.dumps({"question": text[-300:][::-1], "answer": text[:80][::-1]}) for text in texts]
        path.write_text("\n".join(rows), encoding="utf-8")
        sets = {"made up": {"path": str(path), "columns": ["question", "answer"]}}
        steps: dict[str, Callable[[DocumentBatch], Any]] = {
            "signatures": lambda batch: signatures(batch, CONFIG),
            "exact digests": lambda batch: exact.digests(batch.texts),
            "hashes of lines": lambda batch: units.unit_hashes(batch.texts, ExactConfig(line=True)),
            "decontaminate": lambda batch: decontaminate(batch, DecontaminateConfig(sets=sets)),
            "repeated_spans": lambda batch: repeated_spans(batch, SpanConfig()),
        }
        print(f"\n{'step':<22}{'ms/MB':>9}{'MB/s':>9}")
        for name, step in steps.items():
            step(all_batches[0])
            seconds = []
            for _ in range(rounds):
                began = time.process_time()
                for batch in all_batches:
                    step(batch)
                seconds.append(time.process_time() - began)
            middle = statistics.median(seconds)
            print(f"{name:<22}{1e3 * middle / megabytes:>9.1f}{megabytes / middle:>9.1f}")


if __name__ == "__main__":
    main()
