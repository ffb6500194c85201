"""Conversations to tokens, with labels on what the assistant says.

Training, evaluation, rollouts and the server all encode through here, so what a model sees when it answers is what it
saw when it learned. The rules that keep a model from going wrong silently are checked on each conversation:

- at least one token is trained, and every trained turn ends on the token that stops generation;
- the prompt is a prefix: the tokens before an assistant turn are exactly those of `encode_prompt` (text is cut and
  encoded apart at that border, so no token can straddle it);
- text that a user types is text: `<|im_end|>` inside a message is spelled out in ordinary tokens and closes nothing;
- nothing is dropped: thinking that the template has no place for, unknown keys and pictures are errors.

Templates without `{% generation %}` (most that come with downloaded models) work where each turn's prompt is a prefix
of the whole text; those that rewrite earlier turns (Qwen3) only with `train_on="last_turn"`. Limit: earlier turns keep
their thinking in training (`keep_thinking`), at inference they lose it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from luopan.errors import DataError, LuopanError, ModelError
from luopan.tokens.encode import TextEncoder
from luopan.tokens.encode import encode_plainly as _encode
from luopan.tokens.example import IGNORE, Example
from luopan.tokens.messages import Message, normalise, split_thinking, validate_messages
from luopan.tokens.show import render_mask
from luopan.tokens.template import END_PLAIN, PLAIN, ChatTemplate, Piece, compile_template, joined, mark_turns
from luopan.tokens.tokenizer import document_frame, plain_backend

__all__ = [
    "Conversation", "EncodedChats", "Example", "SetAside", "encode_chat", "encode_chats", "encode_prompt",
    "encode_prompts", "encode_text", "encode_texts", "end_of_turn_id", "render_mask", "split_thinking", "stop_ids",
    "validate_messages",
]  # fmt: skip

TrainOn = Literal["assistant", "last_turn", "all"]

_SWITCH = re.compile(r"(?:\A|\s+)/(?:no_)?think\s*\Z")
_ANSWER: Message = {"role": "assistant", "content": "b"}
_CALL: Message = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]}
_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


@dataclass(frozen=True)
class Conversation:
    """A row of chat data. `where` says in errors which one."""

    messages: Sequence[Message]
    enable_thinking: bool = False
    tools: Sequence[Mapping[str, Any]] | None = None
    where: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the template (`custom_instructions`, `metadata`, …)."""


@dataclass(frozen=True)
class SetAside:
    """A conversation that cannot be used, and why."""

    index: int
    reason: str
    where: str | None


@dataclass(frozen=True)
class EncodedChats:
    """`examples[i]` is conversation number `kept[i]`; the others are in `set_aside`."""

    examples: list[Example]
    kept: list[int]
    set_aside: list[SetAside] = field(default_factory=list)


def encode_chat(
    tokenizer: PreTrainedTokenizerFast,
    messages: Sequence[Message],
    *,
    enable_thinking: bool = False,
    keep_thinking: bool = True,
    tools: Sequence[Mapping[str, Any]] | None = None,
    max_length: int | None = None,
    train_on: TrainOn = "assistant",
    where: str | None = None,
) -> Example:
    """One conversation as tokens and labels. Raises DataError where it breaks a rule of this module."""
    conversation = Conversation(messages, enable_thinking, tools, where)
    return encode_chats(
        tokenizer, [conversation], keep_thinking=keep_thinking, max_length=max_length, train_on=train_on, strict=True
    ).examples[0]


def encode_chats(
    tokenizer: PreTrainedTokenizerFast,
    conversations: Iterable[Conversation],
    *,
    keep_thinking: bool = True,
    max_length: int | None = None,
    train_on: TrainOn = "assistant",
    strict: bool = False,
) -> EncodedChats:
    """Many conversations; those that cannot be used are set aside with a reason, or raised at once if `strict`.

    `train_on` says what is learnt: all assistant turns, the last one only, or every token, the user's too. A
    conversation longer than `max_length` is never truncated here, because what would be cut off is the stop token, or
    all there was to learn (`tokens.truncate` shortens at turns).
    """
    chat = _format(tokenizer)
    rendered: list[tuple[int, str | None, list[Piece]]] = []
    result = EncodedChats([], [])
    for index, row in enumerate(conversations):
        try:
            rendered.append((index, row.where, chat.render_trained(row, keep_thinking, train_on)))
        except LuopanError as error:
            _refuse(result, index, row.where, error, strict)
    for (index, where, pieces), ids in zip(rendered, chat.encode([pieces for _, _, pieces in rendered]), strict=True):
        try:
            example = chat.example(pieces, ids, max_length)
        except LuopanError as error:
            _refuse(result, index, where, error, strict)
            continue
        if train_on == "all":
            example = Example(example.input_ids, example.input_ids)
        result.examples.append(example)
        result.kept.append(index)
    return result


