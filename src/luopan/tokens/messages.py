"""Conversations before they are tokens: checking them, and bringing their spellings into one.

The same conversation may say its thinking in `reasoning_content` or inline between `<think>` and `</think>`, and its
text as a string or as a list of parts. After `normalise` there is one form, so both train on the same tokens.
A turn with `weight` 0 (OpenAI's key) is read but not learnt; the key is no part of what a template is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from luopan.errors import DataError
from luopan.tokens.config import THINK_END, THINK_START

ROLES = ("system", "user", "assistant", "tool")
_REASONING = ("reasoning_content", "reasoning", "thinking")
_NOT_RENDERED = {*_REASONING, "weight"}
_KEYS = {
    "system": {"role", "content", "weight"},
    "user": {"role", "content", "weight"},
    "assistant": {"role", "content", "tool_calls", "weight", *_REASONING},
    "tool": {"role", "content", "name", "tool_call_id", "weight"},
}

Message = Mapping[str, Any]


def split_thinking(text: str) -> tuple[str | None, str]:
    """`(thinking, answer)` of what a model wrote: `<think>…</think>answer`.

    Thinking is None where there is none; a `<think>` that is never closed (the model ran out of room) leaves an empty
    answer. Line breaks around the thinking and before the answer belong to the format and are dropped.
    """
    if not text.lstrip().startswith(THINK_START):
        return None, text
    thinking, closed, answer = text.split(THINK_START, 1)[1].partition(THINK_END)
    return thinking.strip("\n"), answer.lstrip("\n") if closed else ""


def validate_messages(messages: Any, where: object | None = None) -> None:
    """Refuse what no template can render in full: wrong shapes, roles or keys, parts that are not text.

    Raises DataError naming the message and the offending value. Does not ask for an assistant turn: prompts have none.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        raise DataError(f"messages must be a list, not {type(messages).__name__}", where=where)
    if not messages:
        raise DataError("the conversation is empty", where=where)
    for number, message in enumerate(messages):
        _validate(message, f"message {number + 1}", where)


def normalise(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The one form of valid messages: content as a string, thinking in `reasoning_content` or nowhere, no nulls."""
    return [_normalised(message) for message in messages]


def is_learnt(message: Message) -> bool:
    """Whether a valid message is an assistant's turn that is to be learnt."""
    return message["role"] == "assistant" and message.get("weight") in (None, 1)


def content_text(content: Any) -> str:
    """A message's content as one string: itself, its text parts joined, or nothing for null."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    return "".join(part if isinstance(part, str) else part["text"] for part in content)


def _normalised(message: Message) -> dict[str, Any]:
    plain = {key: value for key, value in message.items() if value is not None and key not in _NOT_RENDERED}
    plain["content"] = content_text(message.get("content"))
    if message["role"] != "assistant":
        return plain
    thinking = next((message[key] for key in _REASONING if message.get(key)), None)
    if thinking is None and THINK_END in plain["content"]:
        thinking, plain["content"] = split_thinking(plain["content"])
    if thinking and (stripped := thinking.strip("\n")):
        plain["reasoning_content"] = stripped
    if not plain.get("tool_calls"):
        plain.pop("tool_calls", None)
    return plain


def _validate(message: Any, name: str, where: object | None) -> None:
    if not isinstance(message, Mapping):
        raise DataError(f"{name} must be an object with role and content, not {message!r:.80}", where=where)
    role = message.get("role")
    if role not in ROLES:
        raise DataError(f"{name} has the role {role!r}", where=where, hint=f"roles are {', '.join(ROLES)}")
    unknown = sorted(str(key) for key, value in message.items() if key not in _KEYS[role] and value is not None)
    if unknown:
        hint = f"a {role} message has {', '.join(sorted(_KEYS[role]))}; remove or rename the others"
        raise DataError(f"{name} has keys that would not be trained on: {', '.join(unknown)}", where=where, hint=hint)
    if message.get("weight") not in (None, 0, 1):
        hint = "write 1 for a turn that is learnt, 0 for one that is not"
        raise DataError(f"{name}: weight is {message['weight']!r:.40}, neither 0 nor 1", where=where, hint=hint)
    _validate_content(message, name, where)
    if role == "assistant":
        _validate_assistant(message, name, where)


def _validate_content(message: Message, name: str, where: object | None) -> None:
    content = message.get("content")
    if content is None:
        if message["role"] != "assistant":
            raise DataError(f"{name} has no content", where=where)
        return
    if isinstance(content, str):
        _validate_text(content, name, where)
        return
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        raise DataError(f"{name}: content must be text or a list of text parts, not {content!r:.80}", where=where)
    for part in content:
        if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str):
            _validate_text(part["text"], name, where)
        elif isinstance(part, str):
            _validate_text(part, name, where)
        else:
            raise DataError(f"{name}: only text parts can be trained on, not {part!r:.80}", where=where)


def _validate_assistant(message: Message, name: str, where: object | None) -> None:
    given = [key for key in _REASONING if message.get(key)]
    for key in given:
        if not isinstance(message[key], str):
            raise DataError(f"{name}: {key} must be text, not {message[key]!r:.80}", where=where)
        _validate_text(message[key], name, where)
    if len({message[key] for key in given}) > 1:
        raise DataError(f"{name} has its thinking twice: {', '.join(given)}", where=where)
    text = content_text(message.get("content"))
    inline = text.lstrip().startswith(THINK_START)
    if given and inline:
        raise DataError(f"{name} has its thinking twice: {given[0]} and {THINK_START} in content", where=where)
    if inline and THINK_END not in text:
        raise DataError(f"{name}: {THINK_START} is never closed by {THINK_END}", where=where)
    calls = message.get("tool_calls") or []
    for call in calls:
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if (
            not isinstance(function, Mapping)
            or not isinstance(function.get("name"), str)
            or "arguments" not in function
        ):
            raise DataError(f"{name}: a tool call needs name and arguments, not {call!r:.80}", where=where)


def _validate_text(text: str, name: str, where: object | None) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        bad = text[error.start]
        raise DataError(f"{name} holds {bad!r}, half of a character (a lone surrogate)", where=where) from error
