"""How a model's template writes thinking and tool calls, and replies read by it, token by token.

`ReplyFormat.of(tokenizer)` decides once; `fmt.parser(prompt_ids, tools=…)` reads one reply:

    parser = ReplyFormat.of(tokenizer).parser(prompt_ids, tools=tools, stop=("\\n\\n",))
    for token in tokens:                      # without the one that ended the reply
        for piece in parser.push(token):      # text as it becomes certain, marks left out
            print(piece.kind, piece)
    parser.finish()                           # what was held back
    parser.tool_calls, parser.faults, parser.stopped, parser.thinking_tokens

Tool calls are read only where tools were offered. What looks like a call and is none (broken JSON, arguments that are
no object, a tool that was not offered) stands in the answer as it was written and is a fault. The pieces put together
do not depend on how tokens come.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Any, Literal

from transformers import PreTrainedTokenizerFast

from luopan.generate.replies_calls import Offered
from luopan.generate.replies_formats import PLAIN, Style, shipped_style
from luopan.generate.replies_harmony import HARMONY, START, HarmonyMachine
from luopan.generate.replies_out import Out
from luopan.generate.replies_parts import Fault, Kind, Piece, Said, ToolCall
from luopan.generate.replies_probe import Written, probed_style
from luopan.generate.replies_scanner import Mark, Scanner
from luopan.generate.replies_tagged import THINK, TaggedMachine

__all__ = ["Fault", "Kind", "Piece", "ReplyFormat", "ReplyParser", "Said", "ToolCall", "reply_text"]

_TAIL = 64  # tokens of a prompt in which the beginning of the reply is looked for
Tools = Sequence[Mapping[str, Any]] | Literal["any"] | None


class ReplyFormat:
    """How replies of a tokenizer's template are written.

    `name`: of the shipped template, or of what was found by trying. `thinking`, `tools`: whether the template can say
    them. Text in front of an answer between `<think>` and `</think>` is thinking also where the template cannot.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, style: Style) -> None:
        self.tokenizer, self.style = tokenizer, style
        self._added = {t.content: (number, t.special) for number, t in tokenizer.added_tokens_decoder.items()}

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> ReplyFormat:
        """The format of a tokenizer, found once for each template. Never fails: an unknown one is plain text."""
        source = tokenizer.chat_template
        return _format_of(tokenizer, source if isinstance(source, str) else "", len(tokenizer))

    @property
    def name(self) -> str:
        return self.style.name

    @property
    def thinking(self) -> bool:
        return self.style.thinking

    @property
    def tools(self) -> bool:
        return self.style.tools

    def parser(
        self,
        prompt_ids: Sequence[int] = (),
        tools: Tools = None,
        *,
        stop: Sequence[str] = (),
        arguments: Mapping[str, Any] | None = None,
    ) -> ReplyParser:
        """A parser of the reply to a prompt, whose end says whether the thinking has been opened already.

        tools: those that were offered; None or none of them: what looks like a call is text; "any": calls of any name.
        stop: strings that end the answer. arguments: those of the template (`python_tools` are tools, too).
        """
        offered = Offered.of(None if tools == "any" else tools, (arguments or {}).get("python_tools"))
        if tools == "any":
            offered = Offered(offered.tools, offered.python, anything=True)
        return ReplyParser(self, list(prompt_ids), offered, stop)

    def parse(
        self,
        tokens: Sequence[int],
        prompt_ids: Sequence[int] = (),
        tools: Tools = None,
        *,
        stop: Sequence[str] = (),
        arguments: Mapping[str, Any] | None = None,
    ) -> Said:
        """A whole reply at once (without the token that ended it), the same as piece by piece."""
        parser = self.parser(prompt_ids, tools, stop=stop, arguments=arguments)
        return parser.said([*parser.push_all(tokens), *parser.finish()])

    def marks(self, names: Iterable[str]) -> dict[int, Mark]:
        """The marks of those that are tokens of this vocabulary."""
        found = {name: self._added[name] for name in names if name in self._added}
        return {number: Mark(name, visible=not special) for name, (number, special) in found.items()}

    def prompt_tail(self, prompt_ids: Sequence[int]) -> str:
        """The text at the end of a prompt, control tokens included."""
        return str(self.tokenizer.decode(list(prompt_ids[-_TAIL:]), clean_up_tokenization_spaces=False))


