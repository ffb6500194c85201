"""What `luopan tokenizer report` shows: the comparison as a table on the terminal, as JSON, as a page with pictures."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luopan.errors import DataError

if TYPE_CHECKING:
    from luopan.tokens.fertility import Measured, TextSample


def open_any(model: str) -> Any:
    """The tokenizer of a stage, a model, a hub id, or in a foreign form."""
    from luopan.pipeline.models import tokenizer_folder
    from luopan.tokens.foreign import is_foreign, open_tokenizer
    from luopan.tokens.tokenizer import load_tokenizer

    return open_tokenizer(model) if is_foreign(model) else load_tokenizer(tokenizer_folder(model))


def read_sample(reference: str, max_bytes: int) -> TextSample:
    """A sample from `[DOMAIN[/LANGUAGE]=]FILE`; the domain is the file's name where it is not given."""
    from luopan.tokens.fertility import sample

    name, separator, file = reference.rpartition("=")
    if not separator or Path(reference).exists():
        name, file = "", reference
    domain, _, language = name.partition("/")
    path = Path(file)
    return sample(domain or path.name.split(".")[0], list(_first(read_texts(path), max_bytes)), language or None)


def read_texts(path: Path) -> Iterator[str]:
    """A text file as one text; of .jsonl (.gz, .zst) the field `text` of every row."""
    try:
        if ".jsonl" not in path.suffixes:
            yield path.read_text(encoding="utf-8")
            return
        for number, line in enumerate(_lines(path), start=1):
            text = json.loads(line).get("text")
            if not isinstance(text, str):
                raise DataError("has no field `text`", where=f"{path}:{number}")
            yield text
    except (OSError, EOFError) as error:
        raise DataError(f"cannot be read: {getattr(error, 'strerror', None) or error}", where=path) from None
    except UnicodeDecodeError as error:
        raise DataError(f"is not UTF-8 text (byte {error.start})", where=path) from None
    except (json.JSONDecodeError, AttributeError):
        raise DataError("is not a row of JSON", where=f"{path}:{number}") from None


def _lines(path: Path) -> Iterator[str]:
    if path.suffix == ".gz":
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            yield from stream
    elif path.suffix == ".zst":
        import zstandard

        try:
            with path.open("rb") as packed:
                yield from io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(packed), encoding="utf-8")
        except zstandard.ZstdError as error:
            raise DataError(f"cannot be read: {error}", where=path) from None
    else:
        with path.open(encoding="utf-8") as stream:
            yield from stream


def _first(texts: Iterable[str], max_bytes: int) -> Iterator[str]:
    for text in texts:
        if max_bytes <= 0:
            return
        raw = text.encode("utf-8", "replace")
        yield text if len(raw) <= max_bytes else raw[:max_bytes].decode("utf-8", "ignore")
        max_bytes -= len(raw)


def names_of(models: Sequence[str]) -> list[str]:
    """Short names that still tell the tokenizers apart: of a file its own, of a package the package's."""
    short = [_short(model) for model in models]
    return [name if short.count(name) == 1 else model for name, model in zip(short, models, strict=True)]


def _short(model: str) -> str:
    package, path = model.startswith("package:"), Path(model.removeprefix("package:"))
    if path.suffix in (".tiktoken", ".json") and path.stem != "tokenizer":
        return path.stem
    return path.parts[0] if package else path.name


def print_report(measured: Sequence[Measured]) -> None:
    """The tables, for a terminal."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for table in tables(measured):
        shown = Table(title=table.title, title_justify="left", box=None, header_style="bold", pad_edge=False)
        for number, column in enumerate(table.columns):
            shown.add_column(column, justify="left" if number < 2 and "example" not in column else "right")
        from luopan.report.tables import cell_text

        units = table.units or [""] * len(table.columns)
        for row in table.rows:
            shown.add_row(*(cell_text(cell, unit) for cell, unit in zip(row, units, strict=True)))
        console.print(shown, highlight=False, markup=False)
        console.print()


def tables(measured: Sequence[Measured]) -> list[Any]:
    """The comparison as `luopan.report` tables."""
    from luopan.report.data import Table
    from luopan.tokens.fertility import relative_tokens

    relative = relative_tokens(measured)
    return [
        Table(
            title="Tokenizers",
            columns=["tokenizer", "vocabulary", "tokens, first = 1", "MB/s", "unused", "unreachable", "undecodable",
                     "odd white space", "invisible"],
            rows=[[m.name, m.vocabulary, relative[m.name], m.megabytes_per_second, m.audit.unused_share,
                   *m.audit.faults.values()] for m in measured],
            units=["", "", "", "", "%", "", "", "", ""],
            caption="unused: tokens that these texts do not use. The others count tokens that look wrong; every "
            "byte-level vocabulary has the 13 bytes that no UTF-8 text holds.",
        ),
        Table(
            title="Cuts",
            columns=["text", "tokenizer", "language", "bytes per token", "characters per token", "tokens per word",
                     "words cut", "a word is a"],
            rows=[[cut.domain, m.name, cut.language, cut.bytes_per_token, cut.characters_per_token,
                   cut.tokens_per_word, cut.continued_word_rate, cut.unit]
                  for number in range(len(measured[0].cuts)) for m in measured for cut in [m.cuts[number]]],
            units=["", "", "", "", "", "", "%", ""],
        ),
    ]  # fmt: skip


def page(measured: Sequence[Measured]) -> str:
    """The comparison as one HTML page."""
    from luopan.report.data import BarChart, Bars, Table
    from luopan.report.sheet import sheet

    texts = [f"{cut.domain} ({cut.language})" for cut in measured[0].cuts]

    def chart(title: str, figure: str, unit: str, higher: bool, caption: str) -> BarChart:
        bars = [Bars(name=m.name, values=[getattr(cut, figure) for cut in m.cuts]) for m in measured]
        return BarChart(title=title, categories=texts, bars=bars, unit=unit, higher_is_better=higher, caption=caption)

    pictures = [
        chart("Bytes per token", "bytes_per_token", "", True, "More bytes a token make shorter sequences."),
        chart("Tokens per word", "tokens_per_word", "", False, "Of scripts without spaces: tokens per character."),
        chart("Words cut in two or more", "continued_word_rate", "%", False, "Of scripts without spaces: characters."),
        BarChart(
            title="Unused tokens",
            categories=[m.name for m in measured],
            bars=[Bars(name="unused", values=[m.audit.unused_share for m in measured])],
            unit="%",
            higher_is_better=False,
            caption="The part of the vocabulary that these texts do not use.",
        ),
    ]
    wrong = Table(
        title="Tokens that look wrong, or are not used",
        columns=["tokenizer", "what", "examples"],
        rows=[[m.name, what, ", ".join(f"‘{text}’" for text in found)] for m in measured
              for what, found in examples(m).items() if found],
    )  # fmt: skip
    words = "Fewer tokens are cheaper; only a trained model tells what is better."
    lead = f"{len(measured)} tokenizers, {len(texts)} texts. {words}"
    return sheet("Tokenizers", lead, pictures, [*tables(measured), wrong])


def examples(measured: Measured, limit: int = 12) -> dict[str, list[str]]:
    """Some tokens of each fault, and some unused ones."""
    found = {
        fault: [g.text for g in measured.audit.glitches if g.fault == fault][:limit] for fault in measured.audit.faults
    }
    return {**found, "unused": list(measured.audit.unused_examples[:limit])}
