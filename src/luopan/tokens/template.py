"""Chat templates: Jinja text that turns a conversation into one string, with the trained parts marked.

Renders what `transformers` renders (a test compares them), but compiles once and returns the pieces of text instead
of character positions, which later need mapping to tokens. Marks are lone surrogates: they cannot occur in valid
text, so no message can forge one. The template runs in Jinja's sandbox, because templates come with downloaded models.

Limit: a template that asks for today's date (`strftime_now`) is refused, because the date would be trained on; give
such a date as a template argument.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from luopan.errors import DataError, ModelError
from luopan.tokens.templates import template_source

_TRAINED, _END_TRAINED = "\udc00", "\udc01"  # around what the template puts inside {% generation %}
PLAIN, END_PLAIN = "\udc02", "\udc03"  # around text that looks like a control token but is only text
_MARKS = re.compile(f"([{_TRAINED}{_END_TRAINED}{PLAIN}{END_PLAIN}])")


@dataclass(frozen=True)
class Piece:
    """A stretch of a rendered conversation.

    `plain`: never to be read as control tokens; `barred`: of a turn that must not be learnt, whatever else is.
    """

    text: str
    trained: bool
    plain: bool
    barred: bool = False


class _Generation(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}` with marks around what it renders."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own interface

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Callable[[], str]) -> str:
        return f"{_TRAINED}{caller()}{_END_TRAINED}"


def _raise(message: str) -> NoReturn:
    raise jinja2.exceptions.TemplateError(message)


def _no_date(_format: str) -> NoReturn:
    raise jinja2.exceptions.TemplateError("the chat template writes today's date, which would be trained on")


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None,
             sort_keys: bool = False) -> str:  # fmt: skip
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class ChatTemplate:
    """A compiled template. Raises ModelError where the source is not valid Jinja."""

    def __init__(self, source: str) -> None:
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = _no_date
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ModelError(
                f"the chat template is not valid Jinja: {error.message}", where=f"line {error.lineno}"
            ) from error
        self.source = source
        self.variables = jinja2.meta.find_undeclared_variables(environment.parse(source))
        self.marks_training = re.search(r"\{%-?\s*generation\s*-?%\}", source) is not None
        self.knows_thinking = "reasoning_content" in source
        self.knows_switch = "/no_think" in source  # as the last word of the system prompt

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **arguments: Any,
    ) -> list[Piece]:
        """The conversation as pieces; joined, their texts are the rendered string.

        Pieces border where training begins and ends, and around plain text.
        Raises DataError with the template's own words where it refuses the conversation.
        """
        try:
            text = self._template.render(
                messages=messages, tools=tools, documents=None, add_generation_prompt=add_generation_prompt, **arguments
            )
        except jinja2.exceptions.TemplateError as error:
            raise DataError(f"the chat template refuses this conversation: {error.message}") from error
        except (TypeError, AttributeError) as error:
            raise DataError(f"the chat template fails on this conversation: {error}") from error
        return _pieces(text)


@lru_cache(maxsize=16)
def compile_template(source: str) -> ChatTemplate:
    """`ChatTemplate(source)`, compiled once."""
    return ChatTemplate(source)


def luopan_template() -> str:
    """The source of Luopan's own template."""
    return template_source("luopan")


def joined(pieces: Sequence[Piece]) -> str:
    """The rendered string."""
    return "".join(piece.text for piece in pieces)


def _pieces(text: str) -> list[Piece]:
    pieces: list[Piece] = []
    trained = plain = False
    for part in _MARKS.split(text):
        if part in (_TRAINED, _END_TRAINED):
            trained = part == _TRAINED
        elif part in (PLAIN, END_PLAIN):
            plain = part == PLAIN
        elif part:
            pieces.append(Piece(part, trained, plain))
    return pieces


def mark_turns(pieces: Sequence[Piece], prompts: Sequence[str], ends: Sequence[str], where: str | None) -> list[Piece]:
    """Trained pieces for a template without `{% generation %}`.

    `prompts[k]` and `ends[k]` are the texts up to where assistant turn k begins and after it. White space after the
    turn's last character belongs to the format and is not trained. Raises DataError where one is not a prefix.
    """
    text = joined(pieces)
    cuts: list[tuple[int, int]] = []
    for prompt, end in zip(prompts, ends, strict=True):
        if not (text.startswith(end) and end.startswith(prompt)):
            hint = "train on the last turn only (train_on: last_turn), or use a template with {% generation %}"
            raise DataError("the chat template rewrites earlier turns once others follow", where=where, hint=hint)
        cuts.append((len(prompt), len(end.rstrip())))
    marked, at = [], 0
    for piece in pieces:
        inside = [c for cut in cuts for c in cut if at < c < at + len(piece.text)]
        for start, stop in pairwise(sorted({at, *inside, at + len(piece.text)})):
            trained = any(begin <= start and stop <= end for begin, end in cuts)
            marked.append(Piece(piece.text[start - at : stop - at], trained, piece.plain))
        at += len(piece.text)
    return marked
