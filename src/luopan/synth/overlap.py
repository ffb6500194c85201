"""Which earlier text is most like a new one, by the n-grams they share.

Words are those of deduplication (`luopan.corpus.dedup.hashed`: no case, no punctuation; single characters in scripts
without spaces). Memory: some 100 bytes for each different n-gram of the texts; time: the earlier texts that share one.
"""

from __future__ import annotations

from collections import Counter, defaultdict

from luopan.corpus.dedup.hashed import hashed_words, joined


class Overlap:
    """Texts to differ from. `most`: the overlap at which two are the same."""

    def __init__(self, ngram: int, most: float) -> None:
        self.ngram, self.most = ngram, most
        self.texts: list[str] = []
        self.sizes: list[int] = []
        self.holders: dict[int, list[int]] = defaultdict(list)

    def add(self, text: str) -> None:
        """From now on one of the earlier texts."""
        grams = self.grams(text)
        for gram in grams:
            self.holders[gram].append(len(self.texts))
        self.texts.append(text)
        self.sizes.append(len(grams))

    def nearest(self, text: str) -> tuple[float, str | None]:
        """(overlap, text) of the earlier text that is most alike, the first among equals; (0, None) without any."""
        grams = self.grams(text)
        shared = Counter(place for gram in grams for place in self.holders.get(gram, ()))
        if not shared:
            return 0.0, None
        share = {place: 2 * count / (len(grams) + self.sizes[place]) for place, count in shared.items()}
        best = max(sorted(share), key=lambda place: share[place])
        return share[best], self.texts[best]

    def grams(self, text: str) -> set[int]:
        """The n-grams of a text; all its words as one where they are fewer."""
        words = hashed_words([text])
        if 0 < len(words.hashes) < self.ngram:
            return {int(joined(words.hashes))}
        return {int(gram) for gram in words.ngrams(self.ngram)}
