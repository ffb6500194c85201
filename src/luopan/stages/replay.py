"""A model's own earlier answers: what it is trained on against forgetting, and what is asked of it afterwards.

The prompts come with luopan or from the user's file; those for training and those for measuring never meet. The model
answers them as it came, once: the tokens are kept in the run's cache under a key of all they depend on, so that
another learning rate does not wait for them again. They are trained as they were drawn, never decoded and encoded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from luopan.artifacts import Artifact, atomic_write_json, stable_hash
from luopan.corpus.skills.case import Split, split_of
from luopan.corpus.skills.general import general_prompts
from luopan.errors import DataError
from luopan.generate.config import SamplingParams
from luopan.recipe.replay_specs import GENERAL, ReplaySpec
from luopan.stages.base import Workspace
from luopan.stages.common import Chat
from luopan.stages.conversations import ChatData
from luopan.stages.measure import engine_of
from luopan.stages.rows import read_rows
from luopan.tokens.chat import Conversation, encode_prompts
from luopan.tokens.example import IGNORE, Example
from luopan.train.anchor_loss import anchor_loss, take_anchor, without_anchor
from luopan.train.loop import LossFn
from luopan.train.losses import causal_lm_loss
from luopan.train.ranks import leader_first

VERSION = 1  # rises when the same prompts would be answered otherwise
SEEDS = {"train": 30_000, "test": 40_000}  # of the answers: the same whatever the run's seed, so runs can be compared
Messages = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Reply:
    """What the model said to a prompt, as tokens; `stopped` unless it was cut at the longest length."""

    prompt: list[int]
    answer: list[int]
    stopped: bool


def replay_prompts(name: str, n: int, split: Split) -> list[Messages]:
    """At most `n` prompts of one side, by name or from a file with a column `messages`.

    Of a file's rows a tenth, by a hash of their text, is held out; assistant turns at the end are left off. DataError
    where that leaves nothing.
    """
    if name == GENERAL:
        return [list(prompt.messages) for prompt in general_prompts(n, 0, split)]
    found: list[Messages] = []
    for row in read_rows(Path(name)):
        messages = list((row.values or {}).get("messages") or [])
        while messages and messages[-1].get("role") == "assistant":
            messages.pop()
        key = "\n".join(str(message.get("content")) for message in messages)
        if messages and messages[-1].get("role") == "user" and split_of(f"replay/{key}") == split:
            found.append(messages)
        if len(found) == n:
            break
    if not found:
        hint = "A row needs `messages` with a user's turn; about one row in ten is held out for measuring."
        raise DataError(f"no prompt is on the {split} side", where=name, hint=hint)
    return found


def prompt_files(*names: str | None) -> list[str]:
    """Those of the names that are files of the user's."""
    return [name for name in names if name is not None and name != GENERAL]


def replies(
    chat: Chat, source: Artifact, prompts: Sequence[Messages], sampling: SamplingParams, split: Split, out: Workspace
) -> list[Reply]:
    """The answers of `source`'s model, from the cache or made now. `chat` holds that model, untrained still."""
    asked = encode_prompts(chat.tokenizer, [Conversation(messages) for messages in prompts])
    key = stable_hash([VERSION, source.manifest.content, asked, sampling.model_dump(), SEEDS[split]])[:16]
    file = out.cache / "replies" / f"{key}.json"

    def make() -> None:
        if file.is_file():
            return
        said = engine_of(chat).generate(asked, sampling, seed=SEEDS[split])
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_json(file, [[reply.tokens, reply.finish_reason == "stop"] for reply in said])

    leader_first(make)
    rows = json.loads(file.read_text(encoding="utf-8"))
    return [Reply(prompt, answer, stopped) for prompt, (answer, stopped) in zip(asked, rows, strict=True)]


def replay_examples(found: Sequence[Reply]) -> list[Example]:
    """Prompts with their answers, the answers trained: one that was cut trains no stop token, for none was drawn."""
    return [Example([*r.prompt, *r.answer], [IGNORE] * len(r.prompt) + r.answer) for r in found]


def add_replay(
    data: ChatData, chat: Chat, source: Artifact, spec: ReplaySpec, max_length: int, out: Workspace
) -> LossFn:
    """Put the model's own answers into the mixture; the loss that trains it. `chat` holds `source`'s model, untrained.

    Answers that are too long for a row are set aside and counted.
    """
    prompts = replay_prompts(spec.prompts, spec.examples, "train")
    sampling = SamplingParams(max_new_tokens=spec.max_new_tokens, temperature=spec.temperature)
    name = f"replay: {spec.prompts}"
    for number, example in enumerate(replay_examples(replies(chat, source, prompts, sampling, "train", out)), 1):
        if len(example) > max_length:
            data.set_aside.append((f"{name} #{number}", f"longer than max_length {max_length}"))
            continue
        data.examples.append(example)
        data.sources.append(name)
        data.turns.append(1)
        data.thinks.append(False)
    return _hold(data, name, chat, spec) if spec.kl_coef else causal_lm_loss


def _hold(data: ChatData, name: str, chat: Chat, spec: ReplaySpec) -> LossFn:
    """Tie the replayed examples to what the model finds likely now."""
    mine = [example for example, source in zip(data.examples, data.sources) if source == name]
    if not mine:
        return causal_lm_loss
    anchor, placed = take_anchor(chat.model, mine, spec.top_k)
    tied = iter(placed)
    data.examples = [
        next(tied) if source == name else without_anchor(example)
        for example, source in zip(data.examples, data.sources)
    ]
    return partial(anchor_loss, anchor=anchor, coef=spec.kl_coef)
