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

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerFast

from luopan.errors import DataError, LuopanError
from luopan.tokens.chat_format import Conversation, TrainOn, chat_format
from luopan.tokens.encode import TextEncoder
from luopan.tokens.encode import encode_plainly as _encode
from luopan.tokens.example import Example
from luopan.tokens.messages import Message, split_thinking, validate_messages
from luopan.tokens.show import render_mask
from luopan.tokens.template import Piece
from luopan.tokens.tokenizer import document_frame

__all__ = [
    "Conversation", "EncodedChats", "Example", "SetAside", "TrainOn", "encode_chat", "encode_chats", "encode_prompt",
    "encode_prompts", "encode_text", "encode_texts", "end_of_turn_id", "render_mask", "split_thinking", "stop_ids",
    "validate_messages",
]  # fmt: skip


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
    arguments: Mapping[str, Any] | None = None,
) -> Example:
    """One conversation as tokens and labels. Raises DataError where it breaks a rule of this module."""
    conversation = Conversation(messages, enable_thinking, tools, where, arguments or {})
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

    `train_on` says what is learnt: all assistant turns, the last one only, or every token, the user's too; a turn with
    weight 0 never is. A conversation longer than `max_length` is never truncated here, because what would be cut off is
    the stop token, or all there was to learn (`tokens.truncate` shortens at turns).
    """
    chat = chat_format(tokenizer)
    rendered: list[tuple[int, str | None, list[Piece]]] = []
    result = EncodedChats([], [])
    for index, row in enumerate(conversations):
        try:
            rendered.append((index, row.where, chat.render_trained(row, keep_thinking, train_on)))
        except LuopanError as error:
            _refuse(result, index, row.where, error, strict)
    for (index, where, pieces), ids in zip(rendered, chat.encode([pieces for _, _, pieces in rendered]), strict=True):
        try:
            example = chat.example(pieces, ids, max_length, whole=train_on == "all")
        except LuopanError as error:
            _refuse(result, index, where, error, strict)
            continue
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
    arguments: Mapping[str, Any] | None = None,
) -> list[int]:
    """The tokens after which the assistant speaks. Raises DataError for messages that no template can render."""
    row = Conversation(messages, enable_thinking, tools, arguments=arguments or {})
    return encode_prompts(tokenizer, [row], keep_thinking=keep_thinking)[0]


def encode_prompts(
    tokenizer: PreTrainedTokenizerFast, conversations: Iterable[Conversation], *, keep_thinking: bool = False
) -> list[list[int]]:
    """`encode_prompt` for many; raises at the first that cannot be used."""
    chat = chat_format(tokenizer)
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
    return chat_format(tokenizer).turn_end


def stop_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The tokens on which generation stops: the end of a turn (if there is a chat template) and of a document."""
    ids = [tokenizer.eos_token_id]
    if tokenizer.chat_template:
        ids = [*chat_format(tokenizer).turn_ends, *ids]
    return list(dict.fromkeys(i for i in ids if i is not None))


def _refuse(result: EncodedChats, index: int, where: str | None, error: LuopanError, strict: bool) -> None:
    if strict:
        raise DataError(error.message, where=error.where or where, hint=error.hint) from error
    result.set_aside.append(SetAside(index, error.message, where))
