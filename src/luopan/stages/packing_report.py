"""What packing does to a fine-tuning: how full the rows are, how much of them is learnt, what it costs in steps.

Packing fills rows with several conversations, so an epoch has fewer updates of more tokens each. On a small set that
means a model that has hardly been updated: the Smol Training Playbook lost ten points of IFEval by it at a batch of
128, with averages falling above 32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from luopan.report.data import Cell, Note, Table
from luopan.tokens.example import Example
from luopan.train.config import TrainConfig
from luopan.train.schedule import first_row

CROWDED = 32  # conversations an update; the playbook's averages fall above it
FEW_UPDATES = 1000
FEW_STEPS = 10


@dataclass(frozen=True)
class Packing:
    """Figures of one training's rows."""

    conversations: int
    rows: int
    tokens: int
    trained: int
    positions: int
    steps: int
    epochs: float
    tokens_per_step: float
    conversations_per_step: float
    steps_unpacked: int

    @property
    def fill(self) -> float:
        """Positions that hold a token."""
        return self.tokens / self.positions

    @property
    def trained_share(self) -> float:
        """Tokens that are learnt."""
        return self.trained / self.tokens


def measure_packing(rows: Sequence[Sequence[Example]], config: TrainConfig, capacity: int | None) -> Packing:
    """The figures of `rows` of `capacity` positions (None: as wide as the longest of a batch, which is not counted)."""
    documents = [doc for row in rows for doc in row]
    tokens = sum(len(doc) for doc in documents)
    read = first_row(config, config.max_steps)
    epochs = read / len(rows)
    each = config.rows_per_step
    return Packing(
        conversations=len(documents),
        rows=len(rows),
        tokens=tokens,
        trained=sum(doc.num_trained for doc in documents),
        positions=len(rows) * capacity if capacity else tokens,
        steps=config.max_steps,
        epochs=epochs,
        tokens_per_step=epochs * tokens / config.max_steps,
        conversations_per_step=epochs * len(documents) / config.max_steps,
        steps_unpacked=max(1, round(epochs * len(documents) / each)),
    )


def packing_table(found: Packing, capacity: int | None) -> Table:
    """The figures, a line each."""
    lines: list[list[Cell]] = [
        ["conversations", f"{found.conversations:,}"],
        ["rows", f"{found.rows:,}" + (f" of {capacity:,} positions" if capacity else ", as long as they are")],
        ["positions that hold a token", f"{found.fill:.1%}" if capacity else "all but those that level a batch"],
        ["tokens that are learnt", f"{found.trained_share:.1%}"],
        ["tokens a step", f"{found.tokens_per_step:,.0f}"],
        ["conversations a step", f"{found.conversations_per_step:,.1f}"],
        ["steps", f"{found.steps:,} ({found.epochs:.2f} epochs)"],
        ["steps without packing, at the same batch size", f"{found.steps_unpacked:,}"],
    ]
    return Table(title="Rows and steps", columns=["", "figure"], rows=lines)


def packing_notes(found: Packing) -> list[Note]:
    """A warning where packing leaves few updates of many conversations each."""
    lost = found.steps_unpacked - found.steps
    if lost <= 0 or found.conversations_per_step <= CROWDED or found.steps >= FEW_UPDATES:
        return []
    return [
        Note(
            level="warning",
            text=f"Packing makes {found.steps:,} updates of {found.conversations_per_step:.0f} conversations each out "
            f"of {found.steps_unpacked:,}. On small sets that cost the Smol Training Playbook ten points of IFEval (at "
            f"128 a batch; averages fell above {CROWDED}). Lower per_device_train_batch_size or max_length, train more "
            "epochs, or set packing: false.",
        )
    ]


def steps_note(count: int, unit: str, rows: int, config: TrainConfig) -> Note:
    """How many pairs or answers an update takes: a step is made of packed rows, each of which holds several."""
    each = first_row(config, config.max_steps) / rows * count / config.max_steps
    text = f"{config.max_steps:,} steps of about {each:,.0f} {unit}: {count:,} {unit} in {rows:,} packed rows."
    if config.max_steps >= FEW_STEPS:
        return Note(text=text)
    return Note(
        level="warning",
        text=f"{text} That is next to no training: lower per_device_train_batch_size (it counts rows) or train longer.",
    )
