"""The data card: what a corpus is made of, for a person to read and for the report to draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from luopan.corpus.config import FileSource, PackagedSource, SourceConfig
from luopan.corpus.packaged import describe

SAMPLES = 3  # per source
SAMPLE_CHARACTERS = 400


def origins(sources: Sequence[SourceConfig], streams: Mapping[str, object]) -> dict[str, dict[str, str]]:
    """Licence and origin of each source, by name."""
    found: dict[str, dict[str, str]] = {}
    for source in sources:
        if isinstance(source, PackagedSource):
            found[source.name] = describe(source.packaged)
        else:
            found[source.name] = {"licence": licence_of(source), "origin": source.path, "version": ""}
    for name in streams:
        found[name] = {"licence": "as the program that makes it", "origin": "generated", "version": ""}
    return found


def licence_of(source: FileSource) -> str:
    return source.licence or "not stated"


def length_histogram(sizes: np.ndarray) -> list[dict[str, int]]:
    """Documents by size in bytes: buckets [from, to) that double from 64 on."""
    if not len(sizes):
        return []
    edges = [0, 64]
    while edges[-1] <= sizes.max():
        edges.append(edges[-1] * 2)
    counts, _ = np.histogram(sizes, bins=edges)
    return [{"from": low, "to": high, "documents": int(count)} for low, high, count in zip(edges, edges[1:], counts)]


def data_card(
    origins: Mapping[str, Mapping[str, str]],
    train: Mapping[str, np.ndarray],
    held_out: Mapping[str, np.ndarray],
    samples: Mapping[str, Sequence[Mapping[str, str]]],
) -> dict[str, Any]:
    """The card. `train` and `held_out`: bytes of each document, by source; `samples`: {id, text} by source."""
    everything = np.concatenate([*train.values(), np.empty(0, np.int64)])
    return {
        "documents": {"train": count(train), "held_out": count(held_out)},
        "bytes": {"train": total(train), "held_out": total(held_out)},
        "mean_document_bytes": float(everything.mean()) if len(everything) else 0.0,
        "length_histogram": length_histogram(everything),
        "sources": {
            name: {
                **origin,
                "documents": {"train": len(train[name]), "held_out": len(held_out[name])},
                "bytes": {"train": int(train[name].sum()), "held_out": int(held_out[name].sum())},
                "samples": list(samples.get(name, ())),
            }
            for name, origin in origins.items()
        },
    }


def count(sizes: Mapping[str, np.ndarray]) -> int:
    return sum(map(len, sizes.values()))


def total(sizes: Mapping[str, np.ndarray]) -> int:
    return int(sum(int(each.sum()) for each in sizes.values()))
