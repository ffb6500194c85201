"""The rows of a task and what its templates make of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from luopan.errors import DataError
from luopan.evals.tasks.config import Data

Row = Mapping[str, Any]
PACKED = ("", ".gz", ".zst")
READS = (*(f".jsonl{end}" for end in PACKED), ".json", ".parquet")
_SINGLE = re.compile(r"\s*\{\{((?:(?!\{\{|\}\}).)*)\}\}\s*", re.DOTALL)


def read_rows(data: Data, folder: Path | None, limit: int | None = None) -> list[Row]:
    """The first `limit` rows (None: all); a relative path is looked for below `folder`. DataError."""
    rows = list(islice(_rows(data, folder), limit))
    if not rows:
        raise DataError("there are no rows", where=data.origin)
    return rows


def _rows(data: Data, folder: Path | None) -> Iterator[Row]:
    if data.path is None:
        return _hub_rows(data)
    path = Path(data.path).expanduser()
    path = path if path.is_absolute() or folder is None else folder / path
    if not path.is_file():
        raise DataError("no such file of rows", where=path)
    name = path.name.lower()
    if any(name.endswith(f".jsonl{end}") for end in PACKED):
        return _lines(path)
    if name.endswith(".json"):
        return _whole(path)
    if name.endswith(".parquet"):
        return _parquet(path)
    raise DataError("is no file of rows that tasks can read", where=path, hint=f"They read {', '.join(READS)}.")


def _lines(path: Path) -> Iterator[Row]:
    from luopan.corpus.lines import numbered_lines

    for number, _, line in numbered_lines(path):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"not JSON: {error}", where=f"{path}:{number}") from None
        yield _checked(row, f"{path}:{number}")


def _whole(path: Path) -> Iterator[Row]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"not JSON: {error}", where=path) from None
    if not isinstance(rows, list):
        raise DataError("a .json file of rows is one list of objects", where=path)
    for number, row in enumerate(rows, 1):
        yield _checked(row, f"{path}, row {number}")


def _checked(row: Any, where: str) -> Row:
    if not isinstance(row, dict):
        raise DataError("a row is an object with columns", where=where)
    return row


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet as pq

    try:
        for batch in pq.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        raise DataError(f"cannot be read: {error}", where=path) from None


def _hub_rows(data: Data) -> Iterator[Row]:
    from luopan.corpus.read_hub import open_dataset, refused
    from luopan.corpus.source_config import HubSource

    source = HubSource(dataset=data.dataset or "", config=data.config, split=data.split, revision=data.revision)
    try:
        yield from open_dataset(source)
    except DataError:
        raise
    except Exception as error:  # the library raises what it likes
        raise refused(source, error) from error


def value_of(template: Any, row: Row, where: object = None, **more: Any) -> Any:
    """What a template says of a row: text, or the value itself where it is one `{{ … }}`. DataError."""
    if isinstance(template, Mapping):
        return {name: value_of(one, row, where, **more) for name, one in template.items()}
    if isinstance(template, Sequence) and not isinstance(template, str):
        return [value_of(one, row, where, **more) for one in template]
    if not isinstance(template, str):
        return template
    import jinja2

    try:
        found = _made(template)({**row, **more})
        if isinstance(found, jinja2.Undefined):
            str(found)  # StrictUndefined says what is missing
    except (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
        raise DataError(
            f"{template!r}: {error}", where=where, hint=f"the columns are {', '.join(map(str, row))}"
        ) from None
    return found


def text_of(template: str, row: Row, where: object = None, **more: Any) -> str:
    """As `value_of`, always as text."""
    return str(value_of(template, row, where, **more))


@lru_cache(maxsize=256)
def _made(template: str) -> Any:
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    if single := _SINGLE.fullmatch(template):
        return environment.compile_expression(single[1], undefined_to_none=False)
    return environment.from_string(template).render
