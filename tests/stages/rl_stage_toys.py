"""Specs, files and artifacts for the stages that learn from rollouts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stage_toys import tiny_chat

from luopan.artifacts import Artifact, build_manifest, write_manifest
from luopan.model.reward import add_score, save_reward
from luopan.recipe.specs import GrpoSpec
from luopan.stages.common import save_model
from luopan.tokens.chat import stop_ids
from luopan.tokens.tokenizer import save_tokenizer


def grpo_spec(**changes: Any) -> GrpoSpec:
    values: dict[str, Any] = {
        "kind": "grpo", "model": "a", "tasks": [{"skill": "addition", "options": {"digits": [1]}}], "prompts": 12,
        "prompts_per_step": 3, "num_generations": 4, "max_completion_length": 8, "max_length": 128,
        "temperature": 0.8, "learning_rate": 1e-3, "max_steps": 2, "test_cases": 4, "logging_steps": 1,
    }  # fmt: skip
    return GrpoSpec(**{**values, **changes})


def model_artifact(folder: Path, seed: int = 0) -> Artifact:
    """A chat model as a stage leaves it."""
    folder.mkdir(parents=True)
    save_model(tiny_chat(seed), folder)
    write_manifest(folder, build_manifest(folder, kind="sft", name="sft", identity="x"))
    return Artifact(folder)


def reward_artifact(folder: Path) -> Artifact:
    """A reward model as a stage leaves it."""
    folder.mkdir(parents=True)
    chat = tiny_chat(seed=4, context=64)
    add_score(chat.model, seed=1)
    save_reward(chat.model, folder / "model", pad_token_id=chat.pad_id, eos_token_id=stop_ids(chat.tokenizer))
    save_tokenizer(chat.tokenizer, folder / "model")
    write_manifest(folder, build_manifest(folder, kind="reward", name="reward", identity="x"))
    return Artifact(folder)


def rows_file(path: Path, rows: Sequence[Any]) -> str:
    """A .jsonl file of rows; a text is written as it is."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def sums(count: int) -> list[dict[str, Any]]:
    """Rows as GSM8K has them."""
    return [
        {"question": f"What is {n} plus {n}?", "answer": f"{n} and {n} are {2 * n}.\n#### {2 * n}"}
        for n in range(count)
    ]


SUMS: dict[str, Any] = {
    "prompt": "question", "verifier": "number", "args": {"answer": "{answer}"}, "after": {"answer": "####"},
    "thinking": False,
}  # fmt: skip
