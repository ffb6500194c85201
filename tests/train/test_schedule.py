"""Learning rates against values worked by hand and those of `transformers`; rows of a step against their sums."""

from __future__ import annotations

import math
import time

import pytest
import torch

from luopan.train.config import TrainConfig
from luopan.train.schedule import first_row, floor_sum, learning_rate_at, rows_at, same_course, steps_for_rows


def made(**keys) -> TrainConfig:
    return TrainConfig(**{"learning_rate": 1.0, **keys})


def rates(**keys) -> list[float]:
    config = made(**keys)
    return [learning_rate_at(config, step) for step in range(config.max_steps)]


def theirs(name: str, steps: int, **keys) -> list[float]:
    """The rates of a schedule of `transformers`, whose peak is 1."""
    import transformers

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = getattr(transformers, name)(optimizer, **keys)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_wsd_by_hand() -> None:
    found = rates(max_steps=10, lr_scheduler_type="wsd", warmup_steps=3, decay_ratio=0.3)
    assert found == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 0.75, 0.5, 0.25])
    floored = rates(max_steps=4, lr_scheduler_type="wsd", decay_ratio=0.75, min_lr_ratio=0.2)
    assert floored == pytest.approx([1, 0.8, 0.6, 0.4])


def test_shapes_of_the_decay_by_hand() -> None:
    keys = {"max_steps": 5, "decay_steps": 3}
    assert rates(**keys, decay_type="linear") == rates(**keys) == pytest.approx([1, 1, 0.75, 0.5, 0.25])
    roots = [1 - math.sqrt(0.25), 1 - math.sqrt(0.5), 1 - math.sqrt(0.75)]
    assert rates(**keys, decay_type="1-sqrt") == pytest.approx([1, 1, *roots])
    turns = [0.5 + 0.5 * math.cos(math.pi * done) for done in (0.25, 0.5, 0.75)]
    assert rates(**keys, decay_type="cosine") == pytest.approx([1, 1, *turns])
    floored = rates(**keys, decay_type="1-sqrt", min_lr_ratio=0.1)
    assert floored[2:] == pytest.approx([0.1 + 0.9 * root for root in roots])


@pytest.mark.parametrize("ours, name", [("linear", "linear"), ("1-sqrt", "1-sqrt"), ("cosine", "cosine")])
def test_wsd_decay_is_that_of_transformers(ours: str, name: str) -> None:
    """Theirs starts its decay one update earlier than it says: it spends that update at the peak."""
    expected = theirs(
        "get_wsd_schedule",
        50,
        num_warmup_steps=5,
        num_stable_steps=24,
        num_decay_steps=21,
        decay_type=name,
        min_lr_ratio=0.1,
    )
    found = rates(max_steps=50, warmup_steps=5, decay_steps=20, decay_type=ours, min_lr_ratio=0.1)
    assert found[5:] == pytest.approx(expected[5:])


def test_constant() -> None:
    assert rates(max_steps=4, lr_scheduler_type="constant", warmup_steps=1) == [0.5, 1, 1, 1]


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_decay_is_that_of_transformers(kind: str) -> None:
    expected = theirs(f"get_{kind}_schedule_with_warmup", 50, num_warmup_steps=5, num_training_steps=50)
    ours = rates(max_steps=50, lr_scheduler_type=kind, warmup_steps=5)
    assert ours[5:] == pytest.approx(expected[5:])
    assert all(rate > 0 for rate in ours)  # theirs wastes its first update on a rate of 0


def test_multistep_is_torchs() -> None:
    assert rates(max_steps=10, lr_scheduler_type="multistep", warmup_steps=1) == pytest.approx(
        [0.5, *[1] * 7, math.sqrt(0.1), 0.1]
    )
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [6, 12, 18], gamma=0.5)
    expected = []
    for _ in range(20):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    keys = {"lr_scheduler_type": "multistep", "lr_milestones": (0.3, 0.6, 0.9), "lr_gamma": 0.5}
    assert rates(max_steps=20, **keys) == pytest.approx(expected)


def test_annealing_rounds_by_hand() -> None:
    keys = {"annealing_rounds": 2, "annealing_gamma": 0.5, "warmup_steps": 1}
    one = [0.5, 1, 1, 2 / 3, 1 / 3]
    assert rates(max_steps=10, decay_steps=2, **keys) == pytest.approx([*one, *(rate / 2 for rate in one)])
    # Rounds of 3 and 4 updates: the longer one falls over the one more.
    assert rates(max_steps=7, lr_scheduler_type="linear", annealing_rounds=2) == pytest.approx(
        [1, 2 / 3, 1 / 3, 1, 3 / 4, 2 / 4, 1 / 4]
    )


