"""A sample of several sources, by weight, for a tokenizer to learn from.

Documents are taken from all over a source, not from its beginning: as many bytes as are due at that place, give or take
half a document that the seed decides. So a source sorted by subject is still seen whole. A source smaller than its
share is read again. Nothing is held in memory.

Limit: documents are taken whole, so a source of few long ones overshoots its share by up to one of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping

from luopan.errors import RecipeError


def plan_sample(sizes: Mapping[str, int], weights: Mapping[str, float] | None, max_bytes: int) -> dict[str, float]:
    """Bytes to take of each source (`sizes`: what each has), at most `max_bytes` and no more than there is in all.

    By size without weights. RecipeError where the weights name other sources than there are.
    """
    if weights is None:
        share = min(1.0, max_bytes / max(1, sum(sizes.values())))
        return {name: size * share for name, size in sizes.items()}
    if unknown := sorted(set(weights) - set(sizes)):
        raise RecipeError(
            f"weights name {unknown[0]!r}, which is no source of the corpus", hint=f"It has {', '.join(sizes)}."
        )
    if unnamed := [name for name in sizes if name not in weights]:
        raise RecipeError(
            f"weights do not say what to do with {', '.join(unnamed)}", hint="Give it a weight; 0 leaves it out."
        )
    total = min(max_bytes, sum(size for name, size in sizes.items() if weights[name] > 0))
    whole = sum(weights.values())
    return {name: total * weights[name] / whole for name in sizes if weights[name] > 0}


def draw_sample(
    read: Callable[[str], Iterator[str]], sizes: Mapping[str, int], wanted: Mapping[str, float], seed: int
) -> Iterator[str]:
    """The texts, source by source; `read(name)` gives all texts of one, in the same order each time.

    Of every source that is wanted at all there is at least one document.
    """
    for name, amount in wanted.items():
        passes, rest = divmod(amount / max(1, sizes[name]), 1)
        if rest > 1 - 1e-9:  # 0.999…, a whole pass
            passes, rest = passes + 1, 0.0
        for _ in range(int(passes)):
            yield from read(name)
        if rest:
            yield from _spread(read(name), rest, f"{seed} {name}", at_least_one=not passes)


def _spread(texts: Iterator[str], share: float, key: str, at_least_one: bool) -> Iterator[str]:
    """About `share` of the bytes of `texts`, evenly from all over them."""
    due, taken, first = 0.0, 0, None
    for number, text in enumerate(texts):
        size = len(text.encode("utf-8", "surrogatepass"))
        due += share * size
        first = text if number == 0 else first
        chance = int.from_bytes(hashlib.blake2b(f"{key} {number}".encode(), digest_size=4).digest()) / 2**32
        if taken + size * chance < due:
            taken += size
            yield text
    if at_least_one and not taken and first is not None:
        yield first
