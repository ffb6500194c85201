"""What a recipe says about where text comes from. Imports nothing heavy.

A source is told by one key: `path` (files), `dataset` (Hugging Face), `code` (a source tree) or `packaged`.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal, get_args

from pydantic import Discriminator, Field, Tag, model_validator

from luopan.corpus.config_base import Bytes, Frozen

PackagedName = Literal["scripture", "plays", "python-docs", "docstrings"]

# Read when neither a path nor a list of packaged sources is given. `plays` needs a package that is not installed with
# the others (its own dependencies are dead), so it is taken if it is there and noted if it is not.
DEFAULT_PACKAGED: tuple[PackagedName, ...] = ("scripture", "plays", "python-docs", "docstrings")
DEFAULT_OPTIONAL: tuple[PackagedName, ...] = ("plays",)
RESERVED_META = ("file", "row", "part", "licence", "url", "format")  # written by the readers themselves
MAX_LINE_BYTES = 64 << 20
MAX_BYTES = Field(default=None, description="keep at most so many bytes of text, chosen by hash of the id")
LICENCE = Field(default=None, description="written into the data card")
MAX_LINE = Field(
    default=MAX_LINE_BYTES, description="a longer line, row, web page or code file is set aside instead of read"
)


class FileSource(Frozen):
    """Files of the user's: a file, a folder (read recursively) or a glob.

    .txt .md .html .jsonl .json .csv .tsv .warc .wet, each also as .gz or .zst, and .parquet.
    """

    path: str
    name: str = Field(default="files", min_length=1)
    text_column: str = Field(default="text", description="column of rows (.jsonl .json .csv .parquet) with the text")
    id_column: str | None = Field(
        default=None, description="column that names a document; row numbers are used if absent"
    )
    url_column: str | None = Field(default=None, description="column with the page's address, kept as `url`")
    meta_columns: tuple[str, ...] = Field(default=(), description="further columns to keep with each document")
    text_format: Literal["text", "html"] = Field(
        default="text", description="html: the column holds whole web pages, for the extract step"
    )
    licence: str | None = LICENCE
    max_bytes: Bytes | None = MAX_BYTES
    max_line_bytes: Bytes = MAX_LINE

    @property
    def origin(self) -> str:
        return self.path

    @model_validator(mode="after")
    def _meta_columns_are_free(self) -> FileSource:
        refuse_reserved(self.meta_columns)
        return self


class HubSource(Frozen):
    """A Hugging Face dataset: a name on the hub, or a local folder. Read as a stream; no script of it is ever run."""

    dataset: str = Field(min_length=1, description="a name on the hub (`org/name`) or a folder")
    name: str = Field(default="dataset", min_length=1)
    config: str | None = Field(default=None, description="the dataset's configuration, where it has several")
    split: str = Field(default="train", min_length=1)
    revision: str | None = Field(
        default=None, description="commit, tag or branch; without a commit a change on the hub goes unnoticed"
    )
    text_column: str = Field(default="text", description="column that holds the text")
    id_column: str | None = Field(
        default=None, description="column that names a document; row numbers are used if absent"
    )
    url_column: str | None = Field(default=None, description="column with the page's address, kept as `url`")
    meta_columns: tuple[str, ...] = Field(default=(), description="further columns to keep with each document")
    text_format: Literal["text", "html"] = Field(
        default="text", description="html: the column holds whole web pages, for the extract step"
    )
    licence: str | None = LICENCE
    max_bytes: Bytes | None = MAX_BYTES
    max_line_bytes: Bytes = MAX_LINE

    @property
    def origin(self) -> str:
        return ":".join(filter(None, [self.dataset, self.config, self.split])) + (
            f" at {self.revision}" if self.revision else ""
        )

    @model_validator(mode="after")
    def _meta_columns_are_free(self) -> HubSource:
        refuse_reserved(self.meta_columns)
        return self


class CodeSource(Frozen):
    """A source tree: one document per file, with its path and language. Other kinds of file are not looked at."""

    code: str = Field(min_length=1, description="a folder (read recursively), a file or a glob")
    name: str = Field(default="code", min_length=1)
    suffixes: tuple[Annotated[str, Field(pattern=r"^\.[^/\s]+$")], ...] = Field(
        default=(".py",), min_length=1, description="which files: .py .rs .c …"
    )
    exclude: tuple[str, ...] = Field(
        default=("node_modules", "__pycache__", "site-packages", "build", "dist"),
        description="names of folders or files that are left out, with * and ?",
    )
    licence: str | None = LICENCE
    max_bytes: Bytes | None = MAX_BYTES
    max_line_bytes: Bytes = Field(default=1 << 20, description="a larger file (made by a program) is set aside")

    @property
    def origin(self) -> str:
        return self.code


class PackagedSource(Frozen):
    """Text that an installed Python package, or Python itself, brings with it."""

    packaged: PackagedName
    optional: bool = Field(default=False, description="a missing package is noted instead of an error")
    max_bytes: Bytes | None = MAX_BYTES

    @property
    def name(self) -> str:
        return self.packaged


SourceConfig = FileSource | HubSource | CodeSource | PackagedSource
KINDS = {"path": FileSource, "dataset": HubSource, "code": CodeSource, "packaged": PackagedSource}


def kind_of(given: Any) -> str | None:
    """The name of the kind of source that is meant, told by the key that only it has; None if there is not just one."""
    if isinstance(given, get_args(SourceConfig)):
        return type(given).__name__
    named = [model.__name__ for key, model in KINDS.items() if isinstance(given, dict) and key in given]
    return named[0] if len(named) == 1 else None


# Told apart by hand so that a misspelt key is named for the kind that was meant, not for all four. No tag may be a key
# of the data: where the mistake stands is found by leaving out of pydantic's path what is none.
AnySource = Annotated[
    Annotated[FileSource, Tag("FileSource")]
    | Annotated[HubSource, Tag("HubSource")]
    | Annotated[CodeSource, Tag("CodeSource")]
    | Annotated[PackagedSource, Tag("PackagedSource")],
    Discriminator(
        kind_of,
        custom_error_type="source_kind",
        custom_error_message="a source needs exactly one of the keys path, dataset, code, packaged",
    ),
]


def refuse_reserved(columns: tuple[str, ...]) -> None:
    """ValueError for a column that would overwrite what the reader itself notes of a document."""
    if taken := [name for name in columns if name in RESERVED_META]:
        raise ValueError(f"meta_columns cannot hold {taken[0]!r}: Luopan writes a value of that name itself")


class CorpusSource(Frozen):
    """The recipe's root section `corpus`: the user's own files, further sources, packaged texts, or all of them.

    Nothing given means the packaged texts. A path or a list of sources means those alone.
    """

    path: str | None = Field(default=None, description="file, folder or glob: short for one source of files")
    sources: tuple[AnySource, ...] = Field(
        default=(), description="several sources, each with a name: files, datasets, code, packaged texts"
    )
    packaged: tuple[PackagedName, ...] | None = Field(
        default=None, description="texts that installed packages bring with them"
    )
    optional: tuple[PackagedName, ...] | None = Field(default=None, description="packaged texts that may be missing")
    text_column: str | None = Field(
        default=None, description="column of the user's files that holds the text (default: text)"
    )
    id_column: str | None = None
    url_column: str | None = Field(default=None, description="column of the user's files with the page's address")
    meta_columns: tuple[str, ...] = Field(default=(), description="further columns of the user's files to keep")
    licence: str | None = Field(default=None, description="licence of the user's files, for the data card")
    max_bytes: dict[str, Bytes] = Field(
        default={}, description="bytes of text to keep, by source (the user's files: 'files')"
    )

    @model_validator(mode="after")
    def _every_key_has_an_effect(self) -> CorpusSource:
        if self.path is None:
            for key in ("text_column", "id_column", "url_column", "meta_columns", "licence"):
                if getattr(self, key):
                    raise ValueError(f"{key} has no effect without path (a source in the list has its own)")
        given = [*(["files"] if self.path is not None else []), *(one.name for one in self.sources)]
        packaged = self.packaged_names()
        names = [*given, *packaged]
        if not names:
            raise ValueError("nothing to read: give path or sources, or leave packaged out")
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise ValueError(f"two sources are called {twice[0]!r}: give each its own name")
        if absent := [name for name in self.optional or () if name not in packaged]:
            raise ValueError(f"optional names {absent[0]!r}, which is not read here ({', '.join(sorted(names))})")
        own = {one.name for one in self.sources if one.max_bytes is not None}
        for name in self.max_bytes:
            if name not in names:
                raise ValueError(f"max_bytes names {name!r}, which is not read here ({', '.join(sorted(names))})")
            if name in own:
                raise ValueError(f"max_bytes of {name!r} is given twice: here and at the source")
        return self

    def packaged_names(self) -> tuple[PackagedName, ...]:
        """The packaged texts that are read because they are named in `packaged`, or because nothing is named."""
        if self.packaged is not None:
            return self.packaged
        return DEFAULT_PACKAGED if self.path is None and not self.sources else ()

    def all_sources(self) -> tuple[SourceConfig, ...]:
        """One source per text, in a fixed order: the path, the list, the packaged ones."""
        names = self.packaged_names()
        optional = self.optional if self.optional is not None else (DEFAULT_OPTIONAL if self.packaged is None else ())
        found: list[SourceConfig] = []
        if self.path is not None:
            found.append(
                FileSource(
                    path=self.path,
                    text_column=self.text_column or "text",
                    id_column=self.id_column,
                    url_column=self.url_column,
                    meta_columns=self.meta_columns,
                    licence=self.licence,
                    max_bytes=self.max_bytes.get("files"),
                )
            )
        for one in self.sources:
            cap = self.max_bytes.get(one.name, one.max_bytes)
            found.append(one.model_copy(update={"max_bytes": cap}))
        for name in names:
            found.append(PackagedSource(packaged=name, optional=name in optional, max_bytes=self.max_bytes.get(name)))
        return tuple(found)
