"""Conversations of the user's that are held out: which they are; the loss on them before, during and after training.

The training loss falls whatever is learnt; that on conversations it has not seen tells learning from learning by heart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from luopan.model.decoder import Decoder
from luopan.report.data import Figure, Note
from luopan.stages.common import Chat
from luopan.stages.packed import tokens_of
from luopan.tokens.batch import collate
from luopan.tokens.example import Example
from luopan.tokens.packing import pack
from luopan.train.config import TrainConfig
from luopan.train.device import autocast
from luopan.train.losses import causal_lm_loss
from luopan.train.result import Hook
from luopan.train.tracking import read_metrics

MOST = 0.2  # of the prompts
ROUNDS = 20  # measurements in a training
WORSE = 1.01  # over the lowest loss, from which it is said that training went on too long
ALL = ""  # the key of the loss over all sources


def held_prompts(prompts: Sequence[str], wanted: int) -> set[str]:
    """Prompts with at most `wanted` rows and a fifth of all rows; the rarest where all have more. `prompts`: one a row.

    Chosen by their hashes, which they are, so that what else a set holds hardly changes the choice. None where there is
    only one prompt.
    """
    counts = Counter(prompts)
    if len(counts) < 2:
        return set()
    room = min(wanted, round(MOST * len(prompts)))
    held: set[str] = set()
    for prompt in sorted(counts):
        if counts[prompt] <= room:
            held.add(prompt)
            room -= counts[prompt]
    return held or {min(counts, key=lambda prompt: (counts[prompt], prompt))}


class HeldOut:
    """Held-out conversations, packed, and the loss on them."""

    def __init__(
        self, examples: Sequence[Example], sources: Sequence[str], length: int, chat: Chat, config: TrainConfig
    ) -> None:
        self.chat, self.config = chat, config
        by_source: dict[str, list[Example]] = {}
        for example, source in zip(examples, sources, strict=True):
            by_source.setdefault(source, []).append(example)
        self.rows = {source: pack(found, length) for source, found in by_source.items()}

    def loss(self, model: Decoder) -> dict[str, float]:
        """Nats on a trained token by source, and `ALL` over all of them."""
        sums = {source: self._sum(model, rows) for source, rows in self.rows.items()}
        total, tokens = (sum(part) for part in zip(*sums.values(), strict=True))
        losses = {source: nats / number for source, (nats, number) in sums.items()}
        return {ALL: total / tokens, **losses}

    def hook(self, max_steps: int) -> Hook:
        """Measures `ROUNDS` times in a training at most, at its end among them."""
        every = -(-max_steps // ROUNDS)

        def measure(step: int, model: Decoder) -> Mapping[str, float] | None:
            return {"held_out_loss": self.loss(model)[ALL]} if step % every == 0 or step == max_steps else None

        return measure

    def _sum(self, model: Decoder, rows: Sequence[Sequence[Example]]) -> tuple[float, float]:
        device, size = self.chat.device, self.config.per_device_train_batch_size
        training = model.training
        model.eval()
        nats = tokens = 0.0
        try:
            with torch.no_grad(), autocast(device, self.config.precision):
                for start in range(0, len(rows), size):
                    some = rows[start : start + size]
                    batch = collate(some, max(map(tokens_of, some)), self.chat.pad_id).to(device)
                    term = causal_lm_loss(model, batch)
                    # A mixture of experts adds its router's losses, which say nothing of the text.
                    text = term.metrics.get("cross_entropy", (term.total, term.weight))[0]
                    nats, tokens = nats + float(text), tokens + float(term.weight)
        finally:
            model.train(training)
        return nats, tokens


def held_out_figures(before: Mapping[str, float], after: Mapping[str, float]) -> list[Figure]:
    """The loss over all held-out conversations, and by source where there are several."""
    names = [ALL, *(name for name in after if name != ALL)] if len(after) > 2 else [ALL]
    return [
        Figure(
            name=f"held-out loss, {name}" if name else "held-out loss",
            before=before[name],
            after=after[name],
            unit="nats/token",
            higher_is_better=False,
            headline=name == ALL,
            help="" if name else "conversations that are not trained on",
        )
        for name in names
    ]


def held_out_notes(folder: Path, count: int, averaged: bool = False) -> list[Note]:
    """How many are held out; and where the loss on them was lowest, if training made it worse from there.

    `averaged`: what is handed on is the average of the weights, and was not measured on the way.
    """
    notes = [Note(text=f"{count:,} conversations are held out: the loss on them is in the report.")]
    lines = read_metrics(folder)
    seen = [(float(line["held_out_loss"]), int(line["step"])) for line in lines if "held_out_loss" in line]
    if not seen:
        return notes
    (best, step), (last, end) = min(seen), seen[-1]
    if last > best * WORSE:
        text = (
            f"The loss on held-out conversations was lowest at step {step} ({best:.3f}) and is {last:.3f} at step "
            f"{end}: from there the training set was learnt by heart. Train for fewer epochs, or with a lower learning "
            "rate." + (" (The weights in training; their average, which is handed on, may be better.)" * averaged)
        )
        notes.append(Note(text=text, level="warning"))
    return notes
