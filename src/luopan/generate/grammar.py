r"""Answers that keep to a JSON schema, a regular expression or a grammar, by the library llguidance.

llguidance walks the grammar along the bytes of the vocabulary, so that a token which begins in one part and ends in
another is one choice like the others; text that can only go on in one way comes in the tokenizer's own tokens. Its view
of a tokenizer is made once (0.4 s for 49,152 tokens here), a grammar once for each text of it; a request takes a copy
(6 µs). A mask takes 30 µs.

Limits: expressions are Rust's, where `\d` is a digit of any script and `[0-9]` one of ASCII. Keywords of JSON schema
that llguidance cannot hold a model to (`uniqueItems`, unknown formats) are refused, not ignored. Between the parts of
JSON there is at most a space, or a line break and 20 spaces or tabs: without a bound a small model may write white
space until its tokens are spent.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from luopan.errors import ModelError, RecipeError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

Form = Literal["json_schema", "regex", "grammar"]

_WHITE_SPACE = r"( |\n[ \t]{0,20})?"
# Compiled grammars that are kept for each tokenizer.
_KEPT = 32


class GrammarConstraint:
    """Where in its grammar one answer is. A `Constraint`."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    @property
    def accepting(self) -> bool:
        """Whether the answer may end here."""
        return bool(self._matcher.is_accepting())

    @property
    def done(self) -> bool:
        """Whether nothing can follow: the grammar is complete or, if it does not accept, it cannot go on."""
        return bool(self._matcher.is_stopped())

    def allow(self, row: Tensor) -> None:
        """Leave in `row` (bool [V], on the CPU) only the tokens that may come."""
        packed = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        allowed = torch.from_numpy(np.unpackbits(packed, bitorder="little").view(np.bool_))
        size = min(len(row), len(allowed))
        row[:size] &= allowed[:size]
        row[size:] = False  # tokens that only the model has say nothing

    def take(self, token: int) -> None:
        """Go on by a token."""
        self._matcher.consume_token(token)


class Grammars:
    """The grammars of one tokenizer. ModelError where llguidance is not installed or cannot read the tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        try:
            from llguidance.hf import from_tokenizer
        except ImportError as error:
            raise ModelError(
                "output that keeps to a grammar needs the package llguidance", hint="pip install luopan[serve]"
            ) from error
        try:
            self._view: LLTokenizer = from_tokenizer(tokenizer)
        except ValueError as error:
            raise ModelError(f"llguidance cannot read this tokenizer: {error}") from error
        self._kept: OrderedDict[tuple[Form, str], LLMatcher] = OrderedDict()
        self._lock = Lock()  # a server prepares requests in several threads

    def constraint(self, form: Form, text: str) -> GrammarConstraint:
        """A new answer to a grammar. RecipeError, in llguidance's words, for one that is wrong."""
        key = (form, text)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = self._compiled(form, text)
                if len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            return GrammarConstraint(self._kept[key].deep_copy())

    def _compiled(self, form: Form, text: str) -> LLMatcher:
        from llguidance import LLMatcher

        if form == "json_schema":
            grammar = LLMatcher.grammar_from_json_schema(_schema(text), {"whitespace_pattern": _WHITE_SPACE})
        elif form == "regex":
            grammar = LLMatcher.grammar_from_regex(text)
        else:
            grammar = LLMatcher.grammar_from_lark(text)
        matcher = LLMatcher(self._view, grammar, log_level=0)
        if matcher.is_error():
            raise RecipeError(f"{form}: {matcher.get_error().strip()}", hint=_hint(form))
        return matcher


# Weakly keyed: an entry goes with its tokenizer, of which it holds nothing.
_GRAMMARS: WeakKeyDictionary[PreTrainedTokenizerFast, tuple[int, Grammars]] = WeakKeyDictionary()


def grammars_of(tokenizer: PreTrainedTokenizerFast) -> Grammars:
    """The grammars of a tokenizer, made once for each size it has had."""
    known = _GRAMMARS.get(tokenizer)
    if known is None or known[0] != len(tokenizer):
        known = _GRAMMARS[tokenizer] = (len(tokenizer), Grammars(tokenizer))
    return known[1]


def _schema(text: str) -> str:
    """The schema, which must be an object; `true` is one that allows everything."""
    try:
        schema = json.loads(text)
    except ValueError as error:
        raise RecipeError(f"json_schema is not JSON: {error}", hint=_hint("json_schema")) from error
    if schema is True:
        return "{}"
    if not isinstance(schema, dict):
        raise RecipeError(f"json_schema is {text.strip()[:40]}, not an object", hint=_hint("json_schema"))
    return text


def _hint(form: Form) -> str:
    return {
        "json_schema": 'a JSON schema is an object such as {"type": "object", "properties": {...}}; {} is any JSON',
        "regex": "an expression in the syntax of Rust's regex, without look-around, that matches the whole answer",
        "grammar": "a Lark grammar whose first rule is `start`",
    }[form]
