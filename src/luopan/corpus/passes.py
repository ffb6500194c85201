"""The passes over a corpus, each a function of one split that reads files and writes files.

A: read, clean, filter; note digests and signatures. B (only where paragraphs or lines are deduplicated): drop them. C:
leave out duplicates, decontaminate, sample. D: part what is left into training and held-out files. Between the passes
`curation.py` looks at all splits at once (duplicates, caps). A pass writes its split's marker (`00012.json`) last, so a
split that has one is not done again.

All functions here can be pickled and import their steps when they run, so they work in any process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from luopan.corpus import store
from luopan.corpus.batch import DocumentBatch, rejection
from luopan.corpus.chain import LATE, LOCAL, funnel_steps, local_steps, step
from luopan.corpus.config import CurateConfig
from luopan.corpus.dedup import units
from luopan.corpus.dedup_config import ExactConfig
from luopan.corpus.document import Document, Rejected
from luopan.corpus.funnel import Funnel
from luopan.corpus.notes import Notes
from luopan.corpus.parts import Part, Place, count, done_before, rows_of, sizes_of
from luopan.corpus.select import key
from luopan.corpus.splits import Split, read_split
from luopan.corpus.stats import CorpusStats

BATCH_DOCUMENTS = 256
BATCH_CHARACTERS = 2 << 20


@dataclass(frozen=True)
class ReadTask:
    """Split `number` of a run."""

    number: int
    split: Split


def pass_a(task: ReadTask, place: Place, config: CurateConfig) -> dict[str, Any]:
    """Read a split and pass its documents through the local steps of its source."""
    done = done_before(place, "a", task.number)
    if done is not None:
        return done
    return read_through(task.number, read_split(task.split), place, config, task.split.source.name)


def read_through(
    number: int,
    stream: Iterable[Document | Rejected],
    place: Place,
    config: CurateConfig,
    source: str,
    clean: bool = False,
) -> dict[str, Any]:
    """Pass A over a stream of one source; `clean` documents (made by a program) skip the local steps."""
    steps = [] if clean else local_steps(config.steps_for(source))
    used = {name: (function, block) for name, function, block in steps}
    notes = Notes(config, near=not clean)
    with Part(place, "a", number, config) as part:
        for item in gathered(stream, part):
            batch = item
            for name in (name for name in part.funnel.left if name in LOCAL):
                if name in used:
                    batch = part.apply([(name, *used[name])], batch)
                else:
                    part.passed(name, batch)  # a step of other sources
            notes.add(batch)
            part.kept.batch(batch.arrow)
    return part.finish(**notes.arrays())


def gathered(stream: Iterable[Document | Rejected], part: Part) -> Iterator[DocumentBatch]:
    """Batches of the documents in a stream; what could not be read goes to the rejected ones."""
    documents: list[Document] = []
    characters = 0
    for item in stream:
        if isinstance(item, Rejected):
            part.funnel.passed("found", item.source, item.bytes)
            part.reject([item])
            continue
        documents.append(item)
        characters += len(item.text)
        if len(documents) >= BATCH_DOCUMENTS or characters >= BATCH_CHARACTERS:
            yield counted(DocumentBatch.of(documents), part)
            documents, characters = [], 0
    if documents:
        yield counted(DocumentBatch.of(documents), part)


def counted(batch: DocumentBatch, part: Part) -> DocumentBatch:
    part.passed("found", batch)
    part.passed("read", batch)
    return batch


@dataclass(frozen=True)
class Verdicts:
    """What was decided about the rows of a split in view of all splits; files of [rows] int64, -1 for "stays"."""

    number: int
    renamed: Mapping[int, str]  # row -> what is added to an id that came before
    exact: Path | None = None
    near: Path | None = None
    unit_drops: Path | None = None


def pass_b(task: Verdicts, place: Place, config: CurateConfig, offsets: Sequence[int]) -> dict[str, Any]:
    """Leave out exact twins, drop repeated paragraphs or lines, and note signatures of what is left."""
    done = done_before(place, "b", task.number)
    if done is not None:
        return done
    assert config.exact is not None and task.unit_drops is not None
    all_counts = np.load(place.file("a", task.number, "unit_counts.npy"))
    drops = np.load(task.unit_drops)
    near = bool(np.load(place.file("a", task.number, "near.npy")).all())
    ends = np.concatenate(([0], np.cumsum(all_counts)))
    notes = Notes(config.model_copy(update={"exact": ExactConfig() if config.exact.document else None}), near=near)
    with Part(place, "b", task.number, config) as part:
        for at, batch in rows_of(place, "a", task.number):
            rows = np.arange(at, at + len(batch))
            batch, stays = without_twins(batch, rows, task.exact, "exact", "exact", place, "a", offsets, part)
            counts = all_counts[rows[stays]]
            mine = np.concatenate([drops[ends[row] : ends[row + 1]] for row in rows[stays]] or [np.zeros(0, bool)])
            outcome = units.without_units(batch, counts, mine, config.exact)
            part.reject(outcome.rejected)
            part.funnel.counted("exact", outcome.counts)
            notes.add(outcome.batch)
            part.kept.batch(outcome.batch.arrow)
    return part.finish(**notes.arrays())


def pass_c(task: Verdicts, place: Place, config: CurateConfig, offsets: Sequence[int], before: str) -> dict[str, Any]:
    """Leave out twins, then the late steps; notes sizes and keys that the last choice needs."""
    done = done_before(place, "c", task.number)
    if done is not None:
        return done
    made = not np.load(place.file(before, task.number, "near.npy")).all()  # by a program
    sizes, caps, apart = [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
    with Part(place, "c", task.number, config) as part:
        for at, batch in rows_of(place, before, task.number):
            rows = np.arange(at, at + len(batch))
            if config.exact is not None:
                batch, stays = without_twins(batch, rows, task.exact, "exact", "exact", place, before, offsets, part)
                rows = rows[stays]
                part.passed("exact", batch)
            batch = renamed(batch, rows, task.renamed)
            if config.minhash is not None:
                batch, stays = without_twins(batch, rows, task.near, "minhash", "near", place, before, offsets, part)
                part.passed("minhash", batch)
            batch = late(batch, part, config, made)
            part.kept.batch(batch.arrow)
            sizes.append(sizes_of(batch))
            caps.append(np.array([key("cap", id) for id in batch.ids], np.uint64))
            apart.append(np.array([key("held out", id) for id in batch.ids], np.uint64))
    return part.finish(sizes=np.concatenate(sizes), cap_keys=np.concatenate(caps), held_keys=np.concatenate(apart))


def late(batch: DocumentBatch, part: Part, config: CurateConfig, made: bool) -> DocumentBatch:
    """The steps after deduplication. Personal data goes last: an evaluation item with an address would else not be
    found. Texts `made` by a program hold none."""
    for name in (name for name in part.funnel.left if name in LATE):
        block = config.steps_for(batch.sources[0]).pii if name == "pii" and len(batch) else getattr(config, name)
        if block is None or (name == "pii" and made):
            part.passed(name, batch)
        else:
            batch = part.apply([(name, step(name), block)], batch)
    return batch


def without_twins(
    batch: DocumentBatch,
    rows: np.ndarray,
    verdicts: Path | None,
    step: str,
    rule: str,
    place: Place,
    kind: str,
    offsets: Sequence[int],
    part: Part,
) -> tuple[DocumentBatch, np.ndarray]:
    """The batch without rows that have a twin, and which of its rows stay; a twin's text is not kept again."""
    if verdicts is None:
        return batch, np.ones(len(batch), bool)
    twins = np.load(verdicts, mmap_mode="r")[rows]
    stays = twins < 0
    if not stays.all():
        names = names_of(np.unique(twins[~stays]), place, kind, offsets)
        words = "same text as" if step == "exact" else "much the same text as"
        part.reject(
            rejection(batch, row, step, rule, detail=f"{words} {names[int(twins[row])]}", keep_text=step != "exact")
            for row in np.flatnonzero(~stays).tolist()
        )
    return batch.keep(stays.tolist()), stays


