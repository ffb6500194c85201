"""What rejection sampling keeps, what it writes down, and that its rounds learn and go on to the bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rl_toys import PAD, prompts, tiny_policy

from luopan.errors import TrainingError
from luopan.rl.best_of import BestOfCollector, KeepSettings, right_answers
from luopan.rl.feed import OnPolicyFeed, UpdatePlan
from luopan.rl.groups import Graded
from luopan.rl.rollouts import Prompt, Rollout
from luopan.train.config import TrainConfig
from luopan.train.loop import fit
from luopan.train.losses import causal_lm_loss
from luopan.train.progress import SilentProgress


def answer(text: str, reward: float | None, ending: str = "stop") -> Rollout:
    return Rollout((4, 9), (-0.5, -0.25), text, ending, reward)


def test_the_right_ones_are_kept_each_once_the_best_first() -> None:
    drawn = [
        answer("a", 1.0), answer("b", 0.4), answer(" a  ", 1.0), answer("c", 2.0), answer("d", None),
        answer("e", 3.0, "length"), answer("f", 1.0), answer("g", 1.0),
    ]  # fmt: skip
    kept = right_answers(drawn, KeepSettings(min_reward=1.0, per_prompt=3))
    assert [one.text for one in kept] == ["c", "a", "f"]
    assert [one.text for one in right_answers(drawn, KeepSettings(0.4, 9))] == ["c", "a", "f", "g", "b"]


def collector(tmp_path: Path, groups: list[Graded], **settings: Any) -> BestOfCollector:
    knobs = {"min_reward": 1.0, "per_prompt": 2, **settings}
    return BestOfCollector(lambda generation: ([groups], {"reward": 0.5}), KeepSettings(**knobs), tmp_path, "policy")


def test_what_is_kept_is_written_down_as_chat_data_with_where_it_is_from(tmp_path: Path) -> None:
    asked = ({"role": "system", "content": "Count."}, {"role": "user", "content": "1+1?"})
    prompt = Prompt((7, 8), lambda text: None, name="sum", thinking=True, question="1+1?", messages=asked, key=11)
    other = Prompt((7, 3), lambda text: None, name="sum", question="2+2?")
    groups: list[Graded] = [(prompt, [answer("2", 1.0), answer("3", 0.0)]), (other, [answer("5", 0.0)])]
    found = collector(tmp_path, groups).collect(2, 16, {})
    (line,) = (tmp_path / "kept-000002.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "messages": [*asked, {"role": "assistant", "content": "2"}], "reward": 1.0, "parts": {}, "task": "sum",
        "prompt": 11, "thinking": True, "round": 2, "step": 16, "model": "policy",
    }  # fmt: skip
    ((doc,),) = found.units
    assert list(doc.input_ids) == [7, 8, 4, 9] and list(doc.labels) == [-100, -100, 4, 9]
    assert found.figures == {"reward": 0.5, "kept": 1.0, "solved": 0.5, "kept_length": 2.0}
    logged = [json.loads(one) for one in (tmp_path / "step-000016.jsonl").read_text().splitlines()]
    assert [[a["advantage"] for a in one["answers"]] for one in logged] == [[1, 0], [0]]


def test_a_round_that_keeps_nothing_says_what_to_do_and_is_logged(tmp_path: Path) -> None:
    groups: list[Graded] = [(prompt, [answer("a", 0.25), answer("b", None, "length")]) for prompt in prompts(3)]
    with pytest.raises(TrainingError, match=r"round 1 keeps 0 of 6 .* best earned 0.25 .* 3 ended") as error:
        collector(tmp_path, groups).collect(0, 0, {})
    assert "min_reward" in (error.value.hint or "") and (tmp_path / "step-000000.jsonl").is_file()
    assert not (tmp_path / "kept-000000.jsonl").exists()


def test_fewer_than_the_updates_read_is_an_error_too(tmp_path: Path) -> None:
    groups: list[Graded] = [(prompt, [answer("a", 1.0)]) for prompt in prompts(3)]
    assert len(collector(tmp_path, groups, least=3).collect(0, 0, {}).units) == 3
    with pytest.raises(TrainingError, match="need 4"):
        collector(tmp_path, groups, least=4).collect(0, 0, {})


# ---- over an engine ----


def sitting(
    make_feed: Callable[..., OnPolicyFeed], folder: Path, stop_at: int | None = None, steps: int = 12
) -> tuple[torch.Tensor, BestOfCollector]:
    """Rounds of four updates from where `folder` stands; killed while it samples generation `stop_at`."""
    model = tiny_policy()
    groups: Any = make_feed(model, folder=folder / "rollouts", prompts_per_step=12, num_generations=16).collector
    best = BestOfCollector(groups.drawn, KeepSettings(1.0, 4, 2), folder / "rollouts")
    generate, drawn, asked = groups.engine.generate, groups.drawn, {"generation": 0}

    def counted(generation: int) -> Any:
        asked["generation"] = generation
        return drawn(generation)

    def killed(*args: Any, **more: Any) -> Any:
        done = generate(*args, **more)
        if asked["generation"] == stop_at:
            raise KeyboardInterrupt
        return done

    best.answers, groups.engine.generate = counted, killed
    feed = OnPolicyFeed(best, UpdatePlan(40, PAD, 5, num_iterations=2, steps_per_generation=2), folder / "rollouts")
    knobs = {"learning_rate": 3e-3, "max_steps": steps, "save_steps": 2, "lr_scheduler_type": "constant"}
    config = TrainConfig(**knobs)  # type: ignore[arg-type]
    try:
        fit(model, feed, causal_lm_loss, config, folder, device="cpu", seed=1, progress=SilentProgress())
    except KeyboardInterrupt:
        assert stop_at is not None
    return torch.cat([p.detach().flatten() for p in model.parameters()]), best


def test_killed_while_it_sampled_it_ends_with_the_same_bits(
    make_feed: Callable[..., OnPolicyFeed], tmp_path: Path
) -> None:
    alone, _ = sitting(make_feed, tmp_path / "alone")
    sitting(make_feed, tmp_path / "killed", stop_at=2)
    resumed, _ = sitting(make_feed, tmp_path / "killed")
    assert torch.equal(alone, resumed)
    name = "rollouts/kept-000002.jsonl"
    assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()


def test_rounds_learn_to_begin_with_an_even_token(make_feed: Callable[..., OnPolicyFeed], tmp_path: Path) -> None:
    _, best = sitting(make_feed, tmp_path, steps=32)
    start = json.loads((tmp_path / "rollouts" / "figures-000000.json").read_text())["reward"]
    last = best.answers(8)[1]["reward"]
    assert last > 0.85 > 0.7 > start, (start, last)