def encode_prompt(
    tokenizer: PreTrainedTokenizerFast,
    messages: Sequence[Message],
    *,
    enable_thinking: bool = False,
    tools: Sequence[Mapping[str, Any]] | None = None,
    keep_thinking: bool = False,
) -> list[int]:
    """The tokens after which the assistant speaks. Raises DataError for messages that no template can render."""
    return encode_prompts(tokenizer, [Conversation(messages, enable_thinking, tools)], keep_thinking=keep_thinking)[0]


def encode_prompts(
    tokenizer: PreTrainedTokenizerFast, conversations: Iterable[Conversation], *, keep_thinking: bool = False
) -> list[list[int]]:
    """`encode_prompt` for many; raises at the first that cannot be used."""
    chat = _format(tokenizer)
    rendered = []
    for row in conversations:
        validate_messages(row.messages, row.where)
        rendered.append(chat.render_prompt(row, keep_thinking))
    return [[i for piece in ids for i in piece] for ids in chat.encode(rendered)]


def encode_text(tokenizer: PreTrainedTokenizerFast, text: str, *, control_tokens: bool = False) -> Example:
    """One document, every token trained, ended by the end-of-document token.

    What looks like a control token in the text is text, unless `control_tokens` (for transcripts of our own making).
    """
    return encode_texts(tokenizer, [text], control_tokens=control_tokens)[0]


def encode_texts(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], *, control_tokens: bool = False
) -> list[Example]:
    """`encode_text` for many at once. Raises DataError for lone surrogates. In bulk, for shards: `encode_documents`."""
    if control_tokens:
        before, after = document_frame(tokenizer)
        documents = [[*before, *ids, *after] for ids in _encode(tokenizer.backend_tokenizer, texts)]
    else:
        documents = [ids.tolist() for ids in TextEncoder.of(tokenizer).encode(texts)]
    return [Example(document, document) for document in documents]


def end_of_turn_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """The token that ends an assistant turn in this tokenizer's template."""
    return _format(tokenizer).turn_end