def names_of(numbers: np.ndarray, place: Place, kind: str, offsets: Sequence[int]) -> dict[int, str]:
    """Ids of documents by their number in all splits of a pass."""
    splits = np.searchsorted(np.asarray(offsets), numbers, side="right") - 1
    names: dict[int, str] = {}
    for split in np.unique(splits).tolist():
        ids = split_ids(place.file(kind, split))
        for number in numbers[splits == split].tolist():
            names[number] = ids[number - offsets[split]].as_py()
    return names


def split_ids(file: Path) -> pa.ChunkedArray:
    """The ids of a split's documents."""
    return pq.read_table(file, columns=["id"]).column("id")


def renamed(batch: DocumentBatch, rows: np.ndarray, additions: Mapping[int, str]) -> DocumentBatch:
    """The batch with ids that came before made different."""
    if not additions or not any(row in additions for row in rows.tolist()):
        return batch
    ids = [id + additions.get(row, "") for id, row in zip(batch.ids, rows.tolist())]
    return DocumentBatch(batch.arrow.set_column(0, "id", pa.array(ids, pa.string())))


@dataclass(frozen=True)
class Chosen:
    """What becomes of the rows of a split: [rows] bool each; `caps` by source name, for the reason."""

    number: int
    capped: np.ndarray
    held_out: np.ndarray
    caps: Mapping[str, int | None]


