"""What stands between the marks of a tool call, read: JSON in several spellings, XML of Qwen 3 Coder and GLM, Python.

What a model writes is not to be trusted. A call counts if it names a tool that was offered and if its arguments are one
object of valid JSON; all else raises NoCallError. Whether the arguments fit the tool's schema is not checked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from luopan.generate.replies_literals import python_calls, signatures_of
from luopan.generate.replies_parts import NoCallError

_NAMES = ("name", "tool_name", "function")
_ARGUMENTS = ("arguments", "parameters")
_IDS = ("id", "tool_call_id")


@dataclass(frozen=True)
class Call:
    """A call as it was read; `id` is empty where the format has none."""

    name: str
    arguments: dict[str, Any]
    id: str = ""


@dataclass(frozen=True)
class Offered:
    """The tools that a model was offered: their parameters' schemas by name, and the functions given as Python.

    `anything`: not known; every name counts.
    """

    tools: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    python: Mapping[str, Sequence[str]] = field(default_factory=dict)
    anything: bool = False

    @classmethod
    def of(cls, tools: Iterable[Mapping[str, Any]] | None, python_tools: Any = None) -> Offered:
        """From a conversation's tools (OpenAI's form, or functions bare) and from Python signatures."""
        schemas = {}
        for tool in tools or ():
            function = tool.get("function", tool)
            if isinstance(function, Mapping) and isinstance(function.get("name"), str):
                parameters = function.get("parameters")
                properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
                schemas[function["name"]] = properties if isinstance(properties, Mapping) else {}
        texts = [python_tools] if isinstance(python_tools, str) else list(python_tools or ())
        return cls(schemas, signatures_of("\n".join(str(text) for text in texts)))

    def __bool__(self) -> bool:
        return bool(self.tools or self.python or self.anything)

    def checked(self, calls: Sequence[Call]) -> list[Call]:
        """The calls, if all of them can be passed on."""
        if not calls:
            raise NoCallError("no call")
        for call in calls:
            if not self.knows(call.name):
                raise NoCallError(f"no tool named {call.name!r:.80} was offered")
            try:
                json.dumps([call.id, call.name, call.arguments], ensure_ascii=False).encode()
            except UnicodeEncodeError:
                raise NoCallError("half of a character (a lone surrogate)") from None
        return list(calls)

    def knows(self, name: str) -> bool:
        """Whether a tool of this name may be called."""
        return self.anything or name in self.tools or name in self.python

    def schema(self, name: str, parameter: str) -> Mapping[str, Any]:
        """What is known of a parameter; empty where nothing is."""
        found = self.tools.get(name, {}).get(parameter)
        return found if isinstance(found, Mapping) else {}


def read_calls(body: str, offered: Offered) -> list[Call]:
    """The calls of a body in any of the spellings, told apart by how it begins."""
    text = body.strip()
    if text.startswith("<function="):
        return offered.checked(_xml(text, offered))
    if "<arg_key>" in text or re.fullmatch(r"[\w.-]+", text):
        return offered.checked(_glm(text, offered))
    if "<｜tool▁sep｜>" in text:
        return offered.checked([_deepseek(text)])
    if re.match(r"\[?\s*[^\W\d][\w.]*\s*\(", text):
        return read_python(text, offered)
    return offered.checked([_from_json(value) for value in _json_values(text)])


def read_python(body: str, offered: Offered) -> list[Call]:
    """The calls of Python code."""
    signatures = {name: list(properties) for name, properties in offered.tools.items()} | dict(offered.python)
    return offered.checked([Call(name, arguments) for name, arguments in python_calls(body, signatures)])


def may_become_call(body: str) -> bool:
    """Whether the beginning of a body may still turn out as a call; False lets what was held go on as text."""
    text = body.lstrip()[:200]
    if not text or text[0] in "{[":
        return True
    if text[0] == "<":
        return "<function=".startswith(text[:10]) or text.startswith("<function=")
    return re.match(r"[^\W\d][\w.-]*(?:\s*$|\s*\(|\s*<|\n)", text) is not None


def may_become_bare(body: str) -> bool:
    """Whether an answer that begins so may be a call without any marks (Llama's)."""
    text = body.lstrip()[:200]
    keys = (*_NAMES, *_ARGUMENTS, *_IDS, "type")
    key = re.match(r'\{\s*"([a-z_]*)("?)', text)
    if key is None:
        return re.fullmatch(r"\{?\s*", text) is not None
    return key[1] in keys if key[2] else any(known.startswith(key[1]) for known in keys)


def ends_inside_text(body: str) -> bool:
    """Whether a quoted text is open at the end of a body of JSON or Python, so that what follows belongs to it."""
    text = body.lstrip()
    if not text or text[0] == "<":
        return False
    quotes = '"' if text[0] in "{[" else "\"'"
    open_quote, escaped = "", False
    for sign in text:
        if escaped:
            escaped = False
        elif open_quote:
            escaped = sign == "\\"
            open_quote = "" if sign == open_quote else open_quote
        elif sign in quotes:
            open_quote = sign
    return bool(open_quote)


def load_json(text: str) -> Any:
    """A JSON value, as strict as JSON is (no NaN); NoCallError where it is none."""
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise NoCallError(f"not valid JSON: {str(error)[:100]}") from error


def _refuse_constant(word: str) -> NoReturn:
    raise NoCallError(f"{word} is not JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise NoCallError(f"{digits:.40} is too large")
    return value


def as_object(value: Any) -> dict[str, Any]:
    """Arguments as an object: itself, the object that a text holds, or an empty one for nothing."""
    if isinstance(value, str):
        value = load_json(value)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise NoCallError(f"arguments must be an object, not {value!r:.40}")
    return value


def _json_values(text: str) -> list[Any]:
    """One value, several one after the other (with ; between), or those of a list."""
    if ";" in text or "}" in text[:-1]:
        decoder = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)
        values, at = [], 0
        try:
            while at < len(text):
                value, at = decoder.raw_decode(text, at)
                values.append(value)
                at += len(text[at:]) - len(text[at:].lstrip("; \t\r\n"))
        except (ValueError, RecursionError) as error:
            raise NoCallError(f"not valid JSON: {str(error)[:100]}") from error
    else:
        values = [load_json(text)]
    return values[0] if len(values) == 1 and isinstance(values[0], list) else values


def _from_json(value: Any) -> Call:
    if not isinstance(value, dict):
        raise NoCallError(f"a call must be an object, not {value!r:.40}")
    inner = value.get("function")
    if isinstance(inner, dict):
        value = {**value, **inner}
    name = next((value[key] for key in _NAMES if isinstance(value.get(key), str)), None)
    if not name:
        raise NoCallError("a call needs a name")
    arguments = as_object(next((value[key] for key in _ARGUMENTS if key in value), None))
    identity = next((value[key] for key in _IDS if value.get(key) is not None), "")
    return Call(name, arguments, str(identity) if isinstance(identity, str | int) else "")


def _deepseek(text: str) -> Call:
    """`function<sep>NAME` and JSON in a fence (R1, V3), or `NAME<sep>JSON` (V3.1)."""
    kind, _, rest = text.partition("<｜tool▁sep｜>")
    fenced = re.fullmatch(r"([^\n]*)\n```json\n(.*?)\n?```", rest.strip(), flags=re.DOTALL)
    if kind.strip() == "function" and fenced:
        return Call(fenced[1].strip(), as_object(load_json(fenced[2])))
    return Call(kind.strip(), as_object(load_json(rest)))


def _xml(text: str, offered: Offered) -> list[Call]:
    """`<function=NAME><parameter=KEY>value</parameter>…</function>`, as Qwen 3 Coder and later write it."""
    functions = re.findall(r"<function=([^<>\n]+)>(.*?)</function>\s*", text, flags=re.DOTALL)
    if "".join(f"<function={name}>{inside}</function>" for name, inside in functions) != re.sub(
        r"</function>\s+", "</function>", text
    ):
        raise NoCallError("not a function in XML")
    calls = []
    for name, inside in functions:
        parameters = re.findall(r"\s*<parameter=([^<>\n]+)>(.*?)</parameter>\s*", inside, flags=re.DOTALL)
        if re.sub(r"\s*<parameter=[^<>\n]+>.*?</parameter>\s*", "", inside, flags=re.DOTALL).strip():
            raise NoCallError(f"{name.strip()} has more than parameters")
        calls.append(_typed(name.strip(), parameters, offered))
    return calls


def _glm(text: str, offered: Offered) -> list[Call]:
    """`NAME` and then `<arg_key>KEY</arg_key><arg_value>value</arg_value>`, as GLM writes it."""
    name, _, rest = text.partition("<arg_key>")
    inside = "<arg_key>" + rest if rest else ""
    pattern = r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>\s*"
    if re.sub(pattern, "", inside, flags=re.DOTALL).strip():
        raise NoCallError("not a call in GLM's form")
    return [_typed(name.strip(), re.findall(pattern, inside, flags=re.DOTALL), offered)]


def _typed(name: str, pairs: Sequence[tuple[str, str]], offered: Offered) -> Call:
    """A call of values that are written bare: what the schema calls a text is one, all else JSON if it can be."""
    arguments: dict[str, Any] = {}
    for key, written in pairs:
        key = key.strip()
        value = written.removeprefix("\n").removesuffix("\n")
        arguments[key] = value if offered.schema(name, key).get("type") == "string" else _value(value)
    return Call(name, arguments)


def _value(written: str) -> Any:
    words = {"True": True, "False": False, "None": None}  # of templates that write Python's
    if written.strip() in words:
        return words[written.strip()]
    try:
        return load_json(written)
    except NoCallError:
        return written
