"""Tokenizers for the shipped templates and others, and what to say with them."""

from __future__ import annotations

import importlib.util
import json
import random
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from luopan.tokens.config import TokenizerConfig
from luopan.tokens.templates import TEMPLATES, template_source
from luopan.tokens.tokenizer import train_tokenizer

CONTROL = r"<\|[\w ]+\|?>|<[\w]+\|>|<｜[\w▁]+｜>|</?think>|<(?:start|end)_of_turn>|\[[A-Z_]+\]|</?tool_call>"
CHARACTERS = "ab \"\\\n{}[]<>|:,'东京🙂é/\t"


def tool(name: str, **properties: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {key: {"type": kind} for key, kind in properties.items()}}
    return {"type": "function", "function": {"name": name, "description": "Does it.", "parameters": schema}}


TOOLS = [tool("weather", place="string", days="array"), tool("add", a="number", b="number")]
ASKED = {"role": "user", "content": "Well?"}


def bare_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes and a few words."""
    return train_tokenizer([template_source("gpt-oss")], TokenizerConfig(vocab_size=512, min_frequency=1))


def tokenizer_with(source: str, tokens: list[str], eos: str | None = None) -> PreTrainedTokenizerFast:
    """Bytes and a few words, the control tokens, and the template."""
    made = bare_tokenizer()
    new = [AddedToken(token, special=True, normalized=False) for token in tokens if token not in made.get_vocab()]
    made.add_tokens(new, special_tokens=True)
    made.chat_template = source
    if eos is not None:
        made.eos_token = eos
    return made


@lru_cache(maxsize=16)
def tokenizer_for(name: str) -> PreTrainedTokenizerFast:
    """A tokenizer of a shipped template."""
    return tokenizer_with(template_source(name), list(TEMPLATES[name].tokens), TEMPLATES[name].stop[0])


@lru_cache(maxsize=16)
def spelled_tokenizer_for(name: str) -> PreTrainedTokenizerFast:
    """The same template with a vocabulary that has no tokens for its marks: they come as characters."""
    state = json.loads(tokenizer_for(name).backend_tokenizer.to_str())
    state["added_tokens"] = state["added_tokens"][:1]
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)))
    made.chat_template = template_source(name)
    return made


def ids_of(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Tokens of a text, in which control tokens are such."""
    return list(tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)


@lru_cache(maxsize=64)
def foreign(stem: str) -> PreTrainedTokenizerFast:
    """A tokenizer of a model's own template, as TRL carries it."""
    found = importlib.util.find_spec("trl")
    assert found is not None and found.origin is not None
    source = (Path(found.origin).parent / "chat_templates" / f"{stem}.jinja").read_text(encoding="utf-8")
    return tokenizer_with(source, sorted(set(re.findall(CONTROL, source))))


def some_text(draw: random.Random, longest: int = 20) -> str:
    return "".join(draw.choice(CHARACTERS) for _ in range(draw.randint(0, longest)))


def some_value(draw: random.Random, depth: int = 0) -> Any:
    kind = draw.randrange(7 if depth < 3 else 5)
    if kind == 5:
        return [some_value(draw, depth + 1) for _ in range(draw.randint(0, 3))]
    if kind == 6:
        return {some_text(draw, 5): some_value(draw, depth + 1) for _ in range(draw.randint(0, 3))}
    return [None, draw.random() < 0.5, draw.randint(-(10**20), 10**20), draw.random() * 1e9, some_text(draw)][kind]


def some_message(draw: random.Random, *, thinking: bool, calls: int, beside: bool) -> dict[str, Any]:
    """An assistant's message with this many calls; `beside`: with text in front of them."""
    message: dict[str, Any] = {"role": "assistant", "content": "" if calls and not beside else f"x{some_text(draw)}y"}
    if thinking:
        message["reasoning_content"] = f" t{some_text(draw)}t "
    if calls:
        message["tool_calls"] = [
            {
                "id": f"call{number}",
                "type": "function",
                "function": {
                    "name": draw.choice(["weather", "add"]),
                    "arguments": {f"k{some_text(draw, 4)}": some_value(draw) for _ in range(draw.randint(0, 3))},
                },
            }
            for number in range(calls)
        ]
    return message
