"""Looking into a curated corpus: finding it, its card and funnel, and paging through what was kept and rejected.

Pages are read in flat memory; a page far into a large corpus costs a read of the columns it is chosen by.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from luopan.corpus import store
from luopan.corpus.stats import CorpusStats
from luopan.errors import DataError

CARD, FUNNEL = "card.json", "funnel.json"
EVERYTHING = "all"
UNFINISHED = ".curating"  # holds what work that was cut off has done (curation.py)


@dataclass(frozen=True)
class Corpus:
    """A curated corpus on disk."""

    folder: Path
    card: dict[str, Any]
    funnel: dict[str, Any]


def open_corpus(where: Path) -> Corpus:
    """The corpus in `where`: its own folder, a curate stage's, or a run's with one such stage. DataError otherwise."""
    folder = find_corpus(where)
    card = read_json(folder / CARD)
    if "tokens_by" not in card:
        raise DataError("made by an older version of luopan", where=folder, hint="Make it again to look into it.")
    return Corpus(folder, card, read_json(folder / FUNNEL))


def find_corpus(where: Path) -> Path:
    """The folder that holds the card. DataError that says what there is instead."""
    for folder in (where, where / "corpus"):
        if (folder / CARD).is_file():
            return folder
    if any((folder / UNFINISHED).is_dir() for folder in (where, where / "corpus")):
        raise unfinished(where)
    if not where.is_dir():
        hint = "Give a curate stage such as runs/quickstart/curate, or the folder that corpus run wrote."
        raise DataError("is a file, not a corpus" if where.exists() else "no such folder", where=where, hint=hint)
    found = sorted(card.parent for card in where.glob(f"*/corpus/{CARD}") if card.parents[1].suffix != ".partial")
    if len(found) == 1:
        return found[0]
    if found:
        stages = ", ".join(str(folder.parent) for folder in found)
        raise DataError("a run with several curate stages", where=where, hint=f"Give one of them: {stages}")
    if any(where.glob(f"*/corpus/{UNFINISHED}")):
        raise unfinished(where)
    raise DataError("no corpus in this folder", where=where, hint="A corpus has a card.json; make one with corpus run.")


def unfinished(where: Path) -> DataError:
    return DataError("this corpus is unfinished", where=where, hint="Run the same command again, it goes on.")


def read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError("is missing: this corpus is not whole", where=path, hint="Make it again.") from None
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read: {error}", where=path, hint="Make the corpus again.") from None
    if not isinstance(found, dict):
        raise DataError("is not what luopan writes", where=path, hint="Make the corpus again.")
    return found


def rule_wanted(corpus: Corpus, wanted: str) -> dict[str, str]:
    """{step, rule} of `STEP`, `STEP/RULE` or `all`. DataError with what there is if nothing was rejected by it."""
    if wanted == EVERYTHING:
        return {}
    step, _, rule = wanted.partition("/")
    rows = corpus.funnel["rejected"]
    if any(row["step"] == step and rule in ("", row["rule"]) for row in rows):
        return {"step": step, "rule": rule} if rule else {"step": step}
    of_step = [row for row in rows if row["step"] == step]
    known = ", ".join(f"{row['step']}/{row['rule']} ({row['documents']:,})" for row in of_step or rows)
    raise DataError(
        f"{wanted} rejected nothing", where=corpus.folder, hint=f"There are: {known or 'no rejected documents'}."
    )


def source_wanted(corpus: Corpus, source: str | None) -> dict[str, str]:
    """{source} of a name, nothing of None. DataError if there is no such source."""
    if source is None:
        return {}
    if source not in corpus.card["sources"]:
        raise DataError(
            f"no source {source!r}", where=corpus.folder, hint=f"There are: {', '.join(corpus.card['sources'])}."
        )
    return {"source": source}


def rows_of_page(folder: Path, chosen: Mapping[str, str], page: int, size: int) -> tuple[list[dict[str, Any]], int]:
    """The rows of page `page` (counted from 1) among those that have the chosen values, and how many those are.

    `folder` is `train`, `held_out` or `rejected` of a corpus. DataError for a page behind the last.
    """
    total = rows_in_all(folder, chosen)
    start = (page - 1) * size
    if page > 1 and start >= total:
        pages = -(-total // size)
        there = f"there {'is' if pages == 1 else 'are'} {pages:,} page{'' if pages == 1 else 's'}"
        raise DataError(
            f"there is no page {page}: {there} ({total:,} document{'' if total == 1 else 's'})", where=folder
        )
    return list(islice(rows_with(folder, chosen), start, start + size)), total


def rows_in_all(folder: Path, chosen: Mapping[str, str]) -> int:
    """How many rows have the chosen values; reads the columns of that name alone."""
    names = list(chosen) or ["id"]
    total = 0
    for batch in store.batches(folder, names) if folder.is_dir() else ():
        for column, value in chosen.items():
            batch = batch.filter(pc.equal(batch.column(column), pa.scalar(value)))
        total += batch.num_rows
    return total


def rows_with(folder: Path, chosen: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Rows of all parts that have the chosen values in the columns of that name; meta is parsed."""
    for batch in store.batches(folder) if folder.is_dir() else ():
        for column, value in chosen.items():
            batch = batch.filter(pc.equal(batch.column(column), pa.scalar(value)))
        for row in batch.to_pylist():
            yield {**row, "meta": json.loads(row["meta"])}


def with_rejected_samples(corpus: Corpus) -> dict[str, Any]:
    """The card with a few rejected documents of each rule; they are looked up where the card has none."""
    if corpus.card.get("rejected_samples"):
        return corpus.card
    from luopan.corpus.card import rejected_samples

    stats = CorpusStats()
    folder = corpus.folder / store.REJECTED_PARTS
    for batch in store.batches(folder, store.REJECTED.names) if folder.is_dir() else ():
        stats.add_rejected(batch)
    return {**corpus.card, "rejected_samples": rejected_samples(stats)}
