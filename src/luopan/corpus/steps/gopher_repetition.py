"""The step `gopher_repetition`: documents that say the same again and again (Rae et al. 2021, arXiv:2112.11446, A1)."""

from __future__ import annotations

from luopan.corpus.batch import DocumentBatch, Outcome, judge
from luopan.corpus.filter_config import GopherRepetitionConfig
from luopan.corpus.ngram_bounds import rules_for
from luopan.corpus.verdict import first


def gopher_repetition(batch: DocumentBatch, config: GopherRepetitionConfig) -> Outcome:
    """Rejects a document by the first rule of `repetition.py` that it breaks."""
    readings = [reading.english for reading in batch.readings] if config.english_words else batch.read()
    rules = rules_for(readings, config)
    return judge(batch, "gopher_repetition", lambda row: first(rules[row], readings[row], config))
