"""A row of any recognised format in the one form that training takes, or what is wrong with it.

Names of roles are translated, thinking and tool calls are put where `messages` has them, tools given as JSON text are
parsed. Nothing is left out: a key that the one form has no place for is a fault of the row.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from luopan.tokens.formats import AnyRow, ChatRow, Extras, Format, PairRow, Row, TextRow, UnpairedRow, truth
from luopan.tokens.messages import split_thinking

ROLES = {
    "human": "user", "user": "user", "prompter": "user", "gpt": "assistant", "assistant": "assistant",
    "bot": "assistant", "model": "assistant", "chatgpt": "assistant", "system": "system",
    "developer": "system", "tool": "tool",
    "observation": "tool",
    "function_response": "tool", "tool_response": "tool", "function": "tool", "ipython": "tool",
    "function_call": "function_call", "tool_call": "function_call",
}  # fmt: skip
TRANSCRIPT = re.compile(r"\n\n(Human|Assistant): ?")
Messages = list[dict[str, Any]]


class Fault(Exception):
    """What is wrong with a row."""


def convert(row: Row, form: Format, where: str, *, as_text: bool = False) -> AnyRow | str:
    """The row, or its fault in words. `as_text`: prompts and completions are text that no template is put around."""
    try:
        if form.name == "text":
            return TextRow(_text(row.get("text"), "text"), where)
        if form.name == "prompt_completion" and as_text:
            before, after = (_text(row.get(column), column) for column in form.columns)
            return TextRow(after, where, before)
        if as_text:
            raise Fault(f"as_text takes a prompt and a completion, not {form.name}")
        extras = _extras(row, where)
        if form.kind == "pairs":
            pair = _pair(row, extras)
            return replace(pair, extras=_mode(extras, [*pair.prompt, *pair.chosen, *pair.rejected]))
        if form.kind == "unpaired":
            one = _unpaired(row, form, extras)
            return replace(one, extras=_mode(extras, [*one.prompt, *one.completion]))
        messages = _with_system(row, _messages(row, form))
        return ChatRow(messages, _mode(extras, messages))
    except Fault as fault:
        return str(fault)


def thinks(messages: Messages) -> bool:
    """Whether an assistant's turn has thinking in it."""
    return any(message["role"] == "assistant" and _thinking(message) for message in messages)


def _thinking(message: dict[str, Any]) -> str:
    said = next((message[key] for key in ("reasoning_content", "reasoning", "thinking") if message.get(key)), None)
    if isinstance(said, str):
        return said.strip()
    content = message.get("content")
    return (split_thinking(content)[0] or "").strip() if isinstance(content, str) else ""


def _mode(extras: Extras, messages: Messages) -> Extras:
    """Where the row does not say whether it thinks, its turns do: thinking must not be dropped for want of a switch."""
    found = thinks(messages)
    if extras.enable_thinking is None:
        return replace(extras, enable_thinking=True) if found else extras
    if found and not extras.enable_thinking:
        raise Fault("it thinks, and enable_thinking is false: the thinking would be dropped")
    return extras


def _with_system(row: Row, messages: Messages) -> Messages:
    """The messages behind the system prompt of a column of its own. Two different ones are a fault."""
    system = _system(row)
    if not system or not messages or messages[0]["role"] != "system":
        return system + messages
    if messages[0]["content"] != system[0]["content"]:
        raise Fault("a system message and a column `system` say different things")
    return messages


def _messages(row: Row, form: Format) -> Messages:
    if form.name in ("messages", "sharegpt"):
        return _talk(row.get(form.columns[0]), form.columns[0])
    if form.name == "alpaca":
        answer = _assistant(_text(row.get(form.columns[1]), form.columns[1]))
        return [*_history(row.get("history")), _user(_instruction(row)), answer]
    question, completion = row.get(form.columns[0]), row.get(form.columns[1])
    listed = isinstance(question, list)
    before = _history(row.get("history"))
    if before and listed:
        raise Fault("`history` beside a prompt that is a conversation")
    asked_in = _talk(question, form.columns[0]) if listed else [_user(_text(question, form.columns[0]))]
    asked_in = _unlearnt(before + asked_in)
    if isinstance(completion, list):
        return asked_in + _talk(completion, form.columns[1])
    return [*asked_in, _assistant(_text(completion, form.columns[1]))]


