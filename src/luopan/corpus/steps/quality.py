"""Scores documents with a classifier that the user trained on good and bad examples, and drops the worst if asked to.

The score, a probability of being good, goes into meta `quality`; `sample` and mixtures can weigh by it. Which documents
pass depends on the document and the model alone: `keep_fraction` is turned into a score with the quantiles that
training measured on held-out bad examples, not with the documents that happen to be in the batch.
"""

from __future__ import annotations

from luopan.corpus.batch import DocumentBatch, Outcome, judge
from luopan.corpus.classifier import LinearModel, load_model, word_hashes
from luopan.corpus.safety_config import QualityConfig
from luopan.corpus.verdict import Finding, below
from luopan.errors import DataError


def quality(batch: DocumentBatch, config: QualityConfig) -> Outcome:
    """`batch` with meta `quality` (0 to 1), without the documents below the limit. DataError for an unusable model."""
    model = load_model(config.model)
    least = limit(model, config)
    hashes = word_hashes([batch.reading(row) for row in range(len(batch))])
    scores = [float(score) for score in model.scores(hashes)]
    scored = batch.with_meta([{"quality": score} for score in scores])
    rule = "min_score" if config.keep_fraction is None else "keep_fraction"

    def verdict(row: int) -> Finding | None:
        return below(rule, scores[row], least)

    return judge(scored, "quality", verdict)


def limit(model: LinearModel, config: QualityConfig) -> float | None:
    """The score that a document must reach, or None."""
    if config.keep_fraction is None:
        return config.min_score
    quantiles = model.facts.get("bad_percentiles")
    if not quantiles:
        raise DataError(
            "this model holds no percentiles, so keep_fraction cannot be turned into a score",
            where=config.model,
            hint="Give min_score instead, or train the model again.",
        )
    place = (1 - config.keep_fraction) * (len(quantiles) - 1)
    low = min(int(place), len(quantiles) - 2)
    return float(round(quantiles[low] + (place - low) * (quantiles[low + 1] - quantiles[low]), 4))
