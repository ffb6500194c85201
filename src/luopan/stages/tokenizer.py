"""Train a tokenizer on a curated corpus and measure how finely it cuts held-out text of each source."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any, ClassVar

from luopan.artifacts import Artifact
from luopan.recipe.specs import TokenizerSpec
from luopan.report.data import BarChart, Bars, Figure, StageReport, Table
from luopan.stages.base import Inputs, Workspace
from luopan.stages.handover import metrics_of, write_report
from luopan.stages.text import held_out, source_names, train_texts
from luopan.tokens.config import SampleConfig, TokenizerConfig
from luopan.tokens.sample import draw_sample, plan_sample
from luopan.tokens.tokenizer import fertility, save_tokenizer, train_tokenizer

FERTILITY_BYTES = 100_000


class Tokenizer:
    """See the module."""

    kind: ClassVar[str] = "tokenizer"
    version: ClassVar[int] = 2
    payload: ClassVar[tuple[str, ...]] = ("tokenizer",)

    @staticmethod
    def fingerprint(spec: TokenizerSpec) -> str:
        return ""

    @staticmethod
    def run(spec: TokenizerSpec, inputs: Inputs, out: Workspace) -> dict[str, Any]:
        corpus = inputs["corpus"][0]
        out.progress.start(out.name, None)
        config = TokenizerConfig.model_validate(spec.model_dump(include=set(TokenizerConfig.model_fields)))
        sampling = SampleConfig.model_validate(spec.model_dump(include=set(SampleConfig.model_fields)))
        sizes = source_bytes(corpus)
        wanted = plan_sample(sizes, sampling.weights, sampling.sample_bytes)
        tokenizer = train_tokenizer(sample_texts(corpus, wanted, out.seed), config)
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
                summary=f"Byte-level BPE with {len(tokenizer)} tokens; {rules(config)}.",
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
                    ),
                    Table(
                        title="Learned from",
                        columns=["source", "MB", "share", "of the source"],
                        rows=[[n, b / 1e6, b / sum(wanted.values()), b / sizes[n]] for n, b in wanted.items()],
                        units=["", "", "%", "%"],
                    ),
                ],
            ),
        )
        return metrics_of(figures, sources=json.loads(json.dumps(rows)))


def source_bytes(corpus: Artifact) -> dict[str, int]:
    """Bytes of training text by source, from the corpus's card."""
    card = json.loads(corpus.file("corpus/card.json").read_text(encoding="utf-8"))
    return {name: int(card["sources"][name]["bytes"]["train"]) for name in source_names(corpus)}


def sample_texts(corpus: Artifact, wanted: dict[str, float], seed: int) -> Iterator[str]:
    """Training texts of every source, about as many bytes of each as are wanted (`plan_sample`)."""

    def read(source: str) -> Iterator[str]:
        return train_texts(corpus, source, sys.maxsize)

    return draw_sample(read, source_bytes(corpus), wanted, seed)


def rules(config: TokenizerConfig) -> str:
    """How it cuts digits and white space, in words."""
    if not config.split_digits:
        digits = "numbers may be one token"
    else:
        digits = "digits stand alone" if config.digit_group == 1 else "digits go in threes, counted from the right"
    alone = {
        "words": "",
        "lines": "; every line break is a token of its own",
        "code": "; runs of spaces are tokens of their own",
    }
    return digits + alone[config.whitespace]