def pass_d(task: Chosen, place: Place, config: CurateConfig) -> tuple[dict[str, Any], CorpusStats]:
    """Part a split into training and held-out files; joins all its rejected documents; counts what the card says."""
    funnel = Funnel(funnel_steps(config))
    stats = CorpusStats(tokenizer=config.tokenizer)
    final = {name: place.file(name, task.number) for name in (store.TRAIN, store.HELD_OUT, store.REJECTED_PARTS)}
    for file in final.values():
        file.parent.mkdir(parents=True, exist_ok=True)
    with (
        store.Writer(final[store.TRAIN], store.DOCUMENTS) as train,
        store.Writer(final[store.HELD_OUT], store.DOCUMENTS) as held,
        store.Writer(final[store.REJECTED_PARTS], store.REJECTED) as lost,
    ):
        for kind in ("a", "b", "c") if (place.folder / "b").is_dir() else ("a", "c"):
            for rows in store.batches(place.file(kind, task.number, "rejected.parquet")):
                lost.batch(rows)
                stats.add_rejected(rows)
        for at, batch in rows_of(place, "c", task.number):
            over, apart = task.capped[at : at + len(batch)], task.held_out[at : at + len(batch)]
            for row in np.flatnonzero(over).tolist():
                item = reject_capped(batch, row, task.caps[batch.sources[row]])
                funnel.rejected(item)
                lost.rejected(item)
            count(funnel, "capped", batch.keep((~over).tolist()))
            for name, mask, writer in (("train", ~over & ~apart, train), ("held_out", apart, held)):
                chosen = batch.keep(mask.tolist())
                if len(chosen):
                    writer.batch(chosen.arrow)
                    stats.add(chosen, name)
                    count(funnel, name, chosen)
    for writer in (train, held, lost):
        if not writer.written:
            writer.path.unlink()
    return funnel.to_json(), stats


def reject_capped(batch: DocumentBatch, row: int, cap: int | None) -> Rejected:
    """A document that went because its source has enough; its text is not kept again."""
    size = int(sizes_of(batch)[row])
    threshold = None if cap is None else float(cap)
    detail = "the source has enough without it"
    return rejection(
        batch, row, "cap", "max_bytes", value=float(size), threshold=threshold, detail=detail, keep_text=False
    )
