"""How a chat template writes thinking, and where thinking begins and ends in tokens as they come.

What stands around thinking is read off the template itself: a conversation with known thinking and a known answer is
rendered, and what is found before, between and behind them is the format. So Qwen's tags, DeepSeek's prompt that opens
them, Cohere's control tokens and the channels of gpt-oss need no rules of their own.

Limits: thinking stands at the beginning of an answer. What a model thinks later (another analysis message of gpt-oss,
between two tool calls) counts as part of the answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerFast

from luopan.errors import LuopanError
from luopan.tokens.chat_format import ChatFormat, Conversation, chat_format
from luopan.tokens.config import THINK_END, THINK_START
from luopan.tokens.messages import Message
from luopan.tokens.template import Piece, joined

_ASKED: list[Message] = [{"role": "user", "content": "a"}]
_THOUGHT, _SAID = "qthoughtq", "qanswerq"
_TAG = re.compile(r"<[^<>\s][^<>]*>")
# The tokens of a prompt's end that are looked at; no opening of thinking is longer.
_PROMPT_END = 24


@dataclass(frozen=True)
class ThinkingFormat:
    """What this tokenizer's template puts around thinking and answers.

    opening: what the model writes before it thinks ("" where the prompt does); start: the part of it, or of the prompt,
    by which thinking is known. Between thinking and answer stand `before`, `end`, by which the end is known, and
    `margin`. answer_opening: what stands before an answer without thinking. thinks: whether the template knows it.
    """

    start: str
    opening: str
    before: str
    end: str
    margin: str
    answer_opening: str
    thinks: bool
    tokens: TokenTexts = field(repr=False, compare=False)

    def begun_by(self, prompt: Sequence[int]) -> bool:
        """Whether a prompt ends inside thinking that it has itself begun."""
        text = "".join(self.tokens.text(token) for token in prompt[-_PROMPT_END:])
        return self.thinks and text.rstrip().endswith(self.start)

    def closing_after(self, text: str) -> list[int]:
        """The tokens that close thinking of which `text` is the end: what it has written of the closing stays."""
        begun = next((n for n in range(len(self.end) - 1, 0, -1) if text.endswith(self.end[:n])), 0)
        if begun and len(self.tokens.encode(self.end)) > 1:  # a single token cannot have been begun
            return self.tokens.encode(self.end[begun:] + self.margin)
        there = len(text) - len(text.rstrip("\n"))
        return self.tokens.encode(self.before[min(there, len(self.before)) :] + self.end + self.margin)

    def spilling(self, text: str) -> list[int]:
        """The tokens that after `text` would end the thinking and say something of the answer at once."""
        begun = next((n for n in range(len(self.end) - 1, 0, -1) if text.endswith(self.end[:n])), 0)
        return self.tokens.spilling(self.end, begun, self.margin)


class TokenTexts:
    """The text of single tokens, and tokens for text in the middle of another. Does not hold the tokenizer itself."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, chat: ChatFormat | None) -> None:
        self._backend, self._size, self._chat = tokenizer.backend_tokenizer, len(tokenizer), chat
        self._texts: dict[int, str] = {}
        self._spilling: dict[tuple[str, int, str], list[int]] = {}

    def text(self, token: int) -> str:
        """What a token says by itself; "" for one that only the model has."""
        if token not in self._texts:
            known = token < self._size
            self._texts[token] = self._backend.decode([token], skip_special_tokens=False) if known else ""
        return self._texts[token]

    def encode(self, text: str) -> list[int]:
        """The tokens of a text of the template's, control tokens among them."""
        if not text:
            return []
        if self._chat is not None:
            return self._chat.encode([[Piece(text, False, False)]])[0][0]
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def spilling(self, end: str, begun: int, margin: str) -> list[int]:
        """The tokens that complete `end`, of which `begun` characters are there, and go on with other than `margin`."""
        key = (end, begun, margin)
        if key not in self._spilling:
            found = []
            for token in range(self._size):
                _, whole, rest = (end[:begun] + self.text(token)).partition(end)
                if whole and not margin.startswith(rest):
                    found.append(token)
            self._spilling[key] = found
        return self._spilling[key]


# Weakly keyed: an entry goes with its tokenizer.
_FORMATS: WeakKeyDictionary[PreTrainedTokenizerFast, tuple[object, ThinkingFormat]] = WeakKeyDictionary()


def thinking_format(tokenizer: PreTrainedTokenizerFast) -> ThinkingFormat:
    """The format of a tokenizer, made once for each state of it; `<think>` tags where its template does not say."""
    state = (tokenizer.chat_template, len(tokenizer))
    known = _FORMATS.get(tokenizer)
    if known is None or known[0] != state:
        known = _FORMATS[tokenizer] = (state, _read_off(tokenizer))
    return known[1]


def _read_off(tokenizer: PreTrainedTokenizerFast) -> ThinkingFormat:
    chat = chat_format(tokenizer) if tokenizer.chat_template else None
    tags = ThinkingFormat(
        THINK_START, f"{THINK_START}\n", "\n", THINK_END, "\n\n", "", False, TokenTexts(tokenizer, chat)
    )
    if chat is None:
        return tags
    plainly = _rendered(chat, {"content": _SAID}, False).partition(_SAID)[0]
    tags = replace(tags, answer_opening=_after(_rendered(chat, None, False), plainly) or "")
    prompt = _rendered(chat, None, chat.thinks)
    whole = _rendered(chat, {"content": _SAID, "reasoning_content": _THOUGHT}, chat.thinks)
    head, thought, rest = whole.partition(_THOUGHT)
    opening, closing = _after(prompt, head), _TAG.search(rest.partition(_SAID)[0])
    begins = opening.strip() or _last_tag(prompt) if opening is not None else None
    if thought and begins and opening is not None and closing is not None:
        before, margin = rest[: closing.start()], rest[closing.end() : rest.index(_SAID)]
        return replace(tags, start=begins, opening=opening, before=before, end=closing[0], margin=margin, thinks=True)
    # A template that knows thinking by how its prompts end, or by the tags that it takes out of earlier answers.
    opened = prompt.rstrip().endswith(THINK_START)
    knows = opened or THINK_END in chat.template.source
    return replace(tags, opening="" if opened else tags.opening, thinks=chat.thinks and knows)


def _rendered(chat: ChatFormat, answer: Mapping[str, Any] | None, thinking: bool) -> str:
    """The template's text for a question and this answer, or up to the answer; "" where it refuses."""
    messages = [dict(message) for message in (*_ASKED, *([{"role": "assistant", **answer}] if answer else []))]
    with suppress(LuopanError):
        row = Conversation(messages, enable_thinking=thinking)
        return joined(chat.render(row, messages, True, prompt=answer is None))
    return ""


def _after(prompt: str, text: str) -> str | None:
    """What `text` has behind the prompt; None where it does not begin with it."""
    return text[len(prompt) :] if prompt and text.startswith(prompt) else None


def _last_tag(text: str) -> str | None:
    """The tag that a text ends with."""
    found = _TAG.findall(text.rstrip())
    return found[-1] if found and text.rstrip().endswith(found[-1]) else None
