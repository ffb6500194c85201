"""Pretraining text: a curated corpus as token shards, the feed over them, and what is measured on held-out text."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from luopan.artifacts import Artifact
from luopan.corpus.store import read_texts
from luopan.errors import DataError, RecipeError
from luopan.evals.bits import bits_per_byte, loss_by_position
from luopan.report.data import Figure, Line, LineChart, Mark, Mixture
from luopan.stages.common import Chat
from luopan.tokens.batch import Batch
from luopan.tokens.encode import encode_documents
from luopan.tokens.mixture import tempered
from luopan.tokens.mixture_config import CORPUS
from luopan.tokens.order import Consumed
from luopan.tokens.rows import TokenRows
from luopan.tokens.shards import TokenShards, write_shards
from luopan.train.config import TrainConfig
from luopan.train.ranks import leader_first
from luopan.train.ranks import rank as own_rank
from luopan.train.ranks import world_size as ranks_in_all
from luopan.train.shares import micro_batch_rows, step_rows

TRAIN = "corpus/train"  # folders of parquet files
HELD_OUT = "corpus/held_out"
POSITION_BUCKETS = 16


def source_names(corpus: Artifact) -> list[str]:
    """The sources of a curated corpus that have something to train on, in the order of its card."""
    return [name for name, source in _card(corpus)["sources"].items() if source["documents"]["train"]]


def _card(corpus: Artifact) -> dict[str, Any]:
    card: dict[str, Any] = json.loads(corpus.file("corpus/card.json").read_text(encoding="utf-8"))
    return card


@dataclass
class TextFeed:
    """A `train.loop.Feed` over token shards; a function of (seed, step) alone. Each rank takes its share of a step."""

    prefetchable: ClassVar[bool] = True  # it reads no weights

    rows: TokenRows
    config: TrainConfig
    rank: int = field(default_factory=own_rank)
    world_size: int = field(default_factory=ranks_in_all)

    def micro_batches(self, step: int) -> Sequence[Batch]:
        """The micro-batches of this rank in `step`."""
        parts = micro_batch_rows(self.config, step, self.rank, self.world_size)
        return [self.rows.batch(numbers) for numbers in parts]

    def describe(self, step: int) -> list[str]:
        """What all ranks read in `step`: "source: document 17, tokens 0 to 512" for each piece of a document."""
        plans = [self.rows.order.row(number) for number in step_rows(self.config, step)]
        return [
            f"{plan.source}: document {piece.document}, tokens {piece.start} to {piece.stop}"
            for plan in plans
            for piece in plan.pieces
        ]


def shard_corpus(corpus: Artifact, tokenizer: Any, folder: Path, names: Iterable[str]) -> dict[str, TokenShards]:
    """One shard folder per source named; those that are there already are kept. Rank 0 writes for all."""
    names = list(names)

    def write() -> None:
        for name in names:
            if not (folder / name / "index.json").is_file():
                texts = read_texts(corpus.file(TRAIN), name)
                write_shards(token_ids(tokenizer, texts), folder / name, len(tokenizer), tokenizer.eos_token_id)

    leader_first(write)
    return {name: TokenShards(folder / name) for name in names}


def mixture_weights(
    corpus: Artifact, mixture: Mapping[str, float] | None, temperature: float | None = None
) -> dict[str, float]:
    """Weight per source that is read. `corpus` in a mixture stands for all sources that it does not name and that
    were read (not generated), which share its weight by their size; no mixture at all means all by size. With a
    `temperature` sizes count as size^(1/temperature).

    RecipeError where a name is unknown, a source is left out without a word, or nothing is left to read.
    """
    sizes = {name: part["bytes"]["train"] for name, part in _card(corpus)["sources"].items() if part["bytes"]["train"]}
    amounts = {name: float(size) for name, size in sizes.items()}
    if temperature is not None and amounts:
        amounts = tempered(amounts, temperature)
    if mixture is None:
        return amounts
    generated = {name for name, part in _card(corpus)["sources"].items() if part["origin"] == "generated"}
    rest = [name for name in sizes if name not in mixture and name not in generated]
    if CORPUS in generated:
        raise RecipeError("a generated source is called corpus, which in a mixture means all texts that were read")
    for name in mixture:
        if name != CORPUS and name not in sizes:
            raise RecipeError(f"the mixture names {name!r}, which the corpus lacks", hint=f"It has: {', '.join(sizes)}")
    unnamed = [name for name in sizes if name not in mixture and (CORPUS not in mixture or name in generated)]
    if unnamed:
        raise RecipeError(
            f"the mixture does not say what to do with {', '.join(unnamed)}", hint="Give it a weight; 0 leaves it out."
        )
    if CORPUS in mixture and not rest:
        raise RecipeError("the mixture's `corpus` stands for nothing: every source is named", hint="Leave it out.")
    weights = {name: weight for name, weight in mixture.items() if name != CORPUS}
    weights |= {name: mixture[CORPUS] * amounts[name] / sum(amounts[n] for n in rest) for name in rest}
    weights = {name: weights[name] for name in sizes if weights[name] > 0}
    if not weights:
        raise RecipeError("every weight of the mixture is 0")
    return weights


def token_ids(tokenizer: Any, texts: Iterable[str]) -> Iterator[Any]:
    """Each text as tokens, ended by the end-of-document token."""
    return encode_documents(tokenizer, texts)


def held_out(corpus: Artifact, eval_bytes: int) -> dict[str, list[str]]:
    """Held-out texts per source, in a fixed order, about `eval_bytes` of each."""
    found: dict[str, list[str]] = {}
    for name in source_names(corpus):
        size, texts = 0, []
        for text in read_texts(corpus.file(HELD_OUT), name):
            texts.append(text)
            size += len(text.encode())
            if size >= eval_bytes:
                break
        if texts:
            found[name] = texts
    if not found:
        raise DataError("the corpus holds nothing out to measure on", where=corpus.path, hint="raise held_out.fraction")
    return found


def train_texts(corpus: Artifact, source: str, max_bytes: int) -> Iterator[str]:
    """The first `max_bytes` of a source's training text."""
    for text in read_texts(corpus.file(TRAIN), source):
        yield text
        max_bytes -= len(text.encode())
        if max_bytes <= 0:
            return


