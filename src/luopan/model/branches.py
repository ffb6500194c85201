"""Shared prompts: documents that continue the first tokens of an earlier document of their row.

The answers of a preference pair, or the samples of a group, have one prompt. The first of them stands in the row whole
(the trunk); a further one (a branch) holds its own tokens only and continues the trunk's first `prefix` tokens: its
positions go on from there and its tokens see those of the trunk besides their own. What the model makes of it, and the
gradients, are those of the whole document in a place of its own, and the prompt is computed once.

Limit: experts' loads count a shared token once, so the balance loss of a mixture of experts is not quite that of
separate documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Branches:
    """The K branches of a batch [B, T]; documents are counted over the batch, padding runs too."""

    trunks: tuple[int, ...]  # of each document of the batch, the one it continues; itself where it is no branch
    prefixes: tuple[int, ...]  # of each document of the batch, how many tokens of its trunk it continues; 0: no branch
    trunk_index: Tensor  # [B, T] int64, the trunk of each token's document
    prefix: Tensor  # [B, T] int64, how many of its tokens each token sees
    firsts: Tensor  # [K] int64, where branches begin, counted over the flattened batch
    sources: Tensor  # [K] int64, the token before it: the last of the shared ones

    def to(self, device: torch.device) -> Branches:
        """With its tensors on `device`."""
        tensors = (x.to(device) for x in (self.trunk_index, self.prefix, self.firsts, self.sources))
        return Branches(self.trunks, self.prefixes, *tensors)


def find_branches(prefixes: Sequence[int], starts: Sequence[int], lengths: Sequence[int], row: int) -> Branches | None:
    """`prefixes` of the documents that begin at `starts` (flattened) in rows of `row` tokens; None without a branch."""
    assert len(prefixes) == len(starts), f"{len(prefixes)} prefixes for {len(starts)} documents"
    if not any(prefixes):
        return None
    trunks: list[int] = []
    latest = -1
    for document, (prefix, start) in enumerate(zip(prefixes, starts, strict=True)):
        if prefix == 0:
            latest = document
            trunks.append(document)
            continue
        assert latest >= 0 and starts[latest] // row == start // row, "a branch needs a trunk before it in its row"
        assert 0 < prefix <= lengths[latest], f"a branch of {prefix} tokens of a trunk of {lengths[latest]}"
        trunks.append(latest)
    branches = [document for document, prefix in enumerate(prefixes) if prefix]
    length = torch.tensor(lengths)
    return Branches(
        trunks=tuple(trunks),
        prefixes=tuple(prefixes),
        trunk_index=torch.tensor(trunks).repeat_interleave(length).view(-1, row),
        prefix=torch.tensor(prefixes).repeat_interleave(length).view(-1, row),
        firsts=torch.tensor([starts[document] for document in branches]),
        sources=torch.tensor([starts[trunks[document]] + prefixes[document] - 1 for document in branches]),
    )
