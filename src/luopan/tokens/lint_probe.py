"""Rendering a template for the lint: as transformers does, with words that can be found again.

Messages go to the template as they are, unlike in training (`tokens.chat`), where content is brought into one form
first: other trainers and inference engines do not do that. A template that asks for the date gets a fixed one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerFast

from luopan.errors import LuopanError
from luopan.tokens.template import Piece, compile_template, joined

FAKE_DATE = "01 Jan 2000"
CONTROL = re.compile(
    r"<\|[^|<>\s]{1,60}\|?>|<[^|<>\s]{1,60}\|>|<｜[^｜<>\s]{1,60}｜>|<(?:start|end)_of_turn>|<(?:BOS|EOS)_TOKEN>"
)
"""What looks like a control token."""
_DATED = "{% macro strftime_now(form) %}" + FAKE_DATE + "{% endmacro %}\n"


@dataclass(frozen=True)
class Rendered:
    """What became of a conversation: its pieces, or the words of a refusal, or of a failure inside the template."""

    pieces: Sequence[Piece] = ()
    refused: str = ""
    crashed: str = ""

    @property
    def usable(self) -> bool:
        """There is a text."""
        return not self.refused and not self.crashed

    @property
    def text(self) -> str:
        """The rendered string; empty where it was refused."""
        return joined(self.pieces)


class Probe:
    """A template with the tokenizer it belongs to. Raises ModelError where the source is not valid Jinja."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, source: str) -> None:
        self.tokenizer = tokenizer
        self.source = source
        # A macro of that name at the top stands in for the date; its line break is taken off by `trim_blocks`.
        self.renderable = _DATED + source if "strftime_now" in source else source
        self.template = compile_template(self.renderable)
        self.variables = compile_template(source).variables
        self.specials = dict(tokenizer.special_tokens_map)
        self.added = sorted((t.content for t in tokenizer.added_tokens_decoder.values()), key=len, reverse=True)

    @property
    def marks_training(self) -> bool:
        """It has `{% generation %}`."""
        return self.template.marks_training

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        prompt: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **arguments: Any,
    ) -> Rendered:
        """The conversation with thinking on and kept, unless `arguments` say otherwise."""
        given = {**self.specials, "enable_thinking": True, "keep_thinking": True, **arguments}
        try:
            pieces = self.template.render(messages, tools=tools, add_generation_prompt=prompt, **given)
        except LuopanError as error:
            # `raise_exception` raises exactly this class; Jinja's own failures are subclasses of it
            if type(error.__cause__) is jinja2.exceptions.TemplateError:
                return Rendered(refused=str(error.__cause__))
            return Rendered(crashed=str(error.__cause__))
        except Exception as error:  # a foreign template may fail in any way
            return Rendered(crashed=f"{type(error).__name__}: {error}")
        return Rendered(pieces)

    def stop_at_end(self, text: str) -> str:
        """The control token that a text ends on, or nothing."""
        known = next((token for token in self.added if token and text.endswith(token)), "")
        eos = self.tokenizer.eos_token
        if not known and isinstance(eos, str) and eos and text.endswith(eos):
            return eos
        found = CONTROL.findall(text)
        return known or (found[-1] if found and text.endswith(found[-1]) else "")

    def stop_at_start(self, text: str) -> str:
        """The control token that a text begins with, white space aside, or nothing."""
        text = text.lstrip()
        known = next((token for token in self.added if token.strip() and text.startswith(token)), "")
        found = CONTROL.match(text)
        return known or (found[0] if found else "")


def word(name: str) -> str:
    """A word that occurs nowhere else."""
    return f"Zq{name}qZ"


def user(content: Any = "Zquserqz") -> dict[str, Any]:
    """A user message."""
    return {"role": "user", "content": content}


def says(content: Any = "Zqanswerqz", **more: Any) -> dict[str, Any]:
    """An assistant message."""
    return {"role": "assistant", "content": content, **more}


def system(content: Any) -> dict[str, Any]:
    """A system message."""
    return {"role": "system", "content": content}


def result(content: Any, name: str = "Zqtoolqz", number: int = 1) -> dict[str, Any]:
    """A tool's result."""
    return {"role": "tool", "name": name, "tool_call_id": f"call0000{number}", "content": content}


def call(name: str = "Zqtoolqz", arguments: Any = None, number: int = 1) -> dict[str, Any]:
    """A tool call."""
    given = {"town": "Ulm"} if arguments is None else arguments
    return {"id": f"call0000{number}", "type": "function", "function": {"name": name, "arguments": given}}


def tool(
    name: str = "Zqtoolqz", description: str = "What it does", parameter: str = "town", about: str = "A town"
) -> Any:
    """A tool in OpenAI's wrapping."""
    properties = {parameter: {"type": "string", "description": about}}
    schema = {"type": "object", "properties": properties, "required": [parameter]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


def around(text: str, at: int, width: int = 60) -> str:
    """A piece of a text round a place, for a finding's example."""
    return text[max(0, at - width) : at + width]
