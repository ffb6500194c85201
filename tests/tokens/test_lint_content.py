"""The lint of chat templates: content that is changed, hidden by an argument, or gone with its turn."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from luopan.tokens.lint import LintReport, lint_template, stand_in_tokenizer
from luopan.tokens.templates import TEMPLATES, template_source

SYSTEM = """
{%- set system = messages[0].content if messages and messages[0].role == 'system' else '' -%}
{{- '<|im_start|>system\n' ~ SYSTEM ~ '<|im_end|>\n' -}}
{%- for m in (messages[1:] if messages and messages[0].role == 'system' else messages) if KEPT -%}
{{- '<|im_start|>' ~ m.role ~ '\n' -}}
{%- if m.role == 'assistant' -%}{%- generation -%}{{- m.content ~ '<|im_end|>' -}}{%- endgeneration -%}{{- '\n' -}}
{%- else -%}{{- m.content ~ '<|im_end|>\n' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}
"""
BOTH = "(system ~ ((' ' ~ custom_instructions) if custom_instructions else ''))"
HIDES_ON_NULL = "((custom_instructions or '') if custom_instructions is defined else system)"
RULES = {"altered", "empty-vanishes", "tool-order"}


@pytest.fixture(scope="module")
def chatml() -> PreTrainedTokenizerFast:
    return stand_in_tokenizer(template_source("chatml"))


def lint(tokenizer: PreTrainedTokenizerFast, source: str, system: str = "system", kept: str = "true") -> LintReport:
    report = lint_template(tokenizer, source=source.replace("SYSTEM", system).replace("KEPT", kept))
    assert not {"unusable", "not-jinja"} & report.rules()
    return report


def of(report: LintReport, rule: str) -> set[str]:
    return {finding.where for finding in report.findings if finding.rule == rule}


def about_system(report: LintReport) -> set[str]:
    return {where for where in of(report, "dropped") if "custom_instructions" in where}


def test_custom_instructions_that_are_none_hide_the_system_prompt(chatml: PreTrainedTokenizerFast) -> None:
    """As when a data set carried `custom_instructions: None` in every row, and no persona was ever learnt."""
    found = about_system(lint(chatml, SYSTEM, HIDES_ON_NULL))
    assert found == {"system content, with custom_instructions: null", "system content, with custom_instructions"}
    assert not about_system(lint(chatml, SYSTEM, BOTH))


def test_a_system_prompt_that_hides_custom_instructions(chatml: PreTrainedTokenizerFast) -> None:
    overwritten = "(system or custom_instructions or '')"
    found = about_system(lint(chatml, SYSTEM, overwritten))
    assert found == {"custom_instructions, with a system message"}
    refused = "{%- if custom_instructions and system -%}{{- raise_exception('one of both') -}}{%- endif -%}"
    assert not about_system(lint(chatml, SYSTEM.replace("{{-", refused + "{{-", 1), overwritten))


@pytest.mark.parametrize("filter_", ["| e", "[:100]", ".replace('\n\n', '\n')", "| replace('\t', ' ')", "| tojson"])
def test_content_that_is_changed(chatml: PreTrainedTokenizerFast, filter_: str) -> None:
    assert not of(lint(chatml, SYSTEM), "altered")
    spoilt = SYSTEM.replace("{{- m.content ~ '<|im_end|>' -}}", f"{{{{- (m.content {filter_}) ~ '<|im_end|>' -}}}}")
    assert spoilt != SYSTEM
    assert of(lint(chatml, spoilt), "altered") == {"assistant content", "assistant content, earlier"}


@pytest.mark.parametrize("role", ["user", "assistant", "tool"])
def test_a_turn_that_vanishes_when_it_is_empty(chatml: PreTrainedTokenizerFast, role: str) -> None:
    assert not of(lint(chatml, SYSTEM), "empty-vanishes")
    skipping = lint(chatml, SYSTEM, kept=f"m.content or m.role != '{role}'")
    assert of(skipping, "empty-vanishes") == {f"{role}, empty content"}


def test_the_developer_role_of_a_template_that_knows_it(chatml: PreTrainedTokenizerFast) -> None:
    assert "developer content" not in of(lint(chatml, SYSTEM), "dropped")
    assert "developer content" in of(lint(chatml, SYSTEM, kept="m.role != 'developer'"), "dropped")


def test_whose_result_it_is(chatml: PreTrainedTokenizerFast) -> None:
    assert of(lint(chatml, SYSTEM), "tool-order") == {"tool name"}
    named = SYSTEM.replace("{%- else -%}", "{%- else -%}{{- (NAME ~ ': ') if m.role == 'tool' else '' -}}")
    report = lint(chatml, named.replace("NAME", "m.name"))
    assert not of(report, "tool-order") and "tool name, null" in of(report, "leaked")
    assert "tool name, null" not in of(lint(chatml, named.replace("NAME", "(m.name or 'tool')")), "leaked")


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_templates_that_ship_keep_content(name: str) -> None:
    source = template_source(name)
    report = lint_template(stand_in_tokenizer(source), source=source)
    assert report.ok and not report.rules() & RULES


def test_a_foreign_template_that_writes_bos_can_be_looked_at_without_a_model() -> None:
    source = "{{- bos_token + '' -}}" + SYSTEM.replace("SYSTEM", "system").replace("KEPT", "true")
    tokenizer = stand_in_tokenizer(source)
    assert lint(tokenizer, source).rules() == lint(stand_in_tokenizer(source[22:]), source[22:]).rules()