@pytest.mark.parametrize("steps, rounds", [(7, 2), (10, 3), (11, 4), (29, 7)])
def test_every_round_starts_at_its_peak(steps: int, rounds: int) -> None:
    found = rates(max_steps=steps, lr_scheduler_type="cosine", annealing_rounds=rounds, annealing_gamma=0.9)
    starts = [r * steps // rounds for r in range(rounds)]
    assert [found[start] for start in starts] == pytest.approx([0.9**r for r in range(rounds)])
    inside = [found[step] < found[step - 1] for step in range(1, steps) if step not in starts]
    assert inside and all(inside)


def test_annealing_restarts_are_those_of_transformers() -> None:
    expected = theirs(
        "get_cosine_with_hard_restarts_schedule_with_warmup",
        40,
        num_warmup_steps=0,
        num_training_steps=40,
        num_cycles=4,
    )
    assert rates(max_steps=40, lr_scheduler_type="cosine", annealing_rounds=4) == pytest.approx(expected)


def test_a_decay_run_branches_from_a_stable_phase() -> None:
    long = made(max_steps=1000, warmup_steps=10, decay_ratio=0.2)
    branch = made(max_steps=320, warmup_steps=10, decay_steps=20)
    assert same_course(long, branch, 300)
    assert not same_course(long, branch, 301)
    assert learning_rate_at(branch, 299) == 1.0
    assert [learning_rate_at(branch, 300 + i) for i in range(20)] == pytest.approx(
        [1 - (i + 1) / 21 for i in range(20)]
    )
    assert not same_course(long, made(max_steps=1000, warmup_steps=10, gradient_accumulation_steps=2), 1)


GROWING = [
    {"gradient_accumulation_steps": 8, "batch_warmup_steps": 16},
    {"gradient_accumulation_steps": 8, "batch_warmup_steps": 5},
    {"gradient_accumulation_steps": 9, "batch_warmup_steps": 3, "batch_warmup_start": 8},
    {"gradient_accumulation_steps": 7, "batch_warmup_steps": 23, "batch_warmup_start": 12},
    {"gradient_accumulation_steps": 3, "batch_warmup_steps": 1},
    {"gradient_accumulation_steps": 3},
]


@pytest.mark.parametrize("keys", GROWING)
def test_rows_add_up(keys: dict) -> None:
    config = made(max_steps=40, per_device_train_batch_size=4, **keys)
    rows = [rows_at(config, step) for step in range(60)]
    assert [first_row(config, step) for step in range(60)] == [sum(rows[:step]) for step in range(60)]
    assert rows == sorted(rows) and rows[0] == config.first_rows and rows[-1] == config.rows_per_step
    assert all(count % 4 == 0 for count in rows)
    first_full = config.batch_warmup_steps or 0
    assert rows[first_full] == config.rows_per_step and all(count < rows[-1] for count in rows[:first_full])


def test_rows_by_hand() -> None:
    config = made(max_steps=9, per_device_train_batch_size=2, gradient_accumulation_steps=4, batch_warmup_steps=6)
    assert [rows_at(config, step) for step in range(8)] == [2, 2, 4, 4, 6, 6, 8, 8]
    assert [first_row(config, step) for step in range(8)] == [0, 2, 4, 8, 12, 18, 24, 32]
    assert [steps_for_rows(config, rows) for rows in (0, 1, 2, 3, 24, 25, 32, 40)] == [0, 1, 1, 2, 6, 7, 7, 8]


def test_a_late_step_costs_nothing() -> None:
    config = made(max_steps=2_000_000, gradient_accumulation_steps=999, batch_warmup_steps=1_000_003)
    began = time.perf_counter()
    for step in range(1_000_000, 1_000_200):
        assert first_row(config, step + 1) - first_row(config, step) == rows_at(config, step)
    assert time.perf_counter() - began < 1.0


def test_floor_sum() -> None:
    for divisor in range(1, 14):
        for slope in range(30):
            for count in range(20):
                assert floor_sum(count, slope, divisor) == sum(i * slope // divisor for i in range(count))
