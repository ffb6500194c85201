"""The formats of replies that are known: of the shipped templates, and some that other models' templates write."""

from __future__ import annotations

from dataclasses import dataclass

from luopan.generate.replies_tagged import CallTags, Tags
from luopan.tokens.templates import identify

_JSON = CallTags("<tool_call>", "</tool_call>")
PYTHON_CALLS = CallTags("<code>", "</code>", python=True)


@dataclass(frozen=True)
class Style:
    """A format by name. `tags` None: Harmony. `thinking`, `tools`: what its template can say."""

    name: str
    tags: Tags | None
    thinking: bool = True
    tools: bool = True


PLAIN = Style("plain", Tags(), thinking=False, tools=False)
_DEEPSEEK = Tags(
    calls=(CallTags("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"),),
    layout=("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
    inner=("<｜tool▁sep｜>",),
)
_COHERE = Tags(
    think=("<|START_THINKING|>", "<|END_THINKING|>"),
    calls=(CallTags("<|START_ACTION|>", "<|END_ACTION|>"),),
    layout=("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
)
_SHIPPED = (
    Style("luopan", Tags(calls=(_JSON, PYTHON_CALLS))),
    Style("chatml", Tags(), tools=False),
    Style("llama3", Tags(calls=(CallTags("<|python_tag|>", ""),), bare=True), thinking=False),
    Style("qwen3", Tags(calls=(_JSON, PYTHON_CALLS), separator="\n")),
    Style("gemma3", Tags(), thinking=False, tools=False),
    Style("deepseek-r1", _DEEPSEEK),
    Style("gpt-oss", None),
    Style("command-a", _COHERE),
)

_FOREIGN = (
    Style("mistral", Tags(think=("[THINK]", "[/THINK]"), calls=(CallTags("[TOOL_CALLS]", ""),))),
    Style("lfm2", Tags(calls=(CallTags("<|tool_call_start|>", "<|tool_call_end|>"),))),
    Style("phi4", Tags(calls=(CallTags("<|tool_call|>", "<|/tool_call|>"),))),
    Style("granite", Tags(calls=(CallTags("<|tool_call|>", ""),))),
)
KNOWN = (*_SHIPPED, *_FOREIGN)
"""The formats of the shipped templates, then those of some others."""


def shipped_style(source: str) -> Style | None:
    """The format of a shipped template; None where the source is none of them."""
    info = identify(source) if source else None
    return None if info is None else next(style for style in _SHIPPED if style.name == info.name)
