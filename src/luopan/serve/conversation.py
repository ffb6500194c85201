"""Messages of the OpenAI API as the conversations that the chat templates render.

Refused, with the field's name: what a template would drop (names, pictures, calls of other roles), and what would be
half of a conversation (a tool's answer without a call's id).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from luopan.serve.errors import ApiError, refusal
from luopan.serve.protocol import Message, Tool


def conversation(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as `luopan.tokens` has them. ApiError 400 for one that cannot be rendered in full."""
    return [_turn(message, f"messages.{number}") for number, message in enumerate(messages)]


def tool_specs(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """Tools as templates want them: without what is not said, `strict` left out, which is no news to a model."""
    made = []
    for number, tool in enumerate(tools):
        function = tool.function.model_dump(exclude_none=True, exclude={"strict"})
        function.setdefault("parameters", {"type": "object", "properties": {}})
        made.append({"type": "function", "function": function})
        if any(tool.function.name == other.function.name for other in tools[:number]):
            raise refusal(f"tools.{number}.function.name", f"two tools are called {tool.function.name!r}")
    return made


def _turn(message: Message, place: str) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    turn: dict[str, Any] = {"role": role, "content": _text(message, place)}
    if message.name is not None:
        if role != "tool":
            raise refusal(
                f"{place}.name", f"{place}.name: chat templates have no place for names; put it into the text"
            )
        turn["name"] = message.name
    for field in ("tool_calls", "reasoning_content", "reasoning"):
        if getattr(message, field) and role != "assistant":
            raise refusal(f"{place}.{field}", f"{place}.{field}: only the assistant's messages have it")
    if role == "tool":
        if message.tool_call_id is None:
            raise refusal(f"{place}.tool_call_id", f"{place}: a tool's message needs tool_call_id")
        turn["tool_call_id"] = message.tool_call_id
    elif message.tool_call_id is not None:
        raise refusal(f"{place}.tool_call_id", f"{place}.tool_call_id: only tools' messages have it")
    if thinking := message.reasoning_content or message.reasoning:
        turn["reasoning_content"] = thinking
    if message.tool_calls:
        turn["tool_calls"] = [_call(call, f"{place}.tool_calls.{i}") for i, call in enumerate(message.tool_calls)]
    return turn


def _text(message: Message, place: str) -> str | None:
    content = message.content
    if content is None:
        if message.role != "assistant":
            raise refusal(f"{place}.content", f"{place}: a {message.role} message needs content")
        if not message.tool_calls:
            raise refusal(f"{place}.content", f"{place}: an assistant message needs content or tool_calls")
        return None
    if isinstance(content, str):
        return content
    parts = []
    for number, part in enumerate(content):
        if part.type != "text":
            kind = "images are" if "image" in part.type else f"{part.type!r} is"
            raise _no_part(f"{place}.content.{number}", f"{kind} not read: these models know only text")
        if part.text is None:
            raise _no_part(f"{place}.content.{number}", "a text part needs text")
        parts.append(part.text)
    return "".join(parts)


def _no_part(place: str, why: str) -> ApiError:
    return refusal(place, f"{place}: {why}", "unsupported_content")


def _call(call: Any, place: str) -> dict[str, Any]:
    try:
        arguments = json.loads(call.function.arguments or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise refusal(f"{place}.function.arguments", f"{place}: arguments must be a JSON object as text")
    return {"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": arguments}}
