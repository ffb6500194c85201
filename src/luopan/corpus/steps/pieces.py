"""Cut: documents that are too long become several; those without a word are left out."""

from __future__ import annotations

from luopan.corpus.batch import DocumentBatch, Outcome, rejection
from luopan.corpus.document import Document
from luopan.corpus.normalise import cut


def pieces(batch: DocumentBatch, max_document_bytes: int | None) -> Outcome:
    """Pieces of at most `max_document_bytes` bytes, named `id/0001`, …; a document without visible text is rejected."""
    empty = [not text or text.isspace() for text in batch.texts]
    rejected = [rejection(batch, row, "pieces", "empty") for row, is_empty in enumerate(empty) if is_empty]
    batch = batch.keep([not is_empty for is_empty in empty])
    if max_document_bytes is None:
        return Outcome(batch, rejected)
    parts = [cut(text, max_document_bytes) for text in batch.texts]
    if all(len(part) == 1 for part in parts):
        return Outcome(batch, rejected)
    documents: list[Document] = []
    for document, texts in zip(batch.documents(), parts):
        if len(texts) == 1:
            documents.append(document)
            continue
        for number, text in enumerate(texts, 1):
            meta = {**document.meta, "part": number}
            documents.append(Document(f"{document.id}/{number:04d}", text, document.source, meta))
    return Outcome(DocumentBatch.of(documents), rejected)
