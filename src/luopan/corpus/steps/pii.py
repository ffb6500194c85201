"""Replaces personal data and secrets by placeholders, and counts them.

What is found, and what is not, is in `personal.py`. Nothing is dropped: a document keeps its place and loses the
address. The counts stand in meta `pii` (by kind) and in the step's counts; the values themselves are written nowhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from luopan.corpus.batch import DocumentBatch, Outcome
from luopan.corpus.personal import find
from luopan.corpus.personal_hints import EVERYTHING, Hint, hints
from luopan.corpus.safety_config import PiiConfig, PiiKind


def pii(batch: DocumentBatch, config: PiiConfig) -> Outcome:
    """`batch` with placeholders instead of what was found; counts by kind, and `documents` that had any."""
    signs = {kind: config.placeholders.get(kind, f"<{kind}>") for kind in config.kinds}
    texts, metas = [], []
    total: Counter[str] = Counter()
    for text, hint in zip(batch.texts, hints(batch.texts)):
        replaced, counts = without_personal_data(text, signs, hint)
        texts.append(replaced)
        metas.append({"pii": dict(sorted(counts.items()))} if counts else {})
        if counts:
            total.update(counts)
    if not total:
        return Outcome(batch)
    total["documents"] = sum(map(bool, metas))
    return Outcome(batch.with_texts(texts).with_meta(metas), counts=dict(sorted(total.items())))


def without_personal_data(text: str, signs: Mapping[PiiKind, str], hint: Hint = EVERYTHING) -> tuple[str, Counter[str]]:
    """`text` with `signs[kind]` for each thing found, and how many of each kind there were."""
    spans = find(text, signs.keys(), hint)
    if not spans:
        return text, Counter()
    parts, end = [], 0
    for span in spans:
        parts += [text[end : span.start], signs[span.kind]]
        end = span.end
    return "".join([*parts, text[end:]]), Counter(span.kind for span in spans)
