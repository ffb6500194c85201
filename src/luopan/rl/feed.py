"""The on-policy feed: what a policy did under its current weights becomes the batches of the next updates.

A *generation* is what is sampled at once (`Collector.collect`); `UpdatePlan` says into how many updates it is cut and
how often it is gone through. Each update reads its share of it in an order that is a function of (seed, generation,
pass). What a generation learns from is written to a buffer file before the first of its updates, so that a run that is
killed in the middle of one goes on with the same numbers, to the bit.

The same feed serves every algorithm: GRPO, PPO, distillation on the student's own answers and online preferences differ
in what their collectors make.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np

from luopan.artifacts import atomic_write_json
from luopan.rl.buffer import Unit, drop_buffers, read_buffer, write_buffer
from luopan.rl.packing import lay_out, pack_units
from luopan.tokens.batch import Batch, Doc
from luopan.train.checkpoint import steps_saved
from luopan.train.losses import STALE
from luopan.train.ranks import from_leader, rank, share


@dataclass(frozen=True)
class Collected:
    """What a generation learns from, the same on every rank.

    `units`: documents that must be in one micro-batch (an answer, or the answers of a pair). `figures` are logged with
    the generation's updates. `carry` is handed to the next generation's `collect` (a coefficient that adapts).
    """

    units: list[Unit]
    figures: dict[str, float]
    carry: dict[str, float] = field(default_factory=dict)


class Collector(Protocol):
    """Samples and grades; one per algorithm."""

    def collect(self, generation: int, step: int, carry: Mapping[str, float]) -> Collected:
        """What happened under the current weights, a function of (seed, generation, weights, carry); `step` is the
        first update of the generation, by which its log is named."""


@dataclass(frozen=True)
class UpdatePlan:
    """How a generation is cut into updates. `num_iterations`: passes over it; `steps_per_generation`: updates in each;
    `micro_batches`: per update; `max_length`: tokens per packed row; `share_prompts`, `one_row`: see `rl.packing`."""

    max_length: int
    pad_id: int
    seed: int
    num_iterations: int = 1
    steps_per_generation: int = 1
    micro_batches: int = 1
    share_prompts: bool = False
    one_row: bool = False

    @property
    def updates(self) -> int:
        """Of one generation."""
        return self.num_iterations * self.steps_per_generation


@dataclass
class OnPolicyFeed:
    """A `train.loop.Feed` over what a collector makes; `folder` holds logs, figures and buffers."""

    collector: Collector
    plan: UpdatePlan
    folder: Path
    reads_weights: ClassVar[bool] = True
    _held: tuple[int, Collected] | None = None
    _nothing: bool = False  # for the update that was read last, though there is for others of its generation

    def micro_batches(self, step: int) -> Sequence[Batch]:
        """The batches of an update; the first of a generation samples it."""
        generation, place = divmod(step, self.plan.updates)
        collected = self._collected(generation, step, fresh=place == 0)
        units = self._part(collected.units, generation, place)
        self._nothing = not units
        units = units or collected.units[:1]  # an idle update has a loss, which changes nothing
        return self._pack(units if place == 0 else [[marked_stale(doc) for doc in unit] for unit in units])

    @property
    def units(self) -> Sequence[Unit]:
        """Of the generation that was read last, all of them."""
        return self._held[1].units if self._held else []

    @property
    def idle(self) -> bool:
        """Whether the update that was read last has nothing to learn from, so that it must change nothing."""
        return self._nothing or bool(self.figures.get("idle"))

    @property
    def figures(self) -> dict[str, float]:
        """Of the generation that was read last."""
        return self._held[1].figures if self._held else {}

    def figures_file(self, step: int) -> Path:
        """Where the figures of an update's generation are kept: a resumed run logs its checkpoint's step again."""
        return self.folder / f"figures-{step // self.plan.updates:06d}.json"

    def _collected(self, generation: int, step: int, *, fresh: bool) -> Collected:
        if self._held is not None and self._held[0] == generation and not fresh:
            return self._held[1]
        known = None if fresh else self._read(generation)
        if known is None:
            before = self._read(generation - 1) if generation else None
            known = self.collector.collect(generation, step, before.carry if before else {})
            self._write(generation, step, known)
        self._held = (generation, known)
        return known

    def _read(self, generation: int) -> Collected | None:
        if self._held is not None and self._held[0] == generation:
            return self._held[1]
        found = from_leader(read_buffer(self.folder, generation) if rank() == 0 else None)
        return None if found is None else Collected(*found)

    def _write(self, generation: int, step: int, collected: Collected) -> None:
        if rank() != 0:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.plan.updates > 1 or collected.carry:  # else no update ever asks for it again
            write_buffer(self.folder, generation, collected.units, collected.figures, collected.carry)
            saved = steps_saved(self.folder.parent / "checkpoints")
            # A run may go back to its oldest checkpoint, and the generation before that one is asked for its carry.
            drop_buffers(self.folder, before=(saved[0] // self.plan.updates if saved else 0) - 1)
        atomic_write_json(self.figures_file(step), collected.figures)

    def _part(self, units: Sequence[Unit], generation: int, place: int) -> list[Unit]:
        """The units of one update: a share of a shuffled pass."""
        parts = self.plan.steps_per_generation
        if parts == 1:
            return list(units)
        sweep, part = divmod(place, parts)
        order = np.random.default_rng([self.plan.seed, generation, sweep, 1]).permutation(len(units))
        return [units[int(i)] for i in np.array_split(order, parts)[part]]

    def _pack(self, units: Sequence[Unit]) -> list[Batch]:
        """Rows of whole units, dealt out over ranks and micro-batches."""
        shared = self.plan.share_prompts
        rows = pack_units(units, self.plan.max_length, share_prompts=shared)
        per = -(-len(rows) // self.plan.micro_batches)
        mine = share(rows)
        parts = [mine[i : i + per] for i in range(0, len(mine), max(1, per))]
        return [lay_out(part, self.plan.pad_id, share_prompts=shared, one_row=self.plan.one_row) for part in parts]


def marked_stale(doc: Doc) -> Doc:
    """A document of a later update of its generation: the weights are no longer those that sampled it."""
    return replace(doc, fields={**doc.fields, STALE: True})