def _instruction(row: Row) -> str:
    """Alpaca's prompt: the instruction, and what it is about."""
    asked = _text(row.get("instruction"), "instruction")
    more = row.get("input") or row.get("context")
    if more is not None and not isinstance(more, str):
        raise Fault(f"`input` is not text but {type(more).__name__}")
    return f"{asked}\n\n{more}" if more and more.strip() else asked


def _history(value: Any) -> Messages:
    """Alpaca's earlier exchanges: a list of [question, answer]."""
    found: Messages = []
    if value is not None and not isinstance(value, list):
        raise Fault("`history` is not a list")
    for exchange in value or []:
        if not isinstance(exchange, list | tuple) or len(exchange) != 2:
            raise Fault("`history` is not a list of pairs of texts")
        found += [_user(_text(exchange[0], "history")), _assistant(_text(exchange[1], "history"))]
    return found


def _talk(value: Any, column: str) -> Messages:
    """A list of messages in either spelling."""
    if not isinstance(value, list) or not value:
        raise Fault(f"no list in the column `{column}`")
    found: Messages = []
    for number, item in enumerate(value, start=1):
        if not isinstance(item, Mapping):
            raise Fault(f"message {number} is not an object but {type(item).__name__}")
        message = dict(item) if "role" in item else _from_sharegpt(item, number)
        _join(found, _tidied(message))
    return found


def _from_sharegpt(item: Mapping[str, Any], number: int) -> dict[str, Any]:
    who, value = item.get("from"), item.get("value", item.get("content"))
    if who is None:
        raise Fault(f"message {number} has neither `role` nor `from`")
    if other := sorted(set(item) - {"from", "value", "content", "weight", "loss"}):
        raise Fault(f"message {number} has {', '.join(other)}, which would not be trained on")
    return {"role": str(who), "content": value, "weight": item.get("weight"), "loss": item.get("loss")}


def _tidied(message: dict[str, Any]) -> dict[str, Any]:
    """A message with the role's usual name, calls as `tool_calls`, parts as text parts, and no empty keys."""
    role = ROLES.get(str(message.get("role")), message.get("role"))
    kept = {
        key: value for key, value in message.items() if value is not None and not (key != "content" and value == "")
    }
    kept["role"] = role
    weight = _weight(message)
    kept = {key: value for key, value in kept.items() if key not in ("weight", "loss")} | weight
    content = kept.get("content")
    if isinstance(content, list):
        kept = _parts(kept, content)
    if "tool_calls" in kept and not isinstance(_json(kept["tool_calls"], "tool_calls") or [], list):
        raise Fault("`tool_calls` is not a list")
    if "tool_calls" in kept:
        kept["tool_calls"] = [_call(call) for call in _json(kept["tool_calls"], "tool_calls") or []]
    if role == "function_call":
        calls = _json(content, "function_call")
        if odd := sorted(set(kept) - {"role", "content", "weight"}):
            raise Fault(f"a function call has {', '.join(odd)}, which would not be trained on")
        kept = {
            "role": "assistant",
            "content": "",
            "tool_calls": [_call(c) for c in (calls if isinstance(calls, list) else [calls])],
            **weight,
        }
    return kept


def _parts(message: dict[str, Any], parts: list[Any]) -> dict[str, Any]:
    """A message whose content is a list: texts as text parts, thinking and calls where messages have them."""
    made = {**message, "content": []}
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else None
        value = part.get("value", part.get(kind)) if isinstance(part, Mapping) and kind else None
        if kind in ("reasoning", "thinking", "tool_call") and made["role"] != "assistant":
            raise Fault(f"a message of {made['role']} has a part of type {kind}")
        if kind in ("reasoning", "thinking") and isinstance(value, str):
            made["reasoning_content"] = made.get("reasoning_content", "") + value
        elif kind == "tool_call":
            made["tool_calls"] = [*made.get("tool_calls", []), _json(value, "tool_call")]
        elif kind == "text" and "text" not in part and isinstance(value, str):
            made["content"].append({"type": "text", "text": value})
        else:
            made["content"].append(part)
    return made


