"""What a reply consists of: pieces of thinking and of answer, tool calls, and calls that were none."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["thinking", "answer"]


class Piece(str):
    """A piece of streamed text; `kind` says whether it belongs to the thinking or to the answer."""

    kind: Kind

    def __new__(cls, text: str, kind: Kind) -> Piece:
        piece = super().__new__(cls, text)
        piece.kind = kind
        return piece

    @property
    def thinking(self) -> bool:
        """Whether it belongs to the thinking."""
        return self.kind == "thinking"


@dataclass(frozen=True)
class ToolCall:
    """A call that a model asks for. `arguments`: the JSON text of an object. `id`: the model's own, or one made here
    from the prompt and the call's place, so that the same reply has the same ids."""

    id: str
    name: str
    arguments: str

    def as_message(self) -> dict[str, Any]:
        """As it stands in a message's `tool_calls` (OpenAI's form)."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(frozen=True)
class Fault:
    """What looked like a tool call and is none; its text stands in the answer."""

    text: str
    reason: str


@dataclass(frozen=True)
class Said:
    """A whole reply. `thinking` is None where none was begun."""

    text: str
    thinking: str | None
    tool_calls: list[ToolCall] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    thinking_tokens: int = 0


class NoCallError(ValueError):
    """Text between the marks of a tool call that is no call; the message says why."""
