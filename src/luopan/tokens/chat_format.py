"""A tokenizer's chat template, compiled, and the checks of what it renders: the workings behind `tokens.chat`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from luopan.errors import DataError, LuopanError, ModelError
from luopan.tokens.config import THINK_START
from luopan.tokens.encode import encode_plainly as _encode
from luopan.tokens.example import IGNORE, Example
from luopan.tokens.messages import Message, is_learnt, normalise, validate_messages
from luopan.tokens.template import END_PLAIN, PLAIN, ChatTemplate, Piece, compile_template, joined, mark_turns
from luopan.tokens.tokenizer import plain_backend

TrainOn = Literal["assistant", "last_turn", "all"]

_SWITCH = re.compile(r"(?:\A|\s+)/(?:no_)?think\s*\Z")
_ANSWER: Message = {"role": "assistant", "content": "b"}
_CALL: Message = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]}
_RESERVED = {"messages", "tools", "documents", "add_generation_prompt", "enable_thinking", "keep_thinking"}
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


class ChatFormat:
    """A tokenizer's template, compiled, and the two ways to encode what it renders."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, template: ChatTemplate) -> None:
        self.template = template
        self.specials = dict(tokenizer.special_tokens_map)
        self._parsing: Tokenizer = tokenizer.backend_tokenizer
        self._plain = plain_backend(tokenizer)
        self._added = tokenizer.added_tokens_decoder
        added = sorted((t.content for t in self._added.values() if t.content.strip()), key=len)
        self._control = re.compile("|".join(re.escape(token) for token in reversed(added)) or "(?!)")
        self.thinks = "enable_thinking" in template.variables or self._shows_thinking()
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
        self._check_arguments(row)
        given = {**row.arguments, **({"tools": row.tools} if row.tools else {})}
        if dropped := sorted(name for name, value in given.items() if value and name not in self.template.variables):
            hint = "leave it out, or use a template that renders it (luopan template list)"
            raise DataError(f"the chat template has no place for {', '.join(dropped)}", where=row.where, hint=hint)
        try:
            return self.template.render(
                [self._marked_message(message, number) for number, message in enumerate(messages)],
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

    def _check_arguments(self, row: Conversation) -> None:
        """Refuse what would have no effect, or would take the place of something else."""
        if taken := sorted(name for name in row.arguments if name in _RESERVED or name in self.specials):
            hint = "a row says messages, tools and enable_thinking by keys of their own"
            raise DataError(f"not for a template's arguments to set: {', '.join(taken)}", where=row.where, hint=hint)
        if row.enable_thinking and not self.thinks:
            hint = "leave enable_thinking out, or use a template that knows thinking (luopan template list)"
            raise DataError("the chat template has no thinking mode", where=row.where, hint=hint)

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
        learnt = [i for i in spoken if is_learnt(row.messages[i])]
        if not learnt or (train_on == "last_turn" and learnt[-1] != spoken[-1]):
            which = "the last assistant turn has" if learnt else "all assistant turns have"
            raise DataError(f"{which} weight 0, so nothing to learn", where=row.where)
        if train_on == "all":
            _refuse_other_weights(row)
        pieces = self.render(row, messages, keep_thinking)
        if not self.template.marks_training:
            # The text is cut at every turn, as at inference; a template that rewrites earlier turns may still be cut at
            # those that are learnt.
            fewer = {"all": spoken, "last_turn": spoken[-1:], "assistant": learnt}[train_on]
            try:
                pieces = self._mark_turns(row, messages, pieces, spoken, keep_thinking)
            except DataError:
                if fewer == spoken:
                    raise
                pieces, spoken = self._mark_turns(row, messages, pieces, fewer, keep_thinking), fewer
        if train_on == "last_turn":
            spoken = learnt = spoken[-1:]
        prompts = [joined(self.render(row, messages[:i], keep_thinking, prompt=True)) for i in spoken]
        if train_on == "last_turn":
            pieces = _untrain_before(pieces, len(prompts[0]))
        self._check_prompts(pieces, prompts, row.where)
        if len(learnt) < len(spoken):
            pieces = _bar(pieces, {number for number, i in enumerate(spoken) if i not in learnt})
        if row.enable_thinking and any("reasoning_content" in messages[i] for i in learnt[:-1]):
            self._check_thinking(row, messages, joined(pieces), learnt, keep_thinking)
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

    def example(
        self, pieces: Sequence[Piece], ids: Sequence[Sequence[int]], max_length: int | None, *, whole: bool = False
    ) -> Example:
        """Tokens and labels of rendered pieces; `whole`: all but barred ones. DataError where a rule is broken."""
        input_ids: list[int] = []
        labels: list[int] = []
        for number, (piece, tokens) in enumerate(zip(pieces, ids, strict=True)):
            input_ids += tokens
            learnt = not piece.barred if whole else piece.trained
            labels += tokens if learnt else [IGNORE] * len(tokens)
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

    def _shows_thinking(self) -> bool:
        """Whether a template without a switch shows thinking, in answers or by how it opens them."""
        asked: list[Message] = [{"role": "user", "content": "a"}]
        thought: Message = {"role": "assistant", "content": "b", "reasoning_content": "\ue000"}
        specials: dict[str, Any] = self.specials
        for messages, prompt, shown in ((asked, True, THINK_START), ([*asked, thought], False, "\ue000")):
            with suppress(LuopanError):
                if shown in joined(self.template.render(messages, add_generation_prompt=prompt, **specials)):
                    return True
        return False

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
        end = trained[-1][-1]
        if end not in self._added:
            text = self._parsing.id_to_token(end)
            hint = "add the control tokens of the template to the vocabulary (add_tokens), or end the turn on eos_token"
            raise ModelError(f"an assistant turn ends on {text!r}, which is text and no control token", hint=hint)
        return end

    def _check_prompts(self, pieces: Sequence[Piece], prompts: Sequence[str], where: str | None) -> None:
        """Each trained stretch must begin where the prompt of its turn ends."""
        begins, text = [], ""
        for number, piece in enumerate(pieces):
            if piece.trained and not (number and pieces[number - 1].trained):
                begins.append(text)
            text += piece.text
        if begins != list(prompts):
            raise DataError(
                "the prompt of a turn is not what the chat template puts before it in training",
                where=where,
                hint="train on the last turn only (train_on: last_turn), or keep_thinking=True",
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

    def _marked_message(self, message: dict[str, Any], number: int) -> dict[str, Any]:
        """The message with its text marked; a switch that ends the system prompt stays one."""
        switches = self.template.knows_switch and number == 0 and message["role"] == "system"
        switch = _SWITCH.search(message["content"]) if switches else None
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
def _format_for(tokenizer: PreTrainedTokenizerFast, source: str, _size: int, _specials: str) -> ChatFormat:
    return ChatFormat(tokenizer, compile_template(source))


def chat_format(tokenizer: PreTrainedTokenizerFast) -> ChatFormat:
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


def _refuse_other_weights(row: Conversation) -> None:
    """A turn of another than the assistant has no border of its own in the text, so it cannot be left out of it all."""
    for number, message in enumerate(row.messages, start=1):
        if message["role"] != "assistant" and message.get("weight") == 0:
            raise DataError(
                f"message {number} of the {message['role']} has weight 0, and train_on: all learns every message",
                where=row.where,
                hint="Train on the assistant's turns (train_on: assistant), or take the weight out.",
            )


def _bar(pieces: Sequence[Piece], numbers: set[int]) -> list[Piece]:
    """The pieces, the trained stretches of those numbers barred."""
    kept: list[Piece] = []
    number, inside = -1, False
    for piece in pieces:
        number += piece.trained and not inside
        inside = piece.trained
        kept.append(replace(piece, trained=False, barred=True) if inside and number in numbers else piece)
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