def stop_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The tokens on which generation stops: the end of a turn (if there is a chat template) and of a document."""
    ids = [tokenizer.eos_token_id]
    if tokenizer.chat_template:
        ids = [*_format(tokenizer).turn_ends, *ids]
    return list(dict.fromkeys(i for i in ids if i is not None))


class _ChatFormat:
    """A tokenizer's template, compiled, and the two ways to encode what it renders."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, template: ChatTemplate) -> None:
        self.template = template
        self.specials = dict(tokenizer.special_tokens_map)
        self._parsing: Tokenizer = tokenizer.backend_tokenizer
        self._plain = plain_backend(tokenizer)
        added = sorted((t.content for t in tokenizer.added_tokens_decoder.values() if t.content.strip()), key=len)
        self._control = re.compile("|".join(re.escape(token) for token in reversed(added)) or "(?!)")
        self.turn_end = self._turn_end(_ANSWER)
        self.turn_ends = [self.turn_end]
        if "tool_calls" in template.source:
            with suppress(LuopanError):  # a template that mentions calls to refuse them
                self.turn_ends.append(self._turn_end(_CALL))
        self.turn_ends = list(dict.fromkeys(self.turn_ends))

    def render(
        self, row: Conversation, messages: list[dict[str, Any]], keep_thinking: bool, *, prompt: bool = False
    ) -> list[Piece]:
        """The template's text for `messages`, whose own text is marked as plain where it looks like control tokens."""
        if not self.template.knows_thinking and any("reasoning_content" in message for message in messages):
            hint = "use a template that renders reasoning_content, such as Luopan's own"
            raise DataError("the chat template has no place for thinking", where=row.where, hint=hint)
        given = {**row.arguments, **({"tools": row.tools} if row.tools else {})}
        if dropped := sorted(name for name, value in given.items() if value and name not in self.template.variables):
            hint = "leave it out, or use a template that renders it (luopan template list)"
            raise DataError(f"the chat template has no place for {', '.join(dropped)}", where=row.where, hint=hint)
        try:
            return self.template.render(
                [self._marked_message(message) for message in messages],
                tools=self._marked(row.tools) if row.tools else None,
                add_generation_prompt=prompt,
                **{
                    **self.specials,
                    **self._marked(row.arguments),
                    "enable_thinking": row.enable_thinking,
                    "keep_thinking": keep_thinking,
                },
            )
        except DataError as error:
            raise DataError(error.message, where=row.where, hint=error.hint) from error

    def render_prompt(self, row: Conversation, keep_thinking: bool) -> list[Piece]:
        """The text up to where the assistant speaks next, cut where it is cut in training."""
        messages = normalise(row.messages)
        pieces = self.render(row, messages, keep_thinking, prompt=True)
        if self.template.marks_training:
            return pieces
        spoken = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        with suppress(DataError):  # a template that rewrites earlier turns cannot be trained on either
            return self._mark_turns(row, messages, pieces, spoken, keep_thinking)
        return pieces

    def render_trained(self, row: Conversation, keep_thinking: bool, train_on: TrainOn) -> list[Piece]:
        """The whole conversation with its trained pieces, each of which follows exactly its own prompt."""
        validate_messages(row.messages, row.where)
        messages = normalise(row.messages)
        spoken = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        if not spoken:
            raise DataError("no assistant turn, so nothing to learn", where=row.where)
        for i in spoken:
            if not messages[i]["content"].strip() and not messages[i].get("tool_calls"):
                raise DataError(f"message {i + 1}: the assistant says nothing", where=row.where)
        pieces = self.render(row, messages, keep_thinking)
        if not self.template.marks_training:
            try:
                pieces = self._mark_turns(row, messages, pieces, spoken, keep_thinking)
            except DataError:
                if train_on != "last_turn":
                    raise
                pieces = self._mark_turns(row, messages, pieces, spoken[-1:], keep_thinking)
        if train_on == "last_turn":
            spoken = spoken[-1:]
        prompts = [joined(self.render(row, messages[:i], keep_thinking, prompt=True)) for i in spoken]
        if train_on == "last_turn":
            pieces = _untrain_before(pieces, len(prompts[0]))
        self._check_prompts(pieces, prompts, row.where)
        if row.enable_thinking and any("reasoning_content" in messages[i] for i in spoken[:-1]):
            self._check_thinking(row, messages, joined(pieces), spoken, keep_thinking)
        return pieces

    def encode(self, rows: Sequence[Sequence[Piece]]) -> list[list[list[int]]]:
        """The tokens of each piece of each row. Equal pieces (headers, system blocks) are encoded once."""
        numbers: dict[tuple[str, bool], int] = {}
        for pieces in rows:
            for piece in pieces:
                numbers.setdefault((piece.text, piece.plain), len(numbers))
        ids: list[list[int]] = [[] for _ in numbers]
        for plain, backend in ((False, self._parsing), (True, self._plain)):
            chosen = [key for key in numbers if key[1] is plain]
            for key, tokens in zip(chosen, _encode_inside(backend, [text for text, _ in chosen]), strict=True):
                ids[numbers[key]] = tokens
        return [[ids[numbers[piece.text, piece.plain]] for piece in pieces] for pieces in rows]

    def example(self, pieces: Sequence[Piece], ids: Sequence[Sequence[int]], max_length: int | None) -> Example:
        """Tokens and labels of rendered pieces. Raises DataError where a rule is broken."""
        input_ids: list[int] = []
        labels: list[int] = []
        for number, (piece, tokens) in enumerate(zip(pieces, ids, strict=True)):
            input_ids += tokens
            labels += tokens if piece.trained else [IGNORE] * len(tokens)
            closes = piece.trained and (number + 1 == len(pieces) or not pieces[number + 1].trained)
            if closes and (not tokens or tokens[-1] not in self.turn_ends):
                raise DataError(
                    "an assistant turn does not end on the stop token, so a model would never learn to stop"
                )
        if max_length is not None and len(input_ids) > max_length:
            hint = "set it aside, or raise max_length and the model's context"
            raise DataError(
                f"a conversation of {len(input_ids)} tokens is longer than max_length {max_length}", hint=hint
            )
        if all(label == IGNORE for label in labels[1:]):
            raise DataError("no token of this conversation is trained on")
        return Example(input_ids, labels)

    def _mark_turns(
        self, row: Conversation, messages: list[dict[str, Any]], pieces: list[Piece], spoken: list[int], keep: bool
    ) -> list[Piece]:
        prompts = [joined(self.render(row, messages[:i], keep, prompt=True)) for i in spoken]
        ends = [joined(self.render(row, messages[: i + 1], keep)) for i in spoken]
        return mark_turns(pieces, prompts, ends, row.where)

    def _turn_end(self, answer: Message) -> int:
        """The token that a turn with this answer ends on."""
        tools = [_TOOL] if "tool_calls" in answer else None
        pieces = self.render_trained(
            Conversation([{"role": "user", "content": "a"}, answer], False, tools), True, "assistant"
        )
        trained = [tokens for piece, tokens in zip(pieces, self.encode([pieces])[0], strict=True) if piece.trained]
        if not trained or not trained[-1]:
            raise ModelError("the chat template trains on nothing", hint="put {% generation %} around the answer")
        last = [piece for piece in pieces if piece.trained][-1].text
        if last != last.rstrip():
            hint = "end {% generation %} right behind the stop token (luopan template lint)"
            raise ModelError("the chat template trains white space behind the stop token", hint=hint)
        return trained[-1][-1]

    def _check_prompts(self, pieces: Sequence[Piece], prompts: Sequence[str], where: str | None) -> None:
        """Each trained stretch must begin where the prompt of its turn ends."""
        begins, text = [], ""
        for number, piece in enumerate(pieces):
            if piece.trained and not (number and pieces[number - 1].trained):
                begins.append(text)
            text += piece.text
        if begins != list(prompts):
            raise DataError(
                "the prompt of a turn is not what the chat template puts before it in training", where=where
            )

    def _check_thinking(
        self, row: Conversation, messages: list[dict[str, Any]], text: str, spoken: list[int], keep: bool
    ) -> None:
        """A trained turn must say all that it says when it is the newest: else it learns not to think when asked to."""
        if not all(text.startswith(joined(self.render(row, messages[: i + 1], keep))) for i in spoken):
            hint = (
                "train on the last turn only (train_on: last_turn), or keep_thinking=True with a template that knows it"
            )
            raise DataError("the chat template drops the thinking of an earlier turn", where=row.where, hint=hint)

    def _marked_message(self, message: dict[str, Any]) -> dict[str, Any]:
        """The message with its text marked; a switch that ends a system prompt stays one."""
        switch = _SWITCH.search(message["content"]) if message["role"] == "system" else None
        marked: dict[str, Any] = self._marked(message)
        if switch is None:
            return marked
        return {**marked, "content": self._marked(message["content"][: switch.start()]) + switch[0]}

    def _marked(self, value: Any) -> Any:
        """The same value, every control token in its strings marked as plain text."""
        if isinstance(value, str):
            return self._control.sub(f"{PLAIN}\\g<0>{END_PLAIN}", value) if self._control.search(value) else value
        if isinstance(value, Mapping):
            return {key: item if key == "role" else self._marked(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._marked(item) for item in value]
        return value


@lru_cache(maxsize=8)
def _format_for(tokenizer: PreTrainedTokenizerFast, source: str, _size: int, _specials: str) -> _ChatFormat:
    return _ChatFormat(tokenizer, compile_template(source))


def _format(tokenizer: PreTrainedTokenizerFast) -> _ChatFormat:
    """The format of a tokenizer, made once for each template and each set of special tokens it has had."""
    source = tokenizer.chat_template
    if not isinstance(source, str) or not source:
        raise ModelError(
            "this tokenizer has no chat template", hint="set tokenizer.chat_template, say to luopan_template()"
        )
    return _format_for(tokenizer, source, len(tokenizer), repr(tokenizer.special_tokens_map))


def _untrain_before(pieces: Sequence[Piece], start: int) -> list[Piece]:
    """The pieces, those before character `start` no longer trained."""
    kept, at = [], 0
    for piece in pieces:
        kept.append(replace(piece, trained=False) if at < start else piece)
        at += len(piece.text)
    return kept


def _encode_inside(backend: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """The tokens of texts that stand in the middle of another.

    Some tokenizers treat the beginning of a text as special (a space put before it, a line break set apart), so each is
    encoded behind a line break, whose tokens are then taken off; where it has merged with them, on its own.
    """
    newline = _encode(backend, ["\n"])[0]
    encoded = _encode(backend, ["\n" + text for text in texts])
    for i, ids in enumerate(encoded):
        clean = ids[: len(newline)] == newline
        encoded[i] = ids[len(newline) :] if clean else _encode(backend, [texts[i]])[0]
    return encoded


def _refuse(result: EncodedChats, index: int, where: str | None, error: LuopanError, strict: bool) -> None:
    if strict:
        raise DataError(error.message, where=error.where or where, hint=error.hint) from error
    result.set_aside.append(SetAside(index, error.message, where))