def _weight(message: Mapping[str, Any]) -> dict[str, int]:
    """`weight` 0 for a turn that its data marks as not to be learnt."""
    for key in ("weight", "loss"):
        value = message.get(key)
        if value not in (None, 0, 1):
            raise Fault(f"a turn has {key} {value!r:.40}: write 1 where it is learnt, 0 where it is not")
        if value is not None and not value:
            return {"weight": 0}
    return {}


def _unlearnt(prompt: Messages) -> Messages:
    """The messages of a prompt, of which no turn is learnt: that is for the completion."""
    return [{**message, "weight": 0} if message["role"] == "assistant" else message for message in prompt]


def _call(call: Any) -> dict[str, Any]:
    """A tool call as {"type": "function", "function": {name, arguments}}; arguments in JSON text are parsed."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise Fault(f"a tool call needs a name, not {call!r:.80}")
    arguments = function.get("arguments", function.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError:
            raise Fault(f"the arguments of {function['name']} are no JSON") from None
    made: dict[str, Any] = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    return {"id": call["id"], **made} if call.get("id") else made


def _join(found: Messages, message: dict[str, Any]) -> None:
    """Add a message; calls that follow the assistant's words belong to the same turn."""
    last = found[-1] if found else None
    bare = set(message) <= {"role", "content", "tool_calls", "weight"}
    alone = bare and message["role"] == "assistant" and message.get("tool_calls") and not message.get("content")
    if alone and last is not None and last["role"] == "assistant" and last.get("weight") == message.get("weight"):
        last["tool_calls"] = [*last.get("tool_calls", []), *message["tool_calls"]]
    else:
        found.append(message)


def _system(row: Row) -> Messages:
    """A system prompt in a column of its own."""
    value = row.get("system") or row.get("system_prompt")
    if value is None or value == "":
        return []
    return [{"role": "system", "content": _text(value, "system")}]


def _pair(row: Row, extras: Extras) -> PairRow:
    sides = [_side(row.get(key), key) for key in ("chosen", "rejected")]
    given = next((row[key] for key in ("prompt", "messages", "conversations", "question") if row.get(key)), None)
    if given is None and row.get("instruction") and all(side and side[0]["role"] == "assistant" for side in sides):
        given = _instruction(row)
    if isinstance(given, str) and TRANSCRIPT.match(given):
        given = _transcript(given)
    prompt = [_user(given)] if isinstance(given, str) else _talk(given, "prompt") if given else []
    prompt = _with_system(row, _history(row.get("history")) + prompt)
    if prompt:
        # Whole conversations begin with the prompt again, perhaps without its system message.
        bare = [message for message in prompt if message["role"] != "system"]
        sides = [_behind(_behind(side, prompt), bare) for side in sides]
    common = _common(*sides)
    if common and (not prompt or sides[0][0]["role"] == "assistant"):
        prompt, sides = prompt + sides[0][:common], [side[common:] for side in sides]
    if prompt and prompt[-1].get("role") == "assistant":
        raise Fault("the prompt ends with the assistant, so there is nothing to answer")
    if not prompt:
        words = "`chosen` and `rejected` answer different conversations" if max(map(len, sides)) > 1 else (
            "no prompt: give `messages`, `prompt`, or whole conversations in `chosen` and `rejected`"
        )  # fmt: skip
        raise Fault(words)
    for key, side in zip(("chosen", "rejected"), sides, strict=True):
        if not side or side[-1].get("role") != "assistant":
            raise Fault(f"`{key}` does not end with an assistant message")
        if side[0].get("role") not in ("assistant", "tool"):
            raise Fault(f"`{key}` begins with another conversation than the prompt")
    if sides[0] == sides[1]:
        raise Fault("`chosen` and `rejected` are the same")
    margin = _number(row.get("margin"))
    if margin is not None and (isinstance(margin, bool) or not isinstance(margin, int | float)):
        raise Fault(f"`margin` is no number but {margin!r:.40}")
    if margin is not None and not math.isfinite(margin):
        raise Fault(f"`margin` is {margin}")
    return PairRow(prompt, sides[0], sides[1], extras, None if margin is None else float(margin))


