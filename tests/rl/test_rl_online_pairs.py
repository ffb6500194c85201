"""Pairs by hand, what becomes of ties, and the loss over pairs that are idle."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from rl_toys import PAD, prompts, tiny_policy

from luopan.errors import TrainingError
from luopan.rl.feed import OnPolicyFeed, UpdatePlan
from luopan.rl.groups import Graded
from luopan.rl.online_pairs import PairCollector, PairSettings, chosen_pair
from luopan.rl.rollouts import Rollout
from luopan.rl.scoring import token_logprobs
from luopan.tokens.batch import collate
from luopan.train.config import TrainConfig
from luopan.train.loop import fit
from luopan.train.losses import preference_loss
from luopan.train.online_loss import online_preference_loss
from luopan.train.progress import SilentProgress


def answers(*rewards: float | None) -> list[Rollout]:
    return [Rollout((4 + n, 9), (-0.5, -0.25), str(n), "stop", reward) for n, reward in enumerate(rewards)]


@pytest.mark.parametrize(
    ("rewards", "choice", "margin", "pair"),
    [
        ((0.2, 1.0, 0.0, 0.5), "best_worst", 0.0, ("1", "2")),
        ((0.2, 1.0, 0.0, 0.5), "two", 0.0, ("1", "0")),
        ((1.0, 0.0, 1.0, 0.0), "best_worst", 0.0, ("0", "1")),  # the first drawn of each side
        ((1.0, 1.0, 1.0), "best_worst", 0.0, None),
        ((1.0, 1.0, 0.0), "two", 0.0, None),
        ((0.0, 0.5), "best_worst", 0.5, ("1", "0")),  # exactly the margin is enough
        ((0.0, 0.5), "best_worst", 0.6, None),
        ((None, 1.0, None), "best_worst", 0.0, None),
        ((None, 1.0, 0.0), "two", 0.0, ("1", "2")),  # an answer that could not be graded is not one of the two
    ],
)
def test_which_answers_are_compared(rewards: Any, choice: Any, margin: float, pair: tuple[str, str] | None) -> None:
    found = chosen_pair(answers(*rewards), choice, margin)
    assert (found and (found[0].text, found[1].text)) == pair


def test_an_answer_without_a_token_is_in_no_pair() -> None:
    some = answers(1.0, 0.0, 0.5)
    some[0] = Rollout((), (), "", "stop", 1.0)
    found = chosen_pair(some, "best_worst", 0.0)
    assert found is not None and (found[0].text, found[1].text) == ("2", "1")


def collector(tmp_path: Path, *rewards: tuple[float | None, ...], **settings: Any) -> PairCollector:
    groups: list[Graded] = [(prompt, answers(*row)) for prompt, row in zip(prompts(), rewards)]
    knobs = {"choice": "best_worst", "margin": 0.0, "pairs": 8, **settings}
    return PairCollector(lambda generation: ([groups], {"reward": 0.5}), None, PairSettings(**knobs), tmp_path)


def test_a_unit_is_both_answers_and_every_answer_is_logged(tmp_path: Path) -> None:
    found = collector(tmp_path, (0.0, 1.0), (1.0, 1.0), (0.5, 0.0, None)).collect(0, 3, {})
    assert [[(doc.fields["pair"], doc.fields["is_chosen"]) for doc in unit] for unit in found.units] == [
        [(0, True), (0, False)],
        [(1, True), (1, False)],
    ]
    chosen, rejected = found.units[0]
    assert list(chosen.input_ids) == [*prompts()[0].input_ids, 5, 9] and list(rejected.input_ids)[-2:] == [4, 9]
    assert list(chosen.labels)[-3:] == [-100, 5, 9] and list(chosen.per_token["old_logprobs"])[-3:] == [0, -0.5, -0.25]
    figures = {
        "idle": 0.0,
        "pairs": 2.0,
        "idle_pairs": 0.0,
        "pairs_per_prompt": 2 / 3,
        "reward_gap": 0.75,
        "chosen_longer_by": 0.0,
    }
    assert found.figures == {"reward": 0.5, **figures}
    lines = [json.loads(line) for line in (tmp_path / "step-000003.jsonl").read_text().splitlines()]
    assert [[a["advantage"] for a in line["answers"]] for line in lines] == [[-1, 1], [0, 0], [1, -1, 0]]


def test_no_more_pairs_than_asked_for(tmp_path: Path) -> None:
    found = collector(tmp_path, (0.0, 1.0), (1.0, 0.0), (0.5, 0.0), pairs=2).collect(0, 0, {})
    assert len(found.units) == 2 and found.figures["pairs"] == 2


def test_where_all_earned_the_same_the_pairs_are_idle_and_move_nothing(tmp_path: Path) -> None:
    found = collector(tmp_path, (1.0, 1.0), (0.0, 0.0, 0.0), least=3).collect(0, 0, {})
    assert found.figures["pairs"] == 0 and found.figures["idle_pairs"] == 3
    assert all(doc.fields["idle"] for unit in found.units for doc in unit)
    model = tiny_policy()
    term = online_preference_loss(model, collate(list(map(list, found.units)), 40, PAD), loss_type="orpo", beta=1)
    term.total.backward()
    assert float(term.total.detach()) == 0 and float(term.weight) == 3
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_many_generations_without_a_pair_are_an_error(tmp_path: Path) -> None:
    dead = collector(tmp_path, (1.0, 1.0), (0.0, 0.0), dead_generations=3)
    carry = dead.collect(0, 0, {}).carry
    carry = dead.collect(1, 1, carry).carry
    with pytest.raises(TrainingError, match="3"):
        dead.collect(2, 2, carry)
    alive = collector(tmp_path, (1.0, 0.0), dead_generations=3).collect(2, 2, carry)
    assert not alive.carry and alive.figures["idle"] == 0


def test_one_live_pair_is_topped_up_with_idle_ones(tmp_path: Path) -> None:
    found = collector(tmp_path, (1.0, 0.0), (1.0, 1.0), least=3).collect(0, 0, {})
    assert [unit[0].fields["idle"] for unit in found.units] == [False, True, True]


def test_nothing_gradable_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="not one prompt has two answers"):
        collector(tmp_path, (None, 1.0), (None, None)).collect(0, 0, {})


def test_the_loss_is_that_of_the_live_pairs_over_all(tmp_path: Path) -> None:
    found = collector(tmp_path, (1.0, 0.0), (0.0, 1.0), (1.0, 1.0), least=3).collect(0, 0, {})
    rows = [list(unit) for unit in found.units]
    model = tiny_policy()
    for unit in rows:
        for doc in unit:
            doc.fields["reference_logprob"] = -3.0
    term = online_preference_loss(model, collate(rows, 40, PAD), beta=0.3)
    alone = preference_loss(model, collate(rows[:2], 40, PAD), beta=0.3)
    torch.testing.assert_close(term.total, alone.total)
    assert float(term.weight) == 3 and float(alone.weight) == 2


# ---- over an engine ----


def sitting(
    make_feed: Callable[..., OnPolicyFeed], folder: Path, stop_at: tuple[int, int] | None = None, steps: int = 4
) -> tuple[torch.Tensor, PairCollector]:
    """Updates from where `folder` stands; killed in the middle of sampling: (generation, which call to the engine)."""
    model, reference = tiny_policy(), tiny_policy()
    groups: Any = make_feed(model, folder=folder / "rollouts", resample_rounds=1).collector
    score = partial(token_logprobs, reference, temperature=1.0, max_length=40, pad_id=PAD, precision="fp32")
    pairs = PairCollector(groups.drawn, score, PairSettings("best_worst", 0.0, 6, 2), folder / "rollouts")
    generate, drawn, calls = groups.engine.generate, groups.drawn, {"generation": 0, "n": 0}

    def counted(generation: int) -> Any:
        calls.update(generation=generation, n=0)
        return drawn(generation)

    def killed(*args: Any, **more: Any) -> Any:
        done = generate(*args, **more)
        if (calls["generation"], calls["n"]) == stop_at:
            raise KeyboardInterrupt
        calls["n"] += 1
        return done

    pairs.answers, groups.engine.generate = counted, killed
    feed = OnPolicyFeed(pairs, UpdatePlan(40, PAD, 5, steps_per_generation=2), folder / "rollouts")
    knobs = {"learning_rate": 3e-3, "max_steps": steps, "save_steps": 1, "lr_scheduler_type": "constant"}
    config = TrainConfig(**knobs)  # type: ignore[arg-type]
    loss = partial(online_preference_loss, beta=0.2)
    try:
        fit(model, feed, loss, config, folder, device="cpu", seed=1, progress=SilentProgress())
    except KeyboardInterrupt:
        assert stop_at is not None
    return torch.cat([p.detach().flatten() for p in model.parameters()]), pairs


def test_killed_while_it_sampled_it_ends_with_the_same_bits(
    make_feed: Callable[..., OnPolicyFeed], tmp_path: Path
) -> None:
    alone, _ = sitting(make_feed, tmp_path / "alone")
    sitting(make_feed, tmp_path / "killed", stop_at=(1, 0))
    resumed, _ = sitting(make_feed, tmp_path / "killed")
    assert torch.equal(alone, resumed)
    name = "rollouts/step-000002.jsonl"
    assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()


def test_it_learns_to_begin_with_an_even_token(make_feed: Callable[..., OnPolicyFeed], tmp_path: Path) -> None:
    _, pairs = sitting(make_feed, tmp_path, steps=24)
    first, last = (pairs.answers(generation)[1]["reward"] for generation in (0, 12))
    start = json.loads((tmp_path / "rollouts" / "figures-000000.json").read_text())["reward"]
    assert last > 0.85 > 0.7 > start, (start, first, last)
