"""The data order, whatever the sources, mixtures, stages, batch sizes, numbers of processes and places of a resume."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from luopan.tokens.order import DataOrder, MixtureStage
from luopan.train.config import TrainConfig
from luopan.train.shares import micro_batch_rows, step_rows

FEW = settings(max_examples=60, deadline=None, derandomize=True)
NAMES = ("web", "code", "maths", "books")


@st.composite
def orders(draw: Any) -> tuple[DataOrder, list[MixtureStage]]:
    """A data order over one to four sources in one to four stages, each of which reads some of them."""
    names = NAMES[: draw(st.integers(1, 4))]
    lengths = {name: draw(st.lists(st.integers(1, 40), min_size=1, max_size=6)) for name in names}
    count = draw(st.integers(1, 4))
    weight = st.floats(1e-3, 1e3)
    stages = []
    for number in range(count):
        some = names if count == 1 else draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
        rows = draw(st.integers(1, 60)) if number < count - 1 else None
        stages.append(MixtureStage({name: draw(weight) for name in some}, rows))
    return DataOrder(lengths, stages, draw(st.integers(2, 20)), seed=draw(st.integers(0, 2**31))), stages


@FEW
@given(orders(), st.integers(0, 250))
def test_each_row_has_one_source_and_counts_add_up(some: tuple[DataOrder, list[MixtureStage]], last: int) -> None:
    order, stages = some
    seen: Counter[str] = Counter()
    borders = [0]
    for stage in stages[:-1]:
        borders.append(borders[-1] + (stage.rows or 0))
    for n in range(last):
        name, before = order.locate(n)
        stage = stages[max(i for i, start in enumerate(borders) if start <= n)]
        assert name in stage.weights
        assert before == seen[name]
        seen[name] += 1
    consumed = order.consumed(last)
    assert {name: part.rows for name, part in consumed.items() if part.rows} == seen
    assert sum(part.rows for part in consumed.values()) == last


@FEW
@given(orders(), st.integers(1, 120))
def test_every_stage_keeps_its_shares(some: tuple[DataOrder, list[MixtureStage]], rows: int) -> None:
    order, stages = some
    first = 0
    for stage in stages:
        length = stage.rows or rows
        before, after = order.consumed(first), order.consumed(first + length)
        for name, part in after.items():
            wanted = length * stage.weights.get(name, 0.0) / sum(stage.weights.values())
            # Every source rounds once, and takes what the rounding of those before it leaves.
            assert abs(part.rows - before[name].rows - wanted) <= 0.5 * len(stage.weights) + 1e-6
        first += length


@FEW
@given(orders(), st.integers(0, 150))
def test_what_a_source_gives_does_not_depend_on_the_mixture(
    some: tuple[DataOrder, list[MixtureStage]], last: int
) -> None:
    """The k-th row of a source is the same alone and in any mixture, before and after a border between stages."""
    order, _ = some
    alone = {
        name: DataOrder({name: order._lengths[name]}, None, order.sequence_length, order.seed)
        for name in order._lengths
    }
    for n in range(last):
        plan = order.row(n)
        name, index = order.locate(n)
        assert plan.source == name and sum(map(len, plan.pieces)) == order.sequence_length
        assert alone[name].row(index).pieces == plan.pieces


@FEW
@given(
    orders(),
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(1, 5),
    st.integers(0, 4),
    st.none() | st.integers(1, 5),
)
def test_ranks_batches_and_resumes_read_the_same_rows(
    some: tuple[DataOrder, list[MixtureStage]],
    micro: int,
    accumulation: int,
    world: int,
    resume: int,
    warmup: int | None,
) -> None:
    order, stages = some
    growing = warmup if accumulation > 1 else None
    config = TrainConfig(
        learning_rate=1e-3,
        max_steps=6,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulation,
        batch_warmup_steps=growing,
    )
    lengths = {name: list(values) for name, values in order._lengths.items()}
    next_row = 0
    for step in range(6):
        whole = list(step_rows(config, step))
        assert whole == list(range(next_row, next_row + len(whole)))  # nothing twice, nothing left out
        next_row += len(whole)
        if len(whole) >= world:
            parts = [micro_batch_rows(config, step, rank, world) for rank in range(world)]
            assert [n for part in parts for numbers in part for n in numbers] == whole
    # A process that begins at a later step makes its own order and has seen nothing of what came before.
    fresh = DataOrder(lengths, stages, order.sequence_length, order.seed)
    rows = step_rows(config, resume)
    assert [fresh.row(n) for n in rows] == [order.row(n) for n in rows]
