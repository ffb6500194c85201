"""From sources to a corpus: read, clean, filter, deduplicate, decontaminate, hold out; nothing goes without a reason.

The sources are planned into splits of about `split_bytes`, and each pass (`passes.py`) works on them one by one, in as
many processes as there are; between the passes all splits are looked at together. The result depends on the sources
and the configuration alone: not on a seed, the time, the folder or the number of workers. What a pass has finished of
a split is kept in `.curating` until the corpus is whole, so work that is cut off goes on where it was.

Writes `train/`, `held_out/`, `rejected/` (parquet parts), `funnel.json`, `card.json` and `card.html`; the card last.
Memory: a few megabytes of text per worker; here some 50 bytes per document, for the last choice.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from luopan.artifacts import FolderLock, atomic_write_json, atomic_write_text, fsync_tree, mend_os_errors, stable_hash
from luopan.corpus import store
from luopan.corpus.card import data_card, origins
from luopan.corpus.card_page import card_html
from luopan.corpus.chain import LOCAL, funnel_steps
from luopan.corpus.config import CurateConfig
from luopan.corpus.dedup import cluster, exact, units
from luopan.corpus.document import Document
from luopan.corpus.executor import Executor, executor_for
from luopan.corpus.funnel import Funnel
from luopan.corpus.notes import drops_units
from luopan.corpus.parts import Place, done_before
from luopan.corpus.passes import Chosen, ReadTask, Verdicts, names_of, pass_a, pass_b, pass_c, pass_d, read_through
from luopan.corpus.plan import SCRATCH, check_folder, clear, contamination_notes, resume_or_clear, settings, state
from luopan.corpus.preflight import check_curation
from luopan.corpus.select import key
from luopan.corpus.source_config import SourceConfig
from luopan.corpus.split import Choice, choose
from luopan.corpus.splits import plan_splits
from luopan.corpus.stats import CorpusStats
from luopan.corpus.watcher import Unwatched, Watcher
from luopan.errors import DataError

VERSION = 1  # rises when a pass writes something else, so that work of an older version is not gone on with
MUCH = 0.2  # of a source that could not be read: noted
HELD_OUT_NOTED = 0.15  # of a source, where the least number of documents decides


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
        return self.folder / store.TRAIN

    @property
    def held_out(self) -> Path:
        return self.folder / store.HELD_OUT

    @property
    def rejected(self) -> Path:
        return self.folder / store.REJECTED_PARTS


def curate(
    sources: Sequence[SourceConfig],
    config: CurateConfig,
    folder: Path,
    *,
    streams: Mapping[str, Iterable[Document]] | None = None,
    watcher: Watcher | None = None,
) -> Curated:
    """Make a corpus of `sources` in `folder` (created if absent) and say what became of every document.

    `streams` are further documents by source name that are clean already (made by a program): they are deduplicated
    exactly and split, but neither filtered nor compared for likeness. DataError if a path or a required package is
    missing, or if no document is left; disk errors as in `artifacts`. Called again after it was cut off, it goes on.
    """
    started = time.monotonic()
    streams = {name: list(stream) for name, stream in (streams or {}).items()}
    names = [source.name for source in sources] + list(streams)
    check_names(names)
    check_curation(config, [source.name for source in sources])
    check_folder(folder, sources)
    missing: list[str] = []
    splits = plan_splits(sources, config.split_bytes, missing.append)
    tasks = [ReadTask(number, split) for number, split in enumerate(splits)]
    place = Place(folder / SCRATCH)
    with mend_os_errors(folder), FolderLock(place.folder):
        made = [[name, document.id, document.text] for name, stream in streams.items() for document in stream]
        plan = stable_hash(
            [VERSION, *settings(config), state(sources, config), [repr(task.split) for task in tasks], names, made]
        )
        resume_or_clear(place, plan, watcher or Unwatched())
        with executor_for(config.executor, config.workers, len(tasks)) as executor:
            run = Run(config, place, executor, watcher or Unwatched(), names, [s.max_bytes for s in sources])
            for text in [*missing, *contamination_notes(config)]:
                run.funnel.note(text)
            stats = run.all_passes(tasks, streams)
        card = data_card(origins(sources, streams), stats, run.funnel.to_json(), config=config)
        publish(folder, place, run.funnel.to_json(), card)
    return Curated(folder, card, run.funnel.to_json(), run.funnel.total("read")[1], time.monotonic() - started)


def check_names(names: Sequence[str]) -> None:
    """DataError for two sources of one name."""
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"two sources are called {name!r}", hint="Give each its own name.")


class Run:
    """One run over all passes; the funnel grows as they end."""

    def __init__(
        self,
        config: CurateConfig,
        place: Place,
        executor: Executor,
        watcher: Watcher,
        names: Sequence[str],
        caps: Sequence[int | None],
    ) -> None:
        self.config, self.place, self.executor, self.watcher = config, place, executor, watcher
        self.names = names
        self.caps = [*caps, *[None] * (len(names) - len(caps))]
        self.funnel = Funnel(funnel_steps(config))
        self.source_of: list[int] = []  # of each split: the number of its source

    def all_passes(self, tasks: Sequence[ReadTask], streams: Mapping[str, Iterable[Document]]) -> CorpusStats:
        """Do everything; returns what the card says of the documents that stay."""
        self.read(tasks, streams)
        self.refuse_empty(self.last_local)
        before = "a"
        verdicts = self.exact_verdicts(before)
        if drops_units(self.config):
            verdicts = self.with_unit_drops(verdicts)
            offsets = self.offsets("a")
            self.each(pass_b, verdicts, "dropping what is repeated", offsets=offsets)
            before = "b"
            verdicts = self.exact_verdicts(before)  # what lost its lines may now be the same
        verdicts = self.with_names(verdicts, before)
        if self.config.minhash is not None:
            verdicts = self.with_near(verdicts, before)
        self.each(pass_c, verdicts, "leaving out duplicates", offsets=self.offsets(before), before=before)
        self.refuse_empty([step for step in self.funnel.left if step not in ("capped", "train", "held_out")][-1])
        return self.write(self.choice())

    def read(self, tasks: Sequence[ReadTask], streams: Mapping[str, Iterable[Document]]) -> None:
        """Pass A over the splits of the sources, then over what programs make."""
        total = sum(task.split.bytes for task in tasks)
        done, megabytes = 0, 0.0
        sizes = {task.number: task.split.bytes for task in tasks}
        began = time.monotonic()
        fresh = [task for task in tasks if done_before(self.place, "a", task.number) is None]
        if tasks and len(fresh) < len(tasks):
            self.watcher.note(f"going on: {len(tasks) - len(fresh)} of {len(tasks)} parts were read before")
        self.watcher.start("reading and filtering (MB)", round(total / 1e6))

        def advance(marker: Mapping[str, Any]) -> None:
            nonlocal done, megabytes
            done += sizes[marker["number"]]
            megabytes = done / 1e6
            self.watcher.update(round(megabytes), megabytes_per_second=megabytes / max(1e-9, time.monotonic() - began))

        work = partial(pass_a, place=self.place, config=self.config)
        markers = self.executor.map(work, list(tasks), advance)
        self.source_of = [self.names.index(task.split.source.name) for task in tasks]
        for number, (name, stream) in enumerate(streams.items(), len(tasks)):
            earlier = done_before(self.place, "a", number)
            markers.append(earlier or read_through(number, stream, self.place, self.config, name, clean=True))
            self.source_of.append(self.names.index(name))
        for marker in markers:
            self.funnel.merge(marker["funnel"])
        for name in self.names:
            self.check_read(name)
            self.watcher.note(self.line(name))

    def line(self, source: str) -> str:
        found, left = self.funnel.left["found"][source], self.funnel.left[self.last_local][source]
        return f"{source}: {found[0]:,} documents found; {left[0]:,}, {left[1] / 1e6:.1f} MB, pass the filters"

    def check_read(self, source: str) -> None:
        """DataError for a source of which nothing could be read; a note where much could not."""
        found, read = (self.funnel.left[step].get(source, [0, 0])[0] for step in ("found", "read"))
        lost = found - read
        if lost and lost > MUCH * found:
            why = [line for line in self.funnel.reasons(100) if " × read/" in line]
            if not read and len(self.names) > 1:
                lines = "".join(f"\n    {line}" for line in why[:5])
                raise DataError(
                    f"nothing of {source} could be read:{lines}", hint="Mend it, or take the source out of the list."
                )
            if read:
                self.funnel.note(
                    f"{source}: {lost:,} of {found:,} documents could not be read (see rejected, step read)"
                )

    @property
    def last_local(self) -> str:
        return [step for step in self.funnel.left if step in LOCAL][-1]

    @property
    def splits(self) -> int:
        return len(self.source_of)

    def offsets(self, kind: str) -> list[int]:
        """[splits + 1] where the documents of each split begin, all laid end to end."""
        rows = [len(np.load(file, mmap_mode="r")) for file in self.place.files(kind, self.splits, "id_keys.npy")]
        return [0, *np.cumsum(rows).tolist()]

    def exact_verdicts(self, kind: str) -> list[Verdicts]:
        """Which documents of a pass have the text of an earlier one."""
        if self.config.exact is None or not self.config.exact.document:
            return [Verdicts(number, {}) for number in range(self.splits)]
        files = self.place.files(kind, self.splits, "digests.npy")
        twins = exact.exact_twins(files, self.fresh(f"exact-{kind}"), self.executor)
        return [Verdicts(number, {}, exact=file) for number, file in enumerate(twins)]

    def with_unit_drops(self, verdicts: Sequence[Verdicts]) -> list[Verdicts]:
        """Which paragraphs or lines came before."""
        files = self.place.files("a", self.splits, "unit_hashes.npy")
        drops = units.repeated_units(files, self.fresh("units"), self.executor)
        return [Verdicts(v.number, v.renamed, v.exact, unit_drops=file) for v, file in zip(verdicts, drops)]

    def with_names(self, verdicts: Sequence[Verdicts], kind: str) -> list[Verdicts]:
        """Documents that stay and whose id another one has already get `~2`, `~3`, …"""
        arrays = [np.load(file) for file in self.place.files(kind, self.splits, "id_keys.npy")]
        keys = np.concatenate([*arrays, np.zeros(0, np.uint64)])
        offsets = np.asarray(self.offsets(kind))
        added: list[dict[int, str]] = [{} for _ in verdicts]
        order = np.argsort(keys, kind="stable")
        order = order[self.alive(verdicts, kind)[order]]
        again = order[1:][keys[order][1:] == keys[order][:-1]]
        if len(again):
            taken, copies = set(keys.tolist()), dict[int, int]()
            ids = names_of(np.sort(again), self.place, kind, offsets.tolist())
            for number in np.sort(again).tolist():
                own, copy = int(keys[number]), copies.get(int(keys[number]), 1) + 1
                while key("id", f"{ids[number]}~{copy}") in taken:
                    copy += 1
                copies[own] = copy
                taken.add(key("id", f"{ids[number]}~{copy}"))
                split = int(np.searchsorted(offsets, number, side="right")) - 1
                added[split][number - int(offsets[split])] = f"~{copy}"
            self.funnel.note(f"{len(again):,} document(s) have an id that came before: ~2, ~3 … was added to it")
        return [Verdicts(v.number, names, v.exact, v.near, v.unit_drops) for v, names in zip(verdicts, added)]

    def alive(self, verdicts: Sequence[Verdicts], kind: str) -> np.ndarray:
        """[documents] bool: has no exact twin that came before."""
        offsets = self.offsets(kind)
        alive = np.ones(offsets[-1], bool)
        for verdict in verdicts:
            if verdict.exact is not None:
                alive[offsets[verdict.number] : offsets[verdict.number + 1]] = np.load(verdict.exact) < 0
        return alive

    def with_near(self, verdicts: Sequence[Verdicts], kind: str) -> list[Verdicts]:
        """Which documents are much like one that stays."""
        assert self.config.minhash is not None
        self.watcher.note("looking for near duplicates")
        folder = self.fresh("near")
        alive, offsets = self.alive(verdicts, kind), self.offsets(kind)
        alive_files = []
        for number, near in enumerate(self.place.files(kind, self.splits, "near.npy")):
            alive_files.append(folder / f"alive-{number:05d}.npy")
            np.save(alive_files[-1], alive[offsets[number] : offsets[number + 1]] & np.load(near))
        files = self.place.files(kind, self.splits, "signatures.npy")
        twins = cluster.near_twins(files, alive_files, folder, self.executor, self.config.minhash)
        return [Verdicts(v.number, v.renamed, v.exact, file, v.unit_drops) for v, file in zip(verdicts, twins)]

    def fresh(self, name: str) -> Path:
        """An empty folder for a question that is asked over all splits."""
        folder = self.place.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def each(self, work: Callable[..., dict[str, Any]], items: Sequence[Any], label: str, **options: Any) -> None:
        """A pass over all splits, with its funnel added to the whole."""
        self.watcher.start(label, len(items))
        done = 0

        def advance(marker: Mapping[str, Any]) -> None:
            nonlocal done
            done += 1
            self.watcher.update(done)

        work = partial(work, place=self.place, config=self.config, **options)
        for marker in self.executor.map(work, list(items), advance):
            self.funnel.merge(marker["funnel"])

    def choice(self) -> Choice:
        """Caps and the held-out part, over all documents that are left."""
        arrays = {
            name: [np.load(file) for file in self.place.files("c", self.splits, f"{name}.npy")]
            for name in ("sizes", "cap_keys", "held_keys")
        }
        source = np.repeat(self.source_of, [len(part) for part in arrays["sizes"]])
        size, cap_key, held_key = (np.concatenate(parts) for parts in arrays.values())
        return choose(source, size, cap_key, held_key, self.caps, self.config.held_out)

    def write(self, choice: Choice) -> CorpusStats:
        """The final parts, and what the card says of them."""
        rows = [len(np.load(f, mmap_mode="r")) for f in self.place.files("c", self.splits, "sizes.npy")]
        offsets = [0, *np.cumsum(rows).tolist()]
        caps = dict(zip(self.names, self.caps))
        tasks = [
            Chosen(number, choice.capped[low:high], choice.held_out[low:high], caps)
            for number, (low, high) in enumerate(pairwise(offsets))
        ]
        self.watcher.start("writing", len(tasks))
        stats = CorpusStats(tokenizer=self.config.tokenizer)
        done = 0

        def take(result: tuple[dict[str, Any], CorpusStats]) -> None:
            nonlocal done
            done += 1
            self.watcher.update(done)
            self.funnel.merge(result[0])
            stats.merge(result[1])

        self.executor.feed(partial(pass_d, place=self.place, config=self.config), tasks, take)
        self.note_shares()
        return stats

    def note_shares(self) -> None:
        """What became of a source that the user would not expect: nothing left, nothing or much of it held out."""
        held, found = self.funnel.left["held_out"], self.funnel.left["found"]
        for name in self.names:
            documents = self.funnel.left["capped"].get(name, [0, 0])[0]
            apart = held.get(name, [0, 0])[0]
            if not documents:
                self.funnel.note(f"nothing is left of {name}, of which {found.get(name, [0, 0])[0]:,} were found")
            elif not apart and (self.config.held_out.fraction or self.config.held_out.min_documents):
                self.funnel.note(f"{name} has too few documents to hold one out")
            elif apart > HELD_OUT_NOTED * documents and self.config.held_out.fraction < HELD_OUT_NOTED:
                self.funnel.note(
                    f"{apart:,} of {documents:,} documents of {name} are held out, because held_out.min_documents is "
                    f"{self.config.held_out.min_documents}; lower it to train on more"
                )

    def refuse_empty(self, step: str) -> None:
        """DataError, with what took the documents, if none is left after `step`."""
        if self.funnel.total(step)[0]:
            return
        found, read = self.funnel.total("found")[0], self.funnel.total("read")[0]
        hint = "Give more text, or loosen the rule that took the most (null turns one off)."
        if not read:
            hint = "Mend or convert what is named above; text has to be UTF-8." if found else "The source is empty."
        lines = "".join(f"\n    {line}" for line in self.funnel.reasons())
        raise DataError(f"no document is left of {found:,}{':' if lines else ''}{lines}", hint=hint)


def publish(folder: Path, place: Place, funnel: dict[str, Any], card: dict[str, Any]) -> None:
    """Move the finished parts to their place; the card last, as the sign that all is there."""
    (folder / "card.json").unlink(missing_ok=True)
    for name in (store.TRAIN, store.HELD_OUT, store.REJECTED_PARTS):
        (place.folder / name).mkdir(exist_ok=True)
        fsync_tree(place.folder / name)
        shutil.rmtree(folder / name, ignore_errors=True)
        (place.folder / name).replace(folder / name)
    atomic_write_json(folder / "funnel.json", funnel)
    atomic_write_text(folder / "card.html", card_html(card, funnel))
    atomic_write_json(folder / "card.json", card)
    clear(place.folder)
