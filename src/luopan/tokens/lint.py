"""The lint of a chat template: what would quietly ruin a model, found before a run.

A template drops a system prompt or a tool call, strips thinking, prints None, writes today's date, leaves the stop token
out of what is trained: the run looks well and the model is not. Conversations with a marked word in every field of
every role are rendered, and the text, the trained span and the tokens are looked at (`lint_fields`, `lint_spans`,
`lint_tokens`). Works on any tokenizer's template, not only on those that ship.

Limits: what a template does only under arguments of its own is not tried; the parsers of inference engines are named
after what a template writes, the engines are not run; pictures and documents are not tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerFast

from luopan.errors import ModelError
from luopan.tokens.lint_fields import check_fields
from luopan.tokens.lint_probe import Probe
from luopan.tokens.lint_report import Finding, LintReport, sorted_report
from luopan.tokens.lint_spans import check_spans
from luopan.tokens.lint_tokens import check_tokens

__all__ = ["Finding", "LintReport", "lint_template"]


def lint_template(
    tokenizer: PreTrainedTokenizerFast, *, source: str | None = None, generation_eos: Sequence[int] | None = None
) -> LintReport:
    """Everything found in a template: the tokenizer's own, or `source` with this tokenizer.

    `generation_eos`: token ids that `generation_config.json` names as stops, beside the tokenizer's own. Of several named
    templates each is looked at. Raises ModelError where there is none.
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
    spans = list(check_spans(probe))
    broken = any(finding.severity == "error" for finding in spans)  # then training only says the same again
    return [*fields, *spans, *check_tokens(probe, eos, training=not broken)]
