"""The lint of chat templates: it finds the bugs that were seen in the wild, those planted here, and none in ours."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, processors
from transformers import PreTrainedTokenizerFast

from luopan.errors import ModelError
from luopan.tokens.lint import LintReport, lint_template, stand_in_tokenizer
from luopan.tokens.templates import TEMPLATES, template_source

Make = Callable[[str], PreTrainedTokenizerFast]

PLAIN = """
{%- for m in messages -%}
{{- '<|im_start|>' ~ m.role ~ '\n' -}}
{%- if m.role == 'assistant' -%}{%- generation -%}{{- m.content ~ '<|im_end|>' -}}{%- endgeneration -%}{{- '\n' -}}
{%- else -%}{{- m.content ~ '<|im_end|>\n' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}
"""


@pytest.fixture(scope="module")
def make(tokenizer: PreTrainedTokenizerFast) -> Make:
    """The tokenizer that a shipped template needs."""
    made: dict[str, PreTrainedTokenizerFast] = {}

    def build(name: str) -> PreTrainedTokenizerFast:
        if name not in made:
            own, known = copy.deepcopy(tokenizer), tokenizer.get_vocab()
            new = [AddedToken(t, special=True, normalized=False) for t in TEMPLATES[name].tokens if t not in known]
            own.add_tokens(new, special_tokens=True)
            own.chat_template = template_source(name)
            own.eos_token = TEMPLATES[name].stop[0]
            made[name] = own
        return made[name]

    return build


def lint(make: Make, source: str, name: str = "luopan", **arguments: Any) -> LintReport:
    return lint_template(make(name), source=source, **arguments)


def broken(make: Make, name: str, *changes: tuple[str, str]) -> LintReport:
    """The report on a shipped template with some of its text changed."""
    source = template_source(name)
    for old, new in changes:
        assert old in source, old
        source = source.replace(old, new)
    return lint(make, source, name)


def new_rules(make: Make, name: str, report: LintReport) -> set[str]:
    return report.rules() - lint_template(make(name)).rules()


def places(report: LintReport, rule: str) -> set[str]:
    return {finding.where for finding in report.findings if finding.rule == rule}


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_templates_that_ship_are_clean(make: Make, name: str) -> None:
    report = lint_template(make(name))
    assert report.ok, report.errors
    assert not report.warnings, report.warnings
    assert report.as_json()["ok"] is True and report.as_json()["counts"]["error"] == 0


# what was seen in the wild (facts: rows 3, 4, 10, 18)


def test_custom_instructions_that_are_none_are_printed(make: Make) -> None:
    """`{{ custom_instructions }}` without a test for it."""
    source = PLAIN.replace(
        "{%- for m", "{{- '<|im_start|>system\n' ~ custom_instructions ~ '<|im_end|>\n' -}}{%- for m", 1
    )
    found = lint(make, source)
    assert "custom_instructions, null" in places(found, "leaked")
    careful = source.replace("custom_instructions ~", "(custom_instructions or '') ~")
    assert "custom_instructions, null" not in places(lint(make, careful), "leaked")


def test_what_a_template_for_training_dropped(make: Make) -> None:
    """As in a published SFT template: a later system message, tool calls and content that is a list are left out."""
    source = """
{%- if messages[0].role == 'system' -%}{{- '<|im_start|>system\n' ~ messages[0].content ~ '<|im_end|>\n' -}}
{%- endif -%}
{%- for message in messages -%}
{%- set content = message.content if message.content is string else "" -%}
{%- if message.role == 'user' -%}{{- '<|im_start|>user\n' ~ content ~ '<|im_end|>\n' -}}
{%- elif message.role == 'assistant' -%}
{{- '<|im_start|>assistant\n' -}}{%- generation -%}{{- content ~ '<|im_end|>' -}}{%- endgeneration -%}{{- '\n' -}}
{%- elif message.role == 'tool' -%}{{- '<|im_start|>user\n' ~ content ~ '<|im_end|>\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}
"""
    dropped = places(lint(make, source), "dropped")
    assert {"system content, mid-conversation", "tool_calls name", "tool_calls arguments (an object), value"} <= dropped
    assert {"user content, a part", "assistant content, b part", "tool content, a part"} <= dropped
    assert not {"system content, first", "user content, first", "tool result content"} & dropped


def test_padding_that_is_the_stop_token(make: Make) -> None:
    tokenizer = copy.deepcopy(make("luopan"))
    tokenizer.pad_token = tokenizer.eos_token
    assert lint_template(tokenizer).rules("error") == {"pad-is-stop"}


def test_a_stop_token_that_is_not_trained(make: Make) -> None:
    outside = "{%- endgeneration -%}{{- '<|im_end|>\\n' -}}"
    report = broken(make, "luopan", (CLOSE, outside))
    assert "stop-untrained" in report.rules("error")


def test_a_second_beginning_of_text(make: Make) -> None:
    tokenizer = copy.deepcopy(make("llama3"))
    tokenizer.bos_token = "<|begin_of_text|>"
    assert "double-bos" not in lint_template(tokenizer).rules()
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", bos)]
    )
    assert tokenizer("a").input_ids[0] == bos
    assert lint_template(tokenizer).rules() == {"double-bos"}
    tokenizer.chat_template = template_source("llama3").replace("{{- bos_token | default('<|begin_of_text|>') -}}", "")
    assert lint_template(tokenizer).rules() == {"no-bos"}


def test_a_date_that_is_baked_in(make: Make) -> None:
    source = "{{- '<|im_start|>system\nToday: ' ~ strftime_now('%d %b %Y') ~ '<|im_end|>\n' -}}" + PLAIN
    (found,) = [finding for finding in lint(make, source).errors if finding.rule == "own-date"]
    assert "strftime_now" in found.message and "Today: 01 Jan 2000" in found.example
    assert "own-date" in lint(make, source.replace("strftime_now('%d %b %Y')", "'26 Jul 2024'")).rules("error")
    assert "own-date" not in lint(make, source.replace("strftime_now('%d %b %Y')", "(date or '')")).rules()


# bugs planted into templates that ship; each is found under its own name, and under no other

HEADER = "    {{- '<|im_start|>assistant\\n' -}}\n    {%- generation -%}"
CLOSE = "{{- '<|im_end|>' -}}\n    {%- endgeneration -%}\n    {{- '\\n' -}}"
PROMPT = "{%- if add_generation_prompt -%}\n  {{- '<|im_start|>assistant\\n' -}}"
LOOP = "{%- for message in messages -%}\n  {%- if message.role == 'assistant'"
SPEAKER = "'<|im_start|>' ~ message.role ~ '\\n'"
ARGUMENTS = "call.arguments if call.arguments is string else (call.arguments | tojson)"
SAID = "'\\n' ~ content ~ '<|im_end|>\\n' -}}"
MARKED = "'\\n' -}}{% generation %}{{- content -}}{% endgeneration %}{{- '<|im_end|>\\n' -}}"
NO_TEXT = "{{- raise_exception('content must be text or a list of text parts') -}}"
Bug = tuple[str, dict[str, str], set[str]]

PLANTED: dict[str, Bug] = {
    "header inside": (
        "luopan", {HEADER: "{%- generation -%}{{- '<|im_start|>assistant\\n' -}}"}, {"header-trained"},
    ),
    "white space behind the stop trained": (
        "luopan", {CLOSE: "{{- '<|im_end|>\\n' -}}{%- endgeneration -%}"}, {"stop-not-last"},
    ),
    "a line leaks between messages": ("luopan", {CLOSE: CLOSE + "{{- '\\n' -}}"}, {"white-space"}),
    "a line leaks in front": ("chatml", {LOOP: "{{ '\\n' -}}" + LOOP}, {"white-space"}),
    "indented header": (
        "luopan", {"<|im_start|>assistant\\n' -}}": "<|im_start|>assistant\\n  ' -}}"},
        {"white-space", "border-merges"},
    ),
    "content trimmed": ("luopan", {"{{- content -}}\n      {%- f": "{{- content | trim -}}\n      {%- f"}, {"strips"}),
    "thinking gone from history": (
        "luopan", {"(keep_all or loop.index0 > ns.last_user)": "loop.last"}, {"thinking-history", "rewrites-history"},
    ),
    "tools ignored": ("luopan", {"{%- if tools -%}": "{%- if false -%}"}, {"dropped"}),
    "only the last message": (
        "chatml", {LOOP: LOOP.replace("in messages", "in messages[-1:]")},
        {"dropped", "thinking-history", "prompt-differs"},
    ),
    "roles swapped": (
        "luopan",
        {"'<|im_start|>' ~ message.role": "'<|im_start|>' ~ ('assistant' if message.role == 'user' else 'user')"},
        {"roles"},
    ),
    "another prompt": ("luopan", {PROMPT: PROMPT.replace("assistant", "model")}, {"prompt-differs"}),
    "no prompt": (
        "luopan", {PROMPT: "{%- if add_generation_prompt -%}\n"}, {"no-generation-prompt", "trained-late"},
    ),
    "JSON encoded twice": ("qwen3", {ARGUMENTS: "call.arguments | tojson"}, {"double-encoded"}),
    "Python instead of JSON": ("qwen3", {ARGUMENTS: "call.arguments"}, {"bad-json", "python-repr"}),
    "tools in Python": ("qwen3", {"{{- '\\n' ~ (tool | tojson) -}}": "{{- '\\n' ~ tool -}}"}, {"python-repr"}),
    "nothing marked": ("luopan", {"{%- generation -%}": "", "{%- endgeneration -%}": ""}, {"no-generation"}),
    "a question marked": ("luopan", {SAID: MARKED}, {"user-trained"}),
    "a list printed": (
        "chatml", {"content is iterable and content is not mapping": "false", NO_TEXT: "{{- content -}}"}, {"leaked"},
    ),
    "thinking ignored": (
        "chatml", {"{{- '<think>\\n' ~ thinking ~ '\\n</think>\\n\\n' -}}": ""}, {"dropped", "thinking-history"},
    ),
    "no token of the vocabulary": (
        "chatml", {SPEAKER: "'<|im_start|>' ~ message.role ~ '<|im_sep|>'"}, {"control-token"},
    ),
    "a system prompt left open": (
        "qwen3", {"(messages[0].content) ~ '<|im_end|>\\n' -}}": "(messages[0].content) ~ '\\n' -}}"}, {"open-turn"},
    ),
    "a tag left open": ("qwen3", {"}\\n</tool_call>' -}}": "}' -}}"}, {"unclosed"}),
}  # fmt: skip


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_found_under_its_name(make: Make, bug: str) -> None:
    name, changes, expected = PLANTED[bug]
    assert new_rules(make, name, broken(make, name, *changes.items())) == expected


PIECE = re.compile(r"\{\{-.*?-\}\}", re.S)


# Pieces that may be taken out: words of the format only, and a line break behind a turn, which is a matter of taste.
HARMLESS = {
    "{{- '## Metadata\\n' -}}",
    "{{- '\\n' -}}",
    "{{- 'Python functions; to use them, write code between <code> and </code>:\\n' -}}",
}


@pytest.mark.parametrize("name", ["luopan", "qwen3"])
def test_every_piece_taken_out_of_a_clean_template_is_missed(make: Make, name: str) -> None:
    source, survived = template_source(name), set()
    for piece in PIECE.finditer(source):
        report = lint(make, source[: piece.start()] + source[piece.end() :], name)
        if not report.errors and not report.warnings:
            survived.add(piece[0])
    assert survived and survived <= HARMLESS


def test_foreign_templates_of_several_names_are_all_looked_at(make: Make) -> None:
    tokenizer = copy.deepcopy(make("luopan"))
    tokenizer.chat_template = {"default": template_source("luopan"), "rag": PLAIN.replace("m.content ~", "")}
    found = lint_template(tokenizer)
    assert found.errors and all(finding.where.startswith("rag: ") for finding in found.errors)


def test_the_stop_token_must_be_announced(make: Make) -> None:
    tokenizer = copy.deepcopy(make("chatml"))
    tokenizer.eos_token = "<|endoftext|>"
    assert lint_template(tokenizer).rules() == {"stop-unannounced"}
    end = tokenizer.get_vocab()["<|im_end|>"]
    assert lint_template(tokenizer, generation_eos=[end]).rules() == set()


def test_parsers_of_a_foreign_template_are_guessed(make: Make) -> None:
    report = lint(make, template_source("qwen3") + "{#- changed -#}", "qwen3")
    said = " ".join(finding.message for finding in report.findings if finding.rule == "parser")
    assert "vLLM hermes, SGLang qwen25" in said and "vLLM qwen3, SGLang qwen3" in said and "guessed" in said


def test_what_cannot_be_looked_at_is_said(make: Make) -> None:
    assert lint(make, "{% if %}").rules("error") == {"not-jinja"}
    assert lint(make, "{{ raise_exception('no') }}").rules("error") == {"unusable"}
    assert "fails" in lint(make, PLAIN.replace("m.content ~", "m.content + ''  ~")).rules("warning")
    tokenizer = copy.deepcopy(make("luopan"))
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match="no chat template"):
        lint_template(tokenizer)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama3_2", {"own-date", "strips", "double-encoded"}),
        ("qwen3", {"no-generation", "rewrites-history"}),
        ("qwen2_5_training", {"stop-not-last"}),
        ("gptoss", {"own-date", "no-generation"}),
        ("deepseek_r1_distill", {"thinking-history", "no-generation"}),
    ],
)
def test_templates_that_others_ship(name: str, expected: set[str]) -> None:
    """Copies of models' own templates, as TRL brings them."""
    file = Path(pytest.importorskip("trl").__file__).parent / "chat_templates" / f"{name}.jinja"
    if not file.is_file():
        pytest.skip("this TRL has no such file")
    source = file.read_text(encoding="utf-8")
    assert expected <= lint_template(stand_in_tokenizer(source)).rules()
