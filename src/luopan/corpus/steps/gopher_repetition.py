"""The step `gopher_repetition`: documents that say the same again and again (Rae et al. 2021, arXiv:2112.11446, A1)."""

from __future__ import annotations

from luopan.corpus.batch import DocumentBatch, Outcome, judge
from luopan.corpus.filter_config import GopherRepetitionConfig
from luopan.corpus.repetition import RULES
from luopan.corpus.verdict import first
from luopan.corpus.words import wording


def gopher_repetition(batch: DocumentBatch, config: GopherRepetitionConfig) -> Outcome:
    """Rejects a document by the first rule of `repetition.py` that it breaks."""
    return judge(batch, "gopher_repetition", lambda row: first(RULES, wording(batch.reading(row), config), config))
