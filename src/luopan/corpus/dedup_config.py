"""What a recipe says about duplicates, test questions, repeated spans and sampling. Imports nothing heavy."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt, model_validator

from luopan.corpus.config_base import Count, Frozen


class ExactConfig(Frozen):
    """Exact duplicates (case and white space do not count): documents, and paragraphs or lines where asked for.

    The first one in the order of the sources stays.
    """

    document: bool = Field(default=True, description="drop documents whose text came before")
    paragraph: bool = Field(default=False, description="drop paragraphs that came before, in any document")
    line: bool = Field(default=False, description="drop lines that came before, in any document")
    min_unit_bytes: Count = Field(
        default=60, description="shorter paragraphs or lines stay (UTF-8; about 10 words of English or Chinese)"
    )
    keep_headings: bool = Field(default=True, description="Markdown headings stay")
    min_document_bytes: Count = Field(
        default=200, description="a document that lost paragraphs or lines and has less left is rejected"
    )

    @model_validator(mode="after")
    def _every_key_has_an_effect(self) -> ExactConfig:
        if self.paragraph and self.line:
            raise ValueError("lines are parts of paragraphs, so paragraph has no effect beside line: choose one")
        if not self.paragraph and not self.line:
            if not self.document:
                raise ValueError("document, paragraph and line are all false: write exact: null instead")
            for key in ("min_unit_bytes", "keep_headings", "min_document_bytes"):
                if key in self.model_fields_set:
                    raise ValueError(f"{key} has no effect without paragraph or line")
        return self


class MinHashConfig(Frozen):
    """Near duplicates by MinHash and locality-sensitive hashing; FineWeb's figures (arXiv:2406.17557).

    Two documents whose word n-grams are similar by s (Jaccard) meet with probability
    1 - (1 - s^hashes_per_bucket)^buckets; of each group that meet, directly or by way of others, the first one stays.
    """

    ngram: Annotated[int, Field(ge=1, le=64)] = Field(
        default=5, description="words (characters in scripts without spaces) that make one element of a document's set"
    )
    buckets: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=14, description="chances to meet: more find more, false ones too"
    )
    hashes_per_bucket: Annotated[int, Field(ge=1, le=256)] = Field(
        default=8, description="hashes that must agree in a bucket: more ask for greater similarity"
    )
    seed: Count = 1
    fold_numbers: bool = Field(
        default=False,
        description="take all numbers for one, as FineWeb did: pages that differ in figures alone are near",
    )


class EvalSet(Frozen):
    """Rows of an evaluation set: files with the questions, and the columns that hold prompts and answers."""

    path: str = Field(description="file, folder or glob of .jsonl[.gz|.zst] .json .csv[.gz|.zst] .parquet")
    columns: tuple[str, ...] = Field(
        min_length=1, description="prompt, answer, choices, in that order; a dot goes into a column (choices.text)"
    )


class DecontaminateConfig(Frozen):
    """Documents that hold prompts or answers of named evaluation sets are rejected.

    Words are compared without case and punctuation; two characters of a script without spaces count as one word.
    """

    sets: dict[str, EvalSet] = Field(min_length=1, description="name of each set: its path and columns")
    ngram: Annotated[int, Field(ge=2, le=64)] = Field(default=13, description="words in a row that tell (GPT-3's 13)")
    min_words: Annotated[int, Field(ge=2, le=64)] = Field(
        default=8,
        description="shorter columns than ngram are looked for whole if they have so many words; yet shorter ones tell "
        "nothing by themselves",
    )
    max_matches: Count = Field(default=0, description="places of a document that may match")
    max_items: PositiveInt | None = Field(
        default=10, description="n-grams in more rows of their set are its common wording and tell nothing"
    )

    @model_validator(mode="after")
    def _lengths_fit(self) -> DecontaminateConfig:
        if self.min_words > self.ngram:
            raise ValueError(f"min_words ({self.min_words}) is more than ngram ({self.ngram}), so it has no effect")
        return self


class SpanConfig(Frozen):
    """Documents in which a short span is repeated many times in a row: they cause loss spikes (OLMo 2,
    arXiv:2501.00656: 32 or more repeats of a span of 1 to 13 tokens).

    Tokens are words, single characters of scripts without spaces, and runs of one and the same symbol.
    """

    max_repeats: Annotated[int, Field(ge=2)] = Field(default=31, description="times that a span may stand in a row")
    max_span: Annotated[int, Field(ge=1, le=64)] = Field(default=13, description="longest span, in tokens")


class SampleConfig(Frozen):
    """A random part of what is left, chosen by hash of the id: adding documents changes nothing about the others."""

    fraction: Annotated[float, Field(gt=0, lt=1)] = Field(description="share of the documents that stays")
    seed: Count = 0
