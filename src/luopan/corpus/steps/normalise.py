"""The step `normalise`: regular text before anything looks at it; a document of which nothing is left is rejected."""

from __future__ import annotations

from luopan.corpus.batch import DocumentBatch, Outcome, rejection
from luopan.corpus.filter_config import NormaliseConfig
from luopan.corpus.normalise import normalise as normal_text


def normalise(batch: DocumentBatch, config: NormaliseConfig) -> Outcome:
    """The documents with regular text. Counts how many changed; rejects (`empty`) those without a visible character.

    DataError if a text needs ftfy and it is not installed.
    """
    texts = [normal_text(text, config) for text in batch.texts]
    changed = sum(new != old for new, old in zip(texts, batch.texts))
    visible = [bool(text) and not text.isspace() for text in texts]
    rejected = [
        rejection(batch, row, "normalise", "empty", value=0, threshold=1)
        for row, stays in enumerate(visible)
        if not stays
    ]
    return Outcome(batch.with_texts(texts).keep(visible), rejected, {"changed": changed} if changed else {})