def text_bits(chat: Chat, corpus: Artifact, eval_bytes: int, length: int) -> dict[str, float]:
    """Bits per byte on the held-out text of each source."""
    return {
        name: bits_per_byte(chat.model, chat.tokenizer, texts, length=length).bits_per_byte
        for name, texts in held_out(corpus, eval_bytes).items()
    }


def mean_bits(bits: Mapping[str, float], weights: Mapping[str, float] | None = None) -> float | None:
    """Mean over sources, each weighted alike or by the mixture."""
    chosen = {name: 1.0 if weights is None else weights.get(name, 0.0) for name in bits}
    total = sum(chosen.values())
    return sum(bits[name] * weight for name, weight in chosen.items()) / total if total else None


def bits_figures(
    before: Mapping[str, float],
    after: Mapping[str, float],
    headline: bool = True,
    baseline: Mapping[str, float] | None = None,
) -> list[Figure]:
    """One figure per source, and their mean; `baseline` is a byte bigram's figure by source."""
    bigram = baseline or {}

    def figure(
        name: str, old: float | None, new: float | None, beat: float | None, headline: bool, text: str
    ) -> Figure:
        return Figure(name=name, before=old, after=new, unit="bits/byte", higher_is_better=False, headline=headline,
                      baseline=beat, baseline_name="byte bigram", help=text)  # fmt: skip

    mean = (mean_bits(before), mean_bits(after), mean_bits(bigram))
    figures = [figure("bits per byte", *mean, headline, "held-out text, mean over the sources")]
    for name, value in after.items():
        figures.append(figure(f"bits per byte, {name}", before.get(name), value, bigram.get(name), False, ""))
    return figures


def forgetting_figures(before: Mapping[str, float], after: Mapping[str, float]) -> list[Figure]:
    """What a fine-tuned model has forgotten of the text it was pretrained on; nothing without a corpus."""
    return bits_figures(before, after, headline=False) if after else []


def position_chart(
    before: Sequence[tuple[float, float]], after: Sequence[tuple[float, float]], pretrained: int, names: tuple[str, str]
) -> LineChart:
    """Loss by position in the document, before and after, with the pretrained length marked."""
    return LineChart(
        title="Loss by position",
        lines=[Line(name=names[0], points=list(before), style="dashed"), Line(name=names[1], points=list(after))],
        x_label="position in the document (tokens)",
        y_label="loss (nats per token)",
        x_marks=[Mark(value=float(pretrained), label="pretrained length")],
    )


def position_loss(chat: Chat, corpus: Artifact, eval_bytes: int, length: int) -> list[tuple[float, float]]:
    """(position, mean loss) over those held-out texts of all sources that are at least `length` tokens long."""
    texts = [text for part in held_out(corpus, eval_bytes).values() for text in part]
    bucket = max(1, length // POSITION_BUCKETS)
    return loss_by_position(chat.model, chat.tokenizer, texts, length=length, bucket=bucket).points


def beyond(points: Sequence[tuple[float, float]], length: int) -> float | None:
    """Mean loss of the buckets beyond `length`."""
    values = [loss for position, loss in points if position > length and not math.isnan(loss)]
    return sum(values) / len(values) if values else None


def mixture_picture(consumed: Mapping[str, Consumed]) -> Mixture:
    """What the run read, by tokens."""
    return Mixture(
        title="What was read",
        rows={"tokens": {name: float(part.tokens) for name, part in consumed.items() if part.tokens}},
        unit="tokens",
        caption="; ".join(f"{name}: {part.epochs:.2f} epochs" for name, part in consumed.items() if part.tokens),
    )