def _behind(side: Messages, prompt: Messages) -> Messages:
    """A side without the prompt that it begins with."""
    return side[len(prompt) :] if prompt and len(side) > len(prompt) and side[: len(prompt)] == prompt else side


def _side(value: Any, key: str) -> Messages:
    """One answer: text, a message, messages, or a transcript."""
    if isinstance(value, str) and value.strip():
        return _transcript(value) if TRANSCRIPT.match(value) else [_assistant(value)]
    if isinstance(value, Mapping):
        return _talk([value], key)
    if isinstance(value, list) and value:
        return _talk(value, key)
    raise Fault(f"no text or messages in the column `{key}`")


def _transcript(text: str) -> Messages:
    """ "\\n\\nHuman: …\\n\\nAssistant: …" as messages."""
    parts = TRANSCRIPT.split(text)[1:]
    made = [
        _user(said.strip()) if who == "Human" else _assistant(said.strip())
        for who, said in zip(parts[::2], parts[1::2])
    ]
    return made[:-1] if made and made[-1]["role"] == "assistant" and not made[-1]["content"] else made


def _common(chosen: Messages, rejected: Messages) -> int:
    """Messages that both begin with, up to the last that is not the assistant's; 0 where either is an answer alone."""
    if len(chosen) < 2 or len(rejected) < 2:
        return 0
    count = 0
    while count < min(len(chosen), len(rejected)) - 1 and chosen[count] == rejected[count]:
        count += 1
    while count and chosen[count - 1]["role"] == "assistant":
        count -= 1
    return count


def _unpaired(row: Row, form: Format, extras: Extras) -> UnpairedRow:
    label = truth(row.get("label"))
    if label not in (True, False, 0, 1):
        raise Fault(f"`label` is {label!r:.40}, neither true nor false")
    held = form.columns[0]
    if held == "completion":
        completion = _side(row.get(held), held)
        given = row.get("prompt")
        prompt = _talk(given, "prompt") if isinstance(given, list) else [_user(_text(given, "prompt"))]
    else:
        talk = _talk(row.get(held), held)
        prompt, completion = talk[:-1], talk[-1:]
    if not prompt or completion[-1].get("role") != "assistant":
        raise Fault("the completion is no answer of the assistant to a prompt")
    return UnpairedRow(_with_system(row, prompt), completion, bool(label), extras)


def _extras(row: Row, where: str) -> Extras:
    arguments = _json(row.get("chat_template_kwargs"), "chat_template_kwargs") or {}
    if not isinstance(arguments, Mapping):
        raise Fault("`chat_template_kwargs` is not an object")
    thinking = truth(arguments.get("enable_thinking", row.get("enable_thinking")))
    if thinking is not None and not isinstance(thinking, bool):
        raise Fault("`enable_thinking` is neither true nor false")
    tools = _json(row.get("tools"), "tools")
    if tools is not None and not isinstance(tools, list):
        raise Fault("`tools` is not a list")
    kept = {
        name: value for name, value in arguments.items() if name != "enable_thinking" and value not in (None, "", [])
    }
    return Extras(where, thinking, [_tool(tool) for tool in tools or []] or None, kept)


def _tool(tool: Any) -> dict[str, Any]:
    """A tool in OpenAI's wrapping."""
    if not isinstance(tool, Mapping):
        raise Fault(f"`tools` holds {tool!r:.60}, which is not an object")
    if "function" in tool or "name" not in tool:
        return dict(tool)
    return {"type": "function", "function": dict(tool)}


def _json(value: Any, column: str) -> Any:
    """A value that may be given as JSON text; empty text is nothing."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise Fault(f"`{column}` is text that is no JSON: {value[:60]!r}") from None


def _number(value: Any) -> Any:
    """The number that a text spells (a CSV file has nothing else); any other value as it is."""
    if isinstance(value, str):
        with suppress(ValueError):
            return float(value)
    return value


def _text(value: Any, column: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise Fault(f"no text in the column `{column}`")
    return value


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}
