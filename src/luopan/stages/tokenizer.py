"""Train a tokenizer on a curated corpus and measure how finely it cuts held-out text of each source."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, ClassVar

from luopan.artifacts import Artifact
from luopan.corpus.store import read_texts
from luopan.recipe.specs import TokenizerSpec
from luopan.report.data import BarChart, Bars, Figure, StageReport, Table
from luopan.stages.base import Inputs, Workspace
from luopan.stages.handover import metrics_of, write_report
from luopan.stages.text import TRAIN, held_out, source_names
from luopan.tokens.config import TokenizerConfig
from luopan.tokens.tokenizer import fertility, save_tokenizer, train_tokenizer

FERTILITY_BYTES = 100_000


class Tokenizer:
    """See the module."""

    kind: ClassVar[str] = "tokenizer"
    version: ClassVar[int] = 1
    payload: ClassVar[tuple[str, ...]] = ("tokenizer",)

    @staticmethod
    def fingerprint(spec: TokenizerSpec) -> str:
        return ""

    @staticmethod
    def run(spec: TokenizerSpec, inputs: Inputs, out: Workspace) -> dict[str, Any]:
        corpus = inputs["corpus"][0]
        out.progress.start(out.name, None)
        config = TokenizerConfig.model_validate(spec.model_dump(include=set(TokenizerConfig.model_fields)))
        tokenizer = train_tokenizer(sample_texts(corpus, spec.sample_bytes), config)
        save_tokenizer(tokenizer, out.path / "tokenizer")
        rows = {name: fertility(tokenizer, texts) for name, texts in held_out(corpus, FERTILITY_BYTES).items()}
        names = list(rows)
        mean = sum(row["bytes_per_token"] for row in rows.values()) / len(rows)
        figures = [
            Figure(name="bytes per token", before=1.0, after=mean, baseline=1.0, baseline_name="plain bytes",
                   help="held-out text, mean over the sources"),
            Figure(name="vocabulary", after=len(tokenizer), higher_is_better=None, headline=False),
        ]  # fmt: skip
        columns = ["bytes_per_token", "tokens_per_word", "continued_word_rate"]
        write_report(
            out.path,
            StageReport(
                kind="tokenizer",
                name=out.name,
                summary=f"Byte-level BPE with {len(tokenizer)} tokens; digits stand alone.",
                figures=figures,
                pictures=[
                    BarChart(
                        title="Bytes per token",
                        categories=names,
                        bars=[Bars(name=out.name, values=[rows[name]["bytes_per_token"] for name in names])],
                        higher_is_better=True,
                    )
                ],
                tables=[
                    Table(
                        title="Fertility",
                        columns=["source", "bytes per token", "tokens per word", "words cut in two or more"],
                        rows=[[name, *(rows[name][column] for column in columns)] for name in names],
                        units=["", "", "", "%"],
                    )
                ],
            ),
        )
        return metrics_of(figures, sources=json.loads(json.dumps(rows)))


def sample_texts(corpus: Artifact, max_bytes: int) -> Iterator[str]:
    """Texts of every source, at most `max_bytes` in all, each source in proportion to its size."""
    names = source_names(corpus)
    sizes = {name: sum(len(text.encode()) for text in read_texts(corpus.file(TRAIN), name)) for name in names}
    share = min(1.0, max_bytes / sum(sizes.values()))
    for name in names:
        left = sizes[name] * share
        for text in read_texts(corpus.file(TRAIN), name):
            yield text  # at least one document of every source
            left -= len(text.encode())
            if left <= 0:
                break
