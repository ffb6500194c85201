"""What a user may say about a corpus: sources, normalisation, filters, caps, what is held out.

Imports neither torch nor pyarrow, so that a recipe loads, and a mistake in it is reported, at once.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

PackagedName = Literal["scripture", "plays", "python-docs", "docstrings"]

# Read when neither a path nor a list of packaged sources is given. `plays` needs a package that is not installed with
# the others (its own dependencies are dead), so it is taken if it is there and noted if it is not.
DEFAULT_PACKAGED: tuple[PackagedName, ...] = ("scripture", "plays", "python-docs", "docstrings")
DEFAULT_OPTIONAL: tuple[PackagedName, ...] = ("plays",)

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Bytes = Annotated[int, Field(gt=0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileSource(_Frozen):
    """Files of the user's: a file, a folder (read recursively) or a glob of .txt .md .jsonl[.gz|.zst] .parquet."""

    path: str
    name: str = "files"
    text_column: str = Field(default="text", description="column of .jsonl and .parquet files that holds the text")
    id_column: str | None = Field(
        default=None, description="column that names a document; row numbers are used if absent"
    )
    meta_columns: tuple[str, ...] = Field(default=(), description="further columns to keep with each document")
    licence: str | None = Field(default=None, description="written into the data card")
    max_bytes: Bytes | None = Field(
        default=None, description="keep at most so many bytes of text, chosen by hash of the id"
    )


class PackagedSource(_Frozen):
    """Text that an installed Python package, or Python itself, brings with it."""

    packaged: PackagedName
    optional: bool = Field(default=False, description="a missing package is noted instead of an error")
    max_bytes: Bytes | None = Field(
        default=None, description="keep at most so many bytes of text, chosen by hash of the id"
    )

    @property
    def name(self) -> str:
        return self.packaged


SourceConfig = FileSource | PackagedSource


class CorpusSource(_Frozen):
    """The recipe's root section `corpus`: the user's own files, or packaged texts, or both.

    Nothing given means the packaged texts. A path alone means the user's files alone.
    """

    path: str | None = Field(default=None, description="file, folder or glob of .txt .md .jsonl[.gz|.zst] .parquet")
    packaged: tuple[PackagedName, ...] | None = Field(
        default=None, description="texts that installed packages bring with them"
    )
    optional: tuple[PackagedName, ...] | None = Field(default=None, description="packaged texts that may be missing")
    text_column: str | None = Field(
        default=None, description="column of the user's files that holds the text (default: text)"
    )
    id_column: str | None = None
    licence: str | None = Field(default=None, description="licence of the user's files, for the data card")
    max_bytes: dict[str, Bytes] = Field(
        default={}, description="bytes of text to keep, by source (the user's files: 'files')"
    )

    @model_validator(mode="after")
    def _every_key_has_an_effect(self) -> CorpusSource:
        if self.path is None:
            for key in ("text_column", "id_column", "licence"):
                if getattr(self, key) is not None:
                    raise ValueError(f"{key} has no effect without path")
        names = set(self.packaged_names()) | ({"files"} if self.path is not None else set())
        if not names:
            raise ValueError("nothing to read: give path, or leave packaged out")
        for key, given in (("optional", self.optional or ()), ("max_bytes", self.max_bytes)):
            for name in given:
                if name not in names:
                    raise ValueError(f"{key} names {name!r}, which is not read here ({', '.join(sorted(names))})")
        return self

    def packaged_names(self) -> tuple[PackagedName, ...]:
        """The packaged texts that are read."""
        if self.packaged is not None:
            return self.packaged
        return DEFAULT_PACKAGED if self.path is None else ()

    def sources(self) -> tuple[SourceConfig, ...]:
        """One source per text, in a fixed order."""
        names = self.packaged_names()
        optional = self.optional if self.optional is not None else (DEFAULT_OPTIONAL if self.packaged is None else ())
        found: list[SourceConfig] = []
        if self.path is not None:
            found.append(
                FileSource(
                    path=self.path,
                    text_column=self.text_column or "text",
                    id_column=self.id_column,
                    licence=self.licence,
                    max_bytes=self.max_bytes.get("files"),
                )
            )
        for name in names:
            found.append(PackagedSource(packaged=name, optional=name in optional, max_bytes=self.max_bytes.get(name)))
        return tuple(found)


class NormaliseConfig(_Frozen):
    """How text is made regular before anything looks at it."""

    nfc: bool = Field(default=True, description="Unicode normal form C")
    strip_control: bool = Field(
        default=True, description="drop control, zero-width and bidirectional-override characters"
    )
    whitespace: bool = Field(default=True, description="odd spaces to a plain space, no spaces at line ends")
    strip_gutenberg: bool = Field(
        default=True, description="drop Project Gutenberg's header and licence where its marks stand"
    )
    max_blank_lines: Count = Field(default=2, description="longer runs of blank lines are cut to this many")


class FilterConfig(_Frozen):
    """Thresholds of the filters; null turns a rule off. Defaults are Gopher's (arXiv:2112.11446, table A1 and page 40).

    `min_stop_words` is off: Gopher asks for 2 of 8 English words, which would drop every other language.
    """

    min_words: Count | None = 50
    max_words: Count | None = 100_000
    min_mean_word_length: float | None = 3
    max_mean_word_length: float | None = 10
    max_symbol_ratio: Fraction | None = Field(default=0.35, description="share of the visible characters outside words")
    max_hash_per_word: float | None = 0.1
    max_ellipsis_per_word: float | None = 0.1
    max_bullet_lines: Fraction | None = 0.9
    max_ellipsis_lines: Fraction | None = 0.3
    min_alphabetic_words: Fraction | None = 0.8
    min_stop_words: Count | None = None
    max_duplicate_lines: Fraction | None = 0.3
    max_duplicate_line_characters: Fraction | None = 0.2
    max_duplicate_paragraphs: Fraction | None = 0.3
    max_duplicate_paragraph_characters: Fraction | None = 0.2
    max_top_ngram: dict[int, Fraction] = Field(
        default={2: 0.20, 3: 0.18, 4: 0.16}, description="by n: share of the characters"
    )
    max_duplicate_ngrams: dict[int, Fraction] = Field(
        default={5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}, description="by n: share of the characters"
    )


class HeldOutConfig(_Frozen):
    """Documents kept away from training, to measure on. Chosen by a hash of the id, so more data moves nothing over."""

    fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.02
    min_documents: Count = Field(default=8, description="per source, where it has twice as many")
    max_bytes: Bytes | None = Field(default=1_000_000, description="per source; what is over it is trained on")

    @model_validator(mode="after")
    def _every_key_has_an_effect(self) -> HeldOutConfig:
        if self.fraction == 0 and self.min_documents == 0 and "max_bytes" in self.model_fields_set:
            raise ValueError("max_bytes has no effect: fraction and min_documents are 0, so nothing is held out")
        return self


class CurateConfig(_Frozen):
    """Everything between the sources and the curated corpus."""

    normalise: NormaliseConfig | None = NormaliseConfig()
    max_document_bytes: Annotated[int, Field(ge=256)] | None = Field(
        default=65_536, description="longer documents are cut at a paragraph, line or word; null keeps them whole"
    )
    filters: FilterConfig | None = FilterConfig()
    deduplicate: bool = Field(default=True, description="drop documents equal but for case and white space")
    held_out: HeldOutConfig = HeldOutConfig()
