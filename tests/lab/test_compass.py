"""The compass: where it points for which answers, and that what it writes can be run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from luopan.errors import RecipeError
from luopan.lab.compass.answers import Answers, interview, read_answers
from luopan.lab.compass.papers import recipe, specification
from luopan.lab.compass.rules import LARGEST, PLACES, point, row_length
from luopan.lab.compass.write import ask_and_point, write_papers
from luopan.lab.planning.devices import find_device
from luopan.recipe.load import load_recipe
from luopan.train.memory import estimate_memory


def answers(**more: Any) -> Answers:
    return read_answers({"goal": "Answer questions on our manuals", "reason": "product", **more})


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"reason": "compute", "obstacle": "domain", "finetuning": "fails"}, "stop"),
        ({"prompting": "works"}, "prompt"),
        ({"reason": "research", "obstacle": "control", "prompting": "works"}, "prompt"),
        ({}, "prompt"),  # a product for which nobody has asked an existing model yet
        ({"prompting": "fails"}, "finetune"),
        ({"prompting": "fails", "finetuning": "fails"}, "finetune"),  # nothing stands against existing models
        ({"prompting": "fails", "finetuning": "fails", "obstacle": "domain"}, "pretrain"),
        ({"reason": "research", "obstacle": "none"}, "finetune"),
        ({"reason": "research", "obstacle": "none", "finetuning": "fails"}, "pretrain"),
        ({"reason": "research", "obstacle": "control"}, "pretrain"),
        ({"reason": "gap", "obstacle": "language"}, "pretrain"),
        ({"reason": "gap"}, "finetune"),
        ({"reason": "learning", "device": "this", "days": 0.1}, "learn"),
    ],
)
def test_why_comes_first(given: dict[str, Any], path: str) -> None:
    found = point(answers(**given))
    assert found.path == path
    assert found.findings[0].step == "why"
    assert all(one.advice and one.because and one.source for one in found.findings)
    assert found.trains == (path in ("finetune", "learn", "pretrain"))


def test_compute_is_no_reason_and_it_says_so() -> None:
    page = specification("x", answers(reason="compute"), point(answers(reason="compute")))
    assert "Train nothing yet" in page and "not what for" in page


PRETRAIN = {"reason": "gap", "obstacle": "language", "finetuning": "fails", "devices": 8}


def test_size_follows_the_tightest_limit() -> None:
    found = {
        "data": point(answers(**PRETRAIN, tokens="300M", days=30)),
        "place": point(answers(
            **{**PRETRAIN, "devices": 256}, serve_on="phone", days=60)),
        "compute": point(answers(**{**PRETRAIN, "devices": 1}, days=0.5)),
    }  # fmt: skip
    words = {"data": "tokens of text, read 4 times", "place": "phone's memory", "compute": "0.5 days of 1 × h100"}
    for limit, direction in found.items():
        size = next(one for one in direction.findings if "parameters." in one.advice)
        assert words[limit] in size.because, (limit, size)
        assert direction.model is not None
        # It is read twenty times its size, whatever the limit.
        assert direction.tokens >= 17 * direction.model.num_parameters()
    assert found["data"].tokens <= 4 * 300e6 * 1.001
    room, each, _ = PLACES["phone"]
    assert found["place"].model is not None
    assert found["place"].model.num_parameters() <= 1.15 * min(LARGEST, room / each)


def test_too_little_to_train_is_said() -> None:
    with pytest.raises(RecipeError, match=r"too few to learn|too little"):
        point(answers(**PRETRAIN, tokens="1M"))
    with pytest.raises(RecipeError, match=r"too few to learn|too little"):
        point(answers(**{**PRETRAIN, "devices": 1}, device="this", days=0.0001))


def test_context_adds_layers_without_positions_and_a_stage() -> None:
    long = answers(**PRETRAIN, context=16_384)
    direction = point(long)
    assert direction.model is not None and direction.model.no_rope_layer_interval == 4
    stages = yaml.safe_load(recipe("x", long, direction))["stages"]
    assert stages["longer"]["sequence_length"] == 16_384
    assert stages["sft"]["model"] == "longer"
    assert "longer" not in yaml.safe_load(recipe("x", answers(**PRETRAIN), point(answers(**PRETRAIN))))["stages"]


@pytest.mark.parametrize("device", ["this", "rtx3090", "h100"])
@pytest.mark.parametrize("context", [512, 4096, 32_768])
def test_the_recipe_loads_and_its_micro_batch_fits(device: str, context: int) -> None:
    given = answers(**PRETRAIN, device=device, context=context, days=20)
    direction = point(given)
    loaded = load_recipe(yaml.safe_load(recipe("mine", given, direction)))
    spec: Any = loaded.recipe.stages["pretrain"]
    assert spec.model == direction.model.model_copy(update={"max_position_embeddings": spec.sequence_length})  # type: ignore[union-attr]
    assert spec.sequence_length == row_length(given, spec.model)
    tokens = spec.max_steps * spec.rows_per_step * spec.sequence_length
    assert tokens == pytest.approx(direction.tokens, rel=0.02)
    room = 8e9 if device == "this" else find_device(device).memory_bytes
    kind = "cpu" if device == "this" else "cuda"
    needed = estimate_memory(
        spec.model, spec, rows=spec.per_device_train_batch_size, length=spec.sequence_length, device_type=kind,
        shards=8 if spec.parallel == "full_shard" else 1,
    )  # fmt: skip
    assert needed.total <= 0.85 * room


def test_fine_tuning_names_a_base_that_fits(tmp_path: Path) -> None:
    wanted = {"phone": "SmolLM2-1.7B", "laptop": "SmolLM3-3B-Base"}
    for place, base in wanted.items():
        given = answers(prompting="fails", serve_on=place)
        direction = point(given)
        assert direction.base.endswith(base)
        loaded = load_recipe(yaml.safe_load(recipe("mine", given, direction)))
        assert loaded.recipe.stages["sft"].kind == "sft"
    small = point(answers(prompting="fails", serve_on="server", device="rtx3090"))
    text = recipe("mine", answers(prompting="fails", device="rtx3090"), small)
    assert "adapter: {r: 16" in text and any("LoRA" in one.advice for one in small.findings)


def test_mistakes_are_named_together() -> None:
    with pytest.raises(RecipeError) as caught:
        read_answers({"reason": "because", "devices": 0})
    for words in ("goal is missing", "reason is 'because'", "devices is 0"):
        assert words in str(caught.value)
    with pytest.raises(RecipeError, match="tokens is '3X'"):
        read_answers({"goal": "x", "reason": "gap", "tokens": "3X"})


def test_the_interview_asks_again_and_leaves_idle_questions_out() -> None:
    typed = {"goal": ["A model"], "reason": ["money", "gap"], "obstacle": ["language"], "tokens": ["many", "3B"],
             "conversations": ["no"]}  # fmt: skip
    asked: list[str] = []
    said: list[str] = []

    def ask(key: str, question: str, default: str) -> str:
        asked.append(key)
        return typed[key].pop(0) if typed.get(key) else ""

    found = interview({"device": "a100"}, ask, said.append)
    assert (found.reason, found.tokens, found.conversations, found.device) == ("gap", 3e9, False, "a100")
    assert asked.count("reason") == asked.count("tokens") == 2 and len(said) == 2
    assert "chat_path" not in asked and "device" not in asked

    asked.clear()
    typed.update(goal=["x"], reason=["compute"])
    interview({}, ask, said.append)
    assert asked == ["goal", "reason"]


def test_files_are_written_once_and_not_over_others(tmp_path: Path) -> None:
    file = tmp_path / "answers.yaml"
    file.write_text("goal: Learn\nreason: learning\ndevice: this\n", encoding="utf-8")
    given, direction = ask_and_point({"days": 0.2}, file, None, print)
    assert given.days == 0.2 and given.device == "this"
    page, written = write_papers(tmp_path / "mine", given, direction)
    assert page.read_text(encoding="utf-8").startswith("# mine\n")
    assert load_recipe(written).recipe.name == "mine"
    with pytest.raises(RecipeError, match=r"mine\.md is there already"):
        write_papers(tmp_path / "mine", given, direction)
    write_papers(tmp_path / "mine", given, direction, force=True)
    stop = point(answers(reason="compute"))
    assert [path.name for path in write_papers(tmp_path / "no", answers(reason="compute"), stop)] == ["no.md"]
    file.write_text("- 1\n", encoding="utf-8")
    with pytest.raises(RecipeError, match="block of keys"):
        ask_and_point({}, file, None, print)
