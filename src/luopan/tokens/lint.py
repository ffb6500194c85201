"""The lint of a chat template: what would quietly ruin a model, found before a run.

A template drops a system prompt or a tool call, strips thinking, prints None, writes today's date, leaves the stop
token out of what is trained: the run looks well and the model is not. Conversations with a marked word in every field
of every role are rendered, and the text, the trained span and the tokens are looked at (`lint_fields`, `lint_content`,
`lint_spans`, `lint_tokens`). Works on any tokenizer's template, not only on those that ship.

Limits: what a template does only under arguments of its own is not tried; the parsers of inference engines are named
after what a template writes, the engines are not run; pictures and documents are not tried.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from luopan.errors import ModelError
from luopan.tokens.config import TokenizerConfig
from luopan.tokens.lint_content import check_content
from luopan.tokens.lint_fields import check_fields
from luopan.tokens.lint_probe import CONTROL, Probe, says, user
from luopan.tokens.lint_report import Finding, LintReport, report_text, sorted_report
from luopan.tokens.lint_spans import check_spans, turn_end
from luopan.tokens.lint_tokens import check_tokens
from luopan.tokens.templates import TEMPLATES, identify, template_source
from luopan.tokens.tokenizer import train_tokenizer

__all__ = [
    "Finding",
    "LintReport",
    "announced_stops",
    "lint_template",
    "report_text",
    "stand_in_tokenizer",
    "use_template",
]


def lint_template(
    tokenizer: PreTrainedTokenizerFast, *, source: str | None = None, generation_eos: Sequence[int] | None = None
) -> LintReport:
    """Everything found in a template: the tokenizer's own, or `source` with this tokenizer.

    `generation_eos`: token ids that `generation_config.json` names as stops, beside the tokenizer's own. Of several
    named templates each is looked at. Raises ModelError where there is none.
    """
    given = source if source is not None else tokenizer.chat_template
    if not given:
        raise ModelError("this tokenizer has no chat template", hint="name one: luopan template list")
    if isinstance(given, str):
        return sorted_report(_findings(tokenizer, given, generation_eos))
    found: list[Finding] = []
    for name, text in given.items():
        found += [replace(f, where=f"{name}: {f.where}") for f in _findings(tokenizer, text, generation_eos)]
    return sorted_report(found)


def _findings(tokenizer: PreTrainedTokenizerFast, source: str, eos: Sequence[int] | None) -> list[Finding]:
    try:
        probe = Probe(tokenizer, source)
    except ModelError as error:
        return [Finding("not-jinja", "error", error.where or "template", error.message, "mend the template's syntax")]
    fields = list(check_fields(probe))
    if any(finding.rule == "unusable" for finding in fields):
        return fields
    fields += check_content(probe)
    spans = list(check_spans(probe))
    broken = any(finding.severity == "error" for finding in spans)  # then training only says the same again
    return [*fields, *spans, *check_tokens(probe, eos, training=not broken)]


def stand_in_tokenizer(source: str) -> PreTrainedTokenizerFast:
    """A small tokenizer with the control tokens that a template writes, for looking at a template that has none yet."""
    info = identify(source)
    texts = [template_source(name) for name in TEMPLATES]
    tokenizer = train_tokenizer(texts, TokenizerConfig(vocab_size=512, min_frequency=1))
    known = tokenizer.get_vocab()
    wanted = dict.fromkeys([*(info.tokens if info else ()), *CONTROL.findall(source)])
    tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in wanted if t not in known])
    if info is None and "bos_token" in source:  # a foreign template that writes it fails where there is none
        tokenizer.add_special_tokens({"bos_token": "<|stand_in_bos|>"})
    tokenizer.chat_template = source
    if end := turn_end(Probe(tokenizer, source)):
        tokenizer.eos_token = end
    return tokenizer


def announced_stops(folder: Path) -> list[int]:
    """The token ids on which a model folder's `generation_config.json` says to stop; none where it says nothing."""
    try:
        given = json.loads((folder / "generation_config.json").read_text(encoding="utf-8")).get("eos_token_id")
    except (OSError, ValueError, AttributeError):
        return []
    return [given] if isinstance(given, int) else [i for i in given or [] if isinstance(i, int)]


def use_template(tokenizer: PreTrainedTokenizerFast, source: str) -> None:
    """Give a tokenizer another template. ModelError where the vocabulary lacks a control token that it writes."""
    probe, vocabulary = Probe(tokenizer, source), tokenizer.get_vocab()
    text = probe.render([user(), says()]).text
    if missing := sorted(set(CONTROL.findall(text)) - set(vocabulary)):
        hint = "use the tokenizer of a model that has them, or add them (luopan tokenizer extend)"
        raise ModelError(f"the vocabulary lacks what this template writes: {', '.join(missing)}", hint=hint)
    tokenizer.chat_template = source
