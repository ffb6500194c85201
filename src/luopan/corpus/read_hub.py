"""Hugging Face datasets, from the hub or a folder, as a stream: one document per row, nothing loaded whole.

The `datasets` library reads them; scripts of a dataset are not run (the library has given them up). Rows are numbered
within each shard (file) of the dataset, which are the units of work. A fault of the network in the middle stops the
reading instead of setting rows aside: a corpus must not depend on the weather.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from luopan.corpus.document import Document, Rejected
from luopan.corpus.files import Found
from luopan.corpus.read_rows import aside, from_row, no_column, wanted_columns
from luopan.corpus.source_config import HubSource
from luopan.errors import DataError


def open_dataset(source: HubSource) -> Any:
    """The dataset as a `datasets.IterableDataset`. DataError if it is not there or the library is missing."""
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            "reading a Hugging Face dataset needs the package datasets",
            where=source.dataset,
            hint="pip install 'luopan[data]'",
        ) from error
    path = str(Path(source.dataset).expanduser()) if source.dataset.startswith("~") else source.dataset
    try:
        if is_saved(Path(path)):
            saved = datasets.load_from_disk(path)
            if isinstance(saved, datasets.DatasetDict):
                saved = saved[source.split]
            return saved.to_iterable_dataset(num_shards=1)
        return datasets.load_dataset(path, source.config, split=source.split, revision=source.revision, streaming=True)
    except Exception as error:  # the library raises what it likes: ValueError, OSError, RuntimeError, its own
        raise refused(source, error) from error


def is_saved(folder: Path) -> bool:
    """True for a folder that `save_to_disk` wrote, which is read in another way than others."""
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


def refused(source: HubSource, error: Exception) -> DataError:
    """The library's error in a sentence, with what to do."""
    lines = str(error).strip().splitlines()
    words = lines[0][:300] if lines else type(error).__name__
    hint = "Look at dataset, config, split and revision."
    if isinstance(error, KeyError):
        words = f"there is no split {source.split!r}"
    elif "OfflineModeIsEnabled" in words or "offline" in words.lower():
        hint = "HF_HUB_OFFLINE is set: download the dataset first and give its folder, or allow the network."
    elif isinstance(error, ConnectionError | TimeoutError):
        hint = "Is the hub within reach from here? A dataset that was downloaded can be given as a folder."
    elif "script" in words:
        hint = "Datasets that run code are refused; look for a parquet version (revision: refs/convert/parquet)."
    return DataError(f"the dataset cannot be read: {words}", where=source.origin, hint=hint)


def shards_of(source: HubSource) -> int:
    """How many units of work the dataset comes in."""
    return max(1, int(open_dataset(source).num_shards))


def read_shard(source: HubSource, shard: int, shards: int) -> Iterator[Document | Rejected]:
    """The documents of one shard of the dataset, in its order. DataError if the stream breaks."""
    name = "-".join(filter(None, [source.config, source.split])) + f"/{shard:05d}"
    found = Found(Path(source.dataset), name, "", f"{source.origin}/{shard:05d}", 0)
    dataset = open_dataset(source)
    if (count := max(1, int(dataset.num_shards))) != shards:
        raise DataError(
            f"the dataset has {count} files now, where it had {shards} when the work was planned",
            where=source.origin,
            hint="Give revision: a commit of the dataset, and begin anew.",
        )
    wanted = wanted_columns(source)
    if dataset.column_names is not None:
        for column in wanted:
            if column not in dataset.column_names:
                yield aside(source, found, "column", no_column(column, list(dataset.column_names), source))
                return
        dataset = dataset.select_columns(wanted)  # so that pictures and sound are not decoded
    part = dataset.shard(num_shards=shards, index=shard) if shards > 1 else dataset
    rows = iter(part)
    number = 0
    while True:
        try:
            row = next(rows, None)
        except Exception as error:
            raise refused(source, error) from error
        if row is None:
            return
        number += 1
        yield from_row(source, found, row, number)
