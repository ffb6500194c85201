"""The chat templates that ship: their Jinja source, and the answers to what one asks of a template before using it.

Has it a system role? Tools, and in which form? Thinking, and how is it switched? Which parsers of an inference engine
read its answers? Sources lie in `templates/`, written here after the published wire formats; other wordings around
tools and system prompts are ours. None writes a date of its own, and what one cannot render it refuses.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from types import MappingProxyType

from luopan.errors import ModelError


@dataclass(frozen=True)
class TemplateInfo:
    """What a template can do. `tokens`: control tokens that the vocabulary must have; parsers by the engines' names."""

    name: str
    description: str
    stop: tuple[str, ...]
    tokens: tuple[str, ...]
    system_role: str
    tools: str
    thinking: str
    vllm_tool_parser: str = ""
    vllm_reasoning_parser: str = ""
    sglang_tool_parser: str = ""
    sglang_reasoning_parser: str = ""
    limits: str = ""


_CHATML = ("<|im_start|>", "<|im_end|>")
_HARMONY = (
    "<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>", "<|call|>",
)  # fmt: skip
_COHERE = (
    "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>",
    "<|START_THINKING|>", "<|END_THINKING|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_ACTION|>",
    "<|END_ACTION|>", "<|START_TOOL_RESULT|>", "<|END_TOOL_RESULT|>",
)  # fmt: skip
_DEEPSEEK_TOOLS = (
    "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>",
    "<｜tool▁outputs▁begin｜>", "<｜tool▁outputs▁end｜>", "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>",
)  # fmt: skip

_ALL = (
    TemplateInfo(
        "luopan",
        "ours: thinking switch, structured system prompt, tools as JSON in tags or as Python",
        ("<|im_end|>",),
        _CHATML,
        "anywhere; structured by arguments, or overridden whole",
        "JSON in <tool_call>, or Python (python_tools)",
        "enable_thinking, or /think and /no_think in the system prompt; kept or dropped by keep_thinking",
        "hermes",
        "qwen3",
        "hermes",
        "qwen3",
    ),
    TemplateInfo(
        "chatml",
        "the plain format of many small models",
        ("<|im_end|>",),
        _CHATML,
        "anywhere",
        "refused",
        "<think> in front of the answer; the prompt does not say whether",
        vllm_reasoning_parser="deepseek_r1",
        sglang_reasoning_parser="deepseek-r1",
        limits="no tools",
    ),
    TemplateInfo(
        "llama3",
        "Llama 3.1 and later",
        ("<|eot_id|>",),
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "anywhere",
        "JSON, one call a turn, nothing beside it",
        "refused",
        vllm_tool_parser="llama3_json",
        sglang_tool_parser="llama3",
        limits="names and ids of tool results are not part of the format",
    ),
    TemplateInfo(
        "qwen3",
        "Qwen 3 and Hermes-style tools",
        ("<|im_end|>",),
        _CHATML,
        "anywhere",
        "JSON in <tool_call>, several a turn",
        "enable_thinking; off: an empty block stands in the prompt",
        "hermes",
        "qwen3",
        "qwen25",
        "qwen3",
        limits="names and ids of tool results are not part of the format",
    ),
    TemplateInfo(
        "gemma3",
        "Gemma 3",
        ("<end_of_turn>",),
        ("<bos>", "<start_of_turn>", "<end_of_turn>"),
        "first message only, put into the first user message",
        "refused",
        "refused",
        limits="user and assistant in turn",
    ),
    TemplateInfo(
        "deepseek-r1",
        "DeepSeek-R1",
        ("<｜end▁of▁sentence｜>",),
        ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", *_DEEPSEEK_TOOLS),
        "first message only",
        "JSON in a block between tokens, several a turn",
        "the prompt opens <think>; enable_thinking=false closes it at once",
        "deepseek_v3",
        "deepseek_r1",
        "deepseekv3",
        "deepseek-r1",
        limits="answers begin inside the thinking, or right after tool results; results of tools have no names or ids",
    ),
    TemplateInfo(
        "gpt-oss",
        "gpt-oss (Harmony)",
        ("<|return|>", "<|call|>"),
        _HARMONY,
        "as developer message",
        "TypeScript signatures, one call a turn in the channel commentary",
        "the channel analysis, dropped once answered; reasoning_effort",
        "openai",
        "openai_gptoss",
        "gpt-oss",
        "gpt-oss",
        limits="nothing beside a call; prompts end earlier answers on another token than they were trained to end on",
    ),
    TemplateInfo(
        "command-a",
        "Command A (Cohere)",
        ("<|END_OF_TURN_TOKEN|>",),
        ("<BOS_TOKEN>", *_COHERE),
        "anywhere",
        "JSON list as an action, several a turn",
        "enable_thinking; off: an empty block stands in the prompt",
        "cohere_command3",
        "cohere_command3",
        limits="SGLang has no parser for it",
    ),
)

TEMPLATES = MappingProxyType({info.name: info for info in _ALL})


@lru_cache(maxsize=16)
def template_source(name: str) -> str:
    """The Jinja source of a shipped template; ModelError where there is none of that name."""
    if name not in TEMPLATES:
        raise ModelError(f"there is no chat template {name!r}", hint=f"Known: {', '.join(TEMPLATES)}")
    return resources.files("luopan.tokens").joinpath(f"templates/{name}.jinja").read_text(encoding="utf-8")


def identify(source: str) -> TemplateInfo | None:
    """Which shipped template a source is; None where it is none of them, to the letter."""
    return next((info for name, info in TEMPLATES.items() if template_source(name).strip() == source.strip()), None)


def templates_table() -> str:
    """The answers for every template as a Markdown table."""
    columns = ("template", "system role", "tools", "thinking", "stops on", "vLLM parsers", "SGLang parsers", "limits")
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for info in TEMPLATES.values():
        parsers = [
            ", ".join(part for part in pair if part) or "–"
            for pair in (
                (info.vllm_tool_parser, info.vllm_reasoning_parser),
                (info.sglang_tool_parser, info.sglang_reasoning_parser),
            )
        ]
        stops = ", ".join(f"`{stop}`" for stop in info.stop).replace("|", "\\|")
        tools = info.tools.replace("<", "`<").replace(">", ">`")
        thinking = info.thinking.replace("<", "`<").replace(">", ">`")
        cells = (f"`{info.name}`", info.system_role, tools, thinking, stops, *parsers, info.limits or "–")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
