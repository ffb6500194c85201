"""From sources to a corpus: read, normalise, cut, filter, deduplicate, cap, hold out; nothing is lost without a reason.

Two passes. The first reads every source once and writes what stays to a scratch file; the second knows all sizes and so
can honour the caps and the held-out part. Memory is flat but for some 300 bytes per document (its id, its digest, its
sizes). The result depends on the sources and the configuration alone: not on a seed, the time or the folder.

Writes `train.parquet`, `held_out.parquet`, `rejected.parquet`, `funnel.json` and `card.json`. Each appears whole, and
`card.json` last. One process: 4 MB/s of one busy core with all default steps, of which the filters alone do 7.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from luopan.artifacts import atomic_write_json, fsync_tree, mend_os_errors
from luopan.corpus import store
from luopan.corpus.card import data_card, origins
from luopan.corpus.config import CurateConfig, PackagedSource, SourceConfig
from luopan.corpus.dedup import ExactDeduplicator
from luopan.corpus.document import Document, Rejected
from luopan.corpus.filters import first_finding
from luopan.corpus.funnel import Funnel
from luopan.corpus.normalise import cut, normalise, utf8_length
from luopan.corpus.packaged import read_packaged
from luopan.corpus.read import read_files
from luopan.corpus.split import Index, choose, write_chosen
from luopan.errors import DataError

SCRATCH = ".curating"
FILES = ("train.parquet", "held_out.parquet", "rejected.parquet")


@dataclass(frozen=True)
class Curated:
    """A curated corpus on disk. `read_bytes` and `seconds` tell the speed; they are in no file."""

    folder: Path
    card: dict[str, Any]
    funnel: dict[str, Any]
    read_bytes: int
    seconds: float

    @property
    def train(self) -> Path:
        return self.folder / FILES[0]

    @property
    def held_out(self) -> Path:
        return self.folder / FILES[1]

    @property
    def rejected(self) -> Path:
        return self.folder / FILES[2]


def curate(
    sources: Sequence[SourceConfig],
    config: CurateConfig,
    folder: Path,
    *,
    streams: Mapping[str, Iterable[Document]] | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Curated:
    """Make a corpus of `sources` in `folder` (created if absent) and say what became of every document.

    `streams` are further documents by source name that are clean already (made by a program): they are deduplicated and
    split, but neither normalised nor filtered. `note` is called with a line of text now and then.
    DataError if a path or a required package is missing, or if no document is left; disk errors as in `artifacts`.
    """
    started = time.monotonic()
    streams = dict(streams or {})
    names = [source.name for source in sources] + list(streams)
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"two sources are called {name!r}", hint="Give each its own name.")
    funnel = Funnel()
    with mend_os_errors(folder), workplace(folder) as scratch:
        with store.Writer(scratch / "rejected.parquet", store.REJECTED) as rejected:
            first = FirstPass(config, funnel, rejected)
            with store.Writer(scratch / "kept.parquet", store.DOCUMENTS, "lz4") as kept:
                for number, source in enumerate(sources):
                    first.run(number, source.name, documents_of(source, funnel), kept)
                    note(progress_line(funnel, source.name))
                for number, (name, stream) in enumerate(streams.items(), len(sources)):
                    first.run(number, name, stream, kept, clean=True)
                    note(progress_line(funnel, name))
            refuse_empty(funnel)
            caps = [source.max_bytes for source in sources] + [None] * len(streams)
            choice = choose(first.index, names, caps, config)
            samples = write_chosen(scratch / "kept.parquet", scratch, choice, names, funnel, rejected)
        (scratch / "kept.parquet").unlink()
        fsync_tree(scratch)
        for file in FILES:
            (scratch / file).replace(folder / file)
        train, apart = choice.sizes(choice.train, names), choice.sizes(choice.held_out, names)
        card = data_card(origins(sources, streams), train, apart, samples)
        atomic_write_json(folder / "funnel.json", funnel.to_json())
        atomic_write_json(folder / "card.json", card)
    read_bytes = funnel.total("read")[1]
    return Curated(folder, card, funnel.to_json(), read_bytes, time.monotonic() - started)


@contextmanager
def workplace(folder: Path) -> Iterator[Path]:
    """A scratch folder inside `folder`, which is gone afterwards whatever happens."""
    scratch = folder / SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def refuse_empty(funnel: Funnel) -> None:
    """DataError, with what took the documents, if none is left."""
    if funnel.total("deduplicated")[0]:
        return
    found, read = funnel.total("found")[0], funnel.total("read")[0]
    hint = "Give more text, or loosen the rule that took the most (null turns one off)."
    if not read:
        hint = "Mend or convert what is named above; text has to be UTF-8." if found else "The source is empty."
    lines = "".join(f"\n    {line}" for line in funnel.reasons())
    raise DataError(f"no document is left of {found:,}{':' if lines else ''}{lines}", hint=hint)


def documents_of(source: SourceConfig, funnel: Funnel) -> Iterator[Document | Rejected]:
    """The documents of a source; a missing package of an optional one is noted."""
    if not isinstance(source, PackagedSource):
        yield from read_files(source)
        return
    try:
        yield from read_packaged(source.packaged)
    except DataError as error:
        if not source.optional:
            raise
        funnel.note(f"{source.packaged} was left out: {error.message}. {error.hint or ''}".strip())


def progress_line(funnel: Funnel, source: str) -> str:
    found, left = funnel.left["found"][source], funnel.left["deduplicated"][source]
    return f"{source}: {left[0]:,} of {found[0]:,} documents stay, {left[1] / 1e6:.1f} MB"


class FirstPass:
    """Reads, normalises, cuts, filters, deduplicates."""

    def __init__(self, config: CurateConfig, funnel: Funnel, rejected: store.Writer) -> None:
        self.config, self.funnel, self.rejected = config, funnel, rejected
        self.seen = ExactDeduplicator()
        self.ids: set[str] = set()
        self.index = Index()

    def run(
        self,
        number: int,
        source: str,
        stream: Iterable[Document | Rejected],
        kept: store.Writer,
        *,
        clean: bool = False,
    ) -> None:
        """Pass the documents of one source on to `kept`, or to the rejected ones."""
        for item in stream:
            if isinstance(item, Rejected):
                self.funnel.passed("found", source, item.bytes)
                self.reject(item)
                continue
            size = utf8_length(item.text)
            self.funnel.passed("found", source, size)
            self.funnel.passed("read", source, size)
            for piece in [item] if clean else pieces(item, self.config):
                size = utf8_length(piece.text)
                self.funnel.passed("pieces", source, size)
                reason = self.reason_against(piece, size, clean)
                if reason is not None:
                    self.reject(reason)
                    continue
                piece = self.with_own_id(piece)
                kept.document(piece)
                self.index.add(number, size, piece.id)

    def reason_against(self, piece: Document, size: int, clean: bool) -> Rejected | None:
        """Why a piece is left out, or None; counts it after each step that it passes."""
        if not piece.text.strip():
            return left_out(piece, size, "filter", "empty", text="")
        if self.config.filters is not None and not clean:
            finding = first_finding(piece.text, self.config.filters)
            if finding is not None:
                reason = left_out(piece, size, "filter", finding.rule, text=piece.text)
                return replace(reason, value=float(finding.value), threshold=float(finding.threshold))
        self.funnel.passed("filtered", piece.source, size)
        if self.config.deduplicate:
            twin = self.seen.twin(piece.id, piece.text)
            if twin is not None:
                return left_out(piece, size, "dedup", "exact", detail=f"same text as {twin}")
        self.funnel.passed("deduplicated", piece.source, size)
        return None

    def reject(self, rejected: Rejected) -> None:
        self.funnel.rejected(rejected)
        self.rejected.rejected(rejected)

    def with_own_id(self, piece: Document) -> Document:
        """`piece`, renamed if its id (from the user's id column) was seen before."""
        id, copy = piece.id, 2
        while id in self.ids:
            id, copy = f"{piece.id}~{copy}", copy + 1
        self.ids.add(id)
        return piece if id == piece.id else Document(id, piece.text, piece.source, piece.meta)


def pieces(document: Document, config: CurateConfig) -> list[Document]:
    """The normalised document, cut where it is too long."""
    text = document.text if config.normalise is None else normalise(document.text, config.normalise)
    texts = [text] if config.max_document_bytes is None else cut(text, config.max_document_bytes)
    if len(texts) == 1:
        return [Document(document.id, texts[0], document.source, document.meta)]
    return [
        Document(f"{document.id}/{number:04d}", part, document.source, {**document.meta, "part": number})
        for number, part in enumerate(texts, 1)
    ]


def left_out(
    piece: Document, size: int, step: str, rule: str, *, text: str | None = None, detail: str = ""
) -> Rejected:
    return Rejected(
        id=piece.id,
        source=piece.source,
        step=step,
        rule=rule,
        detail=detail,
        where=place(piece),
        text=text,
        bytes=size,
        meta=piece.meta,
    )


def place(document: Document) -> str:
    """file:row of a document from the user's files, its id otherwise."""
    file, row = document.meta.get("file"), document.meta.get("row")
    if file is None:
        return document.id
    return f"{file}:{row}" if row is not None else str(file)
