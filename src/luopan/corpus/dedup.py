"""Exact deduplication: of documents that are equal but for case and white space, the first one stays.

Memory is one 16-byte digest and one id per document that stays, about 200 bytes. Near duplicates are not found.
"""

from __future__ import annotations

import hashlib


def fingerprint_text(text: str) -> bytes:
    """16 bytes, equal for texts that differ in case and white space only. Punctuation counts: "3-4" is not "3+4"."""
    return hashlib.blake2b(" ".join(text.casefold().split()).encode("utf-8"), digest_size=16).digest()


class ExactDeduplicator:
    """Remembers every document that stayed."""

    def __init__(self) -> None:
        self.first: dict[bytes, str] = {}

    def twin(self, id: str, text: str) -> str | None:
        """The id of the document that has this text already, or None; then this one is remembered."""
        digest = fingerprint_text(text)
        if digest in self.first:
            return self.first[digest]
        self.first[digest] = id
        return None
