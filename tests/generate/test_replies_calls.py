"""What stands between the marks of a call, in every spelling, and what must not get through."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from replies_tokenizers import TOOLS, some_text

from luopan.generate.replies_calls import Offered, ends_inside_text, may_become_bare, may_become_call, read_calls
from luopan.generate.replies_literals import python_calls, signatures_of
from luopan.generate.replies_parts import NoCallError

OFFERED = Offered.of(TOOLS)
ADD = [("add", {"a": 1, "b": 2.5})]
SPELLINGS = {
    "object": '{"name": "add", "arguments": {"a": 1, "b": 2.5}}',
    "arguments as text": '{"name": "add", "arguments": "{\\"a\\": 1, \\"b\\": 2.5}"}',
    "Llama": '{"type": "function", "name": "add", "parameters": {"a": 1, "b": 2.5}}',
    "OpenAI": '{"id": "x", "type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2.5}}}',
    "list": '[{"name": "add", "arguments": {"a": 1, "b": 2.5}}]',
    "Cohere": '[\n {"tool_call_id": 3, "tool_name": "add", "parameters": {"a": 1, "b": 2.5}}\n]',
    "DeepSeek R1": 'function<｜tool▁sep｜>add\n```json\n{"a": 1, "b": 2.5}\n```',
    "DeepSeek V3.1": 'add<｜tool▁sep｜>{"a": 1, "b": 2.5}',
    "Qwen 3 Coder": "<function=add>\n<parameter=a>\n1\n</parameter>\n<parameter=b>\n2.5\n</parameter>\n</function>",
    "GLM": "add\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n<arg_key>b</arg_key>\n<arg_value>2.5</arg_value>",
    "Python": "add(a=1, b=2.5)",
    "Python's list": "[add(a=1, b=2.5)]",
    "Python by place": "add(1, 2.5)",
}


def found(body: str, offered: Offered = OFFERED) -> list[tuple[str, dict[str, Any]]]:
    return [(call.name, call.arguments) for call in read_calls(body, offered)]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_is_the_same_call(spelling: str) -> None:
    body = SPELLINGS[spelling]
    assert found(body) == found(f"\n {body}\n") == ADD
    for end in range(len(body)):
        assert may_become_call(body[:end])  # nothing is given up too early
    if spelling in ("object", "Llama", "OpenAI"):
        assert all(may_become_bare(body[:end]) for end in range(len(body)))


NO_CALLS = """
[] | {} | [1] | null | {"arguments": {}} | {"name": 3} | {"name": "add", "arguments": [1]} | {"name": "add"} {"name":
{"name": "add"} x | add( | add(a=1)) | add(a=b) | add(**{}) | add(a=1, a=2) | add(a=f(1)) | add(a=1+1) | add(a={1: 2})
add(1, 2, 3) | x = add(a=1) | add(a=b'x') | add(a=1) or add(b=2) | add; add | __import__('os').system('ls')
add(a='\\ud800') | add(a=1e999) | add(a=1_) | <function=add> | <function=add>x</function> | <function=add></function>x
add<arg_key>a</arg_key>x | function<｜tool▁sep｜>add {"a": 1}
"""


@pytest.mark.parametrize("body", ["", *(body.strip() for line in NO_CALLS.split("\n") for body in line.split(" | "))])
def test_what_is_no_call_is_refused(body: str) -> None:
    with pytest.raises(NoCallError):
        read_calls(body, OFFERED)


@pytest.mark.parametrize("opening", ["[", "{", "(", '{"a":', "[[", "-", "\\", "add(", "add(a=[", "add(a={'b':"])
def test_depth_harms_nobody(opening: str) -> None:
    deep = opening * 20_000
    for body in (deep, f"add(a={deep})", '{"name": "add", "arguments": {"a": ' + deep):
        with pytest.raises(NoCallError):
            read_calls(body, OFFERED)


def test_any_text_is_a_call_or_refused_and_arguments_are_json() -> None:
    draw, bodies = random.Random(0), list(SPELLINGS.values())
    calls = 0
    for _ in range(6000):
        body = draw.choice(bodies)
        for _ in range(draw.randint(0, 3)):
            at = draw.randrange(len(body) + 1)
            new = draw.choice([some_text(draw, 3), "", draw.choice(bodies)[:9]])
            body = body[:at] + new + body[at + draw.randint(0, 2) :]
        try:
            read = read_calls(body, OFFERED)
        except NoCallError:
            continue
        calls += 1
        for call in read:
            assert json.loads(json.dumps(call.arguments, allow_nan=False)) == call.arguments
            assert call.name in ("add", "weather")
    assert 500 < calls < 5500


def test_bare_values_are_what_the_schema_says() -> None:
    """Where values stand without quotes only the schema tells a text from a number."""
    text = "<function=weather><parameter=place>\n12\n</parameter><parameter=days>[1, true]</parameter></function>"
    assert found(text) == [("weather", {"place": "12", "days": [1, True]})]
    pairs = (("x", "12"), ("y", "True"), ("z", "a\n b"))
    text = "".join(f"<parameter={key}>{value}</parameter>" for key, value in pairs)
    unknown = found(f"<function=f>{text}</function>", Offered(anything=True))
    assert unknown == [("f", {"x": 12, "y": True, "z": "a\n b"})]


def test_python_literals() -> None:
    code = 'f(a="x\\n\\ud83d\\ude42", b=\'it\\\'s\', c=[1, -2.5e3, (True, None)], d={"k": {}}, e="a" "b")\ng.h()'
    expected = {"a": "x\n🙂", "b": "it's", "c": [1, -2500.0, [True, None]], "d": {"k": {}}, "e": "ab"}
    assert python_calls(code, {}) == [("f", expected), ("g.h", {})]
    assert python_calls('f("""a\n"b""", 2)', {"f": ["x", "y"]}) == [("f", {"x": 'a\n"b', "y": 2})]


def test_signatures() -> None:
    text = "def weather(place, unit='C'): ...\nasync def add(a: int, b: dict[str, int] = {}) -> int:\n    pass"
    text += "\ndef now()"
    assert signatures_of(text) == {"weather": ["place", "unit"], "add": ["a", "b"], "now": []}


def test_which_text_a_mark_belongs_to() -> None:
    assert ends_inside_text('{"a": "x') and ends_inside_text('{"a": "x\\"') and ends_inside_text("f(a='x")
    assert not ends_inside_text('{"a": "x"') and not ends_inside_text('{"a": "it\'s"') and not ends_inside_text("<f>'")


def test_odd_tools_offer_nothing() -> None:
    assert not Offered.of([{}, {"function": 3}, {"function": {"name": 3}}])
    assert Offered.of([{"name": "f"}]).knows("f") and Offered.of(None, "def f(x)").knows("f")