class ReplyParser:
    """Reads one reply; made by `ReplyFormat.parser`.

    `tool_calls`: the complete ones so far. `faults`: what looked like calls and is none. `stopped`: a stop string has
    ended the answer. `thinking_tokens`: so far, the marks around the thinking included.
    """

    def __init__(self, fmt: ReplyFormat, prompt_ids: list[int], offered: Offered, stop: Sequence[str]) -> None:
        self._out = Out(offered, stop, sha256(str(prompt_ids).encode()).digest())
        tail = fmt.prompt_tail(prompt_ids)
        tags = fmt.style.tags
        marks = fmt.marks(HARMONY if tags is None else tags.marks(offered))
        known = frozenset(mark.text for mark in marks.values())
        self._scanner = Scanner(fmt.tokenizer, marks, lambda: self._machine.watched())
        self._machine: TaggedMachine | HarmonyMachine
        if tags is None:
            header = tail.rpartition(START)[2] if START in tail else ""
            self._machine = HarmonyMachine(self._out, header=header, tokens=known)
        else:
            opened = tail.rstrip().endswith(tags.think[0])
            self._machine = TaggedMachine(tags, self._out, opened=opened, tokens=known, back=self._scanner.back)
        self._thinking_tokens = self._unsure = 0

    @property
    def tool_calls(self) -> list[ToolCall]:
        return self._out.tool_calls

    @property
    def faults(self) -> list[Fault]:
        return self._out.faults

    @property
    def stopped(self) -> bool:
        return self._out.stopped

    @property
    def thought(self) -> bool:
        """Whether thinking was begun, by the model or by the prompt."""
        return self._out.thought

    @property
    def answered(self) -> bool:
        """Whether the thinking is over, or there was none."""
        return self._machine.answers

    @property
    def thinking_tokens(self) -> int:
        return self._thinking_tokens

    def push(self, token: int) -> list[Piece]:
        """The pieces that are certain by one more token; none after a stop string. Not for the token that ended it."""
        if self.stopped:
            return []
        before = self._machine.thinks
        self._take(self._scanner.push(token))
        after = self._machine.thinks
        if before or after:
            self._thinking_tokens += 1 + self._unsure
        self._unsure = self._unsure + 1 if after is None and not before else 0
        return self._out.take_pieces()

    def push_all(self, tokens: Sequence[int]) -> list[Piece]:
        """`push` of all tokens of a reply. Once it can only be answer, they are decoded together."""
        pieces: list[Piece] = []
        for place, token in enumerate(tokens):
            if self._machine.settled:
                self._take(self._scanner.push_all(tokens[place:]))
                return [*pieces, *self._out.take_pieces()]
            pieces += self.push(token)
        return pieces

    def finish(self) -> list[Piece]:
        """What was held back, when no more comes."""
        self._take(self._scanner.finish())
        self._machine.finish()
        self._out.finish()
        return self._out.take_pieces()

    def said(self, pieces: Sequence[Piece]) -> Said:
        """The whole reply, from all pieces that this parser gave."""
        thinking = "".join(piece for piece in pieces if piece.thinking)
        answer = "".join(piece for piece in pieces if not piece.thinking)
        calls, faults = list(self.tool_calls), list(self.faults)
        return Said(answer, thinking if self.thought else None, calls, faults, self.thinking_tokens)

    def _take(self, events: Iterator[str | Mark]) -> None:
        for event in events:
            self._machine.take(event)


def reply_text(tokenizer: PreTrainedTokenizerFast, tokens: Sequence[int], prompt_ids: Sequence[int] = ()) -> str:
    """A reply as one text in which thinking stands between `<think>` and `</think>`, as verifiers and people read it.

    Replies of formats that write it so themselves are the text of their tokens; others are spelled that way. Thinking
    that never ends stays open, and tool calls stand in the text.
    """
    fmt = ReplyFormat.of(tokenizer)
    text = str(tokenizer.decode(list(tokens), skip_special_tokens=True))
    tags, added = fmt.style.tags, tokenizer.added_tokens_decoder.values()
    hidden = any(token.special and token.content in THINK for token in added)
    if tags is not None and tags.think == THINK and not hidden:
        opened = fmt.prompt_tail(prompt_ids).rstrip().endswith(THINK[0])
        return f"{THINK[0]}\n{text}" if opened else text
    parser = fmt.parser(prompt_ids)
    said = parser.said([*parser.push_all(tokens), *parser.finish()])
    if said.thinking is None:
        return said.text
    return f"{THINK[0]}\n{said.thinking}\n" + (f"{THINK[1]}\n{said.text}" if parser.answered else "")


@lru_cache(maxsize=16)
def _format_of(tokenizer: PreTrainedTokenizerFast, source: str, _size: int) -> ReplyFormat:
    style = shipped_style(source) if source else PLAIN
    return ReplyFormat(tokenizer, style or probed_style(tokenizer, source, lambda *what: _read(tokenizer, *what)))


def _read(tokenizer: PreTrainedTokenizerFast, style: Style, written: Written) -> Said:
    """What a template wrote, read as if a model had."""
    prompt, tokens = (
        tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        for text in (written.prompt, written.text)
    )
    return ReplyFormat(tokenizer, style).parse(tokens, prompt, "any" if written.calls else None)
