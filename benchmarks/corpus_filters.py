"""The published filters beside datatrove's: the same texts, one core, one run.

    python benchmarks/corpus_filters.py [--text FILE.jsonl] [--documents 400] [--rounds 3]

Gopher repetition, Gopher quality, C4 without its rule about line ends, FineWeb, in this order; a document that a filter
drops is not seen by the next. Three take turns over the same documents: ours with their defaults for English web text,
ours set to give datatrove's verdicts (`parity`), and datatrove 0.10 with spaCy. Prints documents and bytes per second
of processor time (the best of the rounds), the ratios, how many verdicts are equal, and our steps' speeds one by one
with normalising and language identification. Without --text the documents are made up; needs datatrove and spacy.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from luopan.corpus.batch import DocumentBatch
from luopan.corpus.chain import step
from luopan.corpus.document import Document
from luopan.corpus.filter_config import (
    C4Config,
    FineWebConfig,
    GopherQualityConfig,
    GopherRepetitionConfig,
    LanguageConfig,
    NormaliseConfig,
)

BATCH = 256  # documents, as in a run
Chain = list[tuple[str, Any]]

FILTERS: Chain = [
    ("gopher_repetition", GopherRepetitionConfig()),
    ("gopher_quality", GopherQualityConfig(min_stop_words=2, max_symbol_ratio=None)),
    ("c4", C4Config()),
    ("fineweb", FineWebConfig()),
]
PARITY: Chain = [
    ("gopher_repetition", GopherRepetitionConfig(min_top_ngram_count=1, english_words=True)),
    (
        "gopher_quality",
        GopherQualityConfig(min_stop_words=2, max_symbol_ratio=None, symbols_are_words=True, english_words=True),
    ),
    *FILTERS[2:],
]
BEFORE: Chain = [("normalise", NormaliseConfig()), ("language", LanguageConfig(languages=("en",)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, help="a .jsonl file with a column text")
    parser.add_argument("--documents", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    texts = read(options.text)[: options.documents] if options.text else made_up(options.documents)
    size = sum(len(text.encode()) for text in texts)
    print(f"{len(texts)} documents, {size / 1e6:.2f} MB; {platform.processor() or platform.machine()}, one core")
    filters = theirs()
    ways: dict[str, Callable[[], list[bool]]] = {
        "luopan": lambda: ours(texts, FILTERS),
        "luopan, parity": lambda: ours(texts, PARITY),
        "datatrove": lambda: [kept_by(filters, text) for text in texts],
    }
    for way in ways.values():
        way()  # models loaded, pieces of words remembered: by all three
    best: dict[str, float] = {}
    verdicts: dict[str, list[bool]] = {}
    for _ in range(options.rounds):
        for name, way in ways.items():
            started = time.process_time()
            verdicts[name] = way()
            best[name] = min(best.get(name, float("inf")), time.process_time() - started)
    for name, seconds in best.items():
        equal = sum(a == b for a, b in zip(verdicts[name], verdicts["datatrove"])) / len(texts)
        print(
            f"{name:16} {len(texts) / seconds:8.0f} documents/s {size / seconds / 1e6:7.2f} MB/s "
            f"{best['datatrove'] / seconds:6.1f} x datatrove   kept {sum(verdicts[name]):4}   equal {equal:6.1%}"
        )
    print_steps(texts, size, options.rounds)


def print_steps(texts: list[str], size: int, rounds: int) -> None:
    """Each of our steps on what the ones before leave."""
    best: dict[str, float] = {}
    for _ in range(rounds):
        spent: dict[str, float] = {}
        ours(texts, BEFORE + FILTERS, spent)
        best = {name: min(seconds, best.get(name, seconds)) for name, seconds in spent.items()}
    for name, seconds in best.items():
        print(f"  {name:18} {size / seconds / 1e6:8.1f} MB/s")
    print(f"  {'together':18} {size / sum(best.values()) / 1e6:8.1f} MB/s")


def ours(texts: list[str], chain: Chain, spent: dict[str, float] | None = None) -> list[bool]:
    """[N] which texts stay; adds each step's seconds to `spent`."""
    stays: set[str] = set()
    for at in range(0, len(texts), BATCH):
        batch = DocumentBatch.of(Document(str(n), texts[n], "web") for n in range(at, min(at + BATCH, len(texts))))
        for name, config in chain:
            started = time.process_time()
            batch = step(name)(batch, config).batch
            if spent is not None:
                spent[name] = spent.get(name, 0) + time.process_time() - started
        stays.update(batch.ids)
    return [str(number) in stays for number in range(len(texts))]


def theirs() -> list[Any]:
    """datatrove's filters in the same order."""
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )

    return [
        GopherRepetitionFilter(),
        GopherQualityFilter(),
        C4QualityFilter(filter_no_terminal_punct=False),
        FineWebQualityFilter(),
    ]


def kept_by(filters: list[Any], text: str) -> bool:
    """Whether a text passes all filters; each sees what the one before made of it."""
    from datatrove.data import Document as TheirDocument

    document = TheirDocument(text=text, id="x")
    return all(each.filter(document) is True for each in filters)


def read(path: Path) -> list[str]:
    """The texts of a file."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def made_up(count: int) -> list[str]:
    """Pages of about 2.5 kB over a skewed vocabulary, most of them sound."""
    source = random.Random(0)
    letters = "etaoinshrdlucmfwypvbgk"
    vocabulary = ["".join(source.choices(letters, k=source.randint(2, 9))) for _ in range(20_000)]
    vocabulary[:8] = ["the", "of", "and", "to", "that", "have", "with", "be"]

    def sentence() -> str:
        words = [vocabulary[int(20_000 * source.random() ** 4)] for _ in range(source.randint(8, 22))]
        return " ".join(words).capitalize() + source.choice([".", ".", ".", "!", ", it's said."])

    def page() -> str:
        lines = [" ".join(sentence() for _ in range(source.randint(1, 4))) for _ in range(source.randint(4, 14))]
        return "\n".join(lines + ["Read more here"] * source.choice([0, 0, 0, 9]))

    return [page() for _ in range(count)]


if __name__ == "__main__":
    main()
