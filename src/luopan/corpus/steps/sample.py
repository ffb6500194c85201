"""A random part of the documents. Who stays is a function of a document's id and the seed alone."""

from __future__ import annotations

import hashlib

from luopan.corpus.batch import DocumentBatch, Outcome, rejection
from luopan.corpus.dedup_config import SampleConfig


def sample(batch: DocumentBatch, config: SampleConfig) -> Outcome:
    """Keeps documents whose hash, as a number from 0 to 1, is below `fraction`; a larger fraction keeps these and more.

    The text of the others is not kept again: there is nothing wrong with it, and it can be had from the source.
    """
    places = [place_of(id, config.seed) for id in batch.ids]
    rejected = [
        rejection(batch, row, "sample", "fraction", value=place, threshold=config.fraction, keep_text=False)
        for row, place in enumerate(places)
        if place >= config.fraction
    ]
    return Outcome(batch.keep([place < config.fraction for place in places]), rejected)


def place_of(id: str, seed: int) -> float:
    """Where an id falls between 0 and 1."""
    digest = hashlib.blake2b(f"sample {seed} {id}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
