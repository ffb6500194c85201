"""What later passes must know of each document: keys, digests, signatures; up to a hundred and fifty bytes of each."""

from __future__ import annotations

import numpy as np

from luopan.corpus.batch import DocumentBatch
from luopan.corpus.config import CurateConfig
from luopan.corpus.dedup import exact, minhash, units
from luopan.corpus.select import key


class Notes:
    """What later passes must know of each document, gathered batch by batch: a few bytes to a hundred of each."""

    def __init__(self, config: CurateConfig, near: bool = True) -> None:
        self.config, self.near = config, near
        self.parts: dict[str, list[np.ndarray]] = {}

    def add(self, batch: DocumentBatch) -> None:
        config = self.config
        self.put("id_keys", np.array([key("id", id) for id in batch.ids], np.uint64))
        if config.exact is not None and config.exact.document:
            self.put("digests", exact.digests(batch.texts))
        if drops_units(config):
            assert config.exact is not None
            counts, hashes = units.unit_hashes(batch.texts if self.near else [""] * len(batch), config.exact)
            self.put("unit_counts", counts)
            self.put("unit_hashes", hashes)
        self.put("near", np.full(len(batch), self.near))
        if config.minhash is not None and not drops_units(config):
            self.put("signatures", signatures(batch, config, self.near))

    def put(self, name: str, values: np.ndarray) -> None:
        self.parts.setdefault(name, []).append(values)

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything that was noted, by name; names without a value are there, too, as empty arrays."""
        if not self.parts:
            self.add(DocumentBatch.of([]))
        return {name: np.concatenate(values) for name, values in self.parts.items()}


def signatures(batch: DocumentBatch, config: CurateConfig, near: bool) -> np.ndarray:
    """[N, buckets] of a batch; zeros for documents that are no candidates."""
    assert config.minhash is not None
    if not near:
        return np.zeros((len(batch), config.minhash.buckets), np.uint64)
    return minhash.signatures(batch, config.minhash)


def drops_units(config: CurateConfig) -> bool:
    """True where paragraphs or lines are deduplicated, so that texts change after pass A."""
    return config.exact is not None and (config.exact.paragraph or config.exact.line)
