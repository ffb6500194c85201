"""Before a training on packed rows: what the model makes of a document in a row is what it makes of it alone.

Attention that lets documents of a row see each other trains without complaint and worse (a back-end that ignores the
borders, positions that run on). So one row is run both ways, with the back-end, device and precision of the training.
A leak changes states by their own size, rounding by a hundredth of it at most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from luopan.errors import TrainingError
from luopan.model.decoder import Decoder
from luopan.tokens.batch import collate
from luopan.tokens.example import Example
from luopan.train.config import TrainConfig
from luopan.train.device import autocast

LEAK = 0.1  # of the states' own size; bf16 rounding comes to 0.01 to 0.02
DOCUMENTS = 3


def check_packed(
    model: Decoder, rows: Sequence[Sequence[Example]], pad_id: int, config: TrainConfig, device: torch.device
) -> float | None:
    """The largest relative difference over a few documents; None where no row holds several.

    TrainingError where documents of one row see each other, or the weights are not finite.
    """
    several = [row for row in rows if len(row) > 1]
    if not several:
        return None
    row = min(several, key=lambda docs: sum(map(len, docs)))
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), autocast(device, config.precision):
            packed = _states(model, list(row), pad_id, device)
            differences = []
            for place in range(len(row))[-DOCUMENTS:]:  # the last ones have most to see that they should not
                alone = _states(model, [whole(row, place)], pad_id, device)[0][row[place].prefix :]
                differences.append(float((packed[place] - alone).norm() / alone.norm()))
    finally:
        model.train(training)
    if not all(map(math.isfinite, differences)):
        raise TrainingError(
            "the model's states are not finite, before any training", hint="Its weights are damaged: make it again."
        )
    worst = max(differences)
    if worst >= LEAK:
        raise TrainingError(
            f"documents packed into one row see each other: states differ by {worst:.0%} from those of the same "
            "document alone",
            hint=f"Attention on {device.type} does not keep to the borders of documents. Set packing: false where the "
            "stage has that key, and please report this with the output of luopan doctor.",
        )
    return worst


def whole(row: Sequence[Example], place: int) -> Example:
    """Document number `place` of a row with the prompt that it shares with an earlier one."""
    own = row[place]
    if not own.prefix:
        return Example(own.input_ids, own.labels)
    trunk = next(doc for doc in reversed(row[:place]) if not doc.prefix)
    ids = [*trunk.input_ids[: own.prefix], *own.input_ids]
    return Example(ids, ids)


def _states(model: Decoder, docs: list[Example], pad_id: int, device: torch.device) -> list[Tensor]:
    """The final states of each document's own tokens [n, C], laid out as the only row of a batch."""
    bare = [Example(doc.input_ids, doc.labels, prefix=doc.prefix) for doc in docs]
    batch = collate([bare], sum(map(len, bare)), pad_id).to(device)
    hidden = model.hidden(batch.input_ids, batch.position_ids, batch.layout)[0].float()
    return list(hidden.split([len(doc) for doc in bare]))
